//! Commands on keys of any type.

use holdfast_base::{KeyspaceId, Kind, Payload};
use holdfast_protocol::{number::parse_i64, resp::Args};
use holdfast_shard::ops::keys::{self, DeadlineCondition, TimeToLive};

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{ALL_KEYS, COMMAND, KeySpec, ONE_KEY},
    errors::{SYNTAX, unknown_subcommand, wrong_arity},
};
use super::string::deadline;
use crate::{glob::matches, node::Node};

const READ: Command = Command { key_spec: ONE_KEY, flags: &["readonly", "fast"], ..COMMAND };
const WRITE: Command = Command { key_spec: ONE_KEY, flags: &["write", "fast"], ..COMMAND };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "del",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Write(delete),
        flags: &["write"],
        summary: "Deletes one or more keys.",
        complexity: "O(1) for each key; members are removed in the background.",
        ..WRITE
    },
    Command {
        name: "unlink",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Write(delete),
        since: "4.0.0",
        summary: "Asynchronously deletes one or more keys.",
        complexity: "O(1) for each key; members are removed in the background.",
        ..WRITE
    },
    Command {
        name: "exists",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Read(exists),
        summary: "Determines whether one or more keys exist.",
        complexity: "O(N) where N is the number of keys to check.",
        ..READ
    },
    Command {
        name: "touch",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Read(exists),
        since: "3.2.1",
        summary: "Returns the number of existing keys out of those specified.",
        complexity: "O(N) where N is the number of keys that will be touched.",
        ..READ
    },
    Command {
        name: "type",
        arity: 2,
        run: Run::Read(type_of),
        summary: "Determines the type of value stored at a key.",
        ..READ
    },
    Command {
        name: "ttl",
        arity: 2,
        run: Run::Read(|call| time_to_live(call, |left| (left + 500) / 1_000)),
        summary: "Returns the expiration time in seconds of a key.",
        ..READ
    },
    Command {
        name: "pttl",
        arity: 2,
        run: Run::Read(|call| time_to_live(call, |left| left)),
        since: "2.6.0",
        summary: "Returns the expiration time in milliseconds of a key.",
        ..READ
    },
    Command {
        name: "expiretime",
        arity: 2,
        run: Run::Read(|call| expire_time(call, 1_000)),
        since: "7.0.0",
        summary: "Returns the expiration time of a key as a Unix timestamp.",
        ..READ
    },
    Command {
        name: "pexpiretime",
        arity: 2,
        run: Run::Read(|call| expire_time(call, 1)),
        since: "7.0.0",
        summary: "Returns the expiration time of a key as a Unix milliseconds timestamp.",
        ..READ
    },
    Command {
        name: "expire",
        arity: -3,
        run: Run::Write(|call| expire(call, 1_000, false, "expire")),
        summary: "Sets the expiration time of a key in seconds.",
        ..WRITE
    },
    Command {
        name: "pexpire",
        arity: -3,
        run: Run::Write(|call| expire(call, 1, false, "pexpire")),
        since: "2.6.0",
        summary: "Sets the expiration time of a key in milliseconds.",
        ..WRITE
    },
    Command {
        name: "expireat",
        arity: -3,
        run: Run::Write(|call| expire(call, 1_000, true, "expireat")),
        since: "1.2.0",
        summary: "Sets the expiration time of a key to a Unix timestamp.",
        ..WRITE
    },
    Command {
        name: "pexpireat",
        arity: -3,
        run: Run::Write(|call| expire(call, 1, true, "pexpireat")),
        since: "2.6.0",
        summary: "Sets the expiration time of a key to a Unix milliseconds timestamp.",
        ..WRITE
    },
    Command {
        name: "persist",
        arity: 2,
        run: Run::Write(persist),
        since: "2.2.0",
        summary: "Removes the expiration time of a key.",
        ..WRITE
    },
    Command {
        name: "scan",
        arity: -2,
        run: Run::Scan(scan),
        flags: &["readonly"],
        key_spec: super::super::command::NO_KEY,
        since: "2.8.0",
        summary: "Iterates over the key names in the database.",
        complexity: "O(1) for every call. O(N) for a complete iteration.",
        ..READ
    },
    Command {
        name: "object",
        subcommands: &["encoding", "freq", "idletime", "refcount"],
        arity: -2,
        key_spec: KeySpec { first: 2, last: 2, step: 1 },
        run: Run::Read(object),
        flags: &["readonly"],
        since: "2.2.3",
        summary: "Inspects what is stored at a key.",
        ..READ
    },
];

