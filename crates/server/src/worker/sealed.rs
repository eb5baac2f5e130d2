//! Connections over TLS: their bytes are opened, and then they are connections like all others.
//!
//! A handshake costs a signature on the data thread; so few of them are worked on in one turn that
//! a storm of strangers does not keep the others waiting. The rest stays in the sockets: the event
//! loop tells of it again.

use std::time::Instant;

use super::Worker;
use crate::{
    connection::Connection,
    tls::{Failure, Opened},
};

/// Handshakes worked on in one turn: with RSA keys about a millisecond each.
pub(super) const HANDSHAKES: u32 = 4;
/// Largest buffer for opened bytes that is kept.
const KEEP_PLAIN_BYTES: usize = 256 << 10;

impl Worker {
    /// Whether enough handshakes have been worked on in this turn.
    #[inline]
    pub(super) fn must_wait_with_handshake(&mut self, connection: &Connection) -> bool {
        if connection.wire.is_established() {
            return false;
        }
        match self.handshakes_left.checked_sub(1) {
            Some(left) => self.handshakes_left = left,
            None => return true,
        }
        false
    }

    /// Opens received bytes and runs what was in them.
    pub(super) fn take_in_sealed(
        &mut self,
        token: u64,
        connection: &mut Connection,
        bytes: &mut [u8],
        now: Instant,
    ) {
        let Some(tls) = &mut connection.wire.tls else { return };
        let mut plain = std::mem::take(&mut self.plain);
        let opened = tls.open(bytes, &mut plain);
        if opened == Ok(Opened::Established) {
            let took_us = tls.began.elapsed().as_micros() as u64;
            self.node.metrics.tls.handshakes.add(took_us, 1);
        }
        if !plain.is_empty() {
            self.take_in(token, connection, &plain, now);
        }
        plain.clear();
        plain.shrink_to(KEEP_PLAIN_BYTES);
        self.plain = plain;
        match opened {
            Ok(Opened::GoesOn | Opened::Established) => {}
            Ok(Opened::Ended) => {
                connection.half_closed = true;
                self.set_reading(token, connection, false);
            }
            Err(failure) => self.end_sealed(connection, failure),
        }
        self.mark_dirty(token, connection);
    }

    /// The alert is sealed already; replies to earlier requests may still leave before it is read.
    fn end_sealed(&mut self, connection: &mut Connection, failure: Failure) {
        self.node.tls_failed(failure);
        let client = connection.session.client.id;
        tracing::debug!(client, ?failure, "a TLS connection failed");
        connection.wire.input = Vec::new();
        connection.closing = true;
        connection.at_fault = true;
    }
}
