//! A blocking connection that pipelines requests and gives replies as the bytes that came.
//!
//! Bytes, not values: whether a null is `$-1`, `*-1` or `_`, and how a double is spelt, are part
//! of what is compared. What is no reply (connection closed, no bytes in time, bytes that do not
//! parse) becomes a text that starts with `!`, which no reply does.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use holdfast_protocol::resp::parse_value;

use crate::request::Request;

/// Silence after which a server counts as stuck, unless said otherwise.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// Why nothing more can come.
    broken: Option<String>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        Connection::open_for(address, SILENCE_MAX)
    }

    /// A connection on which a shorter silence means that the server is stuck.
    pub fn open_for(address: SocketAddr, silence: Duration) -> Connection {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream.set_nodelay(true).expect("a TCP socket takes this option");
        stream.set_read_timeout(Some(silence)).expect("the time is not zero");
        Connection { stream, received: Vec::new(), broken: None }
    }

    pub fn send(&mut self, requests: &[Request]) {
        let mut bytes = Vec::new();
        requests.iter().for_each(|request| request.encode(&mut bytes));
        self.send_bytes(&bytes);
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            self.broken.get_or_insert(format!("!closed: {}", error.kind()));
        }
    }

    /// The next reply.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut chunk = [0; 64 << 10];
        loop {
            match parse_value(&self.received) {
                Ok(Some((_, bytes))) => return self.received.drain(..bytes).collect(),
                Ok(None) => {}
                Err(error) => return format!("!unreadable reply: {error}").into_bytes(),
            }
            if let Some(broken) = &self.broken {
                return broken.clone().into_bytes();
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => self.broken = Some("!closed".into()),
                Ok(read) => self.received.extend_from_slice(&chunk[..read]),
                Err(error) => self.broken = Some(format!("!no reply: {}", error.kind())),
            }
        }
    }

    /// Sends one request and gives its reply.
    pub fn ask(&mut self, request: Request) -> Vec<u8> {
        self.send(&[request]);
        self.receive()
    }

    /// No more will be sent: the server answers what it has and closes.
    pub fn finish_sending(&mut self) {
        // A server that closed first has made this needless.
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Everything that comes until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.received);
        // A reset also ends what came; the bytes before it are kept.
        let _ = self.stream.read_to_end(&mut rest);
        rest
    }
}