fn delete(call: &mut Call<'_, '_, '_>) -> Outcome {
    let mut removed = 0;
    for key in call.keys {
        removed += i64::from(keys::delete(call.txn, key)?);
    }
    call.out.integer(removed);
    Ok(())
}

fn exists(call: &mut Call<'_, '_, '_>) -> Outcome {
    let mut found = 0;
    for key in call.keys {
        found += i64::from(keys::exists(call.txn, key)?);
    }
    call.out.integer(found);
    Ok(())
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "string",
        Kind::Hash => "hash",
        Kind::Set => "set",
        Kind::SortedSet => "zset",
        Kind::List => "list",
    }
}

fn type_of(call: &mut Call<'_, '_, '_>) -> Outcome {
    let kind = keys::kind(call.txn, &call.keys[0])?;
    call.out.simple(kind.map_or("none", type_name));
    Ok(())
}

fn time_to_live(call: &mut Call<'_, '_, '_>, unit: fn(i64) -> i64) -> Outcome {
    let now_ms = call.txn.now_ms();
    let left = match keys::time_to_live(call.txn, &call.keys[0])? {
        TimeToLive::NoKey => -2,
        TimeToLive::Forever => -1,
        TimeToLive::Until(deadline) => unit(deadline.saturating_sub(now_ms) as i64),
    };
    call.out.integer(left);
    Ok(())
}

fn expire_time(call: &mut Call<'_, '_, '_>, unit_ms: u64) -> Outcome {
    let time = match keys::time_to_live(call.txn, &call.keys[0])? {
        TimeToLive::NoKey => -2,
        TimeToLive::Forever => -1,
        TimeToLive::Until(deadline) => ((deadline + unit_ms / 2) / unit_ms) as i64,
    };
    call.out.integer(time);
    Ok(())
}

fn expire(call: &mut Call<'_, '_, '_>, unit_ms: i64, absolute: bool, name: &str) -> Outcome {
    let mut condition = DeadlineCondition::default();
    for word in call.args.iter().skip(3) {
        match word.to_ascii_lowercase().as_slice() {
            b"nx" => condition.none_yet = true,
            b"xx" => condition.some_already = true,
            b"gt" => condition.later = true,
            b"lt" => condition.earlier = true,
            _ => {
                let word = String::from_utf8_lossy(word);
                return Err(CommandError::Text(format!("ERR Unsupported option {word}").into()));
            }
        }
    }
    if condition.none_yet && (condition.some_already || condition.later || condition.earlier) {
        let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
        return Err(CommandError::text(text));
    }
    if condition.later && condition.earlier {
        return Err(CommandError::text(
            "ERR GT and LT options at the same time are not compatible",
        ));
    }
    let number = call.integer(2)?;
    let deadline_ms = deadline(call.txn, number, unit_ms, absolute, name)?.max(0) as u64;
    let changed = keys::set_deadline(call.txn, &call.keys[0], Some(deadline_ms), condition)?;
    call.out.integer(changed.into());
    Ok(())
}

fn persist(call: &mut Call<'_, '_, '_>) -> Outcome {
    let condition = DeadlineCondition::default();
    let changed = keys::set_deadline(call.txn, &call.keys[0], None, condition)?;
    call.out.integer(changed.into());
    Ok(())
}

/// Reads a cursor as Redis does, by way of C's `strtoul`: nothing is 0, and a sign is allowed.
pub(super) fn parse_cursor(text: &[u8]) -> Result<u64, CommandError> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let number = match digits {
        [] if text.is_empty() => Some(0),
        [b'0'..=b'9', ..] => {
            std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok())
        }
        _ => None,
    };
    let number: u64 = number.ok_or(CommandError::text("ERR invalid cursor"))?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

/// A scan of one key with options that were refused: that an absent key holds nothing, and that
/// another type is no collection to scan, is said first, as in Redis. `count` is of the key.
pub(super) fn refuse_scan(
    call: &mut Call<'_, '_, '_>,
    count: u64,
    refusal: CommandError,
) -> Outcome {
    if count > 0 {
        return Err(refusal);
    }
    call.out.array(2);
    call.out.bulk(b"0");
    call.out.array(0);
    Ok(())
}

/// Where a SCAN with these arguments begins.
pub(in super::super) fn scan_position(
    node: &Node,
    keyspace: KeyspaceId,
    args: Args<'_>,
) -> Result<Vec<u8>, CommandError> {
    let cursor = parse_cursor(args.get(1).unwrap_or_default())?;
    Ok(keys::scan_position(&node.shard.key(keyspace, b""), cursor))
}

/// MATCH, COUNT and TYPE of a scan.
pub(super) struct ScanOptions<'a> {
    pub pattern: Option<&'a [u8]>,
    pub count: usize,
    pub kind: Option<&'a [u8]>,
}

