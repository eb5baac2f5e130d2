//! MULTI, EXEC, DISCARD, WATCH, UNWATCH; the work is in [`super::super::transaction`].

use super::super::{
    Command, Run,
    command::{ALL_KEYS, COMMAND},
    transaction::{discard, exec, multi, unwatch, watch},
};

const TRANSACTION: Command =
    Command { group: "transactions", flags: &["noscript", "fast"], ..COMMAND };

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "multi",
        run: Run::Session(multi),
        since: "1.2.0",
        summary: "Starts a transaction.",
        ..TRANSACTION
    },
    Command {
        name: "exec",
        run: Run::Session(exec),
        since: "1.2.0",
        flags: &["noscript"],
        summary: "Executes all commands in a transaction, as one record of the log.",
        complexity: "Depends on commands in the transaction",
        ..TRANSACTION
    },
    Command {
        name: "discard",
        run: Run::Session(discard),
        since: "2.0.0",
        summary: "Discards a transaction.",
        complexity: "O(N), when N is the number of queued commands",
        ..TRANSACTION
    },
    Command {
        name: "watch",
        arity: -2,
        key_spec: ALL_KEYS,
        run: Run::Session(watch),
        since: "2.2.0",
        summary: "Monitors changes to keys to determine the execution of a transaction.",
        complexity: "O(1) for every key.",
        ..TRANSACTION
    },
    Command {
        name: "unwatch",
        run: Run::Session(unwatch),
        since: "2.2.0",
        summary: "Forgets about watched keys of a transaction.",
        ..TRANSACTION
    },
];
