//! Commands on the server: COMMAND, CONFIG, INFO, DBSIZE, TIME, FLUSHDB, FLUSHALL, WAIT, DEBUG.

use std::net::SocketAddr;

use holdfast_protocol::resp::{Args, ReplyWriter};

use super::super::{
    COMMANDS as TABLE, Call, Command, CommandError, Flow, Outcome, Run, SessionCall,
    command::COMMAND,
    errors::{SYNTAX, unknown_subcommand, wrong_arity},
    find,
};
use crate::{glob::matches, info};

const SERVER: Command = Command { group: "server", ..COMMAND };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "command",
        subcommands: &["count", "docs", "getkeys", "info", "list"],
        arity: -1,
        run: Run::Session(command),
        flags: &["loading", "stale"],
        since: "2.8.13",
        summary: "Returns detailed information about all commands.",
        complexity: "O(N) where N is the total number of commands",
        ..SERVER
    },
    Command {
        name: "config",
        subcommands: &["get", "resetstat", "set"],
        arity: -2,
        run: Run::Session(config),
        flags: &["admin", "noscript", "loading", "stale"],
        since: "2.0.0",
        summary: "Shows configuration under the names that Redis clients ask for.",
        ..SERVER
    },
    Command {
        name: "info",
        arity: -1,
        run: Run::Session(info_command),
        flags: &["loading", "stale"],
        summary: "Returns information and statistics about the server.",
        ..SERVER
    },
    Command {
        name: "dbsize",
        run: Run::Write(dbsize),
        flags: &["readonly", "fast"],
        summary: "Returns the number of keys in the database.",
        ..SERVER
    },
    Command {
        name: "time",
        run: Run::Session(time),
        flags: &["loading", "stale", "fast"],
        since: "2.6.0",
        summary: "Returns the server time.",
        ..SERVER
    },
    Command {
        name: "flushdb",
        arity: -1,
        run: Run::Write(|call| flush(call, false)),
        flags: &["write"],
        summary: "Removes all keys from the current database.",
        complexity: "O(1); keys are removed in the background.",
        ..SERVER
    },
    Command {
        name: "flushall",
        arity: -1,
        run: Run::Write(|call| flush(call, true)),
        flags: &["write"],
        summary: "Removes all keys from all databases.",
        complexity: "O(1); keys are removed in the background.",
        ..SERVER
    },
    Command {
        name: "wait",
        arity: 3,
        run: Run::Session(wait),
        group: "generic",
        flags: &["noscript"],
        since: "3.0.0",
        summary: "Returns how many replicas have this connection's writes; here every \
                  acknowledged write is durable already.",
        ..SERVER
    },
];

fn dbsize(call: &mut Call<'_, '_, '_>) -> Outcome {
    let keys = call.txn.keyspace_keys(call.keyspace);
    call.out.integer(keys as i64);
    Ok(())
}

fn flush(call: &mut Call<'_, '_, '_>, all: bool) -> Outcome {
    let mode = call.args.get(1).map(<[u8]>::to_ascii_lowercase);
    match (mode.as_deref(), call.args.len()) {
        (None, _) | (Some(b"async" | b"sync"), 2) => {}
        _ => return Err(SYNTAX),
    }
    if all {
        for id in call.txn.keyspaces_in_use() {
            call.txn.flush_keyspace(id);
        }
    } else {
        call.txn.flush_keyspace(call.keyspace);
    }
    call.out.ok();
    Ok(())
}

fn time(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let now_us = call.node.wall_us();
    call.out.array(2);
    call.out.bulk((now_us / 1_000_000).to_string().as_bytes());
    call.out.bulk((now_us % 1_000_000).to_string().as_bytes());
    Ok(Flow::Continue)
}

