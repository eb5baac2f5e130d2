//! Commands on the connection: AUTH, CLIENT, ECHO, HELLO, PING, QUIT, RESET, SELECT.

use holdfast_base::KeyspaceId;
use holdfast_protocol::{
    number::parse_i64,
    resp::{Args, Protocol, ReplyWriter},
};

use super::super::{
    Command, CommandError, Flow, Run, SessionCall, command::COMMAND, errors::SYNTAX, replica,
};
use super::{keyspace::selected, server::refused_subcommand};
use crate::{
    REDIS_VERSION,
    clients::ClientInfo,
    users::{DEFAULT_USER, password_fits},
};

const CONNECTION: Command =
    Command { group: "connection", flags: &["loading", "stale", "fast"], ..COMMAND };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "auth",
        arity: -2,
        run: Run::Session(auth),
        flags: &["noscript", "loading", "stale", "fast", "no_auth"],
        before_auth: true,
        summary: "Authenticates the connection.",
        ..CONNECTION
    },
    Command {
        name: "client",
        subcommands: &[
            "getname", "id", "info", "list", "no-evict", "no-touch", "setinfo", "setname",
        ],
        arity: -2,
        run: Run::Session(client),
        flags: &["noscript", "loading", "stale"],
        since: "2.4.0",
        summary: "Names, lists and closes client connections.",
        ..CONNECTION
    },
    Command {
        name: "echo",
        arity: 2,
        run: Run::Session(echo),
        summary: "Returns the given string.",
        ..CONNECTION
    },
    Command {
        name: "hello",
        arity: -1,
        run: Run::Session(hello),
        flags: &["noscript", "loading", "stale", "fast", "no_auth"],
        before_auth: true,
        since: "6.0.0",
        summary: "Handshakes with the server.",
        ..CONNECTION
    },
    Command {
        name: "ping",
        // Not while loading: whoever pings wants to know whether there is somebody to work with.
        flags: &["fast"],
        arity: -1,
        run: Run::Session(ping),
        summary: "Returns the server's liveliness response.",
        ..CONNECTION
    },
    Command {
        name: "quit",
        arity: -1,
        run: Run::Session(quit),
        flags: &["noscript", "loading", "stale", "fast", "no_auth"],
        before_auth: true,
        summary: "Closes the connection.",
        ..CONNECTION
    },
    Command {
        name: "reset",
        run: Run::Session(reset),
        flags: &["noscript", "loading", "stale", "fast", "no_auth"],
        before_auth: true,
        since: "6.2.0",
        summary: "Resets the connection.",
        ..CONNECTION
    },
    Command {
        name: "select",
        arity: 2,
        run: Run::Session(select),
        summary: "Changes the selected database.",
        ..CONNECTION
    },
];

fn ping(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    match (call.args.get(1), call.args.len()) {
        (None, _) => call.out.simple("PONG"),
        (Some(text), 2) => call.out.bulk(text),
        _ => return Err(CommandError::text("ERR wrong number of arguments for 'ping' command")),
    }
    Ok(Flow::Continue)
}

fn echo(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.out.bulk(call.args.get(1).unwrap_or_default());
    Ok(Flow::Continue)
}

fn quit(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.out.ok();
    Ok(Flow::Close)
}

fn select(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let keyspace = selected(call, call.args.get(1).unwrap_or_default())?;
    call.session.select(keyspace);
    call.out.ok();
    Ok(Flow::Continue)
}

fn reset(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.session.end(call.node);
    replica::read_write(call.session);
    call.session.select(KeyspaceId(0));
    call.session.protocol = Protocol::Resp2;
    call.session.log_out(call.node);
    call.session.client.set_name("");
    call.out.set_protocol(Protocol::Resp2);
    call.out.simple("RESET");
    Ok(Flow::Continue)
}

fn log_in(call: &mut SessionCall<'_>, user: &[u8], password: &[u8]) -> Result<(), CommandError> {
    let seen = call.node.catalog.look(&call.node.shard);
    let account = std::str::from_utf8(user).ok().and_then(|name| seen.durable.account(name));
    // For an unknown user too, so that both take the same time.
    let fits = password_fits(account.map(|account| &**account), password);
    match account.filter(|_| fits) {
        Some(account) => {
            call.session.log_in(account.clone());
            Ok(())
        }
        None => {
            let text = "WRONGPASS invalid username-password pair or user is disabled.";
            Err(CommandError::text(text))
        }
    }
}

fn auth(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let (user, password) = match (call.args.get(1), call.args.get(2), call.args.len()) {
        (Some(password), None, 2) => {
            let seen = call.node.catalog.look(&call.node.shard);
            if seen.durable.account(DEFAULT_USER).is_some_and(|user| user.user.nopass) {
                let text = "ERR AUTH <password> called without any password configured for the \
                            default user. Are you sure your configuration is correct?";
                return Err(CommandError::text(text));
            }
            (&b"default"[..], password)
        }
        (Some(user), Some(password), 3) => (user, password),
        _ => return Err(SYNTAX),
    };
    log_in(call, user, password)?;
    call.out.ok();
    Ok(Flow::Continue)
}

