//! Commands on lists.

use holdfast_protocol::number::parse_i64;
use holdfast_shard::{
    OpError,
    ops::list::{self, End},
};

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{COMMAND, ONE_KEY},
    errors::wrong_arity,
};

const READ: Command = Command { group: "list", key_spec: ONE_KEY, flags: &["readonly"], ..COMMAND };
const WRITE: Command = Command { flags: &["write", "denyoom", "fast"], ..READ };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "lpush",
        arity: -3,
        run: Run::Write(|call| push(call, End::Front, false)),
        summary: "Prepends one or more elements to a list. Creates the key if it doesn't exist.",
        complexity: "O(N) to add N elements.",
        ..WRITE
    },
    Command {
        name: "rpush",
        arity: -3,
        run: Run::Write(|call| push(call, End::Back, false)),
        summary: "Appends one or more elements to a list. Creates the key if it doesn't exist.",
        complexity: "O(N) to add N elements.",
        ..WRITE
    },
    Command {
        name: "lpushx",
        arity: -3,
        run: Run::Write(|call| push(call, End::Front, true)),
        since: "2.2.0",
        summary: "Prepends one or more elements to a list only when the list exists.",
        complexity: "O(N) to add N elements.",
        ..WRITE
    },
    Command {
        name: "rpushx",
        arity: -3,
        run: Run::Write(|call| push(call, End::Back, true)),
        since: "2.2.0",
        summary: "Appends one or more elements to a list only when the list exists.",
        complexity: "O(N) to add N elements.",
        ..WRITE
    },
    Command {
        name: "lpop",
        arity: -2,
        run: Run::Write(|call| pop(call, End::Front, "lpop")),
        flags: &["write", "fast"],
        summary: "Returns and removes one or more elements from the beginning of a list. Deletes \
                  the list if the last element was popped.",
        complexity: "O(N) where N is the number of elements returned",
        ..WRITE
    },
    Command {
        name: "rpop",
        arity: -2,
        run: Run::Write(|call| pop(call, End::Back, "rpop")),
        flags: &["write", "fast"],
        summary: "Returns and removes one or more elements from the end of a list. Deletes the \
                  list if the last element was popped.",
        complexity: "O(N) where N is the number of elements returned",
        ..WRITE
    },
    Command {
        name: "lrange",
        arity: 4,
        run: Run::Read(range),
        summary: "Returns a range of elements from a list.",
        complexity: "O(N) where N is the number of elements in the range.",
        ..READ
    },
    Command {
        name: "llen",
        arity: 2,
        run: Run::Read(|call| {
            let count = list::length(call.txn, &call.keys[0])?;
            call.out.integer(count as i64);
            Ok(())
        }),
        flags: &["readonly", "fast"],
        summary: "Returns the length of a list.",
        ..READ
    },
    Command {
        name: "ltrim",
        arity: 4,
        run: Run::Write(|call| {
            let (start, stop) = (call.integer(2)?, call.integer(3)?);
            list::trim(call.txn, &call.keys[0], start, stop)?;
            call.out.ok();
            Ok(())
        }),
        flags: &["write"],
        summary: "Removes elements from both ends of a list. Deletes the list if all elements \
                  were trimmed.",
        complexity: "O(N) where N is the smaller of the numbers removed and kept.",
        ..WRITE
    },
    Command {
        name: "lindex",
        arity: 3,
        run: Run::Read(|call| {
            let at = match call.integer(2) {
                Ok(at) => at,
                // An absent key and a key of another type are told first, as in Redis.
                Err(refusal) if list::length(call.txn, &call.keys[0])? > 0 => return Err(refusal),
                Err(_) => 0,
            };
            match list::index(call.txn, &call.keys[0], at)? {
                Some(value) => call.out.bulk(&value),
                None => call.out.null(),
            }
            Ok(())
        }),
        summary: "Returns an element from a list by its index.",
        ..READ
    },
    Command {
        name: "lset",
        arity: 4,
        run: Run::Write(|call| {
            let at = call.integer(2);
            if at.is_err() && list::length(call.txn, &call.keys[0])? == 0 {
                return Err(OpError::NoSuchKey.into());
            }
            let at = at?;
            if !list::set(call.txn, &call.keys[0], at, call.arg(3))? {
                return Err(CommandError::text("ERR index out of range"));
            }
            call.out.ok();
            Ok(())
        }),
        flags: &["write", "denyoom"],
        summary: "Sets the value of an element in a list by its index.",
        ..WRITE
    },
];

fn push(call: &mut Call<'_, '_, '_>, end: End, only_if_exists: bool) -> Outcome {
    let len = list::push(call.txn, &call.keys[0], end, &call.rest(2), only_if_exists)?;
    call.out.integer(len as i64);
    Ok(())
}

fn pop(call: &mut Call<'_, '_, '_>, end: End, name: &'static str) -> Outcome {
    let count = match (call.args.get(2), call.args.len()) {
        (None, _) => None,
        (Some(text), 3) => {
            let positive = CommandError::text("ERR value is out of range, must be positive");
            let count = parse_i64(text).and_then(|count| u64::try_from(count).ok());
            Some(count.ok_or(positive)?)
        }
        _ => return Err(wrong_arity(name)),
    };
    match (count, list::pop(call.txn, &call.keys[0], end, count.unwrap_or(1))?) {
        (None, None) => call.out.null(),
        (Some(_), None) => call.out.null_array(),
        (None, Some(values)) => match values.first() {
            Some(value) => call.out.bulk(value),
            None => call.out.null(),
        },
        (Some(_), Some(values)) => {
            call.out.array(values.len());
            values.iter().for_each(|value| call.out.bulk(value));
        }
    }
    Ok(())
}

fn range(call: &mut Call<'_, '_, '_>) -> Outcome {
    let (start, stop) = (call.integer(2)?, call.integer(3)?);
    let values = list::range(call.txn, &call.keys[0], start, stop)?;
    call.out.array(values.len());
    values.iter().for_each(|value| call.out.bulk(value));
    Ok(())
}
