//! One TLS connection between the event loop and the client's bytes: opens what was received, seals
//! what is to be sent.
//!
//! rustls' unbuffered connection: records are opened where they were received, so an idle connection
//! holds no buffers but the begun record. Bounded before anybody has authenticated: a begun message of
//! at most [`INCOMING_BYTES_MAX`], and sealed bytes of one flush. Time is bounded by the worker.

use std::{net::TcpStream, sync::Arc, time::Instant};

use rustix::{
    io::Errno,
    net::{SendFlags, send},
};
use rustls::{
    ServerConfig,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::Failure;
use crate::wire::Flushed;

/// Largest begun message that is kept: rustls joins handshake messages of up to 64 KiB, and a record
/// of 18 KiB may have begun behind one.
const INCOMING_BYTES_MAX: usize = 96 << 10;
/// Bytes that are sealed before they are sent: four records.
const SEAL_BYTES: usize = 64 << 10;
/// Longest plain text of a record, and more than a record adds to it.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_EXTRA: usize = 64;
/// Room for sealed bytes that a connection keeps: enough for small replies.
const KEEP_BYTES: usize = 1 << 10;
/// First byte of a client that speaks TLS: a handshake record (RFC 8446, section 5.1).
pub(crate) const HANDSHAKE: u8 = 22;

/// What a client is told in clear that does not speak TLS.
const SPEAKS_TLS: &[u8] =
    b"-ERR this port speaks TLS: connect with TLS, or to the port without it\r\n";

/// What came of received bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opened {
    /// The connection goes on.
    GoesOn,
    /// The handshake has ended well with these bytes.
    Established,
    /// The client has said that it sends no more.
    Ended,
}

/// See the module's head.
pub(crate) struct TlsStream {
    tls: UnbufferedServerConnection,
    /// Bytes of a begun record or message; empty while they arrive whole.
    incoming: Vec<u8>,
    /// Bytes for the socket, of which so many are sent.
    sealed: Vec<u8>,
    sent: usize,
    /// Until the first bytes have come.
    fresh: bool,
    established: bool,
    ended: bool,
    said_goodbye: bool,
    pub began: Instant,
}

impl TlsStream {
    pub(crate) fn new(config: Arc<ServerConfig>, now: Instant) -> Result<TlsStream, rustls::Error> {
        Ok(TlsStream {
            tls: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            sealed: Vec::new(),
            sent: 0,
            fresh: true,
            established: false,
            ended: false,
            said_goodbye: false,
            began: now,
        })
    }

    /// Whether the handshake has ended well.
    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// Bytes that wait for the socket.
    pub(crate) fn owed(&self) -> usize {
        self.sealed.len() - self.sent
    }

    /// Memory in buffers.
    pub(crate) fn held_bytes(&self) -> usize {
        self.incoming.len() + self.sealed.len()
    }