fn hello(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let mut protocol = call.session.protocol;
    if let Some(version) = call.args.get(1) {
        protocol = match holdfast_protocol::number::parse_i64(version) {
            Some(2) => Protocol::Resp2,
            Some(3) => Protocol::Resp3,
            Some(_) => return Err(CommandError::text("NOPROTO unsupported protocol version")),
            None => {
                let text = "ERR Protocol version is not an integer or out of range";
                return Err(CommandError::text(text));
            }
        };
    }
    let mut name = None;
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        let (first, second) = (call.args.get(at + 1), call.args.get(at + 2));
        if word.eq_ignore_ascii_case(b"auth")
            && let (Some(user), Some(password)) = (first, second)
        {
            log_in(call, user, password)?;
            at += 3;
        } else if word.eq_ignore_ascii_case(b"setname")
            && let Some(text) = first
        {
            name = Some(client_name(text)?);
            at += 2;
        } else {
            let word = String::from_utf8_lossy(word);
            let text = format!("ERR Syntax error in HELLO option '{word}'");
            return Err(CommandError::Text(text.into()));
        }
    }
    if !call.session.authenticated {
        let text = "NOAUTH HELLO must be called with the client already authenticated, otherwise \
                    the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the \
                    client and select the RESP protocol version at the same time";
        return Err(CommandError::text(text));
    }
    if let Some(name) = name {
        call.session.client.set_name(&name);
    }
    call.session.protocol = protocol;
    call.out.set_protocol(protocol);
    tell_server(&mut call.out, call.session.client.id);
    Ok(Flow::Continue)
}

/// The reply to HELLO, in the writer's protocol.
pub(crate) fn tell_server(out: &mut ReplyWriter<'_>, client: u64) {
    out.map(7);
    for (key, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        out.bulk(key.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"proto");
    out.integer(if out.protocol() == Protocol::Resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(client as i64);
    for (key, value) in [("mode", "standalone"), ("role", "master")] {
        out.bulk(key.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"modules");
    out.array(0);
}

/// A name that may stand in CLIENT LIST.
pub(crate) fn client_name(text: &[u8]) -> Result<String, CommandError> {
    let printable = text.iter().all(|byte| (b'!'..=b'~').contains(byte));
    match std::str::from_utf8(text) {
        Ok(name) if printable => Ok(name.into()),
        _ => Err(CommandError::text(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        )),
    }
}

/// The connections that a CLIENT LIST asks for; `None` for all.
fn listed(args: Args<'_>) -> Result<Option<Vec<u64>>, CommandError> {
    let filter = args.get(2).unwrap_or_default().to_ascii_lowercase();
    match (filter.as_slice(), args.len()) {
        (_, 2) => Ok(None),
        (b"type", 4) => {
            let kind = args.get(3).unwrap_or_default();
            match kind.to_ascii_lowercase().as_slice() {
                b"normal" => Ok(None),
                b"master" | b"replica" | b"slave" | b"pubsub" => Ok(Some(Vec::new())),
                _ => {
                    let kind = String::from_utf8_lossy(kind);
                    Err(CommandError::Text(format!("ERR Unknown client type '{kind}'").into()))
                }
            }
        }
        (b"id", 4..) => {
            let id = |text| parse_i64(text).and_then(|id| u64::try_from(id).ok());
            let ids: Option<Vec<u64>> = args.iter().skip(3).map(id).collect();
            ids.map(Some).ok_or(CommandError::text("ERR Invalid client ID"))
        }
        _ => Err(SYNTAX),
    }
}

fn client(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    let (second, third) = (call.args.get(2), call.args.get(3));
    let own = call.session.client.clone();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"id", 2) => call.out.integer(own.id as i64),
        (b"getname", 2) => match own.name() {
            name if name.is_empty() => call.out.null(),
            name => call.out.bulk(name.as_bytes()),
        },
        (b"setname", 3) => {
            own.set_name(&client_name(second.unwrap_or_default())?);
            call.out.ok();
        }
        (b"setinfo", 4) => {
            let value = client_name(third.unwrap_or_default())?;
            match second.unwrap_or_default().to_ascii_lowercase().as_slice() {
                b"lib-name" => own.set_library(Some(&value), None),
                b"lib-ver" => own.set_library(None, Some(&value)),
                _ => {
                    let word = String::from_utf8_lossy(second.unwrap_or_default());
                    let text = format!("ERR Unrecognized option '{word}'");
                    return Err(CommandError::Text(text.into()));
                }
            }
            call.out.ok();
        }
        (b"info", 2) => {
            let line = own.line(call.node.uptime_seconds(), call.session.keyspace.0);
            call.out.verbatim(*b"txt", line.as_bytes());
        }
        (b"list", _) => {
            let ids = listed(call.args)?;
            let wanted = |client: &ClientInfo| ids.as_ref().is_none_or(|i| i.contains(&client.id));
            let clients = call.node.clients.all();
            let lines: String = clients
                .iter()
                .filter(|client| wanted(client))
                .map(|client| client.line(call.node.uptime_seconds(), 0))
                .collect();
            call.out.verbatim(*b"txt", lines.as_bytes());
        }
        (b"no-evict" | b"no-touch", 3) => match second.unwrap_or_default() {
            word if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off") => {
                call.out.ok();
            }
            _ => return Err(SYNTAX),
        },
        _ => return Err(refused_subcommand("client", sub)),
    }
    Ok(Flow::Continue)
}
