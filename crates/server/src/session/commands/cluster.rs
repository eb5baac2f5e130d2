//! CLUSTER and its companions: as a node of Redis Cluster answers them if the log is replicated, else as a
//! server outside of cluster mode.
//!
//! One shard holds all hash slots, so one node at a time serves them all. Source: the Redis Cluster
//! specification and the pages of the commands.

use std::sync::atomic::Ordering;

use holdfast_base::{SLOTS, Slot};
use holdfast_protocol::resp::{Args, ReplyWriter};

use super::super::{Command, CommandError, Flow, Run, SessionCall, command::COMMAND, replica};
use super::server::refused_subcommand;
use crate::members::{Member, Members, Role, View, node_id};

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
            "status",
        ],
        arity: -2,
        run: Run::Session(cluster),
        summary: "Questions about the cluster: INFO, KEYSLOT, MYID, NODES, SHARDS, SLOTS, and STATUS (all \
                  of it as JSON).",
        ..CLUSTER
    },
    Command {
        name: "asking",
        run: Run::Session(mode),
        flags: &["fast"],
        summary: "Signals that a cluster client is following an -ASK redirect.",
        ..CLUSTER
    },
    Command {
        name: "readonly",
        run: Run::Session(read_only),
        flags: &["fast"],
        summary: "Enables read-only queries for a connection to a replica.",
        ..CLUSTER
    },
    Command {
        name: "readafter",
        arity: 2,
        run: Run::Session(read_after),
        flags: &["fast"],
        since: "0.1.0",
        summary: "As READONLY, on a state that is no older than what TOKEN told on any node.",
        ..CLUSTER
    },
    Command {
        name: "token",
        run: Run::Session(token),
        flags: &["fast"],
        since: "0.1.0",
        summary: "The log's position that what this connection has read and written is covered by, for \
                  READAFTER on any node.",
        ..CLUSTER
    },
    Command {
        name: "readwrite",
        run: Run::Session(read_write),
        flags: &["fast"],
        summary: "Enables read-write queries for a connection to a replica.",
        ..CLUSTER
    },
    Command {
        name: "handover",
        arity: -1,
        run: Run::Session(hand_over),
        flags: &["admin", "dangerous", "noscript", "no_multi"],
        since: "0.1.0",
        summary: "Has this node give its data up to one that stands by, and stand by itself. FORCE: even if \
                  none is seen that is ready for it.",
        complexity: "O(1); what is staged is made durable first.",
        ..CLUSTER
    },
];

fn cluster(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let over_tls = call.session.client.over_tls;
    answer_cluster(call.node.members.as_deref(), over_tls, call.args, &mut call.out)?;
    Ok(Flow::Continue)
}

fn read_only(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.node.members.as_ref().ok_or(DISABLED)?;
    replica::read_only(call.session);
    call.out.ok();
    Ok(Flow::Continue)
}

fn read_after(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.node.members.as_ref().ok_or(DISABLED)?;
    replica::read_after(call.node, call.session, call.args.get(1).unwrap_or_default())?;
    call.out.ok();
    Ok(Flow::Continue)
}

fn read_write(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.node.members.as_ref().ok_or(DISABLED)?;
    replica::read_write(call.session);
    call.out.ok();
    Ok(Flow::Continue)
}

fn token(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let position = call.node.shard.position();
    call.gate = position.gate;
    call.out.bulk(replica::token(position.value).as_bytes());
    Ok(Flow::Continue)
}

/// What a client of a cluster says of its connection. The owner serves all slots anyway.
fn mode(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    call.node.members.as_ref().ok_or(DISABLED)?;
    call.out.ok();
    Ok(Flow::Continue)
}

/// Records that a successor may lag behind: what it replays in some tens of milliseconds.
const WARM_RECORDS: u64 = 20_000;

fn hand_over(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let members = call.node.members.as_ref().ok_or(DISABLED)?;
    if !call.node.owns() {
        return Err(CommandError::text(
            "ERR this node does not own the data: it has nothing to hand over",
        ));
    }
    let word = call.args.get(1).map(<[u8]>::to_ascii_lowercase);
    let forced = match (word.as_deref(), call.args.len()) {
        (None, _) => false,
        (Some(b"force"), 2) => true,
        _ => return Err(super::super::errors::SYNTAX),
    };
    let durable = call.node.shard.durable().0;
    let is_warm = |member: &&Member| {
        member.name != members.name
            && member.is_alive()
            && member.entry.role == Role::StandingBy
            && durable.saturating_sub(member.entry.applied) <= WARM_RECORDS
    };
    if !forced && members.view().members.iter().find(is_warm).is_none() {
        return Err(CommandError::text(
            "ERR no other node stands by that has followed so far: start one, or say FORCE",
        ));
    }
    call.node.hand_over.store(true, Ordering::Release);
    call.out.ok();
    Ok(Flow::Continue)
}

