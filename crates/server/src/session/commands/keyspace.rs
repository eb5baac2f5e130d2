//! KEYSPACE: makes, limits, lists and drops keyspaces. Changes are records of the log.

use holdfast_base::{
    ByteSize, KeyspaceId,
    catalog::{Keyspace, NAME_BYTES_MAX},
    limits::KEYSPACES_MAX,
};

use super::super::{
    Command, CommandError, Flow, Run, SessionCall,
    command::COMMAND,
    errors::{SYNTAX, unknown_subcommand, wrong_arity},
};
use crate::{DATABASES, catalog::Draft};

pub(crate) const COMMANDS: &[Command] = &[Command {
    name: "keyspace",
    arity: -2,
    run: Run::Session(keyspace),
    subcommands: &["create", "drop", "list", "set"],
    flags: &["admin", "noscript", "no_multi"],
    group: "server",
    since: "0.1.0",
    summary: "Keyspaces, their quotas and usage: CREATE name [NUMBER n] [KIND durable] [BYTES n] \
              [KEYS n], SET name BYTES|KEYS n|none, LIST, DROP name.",
    complexity: "O(N) where N is the number of keyspaces",
    ..COMMAND
}];

const NO_SUCH: CommandError = CommandError::text("ERR no such keyspace");

fn keyspace(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"create", 3..) => create(call)?,
        (b"set", 5) => set(call)?,
        (b"list", 2) => list(call),
        (b"drop", 3) => drop_one(call)?,
        (b"create" | b"set" | b"list" | b"drop", _) => {
            let sub = String::from_utf8_lossy(sub).to_ascii_lowercase();
            return Err(wrong_arity(&format!("keyspace|{sub}")));
        }
        _ => return Err(unknown_subcommand("keyspace", sub)),
    }
    Ok(Flow::Continue)
}

/// The keyspace that a SELECT argument means, by number or by name; the answer waits for the
/// call's gate.
pub(super) fn selected(
    call: &mut SessionCall<'_>,
    argument: &[u8],
) -> Result<KeyspaceId, CommandError> {
    let seen = call.node.catalog.look(&call.node.shard);
    call.gate = seen.gate;
    if let Some(number) = holdfast_protocol::number::parse_i64(argument) {
        if i32::try_from(number).is_err() {
            return Err(CommandError::text(
                "ERR value is out of range, value must between -2147483648 and 2147483647",
            ));
        }
        let id = u16::try_from(number).ok().map(KeyspaceId);
        return id
            .filter(|id| seen.latest.keyspace_name(*id).is_some())
            .ok_or(CommandError::text("ERR DB index is out of range"));
    }
    let named = std::str::from_utf8(argument).ok().and_then(|name| seen.latest.keyspace(name));
    named.map(Keyspace::id).ok_or(CommandError::text("ERR value is not an integer or out of range"))
}

/// A name that cannot be taken for a number, and that stands in metrics as it is.
fn new_name(given: &[u8]) -> Result<&str, CommandError> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    let starts = given.first().is_some_and(u8::is_ascii_alphabetic);
    std::str::from_utf8(given)
        .ok()
        .filter(|_| starts && given.len() <= NAME_BYTES_MAX && given.iter().all(fits))
        .ok_or(CommandError::text(
            "ERR a keyspace's name begins with a letter and has up to 64 letters, digits, '_', \
             '-', '.' or ':'",
        ))
}

/// A quota: a number, a size like 10GiB for bytes, or none.
fn quota(given: &[u8], bytes: bool) -> Result<Option<u64>, CommandError> {
    let text = std::str::from_utf8(given).unwrap_or_default();
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let number =
        if bytes { text.parse::<ByteSize>().ok().map(|size| size.0) } else { text.parse().ok() };
    number.filter(|number| i64::try_from(*number).is_ok()).map(Some).ok_or(CommandError::text(
        "ERR a quota is a number, for bytes also with a unit (64MiB), or none",
    ))
}

fn set_quota(keyspace: &mut Keyspace, word: &[u8], value: &[u8]) -> Result<(), CommandError> {
    match word.to_ascii_lowercase().as_slice() {
        b"bytes" => keyspace.bytes_max = quota(value, true)?,
        b"keys" => keyspace.keys_max = quota(value, false)?,
        _ => return Err(SYNTAX),
    }
    Ok(())
}

