//! A view of RocksDB at one moment: point reads, and scans by one iterator each.
//!
//! It owns a handle of the database, so it may travel to another thread and outlive the engine's
//! own handle. Iterators live within a call of `scan` only, so none is left open by accident.

use std::sync::Arc;

use rocksdb::{DB, ReadOptions};

use super::raw::OwnedSnapshot;
use super::{is_incomplete, lookup, multi_get, read_options};
use crate::EngineError;
use crate::traits::{Lookup, ScanEnd, Snapshot, Tier, Visit};

pub(super) struct RocksSnapshot {
    owned: OwnedSnapshot,
}

impl RocksSnapshot {
    pub(super) fn new(db: Arc<DB>) -> Self {
        Self { owned: OwnedSnapshot::new(db) }
    }

    fn read_options(&self, tier: Tier) -> Result<ReadOptions, EngineError> {
        tier.check_for_snapshot()?;
        let mut options = read_options(tier);
        options.set_snapshot(self.owned.snapshot());
        Ok(options)
    }
}

impl Snapshot for RocksSnapshot {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Lookup, EngineError> {
        lookup(self.owned.db().get_pinned_opt(key, &self.read_options(tier)?))
    }

    fn multi_get(&self, keys: &[&[u8]], tier: Tier) -> Result<Vec<Lookup>, EngineError> {
        multi_get(self.owned.db(), keys, &self.read_options(tier)?)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        tier: Tier,
        visit: &mut Visit<'_>,
    ) -> Result<ScanEnd, EngineError> {
        let mut options = self.read_options(tier)?;
        if !to.is_empty() {
            if from >= to {
                return Ok(ScanEnd::Finished);
            }
            options.set_iterate_upper_bound(to);
        }
        options.set_iterate_lower_bound(from);
        let mut rows = self.owned.db().raw_iterator_opt(options);
        // Both seeks respect the bounds.
        if reverse {
            rows.seek_to_last();
        } else {
            rows.seek_to_first();
        }
        while let Some((key, value)) = rows.item() {
            if visit(key, value).is_break() {
                return Ok(ScanEnd::Stopped);
            }
            if reverse {
                rows.prev();
            } else {
                rows.next();
            }
        }
        match rows.status() {
            Ok(()) => Ok(ScanEnd::Finished),
            Err(error) if is_incomplete(&error) => Ok(ScanEnd::Incomplete),
            Err(error) => Err(error.into()),
        }
    }
}
