//! One connection of the load: its socket, its buffers and the requests that await a reply.
//!
//! Replies come in the order of the requests, so a queue pairs them. The socket does not block;
//! each call makes at most one system call. Buffers are bounded by the pipeline and the largest
//! reply.

use super::resp::Kind;
use super::wire::{Decoder, Encoder, Login, Protocol, Request};
use crate::transport::{Transport, Trust};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

const INPUT_BYTES_FIRST: usize = 16 * 1024;
/// A buffer that one read filled grows up to here, so that long pipelines take few reads.
const INPUT_BYTES_EASY: usize = 256 * 1024;
/// A reply that does not fit in here ends the run.
const INPUT_BYTES_MAX: usize = 1 << 30;

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Inflight {
    /// When its latency began, ns since the run's origin.
    pub start_ns: u64,
    /// Its length in bytes.
    pub bytes: u32,
    /// What it asks.
    pub request: Request,
    /// Replies that are still due; the last one is the answer.
    replies: u8,
}

/// A complete reply with the request it answers.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The request.
    pub asked: Inflight,
    /// What the reply is.
    pub kind: Kind,
    /// All its bytes.
    pub reply: &'a [u8],
}

/// See the head of the file.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    decoder: Decoder,
    output: Vec<u8>,
    output_at: usize,
    input: Vec<u8>,
    input_start: usize,
    input_end: usize,
    inflight: VecDeque<Inflight>,
    /// Due times of requests not yet sent, oldest first (open loop only).
    pub backlog: VecDeque<u64>,
    /// Whether the event loop is asked to say when the socket takes more.
    pub write_armed: bool,
}

impl Connection {
    /// Connects and logs in, waiting for at most `timeout`.
    pub fn open(
        address: SocketAddr,
        protocol: Protocol,
        login: Option<&Login>,
        trust: Option<&Trust>,
        timeout: Duration,
    ) -> Result<Connection, String> {
        let failed = |what: &str, error: std::io::Error| format!("{what} {address}: {error}");
        let stream = TcpStream::connect_timeout(&address, timeout)
            .map_err(|error| failed("connecting to", error))?;
        stream.set_nodelay(true).map_err(|error| failed("socket option for", error))?;
        stream
            .set_read_timeout(Some(timeout))
            .map_err(|error| failed("socket option for", error))?;
        let mut connection = Connection {
            transport: Transport::new(stream, trust)?,
            decoder: Decoder::new(protocol),
            output: Vec::new(),
            output_at: 0,
            input: vec![0; INPUT_BYTES_FIRST],
            input_start: 0,
            input_end: 0,
            inflight: VecDeque::new(),
            backlog: VecDeque::new(),
            write_armed: false,
        };
        connection.greet(protocol, login).map_err(|error| format!("{address}: {error}"))?;
        connection
            .transport
            .socket
            .set_nonblocking(true)
            .map_err(|error| failed("socket option for", error))?;
        Ok(connection)
    }

    /// Requests that await a reply.
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Encodes a request behind what is still to be sent.
    pub fn push(&mut self, encoder: &Encoder, request: Request, start_ns: u64) {
        let before = self.output.len();
        encoder.encode(&request, &mut self.output);
        let bytes = u32::try_from(self.output.len() - before).unwrap_or(u32::MAX);
        let replies = encoder.replies(&request);
        self.inflight.push_back(Inflight { start_ns, bytes, request, replies });
    }

    /// One write of what is to be sent; true when nothing is left.
    pub fn flush(&mut self) -> Result<bool, String> {
        let rest = self.output.get(self.output_at..).unwrap_or_default();
        let sent = if rest.is_empty() {
            self.transport.flush()
        } else {
            self.transport.write(rest).map(|written| self.output_at += written)
        };
        match sent {
            Ok(()) => {}
            Err(error) if passing(&error) => {}
            Err(error) => return Err(self.closed(&error.to_string())),
        }
        let done = self.output_at == self.output.len();
        if done {
            self.output.clear();
            self.output_at = 0;
        }
        Ok(done && !self.transport.owes())
    }

