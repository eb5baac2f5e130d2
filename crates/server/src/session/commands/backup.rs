//! BACKUP: starts a backup of this node and tells how it stands. The work is the backup thread's.

use holdfast_backup::Location;
use holdfast_shard::OpError;

use super::super::{
    Command, CommandError, Flow, Run, SessionCall, command::COMMAND, errors::SYNTAX,
};
use super::server::refused_subcommand;
use crate::backup::Wish;

pub(crate) const COMMANDS: &[Command] = &[Command {
    name: "backup",
    arity: -2,
    run: Run::Session(backup),
    subcommands: &["prune", "start", "status"],
    flags: &["admin", "dangerous", "noscript", "no_multi"],
    group: "server",
    since: "0.1.0",
    summary: "Backups of this node: START url (file:///folder or s3://bucket/prefix; gives a \
              number), PRUNE url KEEP n (removes all but the newest), STATUS (of the last of both).",
    complexity: "O(1); the work is done in the background.",
    ..COMMAND
}];

fn backup(call: &mut SessionCall<'_>) -> Result<Flow, CommandError> {
    let sub = call.args.get(1).unwrap_or_default();
    match (sub.to_ascii_lowercase().as_slice(), call.args.len()) {
        (b"start", 3) => {
            let wish = Wish::Backup(location(call)?);
            start(call, wish)?;
        }
        (b"prune", 5) => {
            let wish = Wish::Prune(location(call)?, keep(call)?);
            start(call, wish)?;
        }
        (b"status", 2) => status(call),
        _ => return Err(refused_subcommand("backup", sub)),
    }
    Ok(Flow::Continue)
}

fn location(call: &SessionCall<'_>) -> Result<Location, CommandError> {
    let url = call.args.get(2).unwrap_or_default();
    let url = std::str::from_utf8(url).map_err(|_| CommandError::text("ERR not a URL"))?;
    Ok(Location::parse(url).map_err(OpError::from)?)
}

/// The number behind KEEP.
fn keep(call: &SessionCall<'_>) -> Result<usize, CommandError> {
    let (word, number) = (call.args.get(3), call.args.get(4));
    if !word.unwrap_or_default().eq_ignore_ascii_case(b"keep") {
        return Err(SYNTAX);
    }
    let number = holdfast_protocol::number::parse_i64(number.unwrap_or_default());
    number
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or(CommandError::text("ERR at least one backup is kept"))
}

fn start(call: &mut SessionCall<'_>, wish: Wish) -> Result<(), CommandError> {
    let run = call.node.backups.start(wish).map_err(OpError::from)?;
    call.out.integer(run as i64);
    Ok(())
}

fn status(call: &mut SessionCall<'_>) {
    let status = call.node.backups.status();
    let fields = [
        ("run", status.run.to_string()),
        ("what", status.what.to_owned()),
        ("state", status.phase.word().to_owned()),
        ("seconds", format!("{:.3}", status.seconds())),
        ("files", status.files.to_string()),
        ("files_done", status.files_done.to_string()),
        ("bytes", status.bytes.to_string()),
        ("bytes_uploaded", status.bytes_uploaded.to_string()),
        ("bytes_reused", status.bytes_reused.to_string()),
        ("id", status.id.as_ref().map_or(String::new(), ToString::to_string)),
        ("lsn", status.lsn.to_string()),
        ("pruned_backups", status.pruned.backups.to_string()),
        ("pruned_files", status.pruned.files.to_string()),
        ("pruned_bytes", status.pruned.bytes.to_string()),
        ("pruned_archive_objects", status.pruned.archived.to_string()),
        ("url", status.url),
        ("error", status.error),
    ];
    call.out.map(fields.len());
    for (name, value) in fields {
        call.out.bulk(name.as_bytes());
        call.out.bulk(value.as_bytes());
    }
}
