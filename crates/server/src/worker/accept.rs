//! How connections come: through doors, each a listener in clear or with TLS.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    io::Errno,
    net::{SendFlags, send},
};

use super::{DOORS, Place, Worker, token};
use crate::{
    connection::Connection, members::Members, session::Session, startup::Early, tls::TlsStream,
    wire::Wire,
};

/// Connections accepted in one turn, so that a storm of them does not starve the others.
const ACCEPTS: usize = 64;
/// How long a listener rests after accepting failed.
const PAUSE: Duration = Duration::from_millis(100);
/// What one connection too many is told.
pub(crate) const TOO_MANY: &[u8] = b"-ERR max number of clients reached\r\n";

/// A listener of one data thread.
pub(crate) struct Door {
    pub listener: TcpListener,
    pub tls: bool,
}

impl Door {
    /// The same door for another thread.
    pub(crate) fn try_clone(&self) -> std::io::Result<Door> {
        Ok(Door { listener: self.listener.try_clone()?, tls: self.tls })
    }
}

impl Worker {
    pub(super) fn open_doors(&self) -> Result<(), Errno> {
        self.doors.iter().zip(DOORS..).try_for_each(|(door, token)| {
            let data = epoll::EventData::new_u64(token);
            epoll::add(&self.epoll, &door.listener, data, epoll::EventFlags::IN)
        })
    }

    pub(super) fn accept(&mut self, at: usize, now: Instant) {
        if self.node.is_stopping() || self.accept_again.is_some_and(|at| now < at) {
            return;
        }
        for _ in 0..ACCEPTS {
            let Some(door) = self.doors.get(at) else { return };
            match door.listener.accept() {
                Ok((socket, addr)) => self.welcome(socket, addr, door.tls, now),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // Out of descriptors, most likely: the listener stays readable, so all are left
                    // alone for a while.
                    tracing::warn!(%error, "a connection could not be accepted");
                    for door in &self.doors {
                        let _ = epoll::delete(&self.epoll, &door.listener);
                    }
                    self.accept_again = Some(now + PAUSE);
                    return;
                }
            }
        }
    }

    /// Listens again after a pause.
    pub(super) fn resume_accepting(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| now >= at) {
            self.accept_again = None;
            if let Err(error) = self.open_doors() {
                tracing::error!(%error, "no more connections are accepted");
            }
        }
    }

    /// Gives a new client its place. One that finds none is told so; over TLS it is not, because a
    /// handshake to say it would cost more than the place.
    fn welcome(&mut self, socket: TcpStream, addr: SocketAddr, tls: bool, now: Instant) {
        if socket.set_nonblocking(true).is_err() || socket.set_nodelay(true).is_err() {
            return;
        }
        if self.node.clients.count() >= self.node.config.redis_clients_max {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            if !tls && send(&socket, TOO_MANY, SendFlags::NOSIGNAL).is_ok() {
                self.farewells.begin(&self.epoll, socket, now, &mut self.scratch);
            }
            return;
        }
        if let Some(forwarder) = self.node.forwarder.as_ref().filter(|one| !tls && one.has_room())
            && !self.node.owns()
            && let Some(owner) = self.node.members.as_deref().and_then(Members::passes_on_to)
        {
            let client = self.node.clients.connect(addr, self.node.uptime_seconds(), tls);
            return forwarder.take(socket, client, owner);
        }
        let stream = match &self.node.certificates {
            Some(certificates) if tls => match TlsStream::new(certificates.current(), now) {
                Ok(stream) => Some(Box::new(stream)),
                Err(error) => return tracing::error!(%error, "TLS cannot begin"),
            },
            _ => None,
        };
        let client = self.node.clients.connect(addr, self.node.uptime_seconds(), tls);
        let session = Session::new(client, &self.node);
        self.seat(Connection::new(Wire::new(socket, stream), session, now));
    }

    /// Takes over who connected before the node was ready.
    pub(crate) fn adopt(&mut self, early: Early) {
        let Early { wire, client, manners, began, .. } = early;
        let mut session = Session::new(client, &self.node);
        session.go_on(&self.node, manners.protocol, manners.keyspace, manners.password);
        let mut connection = Connection::new(wire, session, began);
        connection.has_backlog = !connection.wire.input.is_empty();
        if let Some(token) = self.seat(connection)
            && let Some(mut connection) = self.take(token)
        {
            self.mark_dirty(token, &mut connection);
            self.put_back(token, connection);
        }
    }

    /// Takes a connection into the event loop.
    fn seat(&mut self, mut connection: Connection) -> Option<u64> {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() as u32 - 1
        });
        let token = token(place, self.places[place as usize].turn);
        let data = epoll::EventData::new_u64(token);
        let readable = epoll::EventFlags::IN;
        if epoll::add(&self.epoll, &connection.wire.socket, data, readable).is_err() {
            connection.session.end(&self.node);
            self.node.clients.disconnect(connection.session.client.id);
            self.free.push(place);
            return None;
        }
        self.metrics.accepted.fetch_add(1, Ordering::Relaxed);
        self.metrics.open.fetch_add(1, Ordering::Relaxed);
        self.watch_stranger(token, &mut connection);
        self.places[place as usize].connection = Some(Box::new(connection));
        Some(token)
    }
}
