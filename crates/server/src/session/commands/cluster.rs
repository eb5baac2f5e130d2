//! CLUSTER and its companions, as a server outside of cluster mode answers them.

use holdfast_base::Slot;

use super::super::{Command, CommandError, Flow, Run, SessionCall, command::COMMAND};
use super::server::refused_subcommand;

const CLUSTER: Command = Command { group: "cluster", since: "3.0.0", ..COMMAND };
const DISABLED: CommandError = CommandError::text("ERR This instance has cluster support disabled");

pub(crate) const COMMANDS: &[Command] = &[
    Command {
        name: "cluster",
        subcommands: &[
            "countkeysinslot",
            "getkeysinslot",
            "info",
            "keyslot",
            "links",
            "myid",
            "nodes",
            "shards",
            "slots",
        ],
        arity: -2,
        run: Run::Session(cluster),
        summary: "Questions about the cluster: INFO, KEYSLOT.",
        ..CLUSTER
    },
    Command {
        name: "asking",
        run: Run::Session(|_| Err(DISABLED)),
        flags: &["fast"],
        summary: "Signals that a cluster client is following an -ASK redirect.",
        ..CLUSTER
    },
    Command {
        name: "readonly",
        run: Run::Session(|_| Err(DISABLED)),
        flags: &["fast"],
        summary: "Enables read-only queries for a connection to a replica.",
        ..CLUSTER
    },
    Command {
        name: "readwrite",
        run: Run::Session(|_| Err(DISABLED)),
        flags: &["fast"],
        summary: "Enables read-write queries for a connection to a replica.",
        ..CLUSTER
    },
];

fn cluster(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"keyslot", 3) => {
            let slot = Slot::of(call.args.get(2).unwrap_or_default());
            call.out.integer(slot.0.into());
        }
        (b"info" | b"nodes" | b"slots" | b"shards" | b"myid" | b"links", 2)
        | (b"countkeysinslot", 3)
        | (b"getkeysinslot", 4) => return Err(DISABLED),
        _ => return Err(refused_subcommand("cluster", sub)),
    }
    Ok(Flow::Continue)
}
