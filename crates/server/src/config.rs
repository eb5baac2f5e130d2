//! Configuration: one table of settings, from which parsing, `holdfast config` and the reference
//! page come. Sources, later ones win: defaults, TOML file, environment, flags.
//!
//! Every setting is declared once, in [`SETTINGS`]. Unknown keys are refused with the nearest known
//! one. Nothing here reads a file or the environment itself: the binary brings the texts.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf};

use holdfast_base::ByteSize;

use crate::{Addresses, members::split};

mod table;

pub use table::SETTINGS;

/// When the log is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    /// Before every acknowledgement.
    Always,
    /// Never: only to measure what durability costs. A crash loses acknowledged writes.
    Never,
}

/// When a node takes the data of a replicated log over from another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakeOver {
    /// Once the other one has given it up, or no sign of life for longer than its lease.
    WhenSilent,
    /// At once.
    AtStart,
}

/// What is asked of clients in the way of certificates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// None is asked for.
    None,
    /// One that is shown has to be valid.
    Optional,
    /// Nobody comes in without a valid one.
    Required,
}

/// Everything that can be set.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Folder of log and engine.
    pub data: PathBuf,
    /// Name of this node, in take-over records and for the other nodes; empty: its host's name and port.
    pub node_name: String,
    /// Memory of the process, as a whole.
    pub memory: ByteSize,
    /// Address of the Redis protocol without TLS; `None`: not spoken.
    pub redis_addr: Option<SocketAddr>,
    /// Address of the Redis protocol over TLS.
    pub redis_tls_addr: Option<SocketAddr>,
    /// `HOST:PORT` at which clients of a cluster reach this node without TLS; empty: where it listens.
    pub redis_announce: String,
    /// The same over TLS.
    pub redis_tls_announce: String,
    /// Whether a node that stands by passes connections on to the owner.
    pub redis_forward: bool,
    /// Reads that may be old are answered while no more time has passed since a sign of the owner.
    pub redis_replica_seconds_max: u64,
    /// Most client connections.
    pub redis_clients_max: usize,
    /// Password of the user `default`; empty: none is asked for.
    pub redis_password: String,
    /// Bytes of replies that one connection may owe before it is cut off.
    pub redis_output_bytes_max: ByteSize,
    /// How long a connection may take to log in where a password is asked for, in seconds; 0: no
    /// bound.
    pub redis_login_seconds_max: u64,
    /// Address of HTTP without TLS; `None`: not spoken.
    pub http_addr: Option<SocketAddr>,
    /// Address of HTTP over TLS.
    pub http_tls_addr: Option<SocketAddr>,
    /// What a scrape of the metrics has to bring as its bearer token; empty: nothing.
    pub http_token: String,
    /// File with the certificate and what links it to its authority, as PEM.
    pub tls_certificate_file: PathBuf,
    /// File with the certificate's private key, as PEM.
    pub tls_key_file: PathBuf,
    /// File with the authorities whose client certificates are accepted, as PEM.
    pub tls_client_ca_file: PathBuf,
    /// Whether clients show certificates.
    pub tls_client_certificates: ClientCertificates,
    /// How long a TLS handshake may take, in seconds.
    pub tls_handshake_seconds_max: u64,
    /// Data threads; 0: one for each core.
    pub threads_data: usize,
    /// Threads that read from the disk for data threads, and so the disk reads at a time: what one read takes
    /// divided by them bounds the rate of cold rows.
    pub threads_fetch: usize,
    /// When the log is synced.
    pub log_sync: Sync,
    /// Addresses of the servers of a replicated log; empty: the log is embedded.
    pub log_servers: Vec<String>,
    /// Monitoring addresses of those servers; empty: they are not asked whether they sync.
    pub log_monitors: Vec<String>,
    /// Name of the replicated log.
    pub log_name: String,
    /// Copies of the replicated log.
    pub log_replicas: usize,
    /// When this node takes the data over from another one.
    pub log_take_over: TakeOver,
    /// File with the seed of the nkey for the log servers.
    pub log_nkey_seed_file: PathBuf,
    /// File with the authorities of the log servers, as PEM.
    pub log_ca_file: PathBuf,
    /// This node's certificate for them, and its key.
    pub log_certificate_file: PathBuf,
    /// See there.
    pub log_key_file: PathBuf,
    /// Size of a log segment.
    pub log_segment_bytes: ByteSize,
    /// Log bytes since the engine's last flush at which a flush is forced.
    pub engine_replay_bytes_max: ByteSize,
    /// Bytes per second that flushes and compactions may write.
    pub engine_background_bytes_per_second: ByteSize,
    /// Bytes per second that a backup may read and send.
    pub backup_bytes_per_second: ByteSize,
    /// Where backups are taken by themselves; empty: nowhere.
    pub backup_url: String,
    /// Between two of them.
    pub backup_every_seconds: u64,
    /// Sooner if the log has grown by so much.
    pub backup_every_log_bytes: ByteSize,
    /// So many of them are kept; 0: all.
    pub backup_keep: usize,
    /// What is read of the rows to compare them with other nodes'; 0: they are not compared.
    pub log_digest_bytes_per_second: ByteSize,
    /// A replicated log is kept for nodes that are silent for no longer.
    pub log_keep_seconds: u64,
    /// Where the log is archived; empty: nowhere.
    pub archive_url: String,
    /// Seconds after which durable records are archived at the latest.
    pub archive_seconds_max: u64,
    /// Bytes of log that wait for the archive before they are trimmed without it.
    pub archive_lag_bytes_max: ByteSize,
    /// How long a stop may take to drain and flush, in seconds.
    pub shutdown_seconds_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Config {
            data: PathBuf::from("data"),
            node_name: String::new(),
            memory: ByteSize::mib(1024),
            redis_addr: Some(loopback(6379)),
            redis_tls_addr: None,
            redis_announce: String::new(),
            redis_tls_announce: String::new(),
            redis_forward: false,
            redis_replica_seconds_max: 10,
            redis_clients_max: 20_000,
            redis_password: String::new(),
            redis_output_bytes_max: ByteSize::mib(256),
            redis_login_seconds_max: 60,
            http_addr: Some(loopback(8080)),
            http_tls_addr: None,
            http_token: String::new(),
            tls_certificate_file: PathBuf::new(),
            tls_key_file: PathBuf::new(),
            tls_client_ca_file: PathBuf::new(),
            tls_client_certificates: ClientCertificates::None,
            tls_handshake_seconds_max: 10,
            threads_data: 0,
            threads_fetch: 16,
            log_sync: Sync::Always,
            log_servers: Vec::new(),
            log_monitors: Vec::new(),
            log_name: "holdfast".into(),
            log_replicas: 3,
            log_take_over: TakeOver::WhenSilent,
            log_nkey_seed_file: PathBuf::new(),
            log_ca_file: PathBuf::new(),
            log_certificate_file: PathBuf::new(),
            log_key_file: PathBuf::new(),
            log_segment_bytes: ByteSize::mib(64),
            engine_replay_bytes_max: ByteSize::mib(256),
            engine_background_bytes_per_second: ByteSize::mib(256),
            backup_bytes_per_second: ByteSize::mib(64),
            backup_url: String::new(),
            backup_every_seconds: 3_600,
            backup_every_log_bytes: ByteSize::mib(4_096),
            backup_keep: 24,
            log_keep_seconds: 3_600,
            log_digest_bytes_per_second: ByteSize::mib(8),
            archive_url: String::new(),
            archive_seconds_max: 5,
            archive_lag_bytes_max: ByteSize::mib(1024),
            shutdown_seconds_max: 30,
        }
    }
}

