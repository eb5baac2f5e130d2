//! `holdfast`: one binary for everything. Each subcommand is a file.
//!
//! Standard output carries results only; logs and progress go to standard error. Exit code 0 means
//! done, 1 a failure that the message explains, 2 wrong usage.

mod backup;
mod bench;
mod check;
mod client;
mod cluster;
mod config;
mod ctl;
mod restore;
mod serve;
mod transport;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// RocksDB and Rust share one allocator, so that memory does not fragment twice.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The allocator gives freed memory back after a second, by a thread of its own, so that the memory
/// setting holds after a peak as well. The name is jemalloc's (its manual, "malloc_conf").
#[expect(unsafe_code, reason = "jemalloc reads its options from a symbol of this name")]
#[unsafe(export_name = "malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8] =
    b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

/// Gives all freed pages back to the system, in every arena (jemalloc's manual, "arena.<i>.purge").
fn give_back_freed_memory() {
    use std::ptr::null_mut;
    let name = c"arena.4096.purge";
    // SAFETY: the name ends with a zero, and this control neither reads nor writes.
    #[expect(unsafe_code, reason = "jemalloc's controls are a C function")]
    unsafe {
        tikv_jemalloc_sys::mallctl(name.as_ptr(), null_mut(), null_mut(), null_mut(), 0);
    }
}

/// A durable store that Redis clients speak to: every acknowledged write survives.
#[derive(Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Serve(serve::ServeArgs),
    /// Have a running node take a backup or remove old ones, or list those that there are.
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty folder, up to a record or a time if wanted.
    Restore(restore::RestoreArgs),
    /// Verify a stopped node's data: every checksum, and that log and engine agree.
    Check(check::CheckArgs),
    /// Run a whole cluster on this machine, for trying things out.
    Cluster(cluster::ClusterArgs),
    /// Show the nodes of a cluster, or have its owner hand the data over.
    Ctl(ctl::CtlArgs),
    /// Print the effective configuration, or the reference page.
    Config(config::ConfigArgs),
    /// Generate load against this server or a peer, and measure.
    Bench(Box<bench::BenchArgs>),
    /// Print the reference page of all commands.
    Commands,
    /// Print the reference page of all metrics.
    Metrics,
}

fn main() -> ExitCode {
    holdfast_server::give_back_freed_memory_by(give_back_freed_memory);
    let result = match Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Ctl(args) => ctl::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Bench(args) => bench::run(*args),
        Command::Commands => {
            print!("{}", holdfast_server::command_reference());
            Ok(())
        }
        Command::Metrics => {
            print!("{}", holdfast_server::metrics_reference());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast: {error}");
            ExitCode::FAILURE
        }
    }
}
