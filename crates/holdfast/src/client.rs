//! A Redis client for a few commands: one request, one reply, within a time limit.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use holdfast_protocol::resp::{Value, encode_command, parse_value};

use crate::transport::{Transport, Trust};

/// Silence after which the node counts as stuck.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Replies here are small.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// Which node, and as whom.
#[derive(Args)]
pub struct NodeArgs {
    /// The node's Redis address.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub node: String,
    /// User to log in as.
    #[arg(long, default_value = "default")]
    user: String,
    /// File whose first line is the password; else HOLDFAST_PASSWORD, if that is set.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Speak TLS, and trust the authorities in this file (PEM).
    #[arg(long, value_name = "CA_FILE")]
    pub tls: Option<PathBuf>,
}

impl NodeArgs {
    /// Connects to this node and logs in, if there is a password.
    pub fn connect(&self, node: &str) -> Result<Client, String> {
        let mut client = Client::connect(node, self.tls.as_deref())?;
        if let Some(password) = self.password()? {
            client.call(&["AUTH", &self.user, &password])?;
        }
        Ok(client)
    }

    fn password(&self) -> Result<Option<String>, String> {
        let Some(path) = &self.password_file else {
            return Ok(std::env::var("HOLDFAST_PASSWORD").ok());
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
    }
}

/// A connection.
pub struct Client {
    transport: Transport,
    received: Vec<u8>,
    node: String,
}

/// A reply that is no error.
pub struct Reply(Value);

impl Client {
    /// Connects; over TLS if there is a file of authorities to trust.
    pub fn connect(node: &str, authorities: Option<&Path>) -> Result<Client, String> {
        let told = |error: std::io::Error| format!("{node}: {error}");
        let trust = authorities.map(|file| Trust::load(file, node)).transpose()?;
        let stream = TcpStream::connect(node).map_err(told)?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(told)?;
        stream.set_write_timeout(Some(SILENCE_MAX)).map_err(told)?;
        let transport =
            Transport::new(stream, trust.as_ref()).map_err(|error| format!("{node}: {error}"))?;
        Ok(Client { transport, received: Vec::new(), node: node.to_owned() })
    }

    /// Sends one request and waits for its reply; an error reply is an error.
    pub fn call(&mut self, words: &[&str]) -> Result<Reply, String> {
        let told = |error: std::io::Error| format!("{}: {error}", self.node);
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut request = Vec::new();
        encode_command(&mut request, &words);
        let mut rest = request.as_slice();
        while !rest.is_empty() {
            let taken = self.transport.write(rest).map_err(told)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        while self.transport.owes() {
            self.transport.flush().map_err(told)?;
        }
        loop {
            let parsed = parse_value(&self.received)
                .map_err(|_| format!("{}: does not speak the Redis protocol", self.node))?;
            if let Some((value, len)) = parsed {
                self.received.drain(..len);
                return match value {
                    Value::Error(text) => Err(String::from_utf8_lossy(&text).into_owned()),
                    value => Ok(Reply(value)),
                };
            }
            let mut piece = [0; 16 << 10];
            let read = self.transport.read(&mut piece).map_err(told)?;
            if read == 0 || self.received.len() > REPLY_BYTES_MAX {
                return Err(format!("{}: closed the connection", self.node));
            }
            self.received.extend_from_slice(piece.get(..read).unwrap_or_default());
        }
    }
}

impl Reply {
    /// An integer.
    pub fn number(self) -> Result<i64, String> {
        match self.0 {
            Value::Integer(number) => Ok(number),
            other => Err(format!("not a number: {other:?}")),
        }
    }

    /// A text.
    pub fn text(self) -> Result<String, String> {
        match self.0 {
            Value::Bulk(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Value::Simple(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            other => Err(format!("not a text: {other:?}")),
        }
    }

    /// Texts by name, from a map or from an array of names and values.
    pub fn map(self) -> Result<BTreeMap<String, String>, String> {
        let Value::Array(items) = self.0 else {
            return Err(format!("not a list: {:?}", self.0));
        };
        let texts: Vec<String> = items
            .into_iter()
            .map(|item| match item {
                Value::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                other => format!("{other:?}"),
            })
            .collect();
        let pairs = texts.chunks_exact(2);
        Ok(pairs.filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone()))).collect())
    }
}
