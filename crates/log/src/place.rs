//! A place in a shard's log, and whether a batch goes on there: what every backend checks.

use holdfast_base::{
    Effect, Epoch, Hlc, Incarnation, LogId, Lsn, ShardId,
    record::{BATCH_HEADER_BYTES, Batch, BatchView, RECORD_HEADER_BYTES},
    varint::{take_array, take_exact},
};

use crate::Refused;

/// Where a shard's log stands between two batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Point {
    /// Position of the next record.
    pub next_lsn: Lsn,
    /// Epoch of the record before; 0 if there is none.
    pub epoch: Epoch,
    /// Place that the next record of that epoch has.
    pub next_n: u64,
    /// Life of the log.
    pub incarnation: Incarnation,
    /// Shard time of the last record.
    pub time: Hlc,
    /// Chained checksum before the next record.
    pub chain: u32,
}

impl Point {
    /// Before the first record of a shard. Its life follows from the log's: a log that is made anew
    /// (a restore) starts a new one.
    pub fn start(log: LogId, shard: ShardId) -> Point {
        let incarnation = Incarnation(mix(log.0 ^ mix(u64::from(shard.0) + 1)).max(1));
        Point { next_lsn: Lsn(1), epoch: Epoch(0), next_n: 0, incarnation, time: Hlc(0), chain: 0 }
    }

    /// The point behind a batch, if the batch continues here.
    pub fn advance(&self, batch: &Step) -> Option<Point> {
        let fits = batch.count > 0
            && batch.incarnation == self.incarnation
            && batch.first_lsn == self.next_lsn
            && batch.chain_before == self.chain
            && if batch.epoch == self.epoch {
                batch.first_n == self.next_n
            } else {
                batch.epoch > self.epoch && batch.first_n == 0
            };
        fits.then_some(Point {
            next_lsn: Lsn(batch.first_lsn.0 + u64::from(batch.count)),
            epoch: batch.epoch,
            next_n: batch.first_n + u64::from(batch.count),
            incarnation: self.incarnation,
            time: batch.last_time.max(self.time),
            chain: batch.chain_after,
        })
    }
}

/// What a verified batch says of its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Whose log.
    pub shard: ShardId,
    /// Life of that log.
    pub incarnation: Incarnation,
    /// Epoch of the owner.
    pub epoch: Epoch,
    /// Place of the first record within the epoch.
    pub first_n: u64,
    /// Position of the first record.
    pub first_lsn: Lsn,
    /// Chained checksum before the first record.
    pub chain_before: u32,
    /// Number of records.
    pub count: u32,
    /// Chained checksum after the last record.
    pub chain_after: u32,
    /// Shard time of the last record.
    pub last_time: Hlc,
}

impl Step {
    /// `bytes` are those that `view` was decoded from.
    pub fn of(view: &BatchView<'_>, bytes: &[u8]) -> Step {
        let header = view.header;
        Step {
            shard: header.shard,
            incarnation: header.incarnation,
            epoch: header.epoch,
            first_n: header.first_n,
            first_lsn: header.first_lsn,
            chain_before: header.chain_before,
            count: header.count,
            chain_after: view.chain_after,
            last_time: last_time(bytes).unwrap_or_default(),
        }
    }

    /// Position of the last record.
    pub fn last_lsn(&self) -> Lsn {
        Lsn((self.first_lsn.0 + u64::from(self.count)).saturating_sub(1))
    }
}

/// Shard time of the last record, by the lengths alone: the checksums have been verified, and
/// `BatchView::records` would compute them all once more. Layout: docs/formats.md, "Records".
fn last_time(batch: &[u8]) -> Option<Hlc> {
    let mut rest = batch.get(BATCH_HEADER_BYTES..)?;
    let mut time = None;
    while !rest.is_empty() {
        let mut record = rest;
        let len = u32::from_le_bytes(take_array(&mut record)?) as usize;
        rest = rest.get(RECORD_HEADER_BYTES + len..)?;
        // The rest of the record's header, then version and flags.
        take_exact(&mut record, RECORD_HEADER_BYTES - 4 + 2)?;
        time = Some(Hlc(u64::from_le_bytes(take_array(&mut record)?)));
    }
    time
}

/// Verifies the batches of one call before anything is queued: what a bug or bad memory damaged must
/// not reach the log, where it would stop the next start. `took_over` says whether the session's first
/// record, which takes the shard over, was accepted before.
pub fn steps_of(
    batches: &[Batch],
    shard: ShardId,
    epoch: Epoch,
    took_over: bool,
) -> Result<Vec<Step>, Refused> {
    let mut steps = Vec::with_capacity(batches.len());
    for batch in batches {
        let mut bytes = batch.bytes.as_slice();
        let view = BatchView::decode(&mut bytes)
            .map_err(|damage| Refused::Invalid(format!("a batch to append: {damage}")))?;
        let step = Step::of(&view, &batch.bytes);
        if !bytes.is_empty() || step.shard != shard || step.epoch != epoch {
            let what = "a batch of another shard or epoch, or bytes behind it";
            return Err(Refused::Invalid(what.to_owned()));
        }
        if !took_over && steps.is_empty() && !takes_over(&view, epoch) {
            let what = "the first record of a session must take the shard over";
            return Err(Refused::Invalid(what.to_owned()));
        }
        steps.push(step);
    }
    if steps.is_empty() {
        return Err(Refused::Invalid("no batch to append".to_owned()));
    }
    Ok(steps)
}

/// Whether the first record holds the take-over of this epoch.
fn takes_over(view: &BatchView<'_>, epoch: Epoch) -> bool {
    let Some(record) = view.records().next() else { return false };
    let takes =
        |effect| matches!(effect, Ok(Effect::TakeOver { epoch: taken, .. }) if taken == epoch);
    record.effects().any(takes)
}

/// SplitMix64's finaliser: a bijection that spreads every bit.
fn mix(value: u64) -> u64 {
    let mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
