//! Commands on sets.

use holdfast_protocol::number::parse_i64;
use holdfast_shard::{OpError, ops::set};

use super::super::{
    Call, Command, CommandError, Outcome, Run,
    command::{COMMAND, ONE_KEY},
    errors::SYNTAX,
};
use super::keys::{ScanOptions, parse_cursor, refuse_scan};

const READ: Command =
    Command { group: "set", key_spec: ONE_KEY, flags: &["readonly", "fast"], ..COMMAND };
const WRITE: Command = Command { flags: &["write", "denyoom", "fast"], ..READ };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "sadd",
        arity: -3,
        run: Run::Write(|call| {
            let added = set::add(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.integer(added as i64);
            Ok(())
        }),
        summary: "Adds one or more members to a set. Creates the key if it doesn't exist.",
        complexity: "O(N) to add N members.",
        ..WRITE
    },
    Command {
        name: "srem",
        arity: -3,
        run: Run::Write(|call| {
            let removed = set::remove(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.integer(removed as i64);
            Ok(())
        }),
        flags: &["write", "fast"],
        summary: "Removes one or more members from a set. Deletes the set if the last member was \
                  removed.",
        complexity: "O(N) where N is the number of members to be removed.",
        ..WRITE
    },
    Command {
        name: "smembers",
        arity: 2,
        run: Run::Read(members),
        flags: &["readonly"],
        summary: "Returns all members of a set.",
        complexity: "O(N) where N is the set cardinality.",
        ..READ
    },
    Command {
        name: "sismember",
        arity: 3,
        run: Run::Read(|call| {
            let inside = set::is_member(call.txn, &call.keys[0], call.arg(2))?;
            call.out.integer(inside.into());
            Ok(())
        }),
        summary: "Determines whether a member belongs to a set.",
        ..READ
    },
    Command {
        name: "smismember",
        arity: -3,
        run: Run::Read(|call| {
            let inside = set::are_members(call.txn, &call.keys[0], &call.rest(2))?;
            call.out.array(inside.len());
            inside.iter().for_each(|inside| call.out.integer((*inside).into()));
            Ok(())
        }),
        since: "6.2.0",
        summary: "Determines whether multiple members belong to a set.",
        complexity: "O(N) where N is the number of elements being checked.",
        ..READ
    },
    Command {
        name: "scard",
        arity: 2,
        run: Run::Read(|call| {
            let count = set::cardinality(call.txn, &call.keys[0])?;
            call.out.integer(count as i64);
            Ok(())
        }),
        summary: "Returns the number of members in a set.",
        ..READ
    },
    Command {
        name: "spop",
        arity: -2,
        run: Run::Write(pop),
        flags: &["write", "fast"],
        summary: "Returns one or more random members from a set after removing them. Deletes the \
                  set if the last member was popped.",
        complexity: "O(N) where N is the value of the passed count.",
        ..WRITE
    },
    Command {
        name: "srandmember",
        arity: -2,
        run: Run::Read(random_members),
        flags: &["readonly"],
        summary: "Gets one or multiple random members from a set.",
        complexity: "O(N) where N is the absolute value of the passed count.",
        ..READ
    },
    Command {
        name: "sscan",
        arity: -3,
        run: Run::Read(scan),
        flags: &["readonly"],
        since: "2.8.0",
        summary: "Iterates over members of a set.",
        complexity: "O(1) for every call. O(N) for a complete iteration.",
        ..READ
    },
];

fn members(call: &mut Call<'_, '_, '_>) -> Outcome {
    let count = set::cardinality(call.txn, &call.keys[0])?;
    call.out.set(count as usize);
    set::visit(call.txn, &call.keys[0], |member| call.out.bulk(member))?;
    Ok(())
}

fn pop(call: &mut Call<'_, '_, '_>) -> Outcome {
    let count = match (call.args.get(2), call.args.len()) {
        (None, _) => None,
        (Some(text), 3) => {
            let positive = CommandError::text("ERR value is out of range, must be positive");
            let count = parse_i64(text).and_then(|count| u64::try_from(count).ok());
            Some(count.ok_or(positive)?)
        }
        _ => return Err(SYNTAX),
    };
    let mut random = call.random();
    let popped = set::pop(call.txn, &call.keys[0], count.unwrap_or(1), &mut random)?;
    match (count, popped.first()) {
        (None, None) => call.out.null(),
        (None, Some(member)) => call.out.bulk(member),
        (Some(_), _) => {
            call.out.set(popped.len());
            popped.iter().for_each(|member| call.out.bulk(member));
        }
    }
    Ok(())
}

fn random_members(call: &mut Call<'_, '_, '_>) -> Outcome {
    let mut random = call.random();
    let key = &call.keys[0];
    let count = match (call.args.get(2), call.args.len()) {
        (None, _) => {
            let one = set::random_distinct(call.txn, key, 1, &mut random)?;
            match one.first() {
                Some(member) => call.out.bulk(member),
                None => call.out.null(),
            }
            return Ok(());
        }
        (Some(text), 3) => parse_i64(text).ok_or(OpError::NotInteger)?,
        _ => return Err(SYNTAX),
    };
    if count == i64::MIN {
        let text = "ERR value is out of range, value must between -9223372036854775807 and \
                    9223372036854775807";
        return Err(CommandError::text(text));
    }
    let chosen = if count < 0 {
        set::random_repeated(call.txn, key, count.unsigned_abs(), &mut random)?
    } else {
        set::random_distinct(call.txn, key, count as u64, &mut random)?
    };
    call.out.array(chosen.len());
    chosen.iter().for_each(|member| call.out.bulk(member));
    Ok(())
}

fn scan(call: &mut Call<'_, '_, '_>) -> Outcome {
    let cursor = parse_cursor(call.arg(2))?;
    let options = match ScanOptions::parse(call.args, 3, false) {
        Ok(options) => options,
        Err(refusal) => {
            let count = set::cardinality(call.txn, &call.keys[0])?;
            return refuse_scan(call, count, refusal);
        }
    };
    let step = set::scan(call.txn, &call.keys[0], cursor, options.count)?;
    let wanted: Vec<_> = step.members.iter().filter(|member| options.wants(member)).collect();
    call.out.array(2);
    call.out.bulk(step.cursor.to_string().as_bytes());
    call.out.array(wanted.len());
    wanted.iter().for_each(|member| call.out.bulk(member));
    Ok(())
}
