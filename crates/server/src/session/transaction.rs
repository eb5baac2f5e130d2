//! MULTI, EXEC and WATCH: commands are queued, then run as one record or not at all.

use holdfast_engine::Tier;
use holdfast_protocol::resp::{Args, ReplyWriter};
use holdfast_shard::{OpError, WatchedKey};

use super::{
    Call, Command, CommandError, Flow, OwnedArgs, Run, SessionCall, command::Outcome, errors,
};
use crate::node::Node;

/// Bytes of queued commands: a transaction is one record, and its record has the same bound.
const QUEUED_BYTES_MAX: usize = holdfast_base::limits::RECORD_BYTES_MAX;

/// A session's transaction.
#[derive(Default)]
pub(crate) struct Transaction {
    open: bool,
    /// A command was refused while queuing: EXEC will refuse.
    refused: bool,
    queue: Vec<(&'static Command, OwnedArgs)>,
    queued_bytes: usize,
    watched: Vec<WatchedKey>,
}

impl Transaction {
    /// Queues the command if a transaction is open and the command does not end it.
    pub(super) fn queue(&mut self, command: &'static Command, args: Args<'_>) -> bool {
        let ends = ["exec", "discard", "multi", "watch", "quit", "reset"].contains(&command.name);
        if !self.open || ends {
            return false;
        }
        let args = OwnedArgs::new(args);
        self.queued_bytes += args.bytes();
        if self.queued_bytes > QUEUED_BYTES_MAX {
            self.refused = true;
            self.queue.clear();
        } else {
            self.queue.push((command, args));
        }
        true
    }

    /// A command was refused: an open transaction cannot be executed any more.
    pub(super) fn refuse(&mut self) {
        self.refused |= self.open;
    }

    /// What EXEC would run.
    pub(super) fn queued(&self) -> Vec<(&'static Command, OwnedArgs)> {
        self.queue.clone()
    }

    /// Ends the transaction and all watching.
    pub(super) fn discard(&mut self, node: &Node) {
        node.shard.unwatch(&std::mem::take(&mut self.watched));
        *self = Transaction::default();
    }
}

pub(super) fn multi(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let transaction = &mut call.session.transaction;
    if transaction.open {
        return Err(CommandError::text("ERR MULTI calls can not be nested"));
    }
    transaction.open = true;
    call.out.ok();
    Ok(Flow::Continue)
}

pub(super) fn discard(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    if !call.session.transaction.open {
        return Err(CommandError::text("ERR DISCARD without MULTI"));
    }
    call.session.transaction.discard(call.node);
    call.out.ok();
    Ok(Flow::Continue)
}

pub(super) fn watch(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    if call.session.transaction.open {
        return Err(CommandError::text("ERR WATCH inside MULTI is not allowed"));
    }
    for name in call.args.iter().skip(1) {
        let key = call.node.shard.key(call.session.keyspace, name);
        let watched = call.node.shard.watch(&key, call.tier)?;
        call.session.transaction.watched.push(watched);
    }
    call.out.ok();
    Ok(Flow::Continue)
}

pub(super) fn unwatch(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let watched = std::mem::take(&mut call.session.transaction.watched);
    call.node.shard.unwatch(&watched);
    call.out.ok();
    Ok(Flow::Continue)
}

pub(super) fn exec(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let node = call.node;
    if !call.session.transaction.open {
        return Err(CommandError::text("ERR EXEC without MULTI"));
    }
    if call.session.transaction.refused {
        call.session.transaction.discard(node);
        let text = "EXECABORT Transaction discarded because of previous errors.";
        return Err(CommandError::text(text));
    }
    let watched = std::mem::take(&mut call.session.transaction.watched);
    let queue = std::mem::take(&mut call.session.transaction.queue);
    call.session.transaction.open = false;
    let before = (call.session.keyspace, call.session.protocol);
    let done = node.shard.write_unless_changed(&watched, call.tier, |txn| {
        call.out.array(queue.len());
        for (command, args) in &queue {
            run_queued(call.node, call.session, &mut call.out, txn, command, args)?;
        }
        Ok(())
    });
    match done {
        Ok(done) => {
            if done.value.is_none() {
                call.out.null_array();
            }
            call.gate = done.gate;
            call.session.transaction.watched = watched;
            call.session.transaction.discard(node);
            Ok(Flow::Continue)
        }
        Err(error) => {
            let error = CommandError::Op(error);
            (call.session.keyspace, call.session.protocol) = before;
            call.session.transaction.watched = watched;
            if error.is_miss() {
                // Nothing happened: the same EXEC runs again when the rows are in memory.
                call.session.transaction.queue = queue;
                call.session.transaction.open = true;
            } else {
                call.session.transaction.discard(node);
            }
            Err(error)
        }
    }
}

/// Runs one queued command. Its refusal is its reply; only what stops the whole is an error.
fn run_queued(
    node: &Node,
    session: &mut super::Session,
    out: &mut ReplyWriter<'_>,
    txn: &mut holdfast_shard::Txn<'_>,
    command: &'static Command,
    args: &OwnedArgs,
) -> Result<(), OpError> {
    let args = args.view();
    let mut reply = Vec::new();
    let mut writer = ReplyWriter::new(&mut reply, session.protocol);
    let result: Outcome = match command.run {
        Run::Read(run) | Run::Write(run) => {
            let keyspace = session.keyspace;
            let keys: Vec<_> = command.keys(args).map(|key| txn.key(keyspace, key)).collect();
            run(&mut Call {
                txn,
                keyspace,
                keys: &keys,
                args,
                out: &mut writer,
                random: &node.random,
            })
        }
        Run::Scan(run) => {
            let keyspace = session.keyspace;
            run(
                &mut Call {
                    txn,
                    keyspace,
                    keys: &[],
                    args,
                    out: &mut writer,
                    random: &node.random,
                },
                None,
            )
        }
        Run::Session(run) => {
            let mut call =
                SessionCall { node, session, args, out: writer, tier: Tier::Cached, gate: None };
            run(&mut call).map(|_| ())
        }
    };
    match result {
        Ok(()) => out.raw(&reply),
        Err(error) if error.is_miss() => {
            return Err(match error {
                CommandError::Op(error) => error,
                CommandError::Text(_) => OpError::ColdRange,
            });
        }
        Err(CommandError::Op(OpError::Fault(fault))) => return Err(OpError::Fault(fault)),
        Err(error) => errors::write(out, &error),
    }
    Ok(())
}
