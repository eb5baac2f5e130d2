//! The options of `holdfast bench`, and what combinations of them are refused.

use super::mix::Mix;
use super::process::Watched;
use super::schedule::Arrivals;
use super::value::VERIFIED_BYTES_MIN;
use super::wire::{KEYS_MAX, MEMBERS_MAX, Protocol};
use serde::Serialize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  Fill a million keys, then read and write them for 30 seconds:
    holdfast bench --keys 1000000 --preload --zipf 0.99 --seconds 30

  Compare with redis-benchmark -c 50 -P 32 -t get -n 5000000 -r 100000:
    holdfast bench --mix get --pipeline 32 --requests 5000000 --keys 100000

  Latency at 20,000 requests per second (open loop, free of coordinated omission):
    holdfast bench --rate 20000 --arrivals poisson --seconds 60 --warmup-seconds 5

  CPU per million operations of a server, generator on its own core, result kept as JSON:
    holdfast bench --pin 1 --server-pid redis=$(pidof redis-server) --json redis.json

  Check that every value read belongs to its key:
    holdfast bench --verify --preload --mix get:50,set:40,mget:10

Without --rate the loop is closed: a connection sends its pipeline and waits for all replies, so a
stalled server is asked less and its stalls count once per connection. Use --rate for latencies.";

/// Drives load against a server and reports throughput, latency and CPU cost.
#[derive(Clone, Debug, clap::Args, Serialize)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Server to drive
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6379")]
    pub addr: String,
    /// Protocol to speak
    #[arg(long, value_enum, default_value = "resp2")]
    pub protocol: Protocol,
    /// User to log in as (with --password)
    #[arg(long, requires = "password")]
    pub user: Option<String>,
    /// Password to log in with
    #[arg(long, env = "HOLDFAST_PASSWORD", hide_env_values = true)]
    #[serde(skip)]
    pub password: Option<String>,
    /// Speak TLS, and trust the authorities in this file (PEM)
    #[arg(long, value_name = "CA_FILE")]
    pub tls: Option<PathBuf>,

    /// Connections, over all threads
    #[arg(short, long, default_value_t = 50, value_parser = at_least_one())]
    pub connections: u64,
    /// Requests in flight per connection
    #[arg(short = 'P', long, default_value_t = 1, value_parser = at_least_one())]
    pub pipeline: u64,
    /// Threads of the generator
    #[arg(long, default_value_t = 1, value_parser = within(1, 1024))]
    pub threads: u64,
    /// CPU to run on; several, by comma or repetition, go to the threads in turn
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    pub pin: Vec<usize>,

    /// Stop after this many requests
    #[arg(short = 'n', long, conflicts_with = "seconds", value_parser = at_least_one())]
    pub requests: Option<u64>,
    /// Stop after this time [default: 10, without --requests]
    #[arg(long, value_parser = positive)]
    pub seconds: Option<f64>,
    /// Drive load for this time before counting
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub warmup_seconds: f64,
    /// Give up when the server is silent for this long
    #[arg(long, default_value_t = 30.0, value_parser = positive)]
    pub timeout_seconds: f64,

    /// Commands with weights: ping get set mget del incr hset hget lpush rpop sadd zadd zrange
    #[arg(long, default_value = "get:90,set:10")]
    #[serde(serialize_with = "as_text")]
    pub mix: Mix,
    /// Number of keys
    #[arg(long, default_value_t = 100_000, value_parser = within(1, KEYS_MAX))]
    pub keys: u64,
    /// Start of every key
    #[arg(long, default_value = "key:")]
    pub key_prefix: String,
    /// Popularity by Zipf's law with this exponent instead of evenly
    #[arg(long, value_name = "EXPONENT", value_parser = positive)]
    pub zipf: Option<f64>,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Length of values
    #[arg(short = 'd', long, default_value_t = 100, value_parser = within(0, 512 << 20))]
    pub value_bytes: u64,
    /// Let what `set` writes expire after this time
    #[arg(long, value_parser = at_least_one())]
    pub expire_seconds: Option<u64>,
    /// Fields or members per collection
    #[arg(long, default_value_t = 100, value_parser = within(1, MEMBERS_MAX))]
    pub members: u64,
    /// Elements that a `zrange` asks for
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    pub range_count: u64,
    /// Keys in an `mget`
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    pub mget_keys: u64,
    /// Redis with replicas: each `set` is followed by a WAIT for so many of them, and done with its answer
    #[arg(long, value_name = "REPLICAS", value_parser = at_least_one())]
    pub wait: Option<u64>,
    /// First write every key once, for each kind of value in the mix
    #[arg(long)]
    pub preload: bool,
    /// Stamp values with their key and check every value read
    #[arg(long)]
    pub verify: bool,

    /// Open loop: requests per second, over all connections
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// Spacing of the requests of an open loop
    #[arg(long, value_enum, default_value = "fixed")]
    pub arrivals: Arrivals,
    /// Open loop: due requests that may wait per connection; further ones are dropped and counted
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one())]
    pub backlog_max: u64,

    /// Report CPU time and memory of this process; may be given several times
    #[arg(long, value_name = "[LABEL=]PID")]
    #[serde(skip)]
    pub server_pid: Vec<Watched>,
    /// Write everything as one JSON object to this file
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub json: Option<PathBuf>,
}

impl BenchArgs {
    /// Refuses what the single options cannot see.
    pub fn check(&self) -> Result<(), String> {
        if self.connections < self.threads {
            return Err("--connections must be at least --threads".to_owned());
        }
        if self.verify && self.value_bytes < VERIFIED_BYTES_MIN as u64 {
            return Err(format!("--verify needs --value-bytes of at least {VERIFIED_BYTES_MIN}"));
        }
        if let Some(cpu) = self.pin.iter().find(|cpu| **cpu >= rustix::thread::CpuSet::MAX_CPU) {
            return Err(format!("--pin {cpu}: no such CPU"));
        }
        Ok(())
    }
}

fn within(least: u64, most: u64) -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(least..=most)
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<u64> {
    // Above every sensible figure, and small enough that 1024 threads times it fits.
    within(1, 1 << 48)
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    // A billion seconds in ns still fits 64 bits.
    if (0.0..=1e9).contains(&number) { Ok(number) } else { Err("must be 0 to 1e9".to_owned()) }
}

fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).and_then(|number| match number > 0.0 {
        true => Ok(number),
        false => Err("must be above 0".to_owned()),
    })
}

fn as_text<S: serde::Serializer>(mix: &Mix, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(mix)
}