/// What connections may hold together however small the memory setting is: one largest value on its
/// way in or out, and some room.
const CONNECTION_BYTES_MIN: u64 = 48 << 20;

/// How the memory setting is divided. The parts add up to seven eighths of it; the rest is for the
/// program itself, its threads and the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// Blocks of the engine.
    pub block_cache: u64,
    /// Rows not yet flushed.
    pub memtables: u64,
    /// Hot rows.
    pub row_cache: u64,
    /// Records between staging and applying.
    pub staged: u64,
    /// Buffers of all connections.
    pub connections: u64,
}

impl Config {
    /// Divides the memory setting.
    pub fn memory_plan(&self) -> MemoryPlan {
        let eighth = self.memory.0 / 8;
        MemoryPlan {
            block_cache: eighth * 2,
            memtables: eighth,
            row_cache: eighth * 2,
            staged: eighth,
            connections: eighth.max(CONNECTION_BYTES_MIN),
        }
    }
}

/// One setting: its key, what it means, and how it is read and written.
pub struct Setting {
    /// Dotted key in TOML; upper case with underscores behind `HOLDFAST_` in the environment.
    pub key: &'static str,
    /// One sentence for the reference page.
    pub about: &'static str,
    /// Whether its value is not to be shown.
    pub secret: bool,
    set: fn(&mut Config, &str) -> Result<(), String>,
    get: fn(&Config) -> String,
}

