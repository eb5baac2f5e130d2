//! `holdfast ctl`: what the nodes of a cluster are doing, and handing the data over.
//!
//! Any node answers for all: it is asked with CLUSTER STATUS over the Redis protocol, logged in as a user of
//! the database is.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Deserialize;

use crate::client::NodeArgs;

/// Between two looks whether another node has taken over, and how long to look.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `holdfast ctl`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  holdfast ctl status\n  holdfast ctl status --node 10.0.0.5:6379 --json\n  \
                        holdfast ctl hand-over --user admin --password-file pw"
)]
pub struct CtlArgs {
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand)]
enum CtlCommand {
    /// Nodes, shards, epochs, the owner's lease and log, and how far each node has followed.
    Status {
        #[command(flatten)]
        node: NodeArgs,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Have the owner give its data to a node that stands by; it stands by itself then.
    HandOver {
        #[command(flatten)]
        node: NodeArgs,
        /// Even if no node is seen that has followed so far.
        #[arg(long)]
        force: bool,
    },
}

/// What CLUSTER STATUS says (docs/formats.md, "Cluster entries").
#[derive(Deserialize)]
struct Status {
    shards: Vec<Shard>,
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Shard {
    shard: u16,
    epoch: u64,
    owner: Option<String>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    role: String,
    owns: bool,
    alive: bool,
    silent_ms: u64,
    applied: u64,
    lease_held: bool,
    log_takes_writes: bool,
    redis: Option<String>,
    redis_tls: Option<String>,
    version: String,
}

/// Runs it.
pub fn run(args: &CtlArgs) -> Result<(), String> {
    match &args.command {
        CtlCommand::Status { node, json } => {
            let text = ask(node, &node.node)?;
            if *json {
                println!("{text}");
                return Ok(());
            }
            print!("{}", parse(&text)?.table());
            Ok(())
        }
        CtlCommand::HandOver { node, force } => hand_over(node, *force),
    }
}

fn ask(args: &NodeArgs, node: &str) -> Result<String, String> {
    args.connect(node)?.call(&["CLUSTER", "STATUS"])?.text()
}

fn parse(text: &str) -> Result<Status, String> {
    serde_json::from_str(text).map_err(|error| format!("CLUSTER STATUS: {error}"))
}

impl Node {
    fn address(&self, over_tls: bool) -> Option<&str> {
        let (first, second) =
            if over_tls { (&self.redis_tls, &self.redis) } else { (&self.redis, &self.redis_tls) };
        first.as_deref().or(second.as_deref())
    }
}

impl Status {
    fn table(&self) -> String {
        let mut text = String::new();
        for Shard { shard, epoch, owner } in &self.shards {
            let owner = owner.as_deref().unwrap_or("nobody");
            text.push_str(&format!("shard {shard}: owned by {owner} since epoch {epoch}\n"));
        }
        let head =
            ["NODE", "ROLE", "STATE", "LEASE", "LOG", "APPLIED", "BEHIND", "REDIS", "VERSION"];
        let mut rows = vec![head.map(str::to_owned)];
        let ahead = self.nodes.iter().map(|node| node.applied).max().unwrap_or(0);
        for node in &self.nodes {
            let state = if node.alive {
                "alive".to_owned()
            } else {
                format!("silent for {} s", node.silent_ms / 1_000)
            };
            let of_owner = |is: bool, yes: &str, no: &str| match (node.owns, is) {
                (false, _) => "-".to_owned(),
                (true, is) => if is { yes } else { no }.to_owned(),
            };
            rows.push([
                node.name.clone(),
                if node.owns { "owner".to_owned() } else { node.role.clone() },
                state,
                of_owner(node.lease_held, "held", "lapsed"),
                of_owner(node.log_takes_writes, "ok", "failed"),
                node.applied.to_string(),
                (ahead - node.applied).to_string(),
                node.address(false).unwrap_or("-").to_owned(),
                node.version.clone(),
            ]);
        }
        let widths: Vec<usize> = (0..head.len())
            .map(|at| rows.iter().map(|row| row.get(at).map_or(0, String::len)).max().unwrap_or(0))
            .collect();
        for row in rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    fn owner(&self) -> Option<(&Node, u64)> {
        let node = self.nodes.iter().find(|node| node.owns)?;
        Some((node, self.shards.first()?.epoch))
    }
}

fn hand_over(args: &NodeArgs, force: bool) -> Result<(), String> {
    let over_tls = args.tls.is_some();
    let before = parse(&ask(args, &args.node)?)?;
    let Some((owner, epoch)) = before.owner() else {
        return Err("no node owns the data at the moment: see `holdfast ctl status`".to_owned());
    };
    let address = owner.address(over_tls).ok_or("the owner tells no address")?;
    let request: &[&str] = if force { &["HANDOVER", "FORCE"] } else { &["HANDOVER"] };
    let began = Instant::now();
    args.connect(address)?.call(request)?;
    eprintln!("{} gives up what it has owned since epoch {epoch}", owner.name);
    let others = || before.nodes.iter().filter(|node| node.alive && node.name != owner.name);
    while began.elapsed() < PATIENCE {
        for node in others().filter_map(|node| node.address(over_tls)) {
            // A node that takes over is busy for a moment.
            let Ok(after) = ask(args, node).and_then(|text| parse(&text)) else { continue };
            if let Some((new, since)) = after.owner()
                && since > epoch
            {
                println!("{} owns it since epoch {since}", new.name);
                eprintln!("after {:.2} s", began.elapsed().as_secs_f64());
                return Ok(());
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Err(format!("no other node has taken over within {} s", PATIENCE.as_secs()))
}
