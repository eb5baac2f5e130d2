//! How to reach the log servers, and what a stream must be like.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use holdfast_base::{Lsn, ShardId};
use holdfast_log::{LogError, OpenMode};

/// How to open a replicated log.
#[derive(Clone)]
pub struct JetStreamOptions {
    /// Addresses of the log servers, as `nats://HOST:PORT` or `tls://HOST:PORT`. One that answers is
    /// enough; the others are learned from it.
    pub servers: Vec<String>,
    /// What streams and subjects begin with: letters, digits, `-` and `_`. One for each cluster.
    pub name: String,
    /// The shards that are read or written here.
    pub shards: Vec<ShardId>,
    /// What the engine holds durably of each shard: a log that ends before it has lost records.
    pub claims: BTreeMap<ShardId, Lsn>,
    /// Whether streams may be made.
    pub mode: OpenMode,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// Bytes of one message; a larger call is cut into parts. The server's `max_payload` must be larger.
    pub message_bytes_max: usize,
    /// Bytes of batches in one call.
    pub call_bytes_max: usize,
    /// How long an append may take; then its outcome is unknown and the session ends. An election of
    /// the log servers takes 4 to 9 s: below that each of them ends every session.
    pub append_timeout: Duration,
    /// How long anything else may take, tries again included.
    pub request_timeout: Duration,
    /// File with the seed of the nkey to log in with (`SU…`).
    pub nkey_seed_file: Option<PathBuf>,
    /// TLS: the authority that log servers are certified by, and this node's own certificate and key.
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificates of the authorities to trust.
    pub ca: PathBuf,
    /// This node's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl JetStreamOptions {
    /// The defaults: three copies, messages of 256 KiB.
    pub fn new(servers: Vec<String>, name: impl Into<String>, shards: Vec<ShardId>) -> Self {
        JetStreamOptions {
            servers,
            name: name.into(),
            shards,
            claims: BTreeMap::new(),
            mode: OpenMode::Create,
            replicas: 3,
            message_bytes_max: 256 << 10,
            call_bytes_max: holdfast_base::limits::RECORD_BYTES_MAX + (64 << 10),
            append_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            nkey_seed_file: None,
            tls: None,
        }
    }

    /// Refuses values with which nothing could work, naming the option.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        let wrong = |what: &str| Err(LogError::Invalid(what.to_owned()));
        if self.servers.is_empty() {
            return wrong("no log server is named");
        }
        let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(word) {
            return wrong("the log's name must be 1 to 64 letters, digits, - and _");
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return wrong("replicas must be 1, 3 or 5");
        }
        if !(1 << 10..=4 << 20).contains(&self.message_bytes_max) {
            return wrong("message_bytes_max must be between 1 KiB and 4 MiB");
        }
        Ok(())
    }

    /// The stream of a shard.
    pub(crate) fn stream(&self, shard: ShardId) -> String {
        format!("{}-{shard}", self.name)
    }

    /// The subject of a shard. Only its owner and candidates may publish there.
    pub(crate) fn subject(&self, shard: ShardId) -> String {
        format!("{}.{shard}", self.name)
    }
}

/// Without the servers' addresses, which may hold passwords.
impl fmt::Debug for JetStreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamOptions")
            .field("name", &self.name)
            .field("shards", &self.shards)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}
