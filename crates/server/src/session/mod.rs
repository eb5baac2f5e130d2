//! Sessions: where protocol and shard meet. Requests become ops, results become replies.
//!
//! `execute` takes one request through authentication, queuing and execution and says what its
//! reply has to wait for. It never waits itself: a row that is not in memory gives `Flow::Fetch`,
//! and the caller runs the same request again when the row is there.

mod access;
mod args;
mod command;
mod commands;
mod errors;
mod replica;
mod table;
mod transaction;

use std::sync::Arc;

use holdfast_base::{KeyspaceId, limits::KEY_BYTES_MAX};
use holdfast_engine::Tier;
use holdfast_protocol::resp::{Args, Protocol, ReplyWriter};
use holdfast_shard::{Gate, OpError, Txn};
use smallvec::SmallVec;

use access::Access;
pub(crate) use args::OwnedArgs;
pub(crate) use command::{Call, Command, CommandError, Outcome, Run, SessionCall};
pub(crate) use commands::{
    connection::{client_name, tell_server},
    server::{refused_subcommand, tell_commands},
};
pub(crate) use errors::{unknown_command, write as write_error, wrong_arity};
use replica::Reading;
pub use table::command_reference;
pub(crate) use table::{COMMANDS, find};
use transaction::Transaction;

use crate::{clients::ClientInfo, metrics::Family, node::Node, worker::OWED_BYTES_PAUSE};

/// State of one client connection that commands see.
pub(crate) struct Session {
    pub client: Arc<ClientInfo>,
    pub keyspace: KeyspaceId,
    pub protocol: Protocol,
    pub authenticated: bool,
    /// The node's lease held when the request came in: what it answers may leave while it does.
    pub has_lease: bool,
    /// What it takes from a node that does not own the data.
    pub reading: Reading,
    pub access: Access,
    pub transaction: Transaction,
}

