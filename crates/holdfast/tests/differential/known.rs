//! The intended differences: everything in which Holdfast answers otherwise than Redis 7.0, on
//! purpose, each with its reason. What is not here is a defect.
//!
//! Every entry is played to both servers and both replies are checked, so that an entry whose
//! difference is gone fails the test.

use crate::request::Request;

/// An intended difference, with the requests that show it; the last one's replies differ.
pub struct Known {
    pub reason: &'static str,
    pub requests: &'static [&'static str],
    /// How Redis' reply starts.
    pub redis: &'static str,
    /// How ours starts.
    pub ours: &'static str,
}

pub const KNOWN: &[Known] = &[
    Known {
        reason: "settings come from file, environment and flags; they do not change at run time",
        requests: &["config set maxmemory 100mb"],
        redis: "+OK",
        ours: "-ERR CONFIG SET failed",
    },
    Known {
        reason: "counters only grow, so that two readers cannot spoil each other's rates",
        requests: &["config resetstat"],
        redis: "+OK",
        ours: "-ERR counters are never reset",
    },
    Known {
        reason: "deadlines keep 48 bits of milliseconds: up to the year 10,889",
        requests: &["set k v", "pexpireat k 281474976710656"],
        redis: ":1",
        ours: "-ERR invalid expire time in 'pexpireat' command",
    },
    Known {
        reason: "clients of Redis 7.2 and later name their library with it and fail on an error",
        requests: &["client setinfo lib-name x"],
        redis: "-ERR unknown subcommand 'setinfo'",
        ours: "+OK",
    },
    Known {
        reason: "clients of Redis 7.2 and later may send it; accesses are not recorded here",
        requests: &["client no-touch on"],
        redis: "-ERR unknown subcommand 'no-touch'",
        ours: "+OK",
    },
    Known {
        reason: "a small list is named as Redis 7.2 and later name it",
        requests: &["rpush l a", "object encoding l"],
        redis: "$9\r\nquicklist",
        ours: "$8\r\nlistpack",
    },
    Known {
        reason: "integers are not shared: every value has one reference",
        requests: &["set k 7", "object refcount k"],
        redis: ":2147483647",
        ours: ":1",
    },
];

/// Errors of which only the code is compared: command (empty: any), how Redis' reply starts, and
/// why the words differ.
const CODE_ONLY: &[(&str, &str, &str)] = &[];

/// Whether the words of this refusal may differ.
pub fn only_code_counts(request: &Request, redis: &[u8]) -> bool {
    CODE_ONLY.iter().any(|(command, start, _reason)| {
        (command.is_empty() || request.name() == *command) && redis.starts_with(start.as_bytes())
    })
}
