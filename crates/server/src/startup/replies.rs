//! What the Redis protocol answers while the log is replayed: what needs no data, as Redis does it,
//! and LOADING for everything else.
//!
//! Users stand in the log, so only the user `default` with `redis.password` can log in; whether that
//! password is still in force is looked at once more when the node is ready.

use std::net::SocketAddr;

use holdfast_base::KeyspaceId;
use holdfast_protocol::{
    number::parse_i64,
    resp::{Args, Protocol, ReplyWriter},
};

use super::Startup;
use crate::{
    DATABASES, REDIS_VERSION,
    clients::ClientInfo,
    session::{
        Command, CommandError, client_name, find, refused_subcommand, tell_commands, tell_server,
        unknown_command, write_error, wrong_arity,
    },
    users::{DEFAULT_USER, digest},
};

/// What a connection has said of itself so far.
pub(crate) struct Manners {
    pub protocol: Protocol,
    pub keyspace: KeyspaceId,
    /// Digest of the password that was accepted.
    pub password: Option<String>,
}

/// What becomes of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    GoOn,
    Close,
}

impl Manners {
    pub(super) fn new() -> Manners {
        Manners { protocol: Protocol::Resp2, keyspace: KeyspaceId(0), password: None }
    }

    /// Whether a password is asked for and was given, or none is asked for.
    pub(super) fn is_logged_in(&self, startup: &Startup) -> bool {
        self.password.is_some() || startup.password.is_none()
    }
}

fn loading(startup: &Startup) -> CommandError {
    CommandError::Text(format!("LOADING {}", startup.tell()).into())
}

/// Answers one request.
pub(super) fn answer(
    startup: &Startup,
    client: &ClientInfo,
    manners: &mut Manners,
    args: Args<'_>,
    output: &mut Vec<u8>,
) -> Then {
    let start = output.len();
    let mut out = ReplyWriter::new(output, manners.protocol);
    match reply(startup, client, manners, args, &mut out) {
        Ok(then) => then,
        Err(error) => {
            output.truncate(start);
            write_error(&mut ReplyWriter::new(output, manners.protocol), &error);
            Then::GoOn
        }
    }
}

