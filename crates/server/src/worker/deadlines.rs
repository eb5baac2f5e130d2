//! What time bounds: handshakes, logging in, and taking the last replies.
//!
//! Connections that have such a deadline are looked at four times a second; all others cost nothing.

use std::time::{Duration, Instant};

use super::Worker;
use crate::{connection::Connection, tls::Failure};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a client that was cut off may take for what it is owed. Until then its replies, and the
/// reason why it is cut off, stay in memory.
const CUT_OFF_WAIT: Duration = Duration::from_secs(2);
/// How long a client that closes in order may take none of its replies.
const CLOSING_WAIT: Duration = Duration::from_secs(30);

/// What a deadline says.
enum Due {
    /// There is none any more.
    Nothing,
    Later,
    Handshake,
    Login,
    Close,
}

impl Worker {
    /// A new connection has to become an established, logged-in one in time.
    pub(super) fn watch_stranger(&mut self, token: u64, connection: &mut Connection) {
        if !connection.session.authenticated || !connection.wire.is_established() {
            self.watch(token, connection);
        }
    }

    /// A connection that closes has to take in time what it is owed.
    pub(super) fn watch_closing(
        &mut self,
        token: u64,
        connection: &mut Connection,
        has_taken: bool,
    ) {
        let now = Instant::now();
        if connection.close_by.is_none() || (has_taken && !connection.at_fault) {
            let wait = if connection.at_fault { CUT_OFF_WAIT } else { CLOSING_WAIT };
            connection.close_by = Some(now + wait);
        }
        self.watch(token, connection);
    }

    fn watch(&mut self, token: u64, connection: &mut Connection) {
        if !std::mem::replace(&mut connection.is_watched, true) {
            self.watched.push(token);
        }
    }

    fn due(&self, connection: &Connection, now: Instant) -> Due {
        if connection.closing {
            // What waits for the disk is not the client's fault.
            let may_close = !connection.holds_replies();
            let late = connection.close_by.is_some_and(|by| now >= by);
            return if may_close && late { Due::Close } else { Due::Later };
        }
        let (age, config) = (now.duration_since(connection.began), &self.node.config);
        let past = |seconds: u64| age >= Duration::from_secs(seconds);
        if !connection.wire.is_established() {
            let late = past(config.tls_handshake_seconds_max);
            return if late { Due::Handshake } else { Due::Later };
        }
        match config.redis_login_seconds_max {
            _ if connection.session.authenticated => Due::Nothing,
            0 => Due::Nothing,
            seconds if past(seconds) => Due::Login,
            _ => Due::Later,
        }
    }

    /// Ends what has passed its deadline.
    pub(super) fn hold_to_deadlines(&mut self, now: Instant) {
        self.farewells.expire(now);
        if now < self.look_at {
            return;
        }
        self.look_at = now + LOOK_EVERY;
        for token in std::mem::take(&mut self.watched) {
            let Some(mut connection) = self.take(token) else { continue };
            match self.due(&connection, now) {
                Due::Nothing => connection.is_watched = false,
                Due::Later => self.watched.push(token),
                Due::Login => {
                    self.watched.push(token);
                    self.cut_off(token, &mut connection, "NOAUTH not logged in in time");
                }
                Due::Handshake => {
                    self.node.tls_failed(Failure::TimedOut);
                    connection.closing = true;
                    self.close(token, connection);
                    continue;
                }
                Due::Close => {
                    self.close(token, connection);
                    continue;
                }
            }
            self.put_back(token, connection);
        }
    }
}