fn parse<T: std::str::FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not {what}"))
}

/// `HOST:PORT`, or nothing. Lines and spaces would end up in the protocol.
fn parse_announced(value: &str) -> Result<String, String> {
    let fits = value.len() <= 256 && value.chars().all(|c| c.is_ascii_graphic());
    if value.is_empty() || (fits && split(value).is_some()) {
        return Ok(value.to_owned());
    }
    Err(format!("{value:?} is not HOST:PORT, as in \"db1.example.com:6379\""))
}

/// An address, or `off`.
fn parse_addr(text: &str, example: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    parse(text, &format!("an address like {example}, nor `off`")).map(Some)
}

fn show_addr(addr: Option<SocketAddr>) -> String {
    addr.map_or("off".into(), |addr| addr.to_string())
}

/// Smallest memory with which every part still works.
const MEMORY_MIN: ByteSize = ByteSize::mib(64);

impl Setting {
    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("HOLDFAST_{}", self.key.replace('.', "_").to_ascii_uppercase())
    }
}

impl Config {
    /// Sets one key. Errors name the key and, for an unknown one, the nearest known.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let nearest = SETTINGS.iter().min_by_key(|setting| distance(setting.key, key));
            let hint = nearest.map_or("", |setting| setting.key);
            return Err(format!("unknown setting {key:?}: did you mean {hint:?}?"));
        };
        (setting.set)(self, value).map_err(|error| format!("{key}: {error}"))
    }

    /// Refuses what the single settings cannot see.
    pub fn check(&self) -> Result<(), String> {
        if self.redis_addr.or(self.redis_tls_addr).is_none() {
            return Err("redis.addr: `off` needs redis.tls_addr: nothing would be served".into());
        }
        let empty = |path: &PathBuf| path.as_os_str().is_empty();
        for (key, addr) in
            [("redis.tls_addr", self.redis_tls_addr), ("http.tls_addr", self.http_tls_addr)]
        {
            if addr.is_some() && (empty(&self.tls_certificate_file) || empty(&self.tls_key_file)) {
                return Err(format!("{key} needs tls.certificate_file and tls.key_file"));
            }
        }
        let asks = self.tls_client_certificates != ClientCertificates::None;
        if asks == empty(&self.tls_client_ca_file) {
            let text = "tls.client_certificates = optional or required and tls.client_ca_file need \
                        each other";
            return Err(text.into());
        }
        let has_one = empty(&self.log_certificate_file) != empty(&self.log_key_file);
        if has_one || (!empty(&self.log_key_file) && empty(&self.log_ca_file)) {
            let text = "log.certificate_file and log.key_file need each other, and log.ca_file";
            return Err(text.into());
        }
        if !self.log_monitors.is_empty() {
            if self.log_servers.is_empty() {
                return Err("log.monitors is for the servers of log.servers".into());
            }
            let monitors: BTreeSet<&String> = self.log_monitors.iter().collect();
            if monitors.len() < self.log_replicas {
                let text = "log.monitors names fewer servers than log.replicas: name all of them";
                return Err(text.into());
            }
        }
        if !self.log_servers.is_empty() && self.log_sync == Sync::Never {
            return Err(
                "log.sync = never is for the embedded log: log.servers sync by themselves".into()
            );
        }
        Ok(())
    }

    /// Gives a node without a name that of its host and port.
    pub(crate) fn name_node(&mut self, addresses: &Addresses) {
        if !self.node_name.is_empty() {
            return;
        }
        let system = rustix::system::uname();
        let host = system.nodename().to_string_lossy();
        let port = addresses.redis.or(addresses.redis_tls).map_or(0, |addr| addr.port());
        let fits = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let host: String = host.chars().take(48).map(fits).collect();
        self.node_name = format!("{host}-{port}");
    }

    /// Whether anything is spoken over TLS.
    pub fn speaks_tls(&self) -> bool {
        self.redis_tls_addr.or(self.http_tls_addr).is_some()
    }

    /// Takes in a TOML file's text.
    pub fn merge_toml(&mut self, text: &str) -> Result<(), String> {
        let table: toml::Table = text.parse().map_err(|error| format!("{error}"))?;
        self.merge_table("", &table)
    }

    fn merge_table(&mut self, prefix: &str, table: &toml::Table) -> Result<(), String> {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => self.merge_table(&key, inner)?,
                toml::Value::String(text) => self.set(&key, text)?,
                toml::Value::Integer(number) => self.set(&key, &number.to_string())?,
                toml::Value::Boolean(flag) => self.set(&key, &flag.to_string())?,
                other => return Err(format!("{key}: {other} is neither text nor a whole number")),
            }
        }
        Ok(())
    }

    /// Takes in the environment: variables that begin with `HOLDFAST_` and name a setting.
    pub fn merge_environment(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        for setting in SETTINGS {
            if let Some(value) = variable(&setting.variable()) {
                self.set(setting.key, &value)?;
            }
        }
        Ok(())
    }

    /// The effective configuration as TOML; secrets are not shown.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for setting in SETTINGS {
            let value = (setting.get)(self);
            let shown =
                if setting.secret && !value.is_empty() { "(not shown)".into() } else { value };
            let quoted = toml::Value::String(shown);
            out.push_str(&format!("# {}\n{} = {quoted}\n\n", setting.about, setting.key));
        }
        out
    }

    /// The reference page, in Markdown.
    pub fn reference() -> String {
        let defaults = Config::default();
        let mut out = String::from(
            "# Configuration\n\nGenerated by `holdfast config --reference`; do not edit.\n\n\
             Sources, later ones win: defaults, TOML file (`--config`), environment, flags \
             (`--set key=value`).\n\n| key | environment | default | meaning |\n|---|---|---|---|\n",
        );
        for setting in SETTINGS {
            let row = format!(
                "| `{}` | `{}` | `{}` | {} |\n",
                setting.key,
                setting.variable(),
                (setting.get)(&defaults),
                setting.about
            );
            out.push_str(&row);
        }
        out
    }
}

