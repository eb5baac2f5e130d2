//! Commands on strings.

use holdfast_base::limits::{DEADLINE_MS_MAX, VALUE_BYTES_MAX};
use holdfast_protocol::{number::parse_i64, resp::Args};
use holdfast_shard::{
    OpError, Txn,
    ops::{
        keys::{DeadlineCondition, set_deadline},
        string::{self, Expiry, SetCondition, Text},
    },
};

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{ALL_KEYS, COMMAND, KeySpec, ONE_KEY},
    errors::SYNTAX,
};

const READ: Command =
    Command { group: "string", key_spec: ONE_KEY, flags: &["readonly", "fast"], ..COMMAND };
const WRITE: Command =
    Command { group: "string", key_spec: ONE_KEY, flags: &["write", "denyoom", "fast"], ..COMMAND };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "get",
        arity: 2,
        run: Run::Read(get),
        summary: "Returns the string value of a key.",
        ..READ
    },
    Command {
        name: "set",
        arity: -3,
        run: Run::Write(set),
        flags: &["write", "denyoom"],
        summary: "Sets the string value of a key, ignoring its type. The key is created if it \
                  doesn't exist.",
        ..WRITE
    },
    Command {
        name: "setnx",
        arity: 3,
        run: Run::Write(setnx),
        summary: "Set the string value of a key only when the key doesn't exist.",
        ..WRITE
    },
    Command {
        name: "setex",
        arity: 4,
        run: Run::Write(|call| set_expiring(call, 1_000, "setex")),
        flags: &["write", "denyoom"],
        since: "2.0.0",
        summary: "Sets the string value and expiration time of a key.",
        ..WRITE
    },
    Command {
        name: "psetex",
        arity: 4,
        run: Run::Write(|call| set_expiring(call, 1, "psetex")),
        flags: &["write", "denyoom"],
        since: "2.6.0",
        summary: "Sets both string value and expiration time in milliseconds of a key.",
        ..WRITE
    },
    Command {
        name: "getex",
        arity: -2,
        run: Run::Write(getex),
        flags: &["write", "fast"],
        since: "6.2.0",
        summary: "Returns the string value of a key after setting its expiration time.",
        ..WRITE
    },
    Command {
        name: "getdel",
        arity: 2,
        run: Run::Write(getdel),
        flags: &["write", "fast"],
        since: "6.2.0",
        summary: "Returns the string value of a key after deleting the key.",
        ..WRITE
    },
    Command {
        name: "getset",
        arity: 3,
        run: Run::Write(getset),
        summary: "Returns the previous string value of a key after setting it to a new value.",
        ..WRITE
    },
    Command {
        name: "mget",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Read(mget),
        summary: "Atomically returns the string values of one or more keys.",
        complexity: "O(N) where N is the number of keys to retrieve.",
        ..READ
    },
    Command {
        name: "mset",
        arity: -3,
        key_spec: KeySpec { first: 1, last: -1, step: 2 },
        run: Run::Write(mset),
        flags: &["write", "denyoom"],
        since: "1.0.1",
        summary: "Atomically creates or modifies the string values of one or more keys.",
        complexity: "O(N) where N is the number of keys to set.",
        ..WRITE
    },
    Command {
        name: "incr",
        arity: 2,
        run: Run::Write(|call| add(call, 1)),
        summary: "Increments the integer value of a key by one. Uses 0 as initial value if the \
                  key doesn't exist.",
        ..WRITE
    },
    Command {
        name: "incrby",
        arity: 3,
        run: Run::Write(|call| {
            let by = call.integer(2)?;
            add(call, by)
        }),
        summary: "Increments the integer value of a key by a number. Uses 0 as initial value if \
                  the key doesn't exist.",
        ..WRITE
    },
    Command {
        name: "decr",
        arity: 2,
        run: Run::Write(|call| add(call, -1)),
        summary: "Decrements the integer value of a key by one. Uses 0 as initial value if the \
                  key doesn't exist.",
        ..WRITE
    },
    Command {
        name: "decrby",
        arity: 3,
        run: Run::Write(|call| {
            let overflow = CommandError::text("ERR decrement would overflow");
            let by = call.integer(2)?.checked_neg().ok_or(overflow)?;
            add(call, by)
        }),
        summary: "Decrements a number from the integer value of a key. Uses 0 as initial value if \
                  the key doesn't exist.",
        ..WRITE
    },
    Command {
        name: "append",
        arity: 3,
        run: Run::Write(append),
        since: "2.0.0",
        summary: "Appends a string to the value of a key. Creates the key if it doesn't exist.",
        ..WRITE
    },
    Command {
        name: "strlen",
        arity: 2,
        run: Run::Read(strlen),
        since: "2.2.0",
        summary: "Returns the length of a string value.",
        ..READ
    },
];