    /// Opens what was received and appends it to `plain`. After a failure the client is owed an alert
    /// or a word; nothing more is to be received.
    pub(crate) fn open(
        &mut self,
        received: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<Opened, Failure> {
        if std::mem::take(&mut self.fresh) && received.first() != Some(&HANDSHAKE) {
            self.sealed.extend_from_slice(SPEAKS_TLS);
            return Err(Failure::PlainText);
        }
        if self.incoming.is_empty() {
            let used = self.process(received, plain)?;
            self.incoming.extend_from_slice(received.get(used..).unwrap_or_default());
        } else {
            let mut incoming = std::mem::take(&mut self.incoming);
            incoming.extend_from_slice(received);
            let used = self.process(&mut incoming, plain)?;
            if used < incoming.len() {
                incoming.drain(..used);
                self.incoming = incoming;
            }
        }
        if self.incoming.len() > INCOMING_BYTES_MAX {
            return Err(Failure::Malformed);
        }
        if self.ended {
            self.incoming = Vec::new();
            return Ok(Opened::Ended);
        }
        if !self.established && !self.tls.is_handshaking() {
            self.established = true;
            return Ok(Opened::Established);
        }
        Ok(Opened::GoesOn)
    }

    /// Takes in whole records; gives how many bytes they were.
    fn process(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut used = 0;
        loop {
            let rest = bytes.get_mut(used..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(rest);
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(|error| Failure::of(&error))?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.sealed, |room| data.encode(room));
                }
                // It stands in front of whatever is sealed later.
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.ended = true,
                Ok(ConnectionState::Closed) => (self.ended, done) = (true, true),
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    done = true;
                }
                // Early data is not admitted by the settings.
                Ok(_) => return Err(Failure::Malformed),
                Err(error) => {
                    let rest = bytes.get_mut(used + discard..).unwrap_or_default();
                    self.seal_alerts(rest);
                    tracing::debug!(%error, "TLS failed");
                    return Err(Failure::of(&error));
                }
            }
            used += discard;
            if done {
                return Ok(used);
            }
        }
    }

    /// After an error: what rustls wants to say about it.
    fn seal_alerts(&mut self, rest: &mut [u8]) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.tls.process_tls_records(rest).state
        {
            encode(&mut self.sealed, |room| data.encode(room));
        }
    }

    /// Seals a part of what is to be sent, or the goodbye if there is none. False: it cannot be.
    fn seal(&mut self, part: Option<&[u8]>) -> bool {
        loop {
            let UnbufferedStatus { discard, state } =
                self.tls.process_tls_records(&mut self.incoming);
            let sealed = match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let len = part.map_or(0, <[u8]>::len);
                    let room = len + (len / RECORD_BYTES + 2) * RECORD_EXTRA;
                    Some(encrypt(&mut self.sealed, room, |room| match part {
                        Some(part) => traffic.encrypt(part, room),
                        None => traffic.queue_close_notify(room),
                    }))
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.sealed, |room| data.encode(room));
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => None,
                Ok(_) | Err(_) => Some(false),
            };
            self.incoming.drain(..discard.min(self.incoming.len()));
            if let Some(sealed) = sealed {
                return sealed;
            }
        }
    }

    /// Seals the word that nothing more will come, once.
    pub(crate) fn say_goodbye(&mut self) {
        if self.established && !std::mem::replace(&mut self.said_goodbye, true) {
            self.seal(None);
        }
    }

    /// Sends what is sealed, then seals and sends `plain`; `taken` grows by what was sealed of it.
    pub(crate) fn flush(
        &mut self,
        socket: &TcpStream,
        mut plain: &[u8],
        taken: &mut usize,
        bytes_out: &mut u64,
    ) -> Flushed {
        loop {
            while let Some(rest) = self.sealed.get(self.sent..).filter(|rest| !rest.is_empty()) {
                match send(socket, rest, SendFlags::NOSIGNAL) {
                    Ok(0) => return Flushed::Closed,
                    Ok(sent) => {
                        self.sent += sent;
                        *bytes_out += sent as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Flushed::Blocked,
                    Err(_) => return Flushed::Closed,
                }
            }
            self.sealed.clear();
            self.sent = 0;
            if plain.is_empty() || !self.established {
                if self.sealed.capacity() > KEEP_BYTES {
                    self.sealed = Vec::new();
                }
                return Flushed::Done;
            }
            let (part, rest) = plain.split_at(plain.len().min(SEAL_BYTES));
            if !self.seal(Some(part)) {
                return Flushed::Closed;
            }
            *taken += part.len();
            plain = rest;
        }
    }
}

/// Appends an encoded message; rustls says how much room it needs.
fn encode(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = out.len();
    let mut room = KEEP_BYTES;
    loop {
        out.resize(start + room, 0);
        match encode(out.get_mut(start..).unwrap_or_default()) {
            Ok(len) => return out.truncate(start + len),
            Err(EncodeError::InsufficientSize(needs)) => room = needs.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(start),
        }
    }
}

/// Appends encrypted bytes, likewise. False: the keys are used up.
fn encrypt(
    out: &mut Vec<u8>,
    mut room: usize,
    mut encrypt: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> bool {
    let start = out.len();
    loop {
        out.resize(start + room, 0);
        match encrypt(out.get_mut(start..).unwrap_or_default()) {
            Ok(len) => {
                out.truncate(start + len);
                return true;
            }
            Err(EncryptError::InsufficientSize(needs)) => room = needs.required_size,
            Err(EncryptError::EncryptExhausted) => {
                out.truncate(start);
                return false;
            }
        }
    }
}