fn reply(
    startup: &Startup,
    client: &ClientInfo,
    manners: &mut Manners,
    args: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<Then, CommandError> {
    let command = find(args.name()).ok_or_else(|| unknown_command(args))?;
    if !command.arity_fits(args.len()) {
        return Err(wrong_arity(command.name));
    }
    if !manners.is_logged_in(startup) && !command.before_auth {
        return Err(CommandError::text("NOAUTH Authentication required."));
    }
    let first = args.get(1).unwrap_or_default();
    match command.name {
        "auth" => {
            match (args.get(2), args.len()) {
                (None, _) if startup.password.is_none() => return Err(loading(startup)),
                (None, _) => log_in(startup, manners, DEFAULT_USER.as_bytes(), first)?,
                (Some(password), 3) => log_in(startup, manners, first, password)?,
                _ => return Err(CommandError::text("ERR syntax error")),
            }
            out.ok();
        }
        "hello" => hello(startup, client, manners, args, out)?,
        "quit" => {
            out.ok();
            return Ok(Then::Close);
        }
        "reset" => {
            *manners = Manners::new();
            client.set_name("");
            out.set_protocol(manners.protocol);
            out.simple("RESET");
        }
        "echo" => out.bulk(first),
        "select" => {
            let number = parse_i64(first).and_then(|number| u16::try_from(number).ok());
            let number = number.filter(|number| *number < DATABASES);
            manners.keyspace = KeyspaceId(number.ok_or_else(|| loading(startup))?);
            out.ok();
        }
        "client" => client_command(startup, client, command, args, out)?,
        "command" => tell_commands(args, out)?,
        "info" => out.verbatim(*b"txt", info(startup).as_bytes()),
        _ => return Err(loading(startup)),
    }
    Ok(Then::GoOn)
}

fn log_in(
    startup: &Startup,
    manners: &mut Manners,
    user: &[u8],
    password: &[u8],
) -> Result<(), CommandError> {
    // Others stand in the log.
    let Some(wanted) = startup.password.as_ref().filter(|_| user == DEFAULT_USER.as_bytes()) else {
        return Err(loading(startup));
    };
    let given = digest(password);
    if !bool::from(subtle::ConstantTimeEq::ct_eq(given.as_bytes(), wanted.as_bytes())) {
        let text = "WRONGPASS invalid username-password pair or user is disabled.";
        return Err(CommandError::text(text));
    }
    manners.password = Some(given);
    Ok(())
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`.
fn hello(
    startup: &Startup,
    client: &ClientInfo,
    manners: &mut Manners,
    args: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), CommandError> {
    let protocol = match args.get(1).map(parse_i64) {
        None => manners.protocol,
        Some(Some(2)) => Protocol::Resp2,
        Some(Some(3)) => Protocol::Resp3,
        Some(_) => return Err(CommandError::text("NOPROTO unsupported protocol version")),
    };
    let (mut name, mut at) = (None, 2);
    while let Some(word) = args.get(at) {
        match (word.to_ascii_lowercase().as_slice(), args.get(at + 1), args.get(at + 2)) {
            (b"auth", Some(user), Some(password)) => {
                log_in(startup, manners, user, password)?;
                at += 3;
            }
            (b"setname", Some(text), _) => {
                name = Some(client_name(text)?);
                at += 2;
            }
            _ => {
                let word = String::from_utf8_lossy(word);
                let text = format!("ERR Syntax error in HELLO option '{word}'");
                return Err(CommandError::Text(text.into()));
            }
        }
    }
    if !manners.is_logged_in(startup) {
        return Err(CommandError::text(
            "NOAUTH HELLO must be called with the client already \
             authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
             authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        client.set_name(&name);
    }
    manners.protocol = protocol;
    out.set_protocol(protocol);
    tell_server(out, client.id);
    Ok(())
}

/// What client libraries say of themselves when they connect.
fn client_command(
    startup: &Startup,
    client: &ClientInfo,
    command: &Command,
    args: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), CommandError> {
    let sub = args.get(1).unwrap_or_default().to_ascii_lowercase();
    match (sub.as_slice(), args.get(2), args.get(3), args.len()) {
        (b"id", _, _, 2) => out.integer(client.id as i64),
        (b"getname", _, _, 2) => match client.name() {
            name if name.is_empty() => out.null(),
            name => out.bulk(name.as_bytes()),
        },
        (b"setname", Some(name), _, 3) => {
            client.set_name(&client_name(name)?);
            out.ok();
        }
        (b"setinfo", Some(what), Some(value), 4) => {
            let value = client_name(value)?;
            match what.to_ascii_lowercase().as_slice() {
                b"lib-name" => client.set_library(Some(&value), None),
                b"lib-ver" => client.set_library(None, Some(&value)),
                _ => return Err(loading(startup)),
            }
            out.ok();
        }
        // Clients try what newer servers have, and go on if this one says that it has not.
        _ if command.subcommands.iter().any(|known| known.as_bytes() == sub) => {
            return Err(loading(startup));
        }
        _ => return Err(refused_subcommand(command.name, &sub)),
    }
    Ok(())
}

/// INFO with what is known already, under the names by which clients wait for a server that loads.
fn info(startup: &Startup) -> String {
    let (done, total) = startup.progress();
    let percent = done as f64 * 100.0 / total.max(1) as f64;
    let cluster = u8::from(startup.members.get().is_some());
    let mode = if cluster == 1 { "cluster" } else { "standalone" };
    let port = |addr: Option<SocketAddr>| addr.map_or(0, |addr| addr.port());
    format!(
        "# Server\r\nredis_version:{REDIS_VERSION}\r\nholdfast_version:{}\r\n\
         redis_mode:{mode}\r\nprocess_id:{}\r\ntcp_port:{}\r\n\r\n\
         # Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\n\r\n\
         # Persistence\r\nloading:1\r\nloading_loaded_perc:{percent:.2}\r\n\
         holdfast_replayed_records:{done}\r\nholdfast_records_to_replay:{total}\r\n\r\n\
         # Cluster\r\ncluster_enabled:{cluster}\r\n",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        port(startup.addresses.redis),
        startup.clients.count(),
        startup.config.redis_clients_max,
    )
}