/// What becomes of the connection after a request.
pub(crate) enum Flow {
    /// Go on with the next request.
    Continue,
    /// Close when the replies are written.
    Close,
    /// Nothing was answered: fetch what these commands read, then run the request again.
    Fetch(Vec<(&'static Command, OwnedArgs)>),
}

/// What a request came to.
pub(crate) struct Executed {
    pub family: Family,
    /// What the reply has to wait for.
    pub gate: Option<Gate>,
    pub flow: Flow,
}

impl Session {
    /// A connection that has just been made.
    pub(crate) fn new(client: Arc<ClientInfo>, node: &Node) -> Session {
        let mut session = Session {
            client,
            keyspace: KeyspaceId(0),
            protocol: Protocol::Resp2,
            authenticated: false,
            has_lease: false,
            reading: Reading::default(),
            access: Access::none(),
            transaction: Transaction::default(),
        };
        session.log_out(node);
        session
    }

    /// Gives up what the session holds of the shard.
    pub(crate) fn end(&mut self, node: &Node) {
        self.transaction.discard(node);
    }
}

/// Runs one request. Its reply is appended to `output` unless the flow is `Fetch`.
pub(crate) fn execute(
    node: &Node,
    session: &mut Session,
    args: Args<'_>,
    output: &mut Vec<u8>,
    tier: Tier,
) -> Executed {
    let start = output.len();
    let mut out = ReplyWriter::new(output, session.protocol);
    let command = match admit(node, session, args) {
        Ok(command) => command,
        Err(_) if is_http(args.name()) => {
            // A web page may have made a browser send this: nothing after it is a command.
            tracing::debug!(client = session.client.id, "sent HTTP to the Redis port: closed");
            return Executed { family: Family::Other, gate: None, flow: Flow::Close };
        }
        Err(error) => {
            session.transaction.refuse();
            errors::write(&mut out, &error);
            return Executed { family: Family::Other, gate: None, flow: Flow::Continue };
        }
    };
    if session.transaction.queue(command, args) {
        out.simple("QUEUED");
        return Executed { family: Family::Other, gate: None, flow: Flow::Continue };
    }
    let family = command.family();
    let fetch = |commands| Executed { family, gate: None, flow: Flow::Fetch(commands) };
    let result = match command.run {
        Run::Session(run) => {
            let mut call = SessionCall { node, session, args, out, tier, gate: None };
            let result = run(&mut call);
            let gate = call.gate;
            result.map(|flow| (gate, Ok(flow)))
        }
        Run::Read(_) | Run::Write(_) | Run::Scan(_) => {
            on_keys(node, command, args, session.keyspace, tier, out)
                .map(|(gate, outcome)| (gate, outcome.map(|()| Flow::Continue)))
        }
    };
    match result {
        Ok((gate, Ok(flow))) => Executed { family, gate, flow },
        Ok((gate, Err(refusal))) => {
            take_back(output, start);
            errors::write(&mut ReplyWriter::new(output, session.protocol), &refusal);
            Executed { family, gate, flow: Flow::Continue }
        }
        Err(error) => {
            take_back(output, start);
            if error.is_miss() {
                let queued = session.transaction.queued();
                if !queued.is_empty() {
                    return fetch(queued);
                }
                return fetch(vec![(command, OwnedArgs::new(args))]);
            }
            errors::write(&mut ReplyWriter::new(output, session.protocol), &error);
            Executed { family, gate: None, flow: Flow::Continue }
        }
    }
}

/// Takes back a reply that was begun, and its room if that was large.
fn take_back(output: &mut Vec<u8>, start: usize) {
    output.truncate(start);
    if output.capacity() > OWED_BYTES_PAUSE {
        output.shrink_to(2 * start);
    }
}

/// Whether an unknown command is the beginning of an HTTP request, as Redis tells it.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

/// Whether the answer could be older than what another owner has acknowledged.
fn reads_data(command: &Command) -> bool {
    let tells_of_data = ["exec", "keyspace", "watch", "backup"].contains(&command.name);
    tells_of_data || !matches!(command.run, Run::Session(_))
}

/// Finds the command and checks what does not depend on keys.
fn admit(
    node: &Node,
    session: &mut Session,
    args: Args<'_>,
) -> Result<&'static Command, CommandError> {
    let command = find(args.name()).ok_or_else(|| errors::unknown_command(args))?;
    if !command.arity_fits(args.len()) {
        return Err(errors::wrong_arity(command.name));
    }
    if command.keys(args).any(|key| key.len() > KEY_BYTES_MAX) {
        return Err(CommandError::text("ERR a key holds at most 64 KiB"));
    }
    session.refresh(node);
    session.check(command, args)?;
    if !session.has_lease && reads_data(command) {
        replica::admit(node, session, command, args)?;
    }
    if session.transaction.is_open() && command.flags.contains(&"no_multi") {
        return Err(CommandError::text("ERR Command not allowed inside a transaction"));
    }
    Ok(command)
}

/// A command's reply: what it waits for, and its refusal if it was refused.
type Answered = (Option<Gate>, Outcome);

/// Sorts out what a command came to: a refusal is an answer (and undoes the command's effects), what
/// the command lacks or a failure stops it.
fn settle(txn: &mut Txn<'_>, result: Outcome) -> Result<Outcome, OpError> {
    match result {
        Err(CommandError::Op(
            stop @ (OpError::Miss(_) | OpError::ColdRange | OpError::Fault(_)),
        )) => Err(stop),
        Err(refusal) => {
            txn.abandon();
            Ok(Err(refusal))
        }
        Ok(()) => Ok(Ok(())),
    }
}

/// Runs a command on keys, outside of a transaction.
fn on_keys(
    node: &Node,
    command: &'static Command,
    args: Args<'_>,
    keyspace: KeyspaceId,
    tier: Tier,
    mut out: ReplyWriter<'_>,
) -> Result<Answered, CommandError> {
    let start = out.len();
    let shard = &node.shard;
    let done = match command.run {
        Run::Read(run) => loop {
            // If the keyspace is emptied meanwhile, some keys may be of before and some of after.
            let generation = shard.generation(keyspace);
            let keys: SmallVec<[_; 2]> =
                command.keys(args).map(|key| shard.key(keyspace, key)).collect();
            let done = shard.read(&keys, tier, |txn| {
                out.truncate(start);
                let mut call = Call { txn, keyspace, keys: &keys, args, out: &mut out, node };
                let result = run(&mut call).and_then(|()| call.check_reply());
                settle(txn, result)
            });
            if shard.generation(keyspace) == generation {
                break done;
            }
        },
        Run::Scan(run) => {
            let position = commands::keys::scan_position(node, keyspace, args)?;
            shard.read_heads(&position, tier, |txn, seen_until| {
                let out = &mut out;
                let mut call = Call { txn, keyspace, keys: &[], args, out, node };
                let result = run(&mut call, seen_until).and_then(|()| call.check_reply());
                settle(txn, result)
            })
        }
        Run::Write(run) => shard.write(tier, |txn| {
            let keys: SmallVec<[_; 2]> =
                command.keys(args).map(|key| txn.key(keyspace, key)).collect();
            let mut call = Call { txn, keyspace, keys: &keys, args, out: &mut out, node };
            let result = run(&mut call).and_then(|()| call.check_reply());
            settle(txn, result)
        }),
        Run::Session(_) => unreachable!("session commands are run by `execute`"),
    };
    let done = done.map_err(CommandError::Op)?;
    Ok((done.gate, done.value))
}

/// Runs a command as a read and throws its effects away: what it reads is then in memory.
pub(crate) fn rehearse(
    node: &Node,
    command: &'static Command,
    args: Args<'_>,
    keyspace: KeyspaceId,
    tier: Tier,
    mut out: ReplyWriter<'_>,
) -> Result<(), CommandError> {
    let shard = &node.shard;
    let keys: SmallVec<[_; 2]> = command.keys(args).map(|key| shard.key(keyspace, key)).collect();
    let start = out.len();
    let done = match command.run {
        Run::Read(run) | Run::Write(run) => shard.read(&keys, tier, |txn| {
            out.truncate(start);
            let mut call = Call { txn, keyspace, keys: &keys, args, out: &mut out, node };
            run(&mut call).map_err(|_| OpError::WrongType)
        }),
        Run::Scan(run) => {
            let position = commands::keys::scan_position(node, keyspace, args)?;
            shard.read_heads(&position, tier, |txn, seen_until| {
                let mut call = Call { txn, keyspace, keys: &[], args, out: &mut out, node };
                run(&mut call, seen_until).map_err(|_| OpError::WrongType)
            })
        }
        // WATCH reads the heads of its keys.
        Run::Session(_) => {
            shard.read(&keys, tier, |txn| keys.iter().try_for_each(|key| txn.head(key).map(|_| ())))
        }
    };
    done.map(|_| ()).map_err(CommandError::Op)
}