fn reply(call: &mut Call<'_, '_, '_>, value: Option<Text>) -> Outcome {
    match value {
        Some(text) => call.out.bulk(&text),
        None => call.out.null(),
    }
    Ok(())
}

fn get(call: &mut Call<'_, '_, '_>) -> Outcome {
    let value = string::get(call.txn, &call.keys[0])?;
    reply(call, value)
}

fn mget(call: &mut Call<'_, '_, '_>) -> Outcome {
    call.out.array(call.keys.len());
    for key in call.keys {
        // A key of another type reads as absent here, as in Redis.
        match string::get(call.txn, key) {
            Ok(Some(text)) => call.out.bulk(&text),
            Ok(None) | Err(OpError::WrongType) => call.out.null(),
            Err(error) => return Err(error.into()),
        }
        call.check_reply()?;
    }
    Ok(())
}

fn mset(call: &mut Call<'_, '_, '_>) -> Outcome {
    if call.args.len().is_multiple_of(2) {
        return Err(CommandError::text("ERR wrong number of arguments for 'mset' command"));
    }
    // All are checked before the first is written: a refusal within EXEC leaves no half.
    if call.args.iter().any(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(OpError::TooLarge("a string holds at most 32 MiB").into());
    }
    for (at, key) in call.keys.iter().enumerate() {
        let value = call.arg(2 * at + 2);
        string::set(call.txn, key, value, Expiry::None, SetCondition::Always, false)?;
    }
    call.out.ok();
    Ok(())
}

fn setnx(call: &mut Call<'_, '_, '_>) -> Outcome {
    let (key, value) = (&call.keys[0], call.arg(2));
    let done = string::set(call.txn, key, value, Expiry::None, SetCondition::Absent, false)?;
    call.out.integer(done.written.into());
    Ok(())
}

fn getset(call: &mut Call<'_, '_, '_>) -> Outcome {
    let (key, value) = (&call.keys[0], call.arg(2));
    let done = string::set(call.txn, key, value, Expiry::None, SetCondition::Always, true)?;
    reply(call, done.old)
}

/// The deadline that an argument means, in milliseconds since 1970.
pub(super) fn deadline(
    txn: &Txn<'_>,
    number: i64,
    unit_ms: i64,
    absolute: bool,
    command: &str,
) -> Result<i64, CommandError> {
    let base = if absolute { 0 } else { txn.now_ms() as i64 };
    number
        .checked_mul(unit_ms)
        .and_then(|ms| ms.checked_add(base))
        .filter(|ms| *ms <= DEADLINE_MS_MAX as i64)
        .ok_or_else(|| invalid_expire(command))
}

pub(super) fn invalid_expire(command: &str) -> CommandError {
    CommandError::Text(format!("ERR invalid expire time in '{command}' command").into())
}

/// As [`deadline`], and refuses what is not positive, as commands that write a value do.
fn positive_deadline(
    txn: &Txn<'_>,
    text: &[u8],
    unit_ms: i64,
    absolute: bool,
    command: &str,
) -> Result<u64, CommandError> {
    let number = parse_i64(text).ok_or(OpError::NotInteger)?;
    if number <= 0 {
        return Err(invalid_expire(command));
    }
    Ok(deadline(txn, number, unit_ms, absolute, command)?.max(0) as u64)
}

/// EX, PX, EXAT and PXAT: unit in milliseconds and whether the number is absolute.
fn expiry_option(word: &[u8]) -> Option<(i64, bool)> {
    match word.to_ascii_lowercase().as_slice() {
        b"ex" => Some((1_000, false)),
        b"px" => Some((1, false)),
        b"exat" => Some((1_000, true)),
        b"pxat" => Some((1, true)),
        _ => None,
    }
}

/// What SET and GETEX may say about the deadline.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifetime {
    Keep,
    Persist,
    Until { unit_ms: i64, absolute: bool },
}

