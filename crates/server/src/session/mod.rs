//! Sessions: where protocol and shard meet. Requests become ops, results become replies.
//!
//! `execute` takes one request through authentication, queuing and execution and says what its
//! reply has to wait for. It never waits itself: a row that is not in memory gives `Flow::Fetch`,
//! and the caller runs the same request again when the row is there.

mod args;
mod command;
mod commands;
mod errors;
mod table;
mod transaction;

use std::sync::Arc;

use holdfast_base::KeyspaceId;
use holdfast_engine::Tier;
use holdfast_protocol::resp::{Args, Protocol, ReplyWriter};
use holdfast_shard::{Gate, OpError};

pub(crate) use args::OwnedArgs;
pub(crate) use command::{Call, Command, CommandError, Outcome, Run, SessionCall};
pub use table::command_reference;
pub(crate) use table::{COMMANDS, find};
use transaction::Transaction;

use crate::{clients::ClientInfo, metrics::Family, node::Node};

/// State of one client connection that commands see.
pub(crate) struct Session {
    pub client: Arc<ClientInfo>,
    pub keyspace: KeyspaceId,
    pub protocol: Protocol,
    pub authenticated: bool,
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
    pub(crate) fn new(client: Arc<ClientInfo>, authenticated: bool) -> Session {
        Session {
            client,
            keyspace: KeyspaceId(0),
            protocol: Protocol::Resp2,
            authenticated,
            transaction: Transaction::default(),
        }
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
    let command = match admit(session, args) {
        Ok(command) => command,
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
            result.map(|flow| (gate, flow))
        }
        Run::Read(_) | Run::Write(_) | Run::Scan(_) => {
            on_keys(node, command, args, session.keyspace, tier, out)
                .map(|gate| (gate, Flow::Continue))
        }
    };
    match result {
        Ok((gate, flow)) => Executed { family, gate, flow },
        Err(error) => {
            output.truncate(start);
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

/// Finds the command and checks what does not depend on keys.
fn admit(session: &Session, args: Args<'_>) -> Result<&'static Command, CommandError> {
    let command = find(args.name()).ok_or_else(|| errors::unknown_command(args))?;
    if !command.arity_fits(args.len()) {
        return Err(errors::wrong_arity(command.name));
    }
    if !session.authenticated && !command.before_auth {
        return Err(CommandError::Text("NOAUTH Authentication required.".into()));
    }
    Ok(command)
}

/// Runs a command on keys, outside of a transaction.
fn on_keys(
    node: &Node,
    command: &'static Command,
    args: Args<'_>,
    keyspace: KeyspaceId,
    tier: Tier,
    mut out: ReplyWriter<'_>,
) -> Result<Option<Gate>, CommandError> {
    let start = out.len();
    let shard = &node.shard;
    let mut failed = None;
    let mut settle = |result: Outcome| {
        result.map_err(|error| match error {
            CommandError::Op(error) => error,
            text @ CommandError::Text(_) => {
                failed = Some(text);
                // Any error stops the op without effect; the text is what the client sees.
                OpError::WrongType
            }
        })
    };
    let done = match command.run {
        Run::Read(run) => {
            let keys: Vec<_> = command.keys(args).map(|key| shard.key(keyspace, key)).collect();
            shard.read(&keys, tier, |txn| {
                out.truncate(start);
                settle(run(&mut Call {
                    txn,
                    keyspace,
                    keys: &keys,
                    args,
                    out: &mut out,
                    random: &node.random,
                }))
            })
        }
        Run::Scan(run) => {
            let position = commands::keys::scan_position(node, keyspace, args)?;
            shard.read_heads(&position, tier, |txn, seen_until| {
                let mut call =
                    Call { txn, keyspace, keys: &[], args, out: &mut out, random: &node.random };
                settle(run(&mut call, seen_until))
            })
        }
        Run::Write(run) => shard.write(tier, |txn| {
            let keys: Vec<_> = command.keys(args).map(|key| txn.key(keyspace, key)).collect();
            settle(run(&mut Call {
                txn,
                keyspace,
                keys: &keys,
                args,
                out: &mut out,
                random: &node.random,
            }))
        }),
        Run::Session(_) => unreachable!("session commands are run by `execute`"),
    };
    match (failed, done) {
        (Some(text), _) => Err(text),
        (None, Ok(done)) => Ok(done.gate),
        (None, Err(error)) => Err(CommandError::Op(error)),
    }
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
    let keys: Vec<_> = command.keys(args).map(|key| shard.key(keyspace, key)).collect();
    let start = out.len();
    let done = match command.run {
        Run::Read(run) | Run::Write(run) => shard.read(&keys, tier, |txn| {
            out.truncate(start);
            let mut call =
                Call { txn, keyspace, keys: &keys, args, out: &mut out, random: &node.random };
            run(&mut call).map_err(|_| OpError::WrongType)
        }),
        Run::Scan(run) => {
            let position = commands::keys::scan_position(node, keyspace, args)?;
            shard.read_heads(&position, tier, |txn, seen_until| {
                let mut call =
                    Call { txn, keyspace, keys: &[], args, out: &mut out, random: &node.random };
                run(&mut call, seen_until).map_err(|_| OpError::WrongType)
            })
        }
        Run::Session(_) => return Ok(()),
    };
    done.map(|_| ()).map_err(CommandError::Op)
}
