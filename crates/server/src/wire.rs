//! A client's bytes: its socket, what was received and not yet consumed, what is still to be sent,
//! in clear or over TLS.
//!
//! Knows neither sessions nor what the bytes ask. Without TLS a flush is the `send` alone: one test
//! of a pointer is all that TLS costs whoever does not use it.

use std::net::TcpStream;

use holdfast_protocol::resp::RequestParser;
use rustix::{
    io::Errno,
    net::{SendFlags, send},
};

use crate::tls::TlsStream;

/// What a flush left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flushed {
    /// Everything that may leave has left.
    Done,
    /// The socket takes no more at the moment.
    Blocked,
    /// The client is gone.
    Closed,
}

/// See the module's head.
pub(crate) struct Wire {
    pub socket: TcpStream,
    pub tls: Option<Box<TlsStream>>,
    pub parser: RequestParser,
    /// Bytes received, opened and not yet consumed; empty while requests arrive whole.
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    /// How much of the output has left.
    pub written: usize,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream, tls: Option<Box<TlsStream>>) -> Wire {
        let (input, output) = (Vec::new(), Vec::new());
        Wire { socket, tls, parser: RequestParser::new(), input, output, written: 0 }
    }

    /// Bytes that wait to be written, held ones included.
    pub(crate) fn owed(&self) -> usize {
        let sealed = self.tls.as_ref().map_or(0, |tls| tls.owed());
        self.output.len() - self.written + sealed
    }

    /// Memory in buffers. Room that was reserved and not yet written to costs none.
    pub(crate) fn held_bytes(&self) -> usize {
        let tls = self.tls.as_ref().map_or(0, |tls| tls.held_bytes());
        self.input.len() + self.output.len() + tls
    }

    /// Whether requests may come: without TLS at once.
    pub(crate) fn is_established(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| tls.is_established())
    }

    /// Appends an error reply.
    pub(crate) fn put_error(&mut self, error: &str) {
        self.output.extend_from_slice(b"-");
        self.output.extend_from_slice(error.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// Writes the output up to `end`.
    pub(crate) fn flush(&mut self, end: usize, bytes_out: &mut u64) -> Flushed {
        if let Some(tls) = &mut self.tls {
            let ready = self.output.get(self.written..end).unwrap_or_default();
            return tls.flush(&self.socket, ready, &mut self.written, bytes_out);
        }
        while self.written < end {
            let ready = self.output.get(self.written..end).unwrap_or_default();
            match send(&self.socket, ready, SendFlags::NOSIGNAL) {
                Ok(0) => return Flushed::Closed,
                Ok(sent) => {
                    self.written += sent;
                    *bytes_out += sent as u64;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Flushed::Blocked,
                Err(_) => return Flushed::Closed,
            }
        }
        Flushed::Done
    }
}