fn wait(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let number = |at: usize, what| {
        let text = call.args.get(at).unwrap_or_default();
        holdfast_protocol::number::parse_i64(text).ok_or(CommandError::text(what))
    };
    number(1, "ERR value is not an integer or out of range")?;
    let timeout = number(2, "ERR timeout is not an integer or out of range")?;
    if timeout < 0 {
        return Err(CommandError::text("ERR timeout is negative"));
    }
    call.out.integer(0);
    Ok(Flow::Continue)
}

fn info_command(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sections: Vec<String> = call
        .args
        .iter()
        .skip(1)
        .map(|section| String::from_utf8_lossy(section).to_ascii_lowercase())
        .collect();
    let text = info::render(call.node, &sections);
    call.out.verbatim(*b"txt", text.as_bytes());
    Ok(Flow::Continue)
}

/// What Redis clients and benchmarks ask CONFIG GET for, answered from the effective settings.
fn redis_settings(call: &SessionCall<'_>) -> Vec<(&'static str, String)> {
    let (config, addresses) = (&call.node.config, call.node.addresses());
    // Redis says 0 for a port that is off.
    let port = |addr: Option<SocketAddr>| addr.map_or(0, |addr| addr.port()).to_string();
    vec![
        (
            "appendfsync",
            if config.log_sync == crate::Sync::Always { "always" } else { "no" }.into(),
        ),
        ("appendonly", "yes".into()),
        ("bind", config.redis_addr.map_or(String::new(), |addr| addr.ip().to_string())),
        ("databases", crate::DATABASES.to_string()),
        ("dir", config.data.display().to_string()),
        ("maxclients", config.redis_clients_max.to_string()),
        ("maxmemory", "0".into()),
        ("maxmemory-policy", "noeviction".into()),
        ("notify-keyspace-events", String::new()),
        ("port", port(addresses.redis)),
        ("proto-max-bulk-len", (64 << 20).to_string()),
        ("save", String::new()),
        ("timeout", "0".into()),
        ("tls-port", port(addresses.redis_tls)),
    ]
}

/// Why a sub-command that fits no form is refused: too many or too few arguments, or unknown.
pub(crate) fn refused_subcommand(command: &'static str, sub: &[u8]) -> CommandError {
    let is_known = find(command.as_bytes()).is_some_and(|command| {
        command.subcommands.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(sub))
    });
    if is_known {
        let sub = String::from_utf8_lossy(sub).to_ascii_lowercase();
        return wrong_arity(&format!("{command}|{sub}"));
    }
    unknown_subcommand(command, sub)
}

fn config(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"get", 3..) => {
            let settings = redis_settings(call);
            let patterns: Vec<_> = call.args.iter().skip(2).collect();
            let wanted = |name: &str| patterns.iter().any(|p| matches(p, name.as_bytes(), true));
            let found: Vec<_> = settings.iter().filter(|(name, _)| wanted(name)).collect();
            call.out.map(found.len());
            for (name, value) in found {
                call.out.bulk(name.as_bytes());
                call.out.bulk(value.as_bytes());
            }
        }
        (b"set", 4..) => {
            let name = String::from_utf8_lossy(call.args.get(2).unwrap_or_default()).into_owned();
            let text = format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - settings come \
                 from file, environment and flags: see `holdfast config`"
            );
            return Err(CommandError::Text(text.into()));
        }
        (b"resetstat", 2) => {
            let text = "ERR counters are never reset: compare two readings of /metrics instead";
            return Err(CommandError::text(text));
        }
        _ => return Err(refused_subcommand("config", sub)),
    }
    Ok(Flow::Continue)
}

fn command(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    tell_commands(call.args, &mut call.out)?;
    Ok(Flow::Continue)
}

