//! `holdfast restore`: from a backup, and the archive behind it, into an empty folder.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use holdfast_backup::{BackupId, Location, Step, Target, parse_time, show_time};
use holdfast_base::Lsn;
use holdfast_server::RestoreRequest;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Arguments of `holdfast restore`.
#[derive(Args)]
#[command(after_help = "Examples:\n  holdfast restore --from file:///var/backups/holdfast --data \
                        ./data\n  holdfast restore --from s3://bucket/node-5 --to-time \
                        2026-11-25T22:45:01Z --data ./data\n\n\
                        Nothing is reported restored before every checksum was verified. The data \
                        begins a new life: keep the old folder away from clients.")]
pub struct RestoreArgs {
    /// Where the backups are: file:///absolute/folder or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Which backup, as `holdfast backup list` names it [default: the newest that fits].
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// Go on through the archive up to this record.
    #[arg(long, value_name = "N", group = "target")]
    to_lsn: Option<u64>,
    /// Go on through the archive up to this time, as in 2026-11-25T22:45:01Z.
    #[arg(long, value_name = "TIME", group = "target")]
    to_time: Option<String>,
    /// Go on through the archive to its end.
    #[arg(long, group = "target")]
    to_end: bool,
    /// The folder; it must be empty or absent.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

impl RestoreArgs {
    fn target(&self) -> Result<Target, String> {
        Ok(match (self.to_lsn, &self.to_time, self.to_end) {
            (Some(lsn), _, _) => Target::Lsn(Lsn(lsn)),
            (_, Some(time), _) => {
                Target::Time(parse_time(time).map_err(|error| error.to_string())?)
            }
            (_, _, true) => Target::End,
            _ => Target::Backup,
        })
    }
}

/// Restores, verifies, and only then says so.
pub fn run(args: &RestoreArgs) -> Result<(), String> {
    let told = |error: holdfast_base::Error| error.to_string();
    let from = Location::parse(&args.from).map_err(told)?;
    let backup = args.backup.as_deref().map(BackupId::parse).transpose().map_err(told)?;
    let request = RestoreRequest {
        from: &from,
        backup: backup.as_ref(),
        target: args.target()?,
        data: &args.data,
    };
    let (mut moved, mut planned, mut spoke) = (0, 0, Instant::now());
    let (restored, report) = holdfast_server::restore(&request, &mut |step| {
        match step {
            Step::Moved(bytes) => moved += bytes,
            Step::Planned { bytes, .. } => planned = bytes,
            Step::Transferred(_) | Step::Reused(_) | Step::Replayed(_) => {}
        }
        if spoke.elapsed() > PROGRESS_EVERY {
            spoke = Instant::now();
            eprintln!("{moved} bytes of a backup of {planned}");
        }
    })
    .map_err(told)?;
    for line in report {
        println!("{line}");
    }
    println!(
        "restored backup {} and {} archived records: up to record {}, written {}",
        restored.id,
        restored.replayed,
        restored.lsn,
        show_time(restored.time.ms())
    );
    Ok(())
}
