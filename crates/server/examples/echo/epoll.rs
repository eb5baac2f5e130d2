//! The data threads' own way: one epoll, one shared receive buffer, all answers sent at the turn's end.
//!
//! System calls in a turn: one `epoll_wait`, and a `recv` and a `send` for each ready connection.

use std::{
    io,
    net::{TcpListener, TcpStream},
};

use rustix::{
    event::epoll,
    fd::OwnedFd,
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::answer::{Conversation, READ_BYTES};

const EVENTS: usize = 256;
const LISTENER: u64 = u64::MAX;

struct Connection {
    socket: TcpStream,
    conversation: Conversation,
    output: Vec<u8>,
    written: usize,
    wants_write: bool,
    is_open: bool,
}

/// Serves for ever. Places of closed connections are not used again.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut connections: Vec<Connection> = Vec::new();
    let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
    let mut ready = Vec::new();
    let mut scratch = vec![0; READ_BYTES];
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let token = event.data.u64();
            if token == LISTENER {
                accept(&epoll, &listener, &mut connections)?;
            } else if let Some(connection) = connections.get_mut(token as usize) {
                connection.receive(&mut scratch);
                ready.push(token);
            }
        }
        for token in ready.drain(..) {
            if let Some(connection) = connections.get_mut(token as usize) {
                connection.flush(&epoll, token)?;
            }
        }
    }
}

fn accept(
    epoll: &OwnedFd,
    listener: &TcpListener,
    connections: &mut Vec<Connection>,
) -> io::Result<()> {
    loop {
        let (socket, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let data = epoll::EventData::new_u64(connections.len() as u64);
        epoll::add(epoll, &socket, data, epoll::EventFlags::IN)?;
        connections.push(Connection {
            socket,
            conversation: Conversation::default(),
            output: Vec::new(),
            written: 0,
            wants_write: false,
            is_open: true,
        });
    }
}

impl Connection {
    fn receive(&mut self, scratch: &mut [u8]) {
        match recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => self.is_open = false,
            Ok((_, len)) => {
                let bytes = scratch.get(..len).unwrap_or_default();
                self.is_open = self.conversation.take(bytes, &mut self.output).is_ok();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.is_open = false,
        }
    }

    /// Sends what is there; what the socket does not take waits until it is writable.
    fn flush(&mut self, epoll: &OwnedFd, token: u64) -> io::Result<()> {
        let mut is_full = false;
        while self.is_open && !is_full && self.written < self.output.len() {
            let rest = self.output.get(self.written..).unwrap_or_default();
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => self.written += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => is_full = true,
                Err(_) => self.is_open = false,
            }
        }
        if !is_full {
            self.output.clear();
            self.written = 0;
        }
        if !self.is_open {
            return Ok(epoll::delete(epoll, &self.socket)?);
        }
        if is_full != self.wants_write {
            self.wants_write = is_full;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, is_full);
            epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(token), flags)?;
        }
        Ok(())
    }
}