/// A number that no keyspace has.
fn free_number(draft: &Draft<'_, '_>, wanted: Option<&[u8]>) -> Result<KeyspaceId, CommandError> {
    let is_free = |id: &KeyspaceId| draft.table.keyspace_name(*id).is_none();
    let Some(wanted) = wanted else {
        return (DATABASES..KEYSPACES_MAX)
            .map(KeyspaceId)
            .find(is_free)
            .ok_or(CommandError::text("ERR there are as many keyspaces as there may be"));
    };
    let number = holdfast_protocol::number::parse_i64(wanted);
    let id = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| (DATABASES..KEYSPACES_MAX).contains(number))
        .map(KeyspaceId)
        .ok_or(CommandError::text("ERR a new keyspace's number is 16 to 1023"))?;
    Some(id).filter(is_free).ok_or(CommandError::text("ERR a keyspace has this number already"))
}

fn create(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let name = new_name(call.args.get(2).unwrap_or_default())?;
    let mut number = None;
    let mut wanted = Keyspace::new(KeyspaceId(0));
    let options: Vec<&[u8]> = call.args.iter().skip(3).collect();
    for option in options.chunks(2) {
        let [word, value] = *option else { return Err(SYNTAX) };
        if word.eq_ignore_ascii_case(b"number") {
            number = Some(value);
        } else if !word.eq_ignore_ascii_case(b"kind") {
            set_quota(&mut wanted, word, value)?;
        } else if value.eq_ignore_ascii_case(b"cache") {
            let text = "ERR keyspaces of kind cache are not supported yet: leave out KIND";
            return Err(CommandError::text(text));
        } else if !value.eq_ignore_ascii_case(b"durable") {
            return Err(CommandError::text("ERR a keyspace's kind is durable"));
        }
    }
    let node = call.node;
    let (id, gate) = node.catalog.change(&node.shard, |draft| {
        if draft.table.keyspace(name).is_some() {
            return Err(CommandError::text("ERR a keyspace of this name exists already"));
        }
        let id = free_number(draft, number)?;
        wanted.number = id.0;
        // Requests that were on their way when the number's last keyspace was dropped.
        if draft.txn.keyspaces_in_use().contains(&id) {
            draft.txn.flush_keyspace(id);
        }
        draft.put_keyspace(name, wanted)?;
        Ok(id)
    })?;
    call.gate = gate;
    call.out.integer(id.0.into());
    Ok(())
}

fn set(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let arg = |at| call.args.get(at).unwrap_or_default();
    let (name, word, value) = (arg(2), arg(3), arg(4));
    let name = std::str::from_utf8(name).map_err(|_| NO_SUCH)?;
    let node = call.node;
    let ((), gate) = node.catalog.change(&node.shard, |draft| {
        let mut keyspace = draft.table.keyspace(name).cloned().ok_or(NO_SUCH)?;
        set_quota(&mut keyspace, word, value)?;
        draft.put_keyspace(name, keyspace)
    })?;
    call.gate = gate;
    call.out.ok();
    Ok(())
}

fn drop_one(call: &mut SessionCall<'_>) -> Result<(), CommandError> {
    let name = call.args.get(2).unwrap_or_default();
    let name = std::str::from_utf8(name).map_err(|_| NO_SUCH)?;
    let node = call.node;
    let ((), gate) = node.catalog.change(&node.shard, |draft| {
        let keyspace = draft.table.keyspace(name).ok_or(NO_SUCH)?;
        if keyspace.number < DATABASES {
            let text = "ERR keyspaces 0 to 15 cannot be dropped: empty them with FLUSHDB";
            return Err(CommandError::text(text));
        }
        draft.drop_keyspace(name);
        Ok(())
    })?;
    call.gate = gate;
    call.out.ok();
    Ok(())
}

fn list(call: &mut SessionCall<'_>) {
    let seen = call.node.catalog.look(&call.node.shard);
    // Usage is of one moment after the table: its gate is the later one.
    let mut gate = seen.gate;
    call.out.array(seen.latest.keyspaces().count());
    for (name, keyspace) in seen.latest.keyspaces() {
        let usage = call.node.shard.usage(keyspace.id());
        gate = usage.gate.or(gate);
        let (keys, bytes) = usage.value;
        let out = &mut call.out;
        out.map(7);
        out.bulk(b"name");
        out.bulk(name.as_bytes());
        out.bulk(b"number");
        out.integer(keyspace.number.into());
        out.bulk(b"kind");
        out.bulk(b"durable");
        for (title, used) in [(&b"keys"[..], keys), (b"bytes", bytes)] {
            out.bulk(title);
            out.integer(used as i64);
        }
        for (title, max) in
            [(&b"keys_max"[..], keyspace.keys_max), (b"bytes_max", keyspace.bytes_max)]
        {
            out.bulk(title);
            match max {
                Some(max) => out.integer(max as i64),
                None => out.null(),
            }
        }
    }
    call.gate = gate;
}
