//! `holdfast backup`: has a running node take a backup or remove old ones, and lists what is there.
//!
//! The node does the work (its checkpoint needs the open engine); this asks for it over the Redis
//! protocol and shows how far it is. A password comes from a file or the environment, never from
//! the command line, where every user of the machine could read it.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use holdfast_backup::{Location, list_backups, read_manifest, show_time};
use holdfast_server::{Config, StoreUse, open_store};

use crate::client::NodeArgs;

/// Between two looks at a running backup.
const POLL: Duration = Duration::from_millis(200);
/// Looks between two lines of progress.
const POLLS_A_LINE: u32 = 10;

/// Arguments of `holdfast backup`.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  holdfast backup --to file:///var/backups/holdfast\n  \
                  holdfast backup --node 10.0.0.5:6379 --user admin --password-file pw --to \
                  s3://bucket/node-5\n  holdfast backup list s3://bucket/node-5\n  \
                  holdfast backup --data ./data --to file:///var/backups/holdfast\n  \
                  holdfast backup prune file:///var/backups/holdfast --keep 7\n\n\
                  The node reads AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and \
                  AWS_ENDPOINT_URL from its own environment; `list` from this one's."
)]
pub struct BackupArgs {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    /// Where backups go: file:///absolute/folder (on the node's machine) or s3://bucket/prefix.
    #[arg(long, value_name = "URL", required = true)]
    to: Option<String>,
    /// Back up the data folder of a stopped node instead of asking a running one.
    #[arg(long, value_name = "DIR", conflicts_with = "node")]
    data: Option<PathBuf>,
    #[command(flatten)]
    node: NodeArgs,
}

#[derive(Subcommand)]
enum BackupCommand {
    /// List the backups at a URL, oldest first.
    List {
        /// Where they are.
        #[arg(value_name = "URL")]
        url: String,
    },
    /// Have the node remove all backups at a URL but the newest, and what only those needed.
    Prune {
        /// Where they are. All of them are taken for this node's.
        #[arg(value_name = "URL")]
        url: String,
        /// How many stay.
        #[arg(long, value_name = "N")]
        keep: NonZeroUsize,
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// Takes a backup and prints its name, or lists, or prunes.
pub fn run(args: &BackupArgs) -> Result<(), String> {
    match &args.command {
        None => {
            let to = args.to.as_deref().unwrap_or_default();
            match &args.data {
                Some(data) => back_up_stopped(data, to),
                None => back_up(&args.node, to),
            }
        }
        Some(BackupCommand::List { url }) => list(url),
        Some(BackupCommand::Prune { url, keep, node }) => prune(node, url, *keep),
    }
}

fn back_up(node: &NodeArgs, url: &str) -> Result<(), String> {
    let done = ask(node, url, &["BACKUP", "START", url])?;
    println!("{}", done.text("id"));
    eprintln!(
        "lsn {}: {} bytes uploaded, {} reused, {} s",
        done.text("lsn"),
        done.text("bytes_uploaded"),
        done.text("bytes_reused"),
        done.text("seconds")
    );
    Ok(())
}

fn back_up_stopped(data: &Path, url: &str) -> Result<(), String> {
    let told = |error: holdfast_base::Error| error.to_string();
    let location = Location::parse(url).map_err(told)?;
    let node_name = "stopped".to_owned();
    let config = Config { data: data.to_owned(), node_name, ..Config::default() };
    let manifest = holdfast_server::back_up_stopped(&config, &location, &mut |_| {});
    println!("{}", manifest.map_err(told)?.id);
    Ok(())
}

fn prune(node: &NodeArgs, url: &str, keep: NonZeroUsize) -> Result<(), String> {
    let done = ask(node, url, &["BACKUP", "PRUNE", url, "KEEP", &keep.to_string()])?;
    println!(
        "removed {} backups, {} files of {} bytes, {} objects of the archive",
        done.text("pruned_backups"),
        done.text("pruned_files"),
        done.text("pruned_bytes"),
        done.text("pruned_archive_objects")
    );
    Ok(())
}

/// What BACKUP STATUS says.
struct Status(BTreeMap<String, String>);

impl Status {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Asks the node for something and waits until it is done.
fn ask(node: &NodeArgs, url: &str, request: &[&str]) -> Result<Status, String> {
    // A wrong URL is told before anything connects.
    Location::parse(url).map_err(|error| error.to_string())?;
    let mut client = node.connect(&node.node)?;
    let run = client.call(request)?.number()?.to_string();
    let mut polls = 0;
    loop {
        let status = Status(client.call(&["BACKUP", "STATUS"])?.map()?);
        if status.text("run") != run {
            return Err("something else has been started since: see BACKUP STATUS".into());
        }
        match status.text("state") {
            "running" => {}
            "done" => return Ok(status),
            _ => {
                let (what, error) = (status.text("what"), status.text("error"));
                return Err(format!("the {what} failed: {error}"));
            }
        }
        polls += 1;
        if polls % POLLS_A_LINE == 0 {
            let (done, files) = (status.text("files_done"), status.text("files"));
            eprintln!("{done} of {files} files, {} s", status.text("seconds"));
        }
        std::thread::sleep(POLL);
    }
}

fn list(url: &str) -> Result<(), String> {
    let told = |error: holdfast_base::Error| error.to_string();
    let location = Location::parse(url).map_err(told)?;
    let store = open_store(&location, StoreUse::Reading).map_err(told)?;
    for id in list_backups(&*store).map_err(told)? {
        match read_manifest(&*store, &id) {
            Ok(manifest) => println!(
                "{id}  node {}  lsn {}  written {}  {} files  {} bytes",
                manifest.node,
                manifest.lsn,
                show_time(manifest.time.ms()),
                manifest.files.len(),
                manifest.bytes()
            ),
            Err(error) => println!("{id}  unusable: {error}"),
        }
    }
    Ok(())
}
