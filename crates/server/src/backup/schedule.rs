//! Backups that a node takes by itself, at `backup.url`: when one is due, and what they cover.
//!
//! What is there is read from the store when the node begins, so a new owner goes on where the one before was.
//! A failure is told and counted like any other backup's, and tried again.

use std::time::{Duration, Instant};

use holdfast_backup::{Location, newest_of};
use holdfast_base::{Error, Lsn};

use super::{Phase, StoreUse, Wish, open_store};
use crate::{data::SHARD, node::Node};

/// Between two tries of a store that fails.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// What comes next.
enum Next {
    /// Find out what is there.
    Look,
    Backup,
    /// Remove old ones.
    Prune,
}

/// See the module's head.
pub(super) struct Schedule {
    location: Location,
    next: Next,
    /// Not before.
    due: Instant,
    /// What was staged in all when the last one was begun.
    log_bytes: u64,
    /// The wish that this has left last.
    run: u64,
}

impl Schedule {
    /// `None` if none are wanted.
    pub(super) fn new(node: &Node) -> Option<Schedule> {
        let url = &node.config.backup_url;
        // Checked when the settings were read.
        let location = Location::parse(url).ok().filter(|_| !url.is_empty())?;
        Some(Schedule { location, next: Next::Look, due: Instant::now(), log_bytes: 0, run: 0 })
    }

    /// A backup was taken, whoever asked for it.
    pub(super) fn note(&self, node: &Node, location: &Location, lsn: Lsn) {
        if *location == self.location {
            node.backups.cover(lsn);
        }
    }

    /// Leaves a wish if it is time for one.
    pub(super) fn step(&mut self, node: &Node) {
        let status = node.backups.status();
        if status.phase == Phase::Running {
            return;
        }
        let (now, every) = (Instant::now(), Duration::from_secs(node.config.backup_every_seconds));
        if self.run > 0 && status.run == self.run {
            // The last wish was this one's, and it has ended.
            self.run = 0;
            (self.next, self.due) = match (&self.next, status.phase) {
                (Next::Backup, Phase::Done) if node.config.backup_keep > 0 => (Next::Prune, now),
                (Next::Prune, Phase::Done) | (Next::Backup, Phase::Done) => {
                    (Next::Backup, now + every)
                }
                // It is tried again; what was stored is not stored twice.
                (Next::Prune, _) => (Next::Prune, now + RETRY_AFTER),
                _ => (Next::Backup, now + RETRY_AFTER),
            };
        }
        let staged = node.shard.staged_bytes_total();
        let has_grown = staged - self.log_bytes >= node.config.backup_every_log_bytes.0;
        let is_early = matches!(self.next, Next::Backup) && has_grown && self.log_bytes > 0;
        if now < self.due && !is_early {
            return;
        }
        let wish = match self.next {
            Next::Look => return self.look(node, now, every),
            Next::Backup => Wish::Backup(self.location.clone()),
            Next::Prune => Wish::Prune(self.location.clone(), node.config.backup_keep),
        };
        // Refused only if somebody else was faster: the next step tries again.
        if let Ok(run) = node.backups.start(wish) {
            self.run = run;
            if matches!(self.next, Next::Backup) {
                self.log_bytes = staged.max(1);
            }
        }
    }

    fn look(&mut self, node: &Node, now: Instant, every: Duration) {
        match self.newest(node) {
            Ok(newest) => {
                let (taken_at_ms, lsn) = newest.unwrap_or_default();
                node.backups.cover(lsn);
                let age =
                    Duration::from_millis((node.wall_us() / 1_000).saturating_sub(taken_at_ms));
                self.log_bytes = node.shard.staged_bytes_total().max(1);
                (self.next, self.due) = (Next::Backup, now + every.saturating_sub(age));
            }
            Err(error) => {
                tracing::warn!(%error, location = %self.location, "which backups there are is not known");
                self.due = now + RETRY_AFTER;
            }
        }
    }

    fn newest(&self, node: &Node) -> Result<Option<(u64, Lsn)>, Error> {
        let store = open_store(&self.location, StoreUse::Storing(&node.config.data))?;
        let bounds = node.log.bounds(SHARD);
        let newest = newest_of(&*store, bounds.incarnation, (bounds.first, bounds.next))?;
        Ok(newest.map(|manifest| (manifest.taken_at_ms, manifest.lsn)))
    }
}
