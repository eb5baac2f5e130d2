//! Commands on hashes.

use holdfast_shard::ops::hash;

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{COMMAND, ONE_KEY},
    errors::wrong_arity,
};
use super::keys::{ScanOptions, parse_cursor, refuse_scan};

const READ: Command = Command {
    group: "hash",
    key_spec: ONE_KEY,
    since: "2.0.0",
    flags: &["readonly", "fast"],
    ..COMMAND
};
const WRITE: Command = Command { flags: &["write", "denyoom", "fast"], ..READ };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "hset",
        arity: -4,
        run: Run::Write(|call| set(call, "hset")),
        summary: "Creates or modifies the value of a field in a hash.",
        complexity: "O(N) to add N field/value pairs.",
        ..WRITE
    },
    Command {
        name: "hmset",
        arity: -4,
        run: Run::Write(|call| set(call, "hmset")),
        summary: "Sets the values of multiple fields.",
        complexity: "O(N) where N is the number of fields being set.",
        ..WRITE
    },
    Command {
        name: "hsetnx",
        arity: 4,
        run: Run::Write(|call| {
            let written = hash::set_if_absent(call.txn, &call.keys[0], call.arg(2), call.arg(3))?;
            call.out.integer(written.into());
            Ok(())
        }),
        summary: "Sets the value of a field in a hash only when the field doesn't exist.",
        ..WRITE
    },
    Command {
        name: "hget",
        arity: 3,
        run: Run::Read(|call| {
            match hash::get(call.txn, &call.keys[0], call.arg(2))? {
                Some(value) => call.out.bulk(&value),
                None => call.out.null(),
            }
            Ok(())
        }),
        summary: "Returns the value of a field in a hash.",
        ..READ
    },
    Command {
        name: "hmget",
        arity: -3,
        run: Run::Read(get_many),
        summary: "Returns the values of multiple fields of a hash.",
        complexity: "O(N) where N is the number of fields being requested.",
        ..READ
    },
    Command {
        name: "hgetall",
        arity: 2,
        run: Run::Read(get_all),
        flags: &["readonly"],
        summary: "Returns all fields and values in a hash.",
        complexity: "O(N) where N is the size of the hash.",
        ..READ
    },
    Command {
        name: "hkeys",
        arity: 2,
        run: Run::Read(|call| visit(call, |field, _| field)),
        flags: &["readonly"],
        summary: "Returns all fields in a hash.",
        complexity: "O(N) where N is the size of the hash.",
        ..READ
    },
    Command {
        name: "hvals",
        arity: 2,
        run: Run::Read(|call| visit(call, |_, value| value)),
        flags: &["readonly"],
        summary: "Returns all values in a hash.",
        complexity: "O(N) where N is the size of the hash.",
        ..READ
    },
    Command {
        name: "hdel",
        arity: -3,
        run: Run::Write(|call| {
            let removed = hash::delete(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.integer(removed as i64);
            Ok(())
        }),
        flags: &["write", "fast"],
        summary: "Deletes one or more fields and their values from a hash. Deletes the hash if no \
                  fields remain.",
        complexity: "O(N) where N is the number of fields to be removed.",
        ..WRITE
    },
    Command {
        name: "hexists",
        arity: 3,
        run: Run::Read(|call| {
            let exists = hash::exists(call.txn, &call.keys[0], call.arg(2))?;
            call.out.integer(exists.into());
            Ok(())
        }),
        summary: "Determines whether a field exists in a hash.",
        ..READ
    },
    Command {
        name: "hlen",
        arity: 2,
        run: Run::Read(|call| {
            let count = hash::length(call.txn, &call.keys[0])?;
            call.out.integer(count as i64);
            Ok(())
        }),
        summary: "Returns the number of fields in a hash.",
        ..READ
    },
    Command {
        name: "hstrlen",
        arity: 3,
        run: Run::Read(|call| {
            let len = hash::value_length(call.txn, &call.keys[0], call.arg(2))?;
            call.out.integer(len as i64);
            Ok(())
        }),
        since: "3.2.0",
        summary: "Returns the length of the value of a field.",
        ..READ
    },
    Command {
        name: "hincrby",
        arity: 4,
        run: Run::Write(|call| {
            let by = call.integer(3)?;
            let after = hash::increment(call.txn, &call.keys[0], call.arg(2), by)?;
            call.out.integer(after);
            Ok(())
        }),
        summary: "Increments the integer value of a field in a hash by a number. Uses 0 as \
                  initial value if the field doesn't exist.",
        ..WRITE
    },
    Command {
        name: "hscan",
        arity: -3,
        run: Run::Read(scan),
        flags: &["readonly"],
        since: "2.8.0",
        summary: "Iterates over fields and values of a hash.",
        complexity: "O(1) for every call. O(N) for a complete iteration.",
        ..READ
    },
];

fn set(call: &mut Call<'_, '_, '_>, name: &'static str) -> Outcome {
    let rest = call.rest(2);
    if !rest.len().is_multiple_of(2) {
        return Err(wrong_arity(name));
    }
    let pairs: Vec<_> = rest.as_chunks::<2>().0.iter().map(|[f, v]| (*f, *v)).collect();
    let added = hash::set(call.txn, &call.keys[0], &pairs)?;
    if name == "hmset" {
        call.out.ok();
    } else {
        call.out.integer(added as i64);
    }
    Ok(())
}

fn get_many(call: &mut Call<'_, '_, '_>) -> Outcome {
    let values = hash::get_many(call.txn, &call.keys[0], &call.rest(2))?;
    call.out.array(values.len());
    for value in values {
        match value {
            Some(value) => call.out.bulk(&value),
            None => call.out.null(),
        }
    }
    Ok(())
}

fn get_all(call: &mut Call<'_, '_, '_>) -> Outcome {
    let count = hash::length(call.txn, &call.keys[0])?;
    call.out.map(count as usize);
    hash::visit(call.txn, &call.keys[0], |field, value| {
        call.out.bulk(field);
        call.out.bulk(value);
    })?;
    Ok(())
}

fn visit(call: &mut Call<'_, '_, '_>, part: for<'f> fn(&'f [u8], &'f [u8]) -> &'f [u8]) -> Outcome {
    let count = hash::length(call.txn, &call.keys[0])?;
    call.out.array(count as usize);
    hash::visit(call.txn, &call.keys[0], |field, value| call.out.bulk(part(field, value)))?;
    Ok(())
}

fn scan(call: &mut Call<'_, '_, '_>) -> Outcome {
    let cursor = parse_cursor(call.arg(2))?;
    let options = match ScanOptions::parse(call.args, 3, false) {
        Ok(options) => options,
        Err(refusal) => {
            let count = hash::length(call.txn, &call.keys[0])?;
            return refuse_scan(call, count, refusal);
        }
    };
    let step = hash::scan(call.txn, &call.keys[0], cursor, options.count)?;
    let wanted: Vec<_> = step.fields.iter().filter(|(field, _)| options.wants(field)).collect();
    call.out.array(2);
    call.out.bulk(step.cursor.to_string().as_bytes());
    call.out.array(2 * wanted.len());
    for (field, value) in wanted {
        call.out.bulk(field);
        call.out.bulk(value);
    }
    Ok::<(), CommandError>(())
}
