//! What every way has in common: requests in, answers out.

use std::io;

use holdfast_protocol::resp::{Limits, Parse, Protocol, ReplyWriter, RequestParser};

/// Bytes taken from a socket at once, as a data thread does.
pub const READ_BYTES: usize = 64 << 10;
const VALUE: [u8; 100] = [b'v'; 100];

/// The protocol side of one connection.
#[derive(Default)]
pub struct Conversation {
    parser: RequestParser,
    /// The front of a request whose rest has not come yet.
    partial: Vec<u8>,
}

impl Conversation {
    /// Appends the answers to all requests that `received` completes.
    pub fn take(&mut self, received: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        if self.partial.is_empty() {
            let used = self.answer(received, out)?;
            self.partial.extend_from_slice(received.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.partial);
        input.extend_from_slice(received);
        let used = self.answer(&input, out)?;
        input.drain(..used);
        self.partial = input;
        Ok(())
    }

    /// Answers the whole requests at the front; gives how many bytes they were.
    fn answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let limits = Limits::default();
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match self.parser.parse(rest, &limits) {
                Ok(Parse::Complete { consumed }) => {
                    let mut reply = ReplyWriter::new(out, Protocol::Resp2);
                    match self.parser.args(rest).name() {
                        b"GET" => reply.bulk(&VALUE),
                        b"PING" => reply.simple("PONG"),
                        _ => reply.error("ERR this server knows GET and PING"),
                    }
                    used += consumed;
                }
                Ok(Parse::Empty { consumed }) => used += consumed,
                Ok(Parse::Incomplete { .. }) => return Ok(used),
                Err(error) => return Err(io::Error::other(error.to_string())),
            }
        }
    }
}
