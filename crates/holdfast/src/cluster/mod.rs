//! `holdfast cluster dev`: a whole cluster on loopback, to try things out and to break.
//!
//! Three log servers, an S3 server if there is one, and nodes, each a process of its own that is started again
//! when it ends, as a supervisor would. Everything lies below one folder; Ctrl-C ends it all in order.

mod plan;
mod process;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};

use crate::serve::Signals;
use plan::Plan;
use process::Process;

/// Between two looks at the processes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long anything may take to answer at the start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `holdfast cluster`.
#[derive(Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Run a whole cluster on this machine, for trying things out; Ctrl-C ends it.
    Dev(DevArgs),
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  holdfast cluster dev\n  holdfast cluster dev --dir /tmp/cluster --port 9001 \
                        --nodes 2"
)]
pub struct DevArgs {
    /// Where data and logs are kept; another run goes on with them.
    #[arg(long, value_name = "DIR", default_value = "cluster")]
    dir: PathBuf,
    /// Nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Redis port of the first node; 60 ports from it on are used.
    #[arg(long, default_value_t = 7001, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,
    /// The NATS server to use, 2.15 or later; else HOLDFAST_NATS_SERVER, or the one on the PATH.
    #[arg(long, value_name = "PROGRAM")]
    nats_server: Option<PathBuf>,
    /// The SeaweedFS program to use for S3; else the one on the PATH, or none.
    #[arg(long, value_name = "PROGRAM")]
    weed: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &ClusterArgs) -> Result<(), String> {
    let ClusterCommand::Dev(args) = &args.command;
    let mut signals = Signals::catch()?;
    let plan = Plan::new(args)?;
    let mut cluster = Cluster::default();
    let result = cluster.run(&plan, &mut signals);
    eprintln!("stopping");
    cluster.stop();
    result
}

#[derive(Default)]
struct Cluster {
    /// Log servers and S3, then nodes: they are ended in the opposite order.
    servers: Vec<Process>,
    nodes: Vec<Process>,
}

impl Cluster {
    fn run(&mut self, plan: &Plan, signals: &mut Signals) -> Result<(), String> {
        for command in plan.log_servers()? {
            self.servers.push(Process::start(command)?);
        }
        if let Some(command) = plan.object_store()? {
            self.servers.push(Process::start(command)?);
        }
        eprintln!("{} log servers started, logs in {}", plan::LOG_SERVERS, plan.dir.display());
        for address in plan.log_addresses() {
            let told = || std::net::TcpStream::connect(&address).is_ok();
            if !self.wait(signals, &format!("the log server at {address}"), told)? {
                return Ok(());
            }
        }
        // The first one first, so that it is the owner of a new cluster.
        for (command, nodes) in plan.nodes()?.into_iter().zip(1..) {
            self.nodes.push(Process::start(command)?);
            let seen = || plan.sees_nodes(nodes);
            if !self.wait(signals, "the nodes see each other", seen)? {
                return Ok(());
            }
        }
        if plan.has_store() && !self.wait(signals, "the S3 bucket", || plan.make_bucket())? {
            return Ok(());
        }
        self.tell(plan);
        while signals.stop_by_now().is_none() {
            self.look()?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Starts again what has ended.
    fn look(&mut self) -> Result<(), String> {
        self.servers.iter_mut().chain(&mut self.nodes).try_for_each(Process::look)
    }

    /// Waits for something; false if the user has had enough before.
    fn wait(
        &mut self,
        signals: &mut Signals,
        what: &str,
        is_so: impl Fn() -> bool,
    ) -> Result<bool, String> {
        let began = Instant::now();
        while !is_so() {
            if signals.stop_by_now().is_some() {
                return Ok(false);
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("{what}: not within {} s", PATIENCE.as_secs()));
            }
            self.servers.iter().chain(&self.nodes).try_for_each(Process::must_run)?;
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(true)
    }

    /// What there is, how to use it, and how to break it.
    fn tell(&self, plan: &Plan) {
        for process in self.servers.iter().chain(&self.nodes) {
            println!("{:<8} {:<44} pid {}", process.name(), process.about(), process.pid());
        }
        let (first, port) = (plan.redis(0), plan.port);
        let pid = |processes: &[Process]| processes.first().map_or(0, Process::pid);
        println!("\nTry:");
        println!("  redis-cli -c -p {port} SET greeting hello");
        println!("  holdfast ctl status --node {first}");
        println!("  holdfast ctl hand-over --node {first}");
        if plan.has_store() {
            println!(
                "  holdfast backup --node {first} --to s3://{}/dev    # asked of the owner",
                plan::BUCKET
            );
        }
        println!(
            "\nBreak it (what ends is started again after {} s):",
            process::RESTART_AFTER.as_secs()
        );
        println!(
            "  kill -9 {:<8} # the first node: another one takes over after 2.2 s",
            pid(&self.nodes)
        );
        println!(
            "  kill -STOP {:<5} # it stands still: likewise; kill -CONT, and it answers nothing old",
            pid(&self.nodes)
        );
        println!(
            "  kill -9 {:<8} # a log server: writes go on, after an election if it was the leader",
            pid(&self.servers)
        );
        println!("\nCtrl-C ends all of it.");
    }

    fn stop(&mut self) {
        for process in &mut self.nodes {
            process.ask_to_end();
        }
        self.nodes.iter_mut().for_each(Process::end);
        for process in &mut self.servers {
            process.ask_to_end();
        }
        self.servers.iter_mut().for_each(Process::end);
    }
}

/// A program: the one that is given, or by its name on the PATH.
fn find(given: Option<&Path>, name: &str) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