    /// One read; false when there was nothing to read. Over TLS as many as it takes until nothing
    /// opened is left behind.
    pub fn fill(&mut self) -> Result<bool, String> {
        self.make_room()?;
        let room = self.input.get_mut(self.input_end..).unwrap_or_default();
        let room_bytes = room.len();
        match self.transport.read(room) {
            Ok(0) => Err(self.closed("end of stream")),
            Ok(read) => {
                self.input_end += read;
                if read == room_bytes && self.transport.is_buffered() {
                    self.fill()?;
                }
                Ok(true)
            }
            Err(error) if passing(&error) => Ok(false),
            Err(error) => Err(self.closed(&error.to_string())),
        }
    }

    /// The next complete reply among what was read.
    pub fn next_answer(&mut self) -> Result<Option<Answer<'_>>, String> {
        let (kind, start, end) = loop {
            let Some(found) = self.next_reply()? else { return Ok(None) };
            match self.inflight.front_mut() {
                Some(asked) if asked.replies > 1 => asked.replies -= 1,
                _ => break found,
            }
            let (kind, start, end) = found;
            if kind == Kind::Error {
                let reply = self.input.get(start..end).unwrap_or_default();
                return Err(format!("a write that is waited for: {}", first_line(reply)));
            }
        };
        let reply = self.input.get(start..end).unwrap_or_default();
        match self.inflight.pop_front() {
            Some(asked) => Ok(Some(Answer { asked, kind, reply })),
            None => Err(format!("reply to no request: {:?}", first_line(reply))),
        }
    }

    fn next_reply(&mut self) -> Result<Option<(Kind, usize, usize)>, String> {
        loop {
            let unread = self.input.get(self.input_start..self.input_end).unwrap_or_default();
            let found = self.decoder.next(unread);
            let found = found.map_err(|why| format!("malformed reply: {}", why.0))?;
            let Some(reply) = found else { return Ok(None) };
            let start = self.input_start;
            self.input_start += reply.len;
            if reply.kind != Kind::Push {
                return Ok(Some((reply.kind, start, self.input_start)));
            }
        }
    }

    fn make_room(&mut self) -> Result<(), String> {
        if self.input_start == self.input_end {
            let filled = self.input_end == self.input.len();
            (self.input_start, self.input_end) = (0, 0);
            if filled && self.input.len() < INPUT_BYTES_EASY {
                self.input.resize(self.input.len() * 2, 0);
            }
        } else if self.input_end == self.input.len() {
            if self.input_start > 0 {
                self.input.copy_within(self.input_start..self.input_end, 0);
                self.input_end -= self.input_start;
                self.input_start = 0;
            } else if self.input.len() < INPUT_BYTES_MAX {
                self.input.resize(self.input.len() * 2, 0);
            } else {
                return Err(format!("a reply is larger than {INPUT_BYTES_MAX} bytes"));
            }
        }
        Ok(())
    }

    fn greet(&mut self, protocol: Protocol, login: Option<&Login>) -> Result<(), String> {
        let (bytes, replies) = protocol.greeting(login);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let written = self.transport.write(rest);
            let written = written.map_err(|error| self.closed(&error.to_string()))?;
            rest = rest.get(written..).unwrap_or_default();
        }
        while self.transport.owes() {
            self.transport.flush().map_err(|error| self.closed(&error.to_string()))?;
        }
        for _ in 0..replies {
            let (kind, start, end) = loop {
                match self.next_reply()? {
                    Some(found) => break found,
                    None if self.fill()? => {}
                    None => return Err("no answer to the login in time".to_owned()),
                }
            };
            if kind == Kind::Error {
                let reply = self.input.get(start..end).unwrap_or_default();
                return Err(format!("login refused: {}", first_line(reply)));
            }
        }
        Ok(())
    }

    fn closed(&self, why: &str) -> String {
        let waiting = self.inflight.len();
        format!("the server closed a connection with {waiting} requests unanswered ({why})")
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.socket.as_fd()
    }
}

/// The first line of a reply, for messages.
pub fn first_line(reply: &[u8]) -> String {
    let line = reply.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(line.get(..200).unwrap_or(line)).into_owned()
}

fn passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