/// Keys or members that one step returns at most, whatever COUNT says: bounds a reply.
const SCAN_COUNT_MAX: i64 = 100_000;

impl<'a> ScanOptions<'a> {
    /// Options from argument `at` on.
    pub(super) fn parse(args: Args<'a>, at: usize, types: bool) -> Result<Self, CommandError> {
        let mut options = ScanOptions { pattern: None, count: 10, kind: None };
        let mut at = at;
        while let Some(word) = args.get(at) {
            let value = args.get(at + 1).ok_or(SYNTAX)?;
            match word.to_ascii_lowercase().as_slice() {
                b"match" => options.pattern = Some(value),
                b"count" => {
                    let not_integer = holdfast_shard::OpError::NotInteger;
                    let count = parse_i64(value).ok_or(not_integer)?;
                    if count < 1 {
                        return Err(SYNTAX);
                    }
                    options.count = count.min(SCAN_COUNT_MAX) as usize;
                }
                b"type" if types => options.kind = Some(value),
                _ => return Err(SYNTAX),
            }
            at += 2;
        }
        Ok(options)
    }

    pub(super) fn wants(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| matches(pattern, name, false))
    }
}

fn scan(call: &mut Call<'_, '_, '_>, seen_until: Option<&[u8]>) -> Outcome {
    let cursor = parse_cursor(call.arg(1))?;
    let options = ScanOptions::parse(call.args, 2, true)?;
    let step = keys::scan(call.txn, call.keyspace, cursor, options.count, seen_until)?;
    let wanted: Vec<_> = step
        .keys
        .iter()
        .filter(|(_, kind)| {
            options.kind.is_none_or(|name| name.eq_ignore_ascii_case(type_name(*kind).as_bytes()))
        })
        .filter(|(key, _)| options.wants(key))
        .collect();
    call.out.array(2);
    call.out.bulk(step.cursor.to_string().as_bytes());
    call.out.array(wanted.len());
    for (key, _) in wanted {
        call.out.bulk(key);
    }
    Ok(())
}

fn object(call: &mut Call<'_, '_, '_>) -> Outcome {
    let sub = call.arg(1).to_ascii_lowercase();
    if sub == b"help" && call.args.len() == 2 {
        let lines = [
            "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
            "ENCODING <key>",
            "    Return the kind of internal representation used in order to store the value",
            "    associated with a <key>.",
            "IDLETIME <key>",
            "    Return the idle time of the <key>: always 0, accesses are not recorded.",
            "REFCOUNT <key>",
            "    Return the number of references of the value: always 1.",
            "HELP",
            "    Print this help.",
        ];
        call.out.array(lines.len());
        lines.iter().for_each(|line| call.out.simple(line));
        return Ok(());
    }
    let known =
        [&b"encoding"[..], b"idletime", b"refcount", b"freq", b"help"].contains(&sub.as_slice());
    if !known {
        return Err(unknown_subcommand("object", call.arg(1)));
    }
    if call.args.len() != 3 {
        return Err(wrong_arity(&format!("object|{}", String::from_utf8_lossy(&sub))));
    }
    let Some(stored) = call.txn.head(&call.keys[0])? else {
        call.out.null();
        return Ok(());
    };
    match sub.as_slice() {
        b"encoding" => call.out.bulk(encoding(&stored.head().payload).as_bytes()),
        b"idletime" => call.out.integer(0),
        b"refcount" => call.out.integer(1),
        _ => {
            let text = "ERR An LFU maxmemory policy is not selected, access frequency not \
                        tracked. Please note that when switching between policies at runtime LRU \
                        and LFU data will take some time to adjust.";
            return Err(CommandError::text(text));
        }
    }
    Ok(())
}

/// The name that Redis would give a value of this size: tools and tests of libraries look at it.
fn encoding(payload: &Payload<'_>) -> &'static str {
    match *payload {
        Payload::Inline(value) if parse_i64(value).is_some() => "int",
        Payload::Inline(value) if value.len() <= 44 => "embstr",
        Payload::Inline(_) | Payload::Chunked { .. } => "raw",
        Payload::Collection { kind: Kind::Hash, count, .. } if count <= 128 => "listpack",
        Payload::Collection { kind: Kind::SortedSet, count, .. } if count <= 128 => "listpack",
        Payload::Collection { kind: Kind::SortedSet, .. } => "skiplist",
        Payload::Collection { .. } => "hashtable",
        Payload::List { bytes, .. } if bytes <= 8_192 => "listpack",
        Payload::List { .. } => "quicklist",
    }
}
