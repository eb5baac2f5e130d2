//! MULTI, EXEC and WATCH: commands are queued, then run as one record or not at all.

use holdfast_engine::Tier;
use holdfast_protocol::resp::{Args, ReplyWriter};
use holdfast_shard::{OpError, WatchedKey};

use super::{
    Call, Command, CommandError, Flow, OwnedArgs, Run, SessionCall,
    command::{Outcome, check_reply},
    errors,
};
use crate::node::Node;

/// Bytes of queued commands: a transaction is one record, and its record has the same bound.
const QUEUED_BYTES_MAX: usize = holdfast_base::limits::RECORD_BYTES_MAX;
/// What a queued command costs besides its arguments' bytes: vectors and ranges.
const QUEUED_COMMAND_BYTES: usize = 256;
/// Keys that one connection may watch; each write looks them up.
const WATCHED_MAX: usize = 10_000;

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
        if self.refused {
            return true;
        }
        let args = OwnedArgs::new(args);
        self.queued_bytes += args.bytes() + QUEUED_COMMAND_BYTES;
        if self.queued_bytes > QUEUED_BYTES_MAX {
            self.refused = true;
            self.queue = Vec::new();
            self.queued_bytes = 0;
        } else {
            self.queue.push((command, args));
        }
        true
    }

    /// A command was refused: an open transaction cannot be executed any more.
    pub(super) fn refuse(&mut self) {
        self.refused |= self.open;
    }

    /// Whether commands are queued.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Bytes that the queued commands hold.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
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
    let before = call.session.transaction.watched.len();
    if before + call.args.len() > WATCHED_MAX {
        return Err(CommandError::text("ERR a connection may watch at most 10000 keys"));
    }
    for name in call.args.iter().skip(1) {
        let key = call.node.shard.key(call.session.keyspace, name);
        match call.node.shard.watch(&key, call.tier) {
            Ok(watched) => call.session.transaction.watched.push(watched),
            Err(error) => {
                // The whole command runs again, or is refused: what it watched so far goes.
                let own = call.session.transaction.watched.split_off(before);
                call.node.shard.unwatch(&own);
                return Err(error.into());
            }
        }
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
    let told = tell_ahead(call, &queue);
    let done = node.shard.write_unless_changed(&watched, call.tier, |txn| {
        call.out.array(queue.len());
        for ((command, args), told) in queue.iter().zip(&told) {
            match told {
                Some(reply) => call.out.raw(reply),
                None => run_queued(call.node, call.session, &mut call.out, txn, command, args)?,
            }
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
            call.session.look_again();
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

/// The replies of those queued commands that ask the shard for figures: they take its lock, which
/// EXEC holds while it runs, so they are answered before.
fn tell_ahead(
    call: &mut SessionCall<'_>,
    queue: &[(&'static Command, OwnedArgs)],
) -> Vec<Option<Vec<u8>>> {
    let mut tell = |command: &Command, args: Args<'_>| {
        let Run::Session(run) = command.run else { return None };
        if command.name != "info" {
            return None;
        }
        let (node, session, tier) = (call.node, &mut *call.session, call.tier);
        let mut reply = Vec::new();
        let protocol = session.protocol;
        let out = ReplyWriter::new(&mut reply, protocol);
        let result = session.check(command, args).and_then(|()| {
            run(&mut SessionCall { node, session, args, out, tier, gate: None }).map(|_| ())
        });
        if let Err(error) = result {
            reply.clear();
            errors::write(&mut ReplyWriter::new(&mut reply, protocol), &error);
        }
        Some(reply)
    };
    queue.iter().map(|(command, args)| tell(command, args.view())).collect()
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
    // Rights may have changed since the command was queued.
    if let Err(denied) = session.check(command, args) {
        errors::write(out, &denied);
        return Ok(());
    }
    let mut reply = Vec::new();
    let mut writer = ReplyWriter::new(&mut reply, session.protocol);
    let result: Outcome = match command.run {
        Run::Read(run) | Run::Write(run) => {
            let keyspace = session.keyspace;
            let keys: Vec<_> = command.keys(args).map(|key| txn.key(keyspace, key)).collect();
            run(&mut Call { txn, keyspace, keys: &keys, args, out: &mut writer, node })
        }
        Run::Scan(run) => {
            let keyspace = session.keyspace;
            run(&mut Call { txn, keyspace, keys: &[], args, out: &mut writer, node }, None)
        }
        Run::Session(run) => {
            let mut call =
                SessionCall { node, session, args, out: writer, tier: Tier::Cached, gate: None };
            run(&mut call).map(|_| ())
        }
    };
    match result {
        Ok(()) => {
            check_reply(node, out.len() + reply.len())?;
            out.raw(&reply);
        }
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