/// Everything that COMMAND answers; it asks for nothing but the table.
pub(crate) fn tell_commands(args: Args<'_>, out: &mut ReplyWriter<'_>) -> Result<(), CommandError> {
    let Some(sub) = args.get(1) else {
        out.array(TABLE.len());
        TABLE.iter().for_each(|command| describe(out, command));
        return Ok(());
    };
    match sub.to_ascii_lowercase().as_slice() {
        b"count" if args.len() == 2 => out.integer(TABLE.len() as i64),
        b"info" => {
            let names: Vec<_> = args.iter().skip(2).collect();
            let all = names.is_empty();
            out.array(if all { TABLE.len() } else { names.len() });
            if all {
                TABLE.iter().for_each(|command| describe(out, command));
            }
            for name in names {
                match find(name) {
                    Some(command) => describe(out, command),
                    None => out.null_array(),
                }
            }
        }
        b"docs" => {
            let names: Vec<_> = args.iter().skip(2).collect();
            let commands: Vec<&Command> = if names.is_empty() {
                TABLE.clone()
            } else {
                names.iter().filter_map(|name| find(name)).collect()
            };
            out.map(commands.len());
            commands.iter().for_each(|command| document(out, command));
        }
        b"list" if args.len() == 2 => {
            out.array(TABLE.len());
            TABLE.iter().for_each(|command| out.bulk(command.name.as_bytes()));
        }
        b"getkeys" if args.len() > 3 => get_keys(args, out)?,
        _ => return Err(refused_subcommand("command", sub)),
    }
    Ok(())
}

fn get_keys(args: Args<'_>, out: &mut ReplyWriter<'_>) -> Result<(), CommandError> {
    let rest = args.from(2);
    let command = find(rest.name()).ok_or(CommandError::text("ERR Invalid command specified"))?;
    if command.key_spec.first == 0 {
        return Err(CommandError::text("ERR The command has no key arguments"));
    }
    if !command.arity_fits(rest.len()) {
        let text = "ERR Invalid number of arguments specified for command";
        return Err(CommandError::text(text));
    }
    let keys: Vec<_> = command.keys(rest).collect();
    out.array(keys.len());
    keys.iter().for_each(|key| out.bulk(key));
    Ok(())
}

/// One command as COMMAND and COMMAND INFO tell it.
fn describe(out: &mut ReplyWriter<'_>, command: &Command) {
    out.array(10);
    out.bulk(command.name.as_bytes());
    out.integer(command.arity as i64);
    out.set(command.flags.len());
    command.flags.iter().for_each(|flag| out.simple(flag));
    out.integer(command.key_spec.first as i64);
    out.integer(command.key_spec.last as i64);
    out.integer(command.key_spec.step as i64);
    let categories = command.categories();
    out.set(categories.len());
    categories.iter().for_each(|category| out.simple(category));
    out.array(0);
    if command.key_spec.first == 0 {
        out.array(0);
    } else {
        out.array(1);
        describe_keys(out, command);
    }
    out.array(0);
}

/// A key specification: where the keys begin and how to find them all.
fn describe_keys(out: &mut ReplyWriter<'_>, command: &Command) {
    let spec = command.key_spec;
    out.map(3);
    out.bulk(b"flags");
    out.set(1);
    out.simple(if command.is_write() { "RW" } else { "RO" });
    out.bulk(b"begin_search");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"index");
    out.bulk(b"spec");
    out.map(1);
    out.bulk(b"index");
    out.integer(spec.first as i64);
    out.bulk(b"find_keys");
    out.map(2);
    out.bulk(b"type");
    out.bulk(b"range");
    out.bulk(b"spec");
    out.map(3);
    out.bulk(b"lastkey");
    out.integer(if spec.last < 0 {
        spec.last as i64
    } else {
        spec.last as i64 - spec.first as i64
    });
    out.bulk(b"keystep");
    out.integer(spec.step as i64);
    out.bulk(b"limit");
    out.integer(0);
}

/// One command as COMMAND DOCS tells it.
fn document(out: &mut ReplyWriter<'_>, command: &Command) {
    out.bulk(command.name.as_bytes());
    out.map(4);
    for (name, value) in [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group),
        ("complexity", command.complexity),
    ] {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
}