/// The options of SET, or those of GETEX. As in Redis an option may be repeated; then the last
/// number counts.
#[derive(Default)]
struct Options<'a> {
    condition: SetCondition,
    want_old: bool,
    lifetime: Option<(Lifetime, &'a [u8])>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, mut at: usize, of_set: bool) -> Result<Self, CommandError> {
        let mut options = Options::default();
        while let Some(word) = args.get(at) {
            let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
            if of_set && is(b"nx") && options.condition != SetCondition::Present {
                options.condition = SetCondition::Absent;
            } else if of_set && is(b"xx") && options.condition != SetCondition::Absent {
                options.condition = SetCondition::Present;
            } else if of_set && is(b"get") {
                options.want_old = true;
            } else if of_set && is(b"keepttl") {
                options.choose(Lifetime::Keep, b"")?;
            } else if !of_set && is(b"persist") {
                options.choose(Lifetime::Persist, b"")?;
            } else if let Some((unit_ms, absolute)) = expiry_option(word)
                && let Some(number) = args.get(at + 1)
            {
                options.choose(Lifetime::Until { unit_ms, absolute }, number)?;
                at += 1;
            } else {
                return Err(SYNTAX);
            }
            at += 1;
        }
        Ok(options)
    }

    fn choose(&mut self, lifetime: Lifetime, number: &'a [u8]) -> Result<(), CommandError> {
        if self.lifetime.is_some_and(|(chosen, _)| chosen != lifetime) {
            return Err(SYNTAX);
        }
        self.lifetime = Some((lifetime, number));
        Ok(())
    }
}

fn set(call: &mut Call<'_, '_, '_>) -> Outcome {
    let Options { condition, want_old, lifetime } = Options::parse(call.args, 3, true)?;
    let expiry = match lifetime {
        None => Expiry::None,
        Some((Lifetime::Until { unit_ms, absolute }, number)) => {
            Expiry::At(positive_deadline(call.txn, number, unit_ms, absolute, "set")?)
        }
        Some(_) => Expiry::Keep,
    };
    let done = string::set(call.txn, &call.keys[0], call.arg(2), expiry, condition, want_old)?;
    match (want_old, done.written) {
        (true, _) => reply(call, done.old),
        (false, true) => {
            call.out.ok();
            Ok(())
        }
        (false, false) => {
            call.out.null();
            Ok(())
        }
    }
}

fn set_expiring(call: &mut Call<'_, '_, '_>, unit_ms: i64, name: &str) -> Outcome {
    let deadline_ms = positive_deadline(call.txn, call.arg(2), unit_ms, false, name)?;
    let (key, value) = (&call.keys[0], call.arg(3));
    string::set(call.txn, key, value, Expiry::At(deadline_ms), SetCondition::Always, false)?;
    call.out.ok();
    Ok(())
}

fn getex(call: &mut Call<'_, '_, '_>) -> Outcome {
    let options = Options::parse(call.args, 2, false)?;
    let key = &call.keys[0];
    // An absent key is answered before the number is looked at, as in Redis.
    let Some(value) = string::get(call.txn, key)? else {
        return reply(call, None);
    };
    if let Some((lifetime, number)) = options.lifetime {
        let deadline_ms = match lifetime {
            Lifetime::Until { unit_ms, absolute } => {
                Some(positive_deadline(call.txn, number, unit_ms, absolute, "getex")?)
            }
            Lifetime::Persist | Lifetime::Keep => None,
        };
        set_deadline(call.txn, key, deadline_ms, DeadlineCondition::default())?;
    }
    reply(call, Some(value))
}

fn getdel(call: &mut Call<'_, '_, '_>) -> Outcome {
    let value = string::take(call.txn, &call.keys[0])?;
    reply(call, value)
}

fn add(call: &mut Call<'_, '_, '_>, by: i64) -> Outcome {
    let after = string::increment(call.txn, &call.keys[0], by)?;
    call.out.integer(after);
    Ok(())
}

fn append(call: &mut Call<'_, '_, '_>) -> Outcome {
    let len = string::append(call.txn, &call.keys[0], call.arg(2))?;
    call.out.integer(len as i64);
    Ok(())
}

fn strlen(call: &mut Call<'_, '_, '_>) -> Outcome {
    let len = string::length(call.txn, &call.keys[0])?;
    call.out.integer(len as i64);
    Ok(())
}