/// Answers a CLUSTER command of a node that serves or stands by. Outside of a cluster KEYSLOT alone.
pub(crate) fn answer_cluster(
    members: Option<&Members>,
    over_tls: bool,
    args: Args<'_>,
    out: &mut ReplyWriter<'_>,
) -> Result<(), CommandError> {
    let sub = args.get(1).unwrap_or_default();
    let lower = sub.to_ascii_lowercase();
    match (lower.as_slice(), args.len()) {
        (b"keyslot", 3) => {
            out.integer(Slot::of(args.get(2).unwrap_or_default()).0.into());
            return Ok(());
        }
        (b"info" | b"nodes" | b"slots" | b"shards" | b"myid" | b"links" | b"status", 2)
        | (b"countkeysinslot", 3)
        | (b"getkeysinslot", 4) => {}
        _ => return Err(refused_subcommand("cluster", sub)),
    }
    let members = members.ok_or(DISABLED)?;
    let view = members.view();
    match lower.as_slice() {
        b"info" => out.verbatim(*b"txt", info(&view).as_bytes()),
        b"nodes" => out.verbatim(*b"txt", nodes(&view, &members.name, over_tls).as_bytes()),
        b"slots" => slots(&view, over_tls, out),
        b"shards" => shards(&view, over_tls, out),
        b"myid" => out.bulk(node_id(&members.name).as_bytes()),
        b"links" => out.array(0),
        b"status" => out.bulk(members.status().to_string().as_bytes()),
        _ => return Err(CommandError::text("ERR keys are not counted by slot here")),
    }
    Ok(())
}

fn info(view: &View) -> String {
    let owner = view.owner();
    let (state, slots) = if owner.is_some() { ("ok", SLOTS) } else { ("fail", 0) };
    let alive = owner.is_some_and(Member::is_alive);
    let (ok, failing) = if alive { (slots, 0) } else { (0, slots) };
    format!(
        "cluster_enabled:1\r\ncluster_state:{state}\r\ncluster_slots_assigned:{slots}\r\n\
         cluster_slots_ok:{ok}\r\ncluster_slots_pfail:{failing}\r\ncluster_slots_fail:0\r\n\
         cluster_known_nodes:{}\r\ncluster_size:{}\r\ncluster_current_epoch:{epoch}\r\n\
         cluster_my_epoch:{epoch}\r\n",
        view.members.len(),
        usize::from(owner.is_some()),
        epoch = view.epoch(),
    )
}

/// A line for each node.
fn nodes(view: &View, own: &str, over_tls: bool) -> String {
    let owner = view.owner();
    let mut text = String::new();
    for member in &view.members {
        let Some((host, port)) = member.address(over_tls) else { continue };
        let owns = owner.is_some_and(|owner| owner.name == member.name);
        let is_alive = member.is_alive();
        let flags = [
            ("myself", member.name == own),
            (if owns { "master" } else { "slave" }, true),
            ("fail?", !is_alive),
        ];
        let flags: Vec<_> = flags.iter().filter(|(_, is)| *is).map(|(flag, _)| *flag).collect();
        let follows = owner.filter(|_| !owns).map_or("-".to_owned(), Member::id);
        let (link, slots) = (
            if is_alive { "connected" } else { "disconnected" },
            if owns { format!(" 0-{}", SLOTS - 1) } else { String::new() },
        );
        text.push_str(&format!(
            "{} {host}:{port}@0,,holdfast-name={} {} {follows} 0 0 {} {link}{slots}\n",
            member.id(),
            member.name,
            flags.join(","),
            view.epoch(),
        ));
    }
    text
}

/// One range, served by the owner; the others that could take it over follow.
fn slots(view: &View, over_tls: bool, out: &mut ReplyWriter<'_>) {
    let serving = view.serving();
    let serving: Vec<_> =
        serving.iter().filter_map(|one| Some((one, one.address(over_tls)?))).collect();
    if view.owner().is_none() || serving.is_empty() {
        return out.array(0);
    }
    out.array(1);
    out.array(2 + serving.len());
    out.integer(0);
    out.integer((SLOTS - 1).into());
    for (member, (host, port)) in serving {
        out.array(4);
        out.bulk(host.as_bytes());
        out.integer(port.into());
        out.bulk(member.id().as_bytes());
        out.array(0);
    }
}

fn shards(view: &View, over_tls: bool, out: &mut ReplyWriter<'_>) {
    let owner = view.owner();
    let listed: Vec<_> = view
        .members
        .iter()
        .filter_map(|member| Some((member, member.address(over_tls)?)))
        .collect();
    out.array(1);
    out.map(2);
    out.bulk(b"slots");
    match owner {
        Some(_) => {
            out.array(2);
            out.integer(0);
            out.integer((SLOTS - 1).into());
        }
        None => out.array(0),
    }
    out.bulk(b"nodes");
    out.array(listed.len());
    for (member, (host, port)) in listed {
        let owns = owner.is_some_and(|owner| owner.name == member.name);
        out.map(7);
        out.bulk(b"id");
        out.bulk(member.id().as_bytes());
        out.bulk(if over_tls { b"tls-port" } else { b"port" });
        out.integer(port.into());
        for (name, text) in [
            ("ip", host),
            ("endpoint", host),
            ("role", if owns { "master" } else { "replica" }),
            ("health", if member.is_alive() { "online" } else { "fail" }),
        ] {
            out.bulk(name.as_bytes());
            out.bulk(text.as_bytes());
        }
        out.bulk(b"replication-offset");
        out.integer(i64::try_from(member.entry.applied).unwrap_or(i64::MAX));
    }
}

/// Sends a client that came for data to where it is. `None`: nobody knows.
pub(crate) fn moved(members: &Members, over_tls: bool, key: Option<&[u8]>) -> Option<CommandError> {
    let (host, port) = members.elsewhere(over_tls)?;
    let slot = key.map_or(0, |key| Slot::of(key).0);
    Some(CommandError::Text(format!("MOVED {slot} {host}:{port}").into()))
}
