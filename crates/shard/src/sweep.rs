//! The sweeper: removes rows of dropped collections and flushed generations, in bounded steps.
//!
//! Nothing can reach those rows any more: no head names the collection, no keyspace the generation.
//! They go straight from the engine, without records, and a crash in between only leaves some for
//! the next sweep. Rate: one step per call; the caller paces the calls. Small collections go row by
//! row: a range tombstone for each of a million of them would slow down every read.

use std::ops::ControlFlow;

use holdfast_base::{CollectionId, Generation, Head, SLOTS, Slot, key};
use holdfast_engine::{Batch, ScanEnd, Snapshot, Tier};

use crate::{OpError, Shard};

/// How far a sweep has come: which generation, and the slot to go on with.
pub type SweepAt = (Generation, Slot);

/// Heads that one step removes at most.
const HEADS_PER_STEP: usize = 1_000;
/// Members up to which a collection is removed row by row: as many as one range tombstone is worth.
const MEMBERS_BY_ROW_MAX: usize = 64;
/// Slots that one step looks through at most: a seek each, some microseconds.
const SLOTS_PER_STEP: u16 = 512;

impl Shard {
    /// Removes the rows of up to `collections_max` dropped collections; gives how many. A step goes on
    /// where the last one ended, and so does not walk over the traces of what is gone already.
    pub fn sweep_collections(&self, collections_max: usize) -> Result<usize, OpError> {
        let snapshot = self.engine().snapshot()?;
        let beginning = vec![key::Family::DroppedCollection as u8];
        let mut at = self.sweep_from.lock();
        let mut dropped = dropped_collections(&*snapshot, &at, collections_max)?;
        if dropped.is_empty() && *at > beginning {
            dropped = dropped_collections(&*snapshot, &beginning, collections_max)?;
        }
        let mut batch = Batch::new();
        for row in &dropped {
            if let Some((slot, id)) = key::parse_dropped_collection(row) {
                drop_collection(&mut batch, &*snapshot, slot, id)?;
            }
            batch.delete(row);
        }
        self.engine().write(&batch)?;
        *at = match dropped.last() {
            Some(last) if dropped.len() == collections_max => [last, &[0][..]].concat(),
            _ => beginning,
        };
        Ok(dropped.len())
    }

    /// Removes some heads of a flushed generation, from where the last step of it ended. Gives where
    /// to go on: `None` when nothing flushed is left.
    pub fn sweep_generation(&self, from: Option<SweepAt>) -> Result<Option<SweepAt>, OpError> {
        let resumed = from;
        let from = [key::Family::DroppedGeneration as u8];
        let to = [key::Family::DroppedGeneration as u8 + 1];
        let snapshot = self.engine().snapshot()?;
        let mut marker = None;
        snapshot.scan(&from, &to, false, Tier::Any, &mut |row, _| {
            marker = Some(row.to_vec());
            ControlFlow::Break(())
        })?;
        let Some(marker) = marker else { return Ok(None) };
        let Some(generation) = key::parse_dropped_generation(&marker) else {
            return Err(crate::op_error::corrupt_row(&marker, "the key"));
        };
        // Another generation may have come first meanwhile: its sweep begins at the first slot.
        let slot = resumed.filter(|at| at.0 == generation).map_or(Slot(0), |at| at.1);
        let mut batch = Batch::new();
        let mut collections = Vec::new();
        let mut at = slot;
        while at.0 < SLOTS && at.0 < slot.0.saturating_add(SLOTS_PER_STEP) {
            let mut from = Vec::new();
            key::head_position(&mut from, generation, at, 0);
            let prefix = from.get(..7).unwrap_or_default();
            let to = key::after_prefix(prefix).unwrap_or_default();
            snapshot.scan(&from, &to, false, Tier::Any, &mut |row, stored| {
                let head = Head::decode(stored);
                if let Some(id) = head.as_ref().and_then(Head::collection) {
                    collections.push((at, id));
                }
                if let Some(deadline_ms) = head.and_then(|head| head.deadline_ms) {
                    let mut deadline = Vec::new();
                    key::deadline_position(&mut deadline, deadline_ms);
                    deadline.extend_from_slice(row);
                    batch.delete(&deadline);
                }
                batch.delete(row);
                if batch.len() < HEADS_PER_STEP {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            for (slot, id) in collections.drain(..) {
                drop_collection(&mut batch, &*snapshot, slot, id)?;
            }
            if batch.len() >= HEADS_PER_STEP {
                self.engine().write(&batch)?;
                return Ok(Some((generation, at)));
            }
            at = Slot(at.0 + 1);
        }
        if at.0 >= SLOTS {
            batch.delete(&marker);
            at = Slot(0);
        }
        self.engine().write(&batch)?;
        Ok(Some((generation, at)))
    }
}

/// Markers of dropped collections from a position on.
fn dropped_collections(
    snapshot: &dyn Snapshot,
    from: &[u8],
    collections_max: usize,
) -> Result<Vec<Vec<u8>>, OpError> {
    let from = from.max(&[key::Family::DroppedCollection as u8]);
    let to = [key::Family::DroppedCollection as u8 + 1];
    let mut dropped = Vec::new();
    snapshot.scan(from, &to, false, Tier::Any, &mut |row, _| {
        dropped.push(row.to_vec());
        let full = dropped.len() == collections_max;
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(dropped)
}

/// Removes all rows of a collection. Nothing names it any more, so the snapshot has all of them.
fn drop_collection(
    batch: &mut Batch,
    snapshot: &dyn Snapshot,
    slot: Slot,
    id: CollectionId,
) -> Result<(), OpError> {
    let mut from = Vec::new();
    key::collection(&mut from, slot, id);
    let to = key::after_prefix(&from).unwrap_or_default();
    let mut members = Vec::new();
    let end = snapshot.scan(&from, &to, false, Tier::Any, &mut |row, _| {
        if members.len() == MEMBERS_BY_ROW_MAX {
            return ControlFlow::Break(());
        }
        members.push(row.to_vec());
        ControlFlow::Continue(())
    })?;
    match end {
        ScanEnd::Finished => members.iter().for_each(|row| batch.delete(row)),
        ScanEnd::Stopped | ScanEnd::Incomplete => batch.delete_range(&from, &to),
    }
    Ok(())
}