/// Edit distance (Levenshtein), for suggestions.
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known_one() {
        let mut config = Config::default();
        let error = config.merge_toml("[redis]\nadr = \"127.0.0.1:1\"").expect_err("unknown");
        assert!(error.contains("redis.addr"), "{error}");
    }

    #[test]
    fn later_sources_win() -> Result<(), String> {
        let mut config = Config::default();
        config.merge_toml("memory = \"2GiB\"\n[redis]\nclients_max = 7")?;
        config.merge_environment(|name| (name == "HOLDFAST_MEMORY").then(|| "3GiB".into()))?;
        assert_eq!((config.memory, config.redis_clients_max), (ByteSize::mib(3072), 7));
        Ok(())
    }

    #[test]
    fn the_effective_configuration_reads_back_and_hides_secrets() -> Result<(), String> {
        let mut config = Config { redis_password: "hunter2".into(), ..Config::default() };
        let text = config.to_toml();
        assert!(!text.contains("hunter2"));
        config.redis_password = "(not shown)".into();
        let mut read = Config::default();
        read.merge_toml(&text)?;
        assert_eq!(read, config);
        Ok(())
    }

    #[test]
    fn values_that_make_no_sense_are_refused_by_name() {
        let mut config = Config::default();
        for (key, value) in [
            ("archive.url", "ftp://x"),
            ("memory", "1KiB"),
            ("redis.addr", "here"),
            ("log.sync", "maybe"),
            ("log.monitors", "a:8222"),
            ("log.monitors", "http://me:secret@a:8222"),
            ("memory", "x"),
        ] {
            let error = config.set(key, value).expect_err(key);
            assert!(error.starts_with(key), "{error}");
        }
    }

    #[test]
    fn settings_that_need_each_other_are_refused_alone() -> Result<(), String> {
        for (settings, named) in [
            (&[("redis.addr", "off")][..], "redis.tls_addr"),
            (&[("redis.tls_addr", "127.0.0.1:0")], "tls.certificate_file"),
            (&[("http.tls_addr", "127.0.0.1:0"), ("tls.key_file", "k")], "tls.certificate_file"),
            (&[("tls.client_certificates", "required")], "tls.client_ca_file"),
            (&[("tls.client_ca_file", "ca.pem")], "tls.client_certificates"),
            (&[("log.monitors", "http://a:1,http://b:1,http://c:1")], "log.servers"),
            (
                &[
                    ("log.servers", "nats://a:4222"),
                    ("log.monitors", "http://a:1,http://b:1,http://a:1"),
                ],
                "log.replicas",
            ),
        ] {
            let mut config = Config::default();
            for (key, value) in settings {
                config.set(key, value)?;
            }
            let error = config.check().expect_err(named);
            assert!(error.contains(named), "{error}");
        }
        Config::default().check()
    }

    #[test]
    fn distances_are_edit_distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
