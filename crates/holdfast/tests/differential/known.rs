//! The intended differences: everything in which Holdfast answers otherwise than Redis 7.0, on
//! purpose, each with its reason. What is not here is a defect.
//!
//! Every entry is played to both servers and both replies are checked, so that an entry whose
//! difference is gone fails the test.

/// An intended difference, with the requests that show it; the last one's replies differ.
pub struct Known {
    pub reason: &'static str,
    pub requests: &'static [&'static str],
    /// What Redis' reply contains.
    pub redis: &'static str,
    /// What ours contains.
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
        reason: "tools compute slots with it; it needs no cluster",
        requests: &["cluster keyslot k"],
        redis: "-ERR This instance has cluster support disabled",
        ours: ":7629",
    },
    Known {
        reason: "words in errors are shown whole, as UTF-8; Redis cuts them at a zero byte",
        requests: &["x\0y"],
        redis: "-ERR unknown command 'x',",
        ours: "-ERR unknown command 'x\0y',",
    },
    Known {
        reason: "an empty bound is no number; C's strtod reads it as 0, and spaces before one too",
        requests: &["zadd z 0 m", "zcount z ( 1"],
        redis: ":0",
        ours: "-ERR min or max is not a float",
    },
    Known {
        reason: "scores are decimal; C's strtod also reads hexadecimal",
        requests: &["zadd z 0x10 m"],
        redis: ":1",
        ours: "-ERR value is not a valid float",
    },
    Known {
        reason: "two stars match the empty name as one does",
        requests: &["set  v", "scan 0 match **"],
        redis: "*2\r\n$1\r\n0\r\n*0",
        ours: "*2\r\n$1\r\n0\r\n*1",
    },
    Known {
        reason: "a flush of a keyspace with keys is one change of all of it, in O(1): whoever \
                 watches a key of it, even an absent one, starts again",
        requests: &["set other v", "watch k", "flushdb", "multi", "exec"],
        redis: "*0",
        ours: "*-1",
    },
    Known {
        reason: "an APPEND of nothing to a string changes nothing that a WATCH could see",
        requests: &["set k v", "watch k", "append k ", "multi", "exec"],
        redis: "*-1",
        ours: "*0",
    },
    Known {
        reason: "an LTRIM that removes nothing changes nothing that a WATCH could see",
        requests: &["rpush l a", "watch l", "ltrim l 0 -1", "multi", "exec"],
        redis: "*-1",
        ours: "*0",
    },
    Known {
        reason: "a HELLO that is refused changes nothing",
        requests: &["hello 2 setname a nonsense", "client getname"],
        redis: "$1\r\na",
        ours: "$-1",
    },
    Known {
        reason: "ZSCAN prints scores as ZSCORE does; Redis prints those of small sorted sets in \
                 full",
        requests: &["zadd z 123456789012345678 m", "zscan z 0"],
        redis: "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nm\r\n$18\r\n123456789012345680",
        ours: "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nm\r\n$22\r\n1.2345678901234568e+17",
    },
    Known {
        reason: "INFO takes a lock that EXEC holds: it is told as EXEC begins, in the protocol of \
                 that moment",
        requests: &["multi", "hello 3", "info nonsense", "exec"],
        redis: "*0\r\n=4\r\ntxt:\r\n",
        ours: "*0\r\n$0\r\n\r\n",
    },
    Known {
        reason: "arguments of a sub-command are counted when it runs, not when it is queued",
        requests: &["multi", "config get"],
        redis: "-ERR wrong number of arguments for 'config|get' command",
        ours: "+QUEUED",
    },
    Known {
        reason: "scores have one zero, so that equal scores have one order",
        requests: &["zincrby z -0 m"],
        redis: "$2\r\n-0",
        ours: "$1\r\n0",
    },
    Known {
        reason: "a wrong number of arguments is told in the same words for every command",
        requests: &["exec x"],
        redis: "-EXECABORT Transaction discarded because of: wrong number of arguments",
        ours: "-ERR wrong number of arguments for 'exec' command",
    },
    Known {
        reason: "integers are not shared: every value has one reference",
        requests: &["set k 7", "object refcount k"],
        redis: ":2147483647",
        ours: ":1",
    },
];
