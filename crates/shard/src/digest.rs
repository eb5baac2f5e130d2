//! Digests of a part of the rows at a moment that all nodes agree on, so that they can be compared.
//!
//! The moment is given by the log alone: the end of the first batch that ends in other ten seconds, by the
//! records' own time, than the one before. It names one of [`PARTS`] runs of slots, so all rows come by in
//! some 43 minutes of writing. Counted is what the log alone decides: heads of current generations, and the
//! rows of their collections. What a node removes when it likes (swept collections, old deadline rows) is not.

use std::collections::BTreeMap;

use holdfast_base::{
    Error, ErrorKind, Generation, Head, Hlc, KeyHasher, KeyspaceId, Lsn, SLOTS, ShardId, Slot, key,
    limits::KEYSPACES_MAX,
    row::{AppliedState, KeyspaceUsage},
};
use holdfast_engine::{Lookup, Snapshot, Tier};

/// Runs of slots that take turns.
pub const PARTS: u64 = 256;
/// Milliseconds of the records' time from one digest to the next.
const EVERY_MS: u64 = 10_000;
/// Heads that are read before their collections are, and before the pace is asked.
const HEADS_AT_ONCE: usize = 256;

/// Which ten seconds a record belongs to.
pub(crate) fn tick(time: Hlc) -> u64 {
    time.ms() / EVERY_MS
}

/// The rows as of one record, to be digested.
pub struct DigestJob {
    pub(crate) shard: ShardId,
    pub(crate) lsn: Lsn,
    pub(crate) tick: u64,
    pub(crate) snapshot: Box<dyn Snapshot>,
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The record.
    pub lsn: Lsn,
    /// The run of slots, below [`PARTS`].
    pub part: u64,
    /// Rows that were counted.
    pub rows: u64,
    /// 48 bits of all of them in order.
    pub value: u64,
}

impl DigestJob {
    /// Reads the rows and digests them. `moved` is told of bytes as they are read, and may wait.
    pub fn run(self, moved: &mut dyn FnMut(u64)) -> Result<Digest, Error> {
        let mut row = Vec::new();
        key::applied(&mut row, self.shard);
        let state = match self.snapshot.get(&row, Tier::Any)? {
            Lookup::Found(stored) => AppliedState::decode(&stored),
            _ => None,
        };
        let state = state.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the engine's applied state does not decode")
        })?;
        let part = self.tick % PARTS;
        let slots = u64::from(SLOTS) / PARTS;
        let edge = |part: u64| {
            let mut edge = Vec::new();
            let slot = u16::try_from(part * slots).unwrap_or(u16::MAX);
            key::head_position(&mut edge, Generation(0), Slot(slot), 0);
            edge
        };
        let (mut from, to) = (edge(part), edge(part + 1));
        let hasher = KeyHasher::new(state.hash_seed);
        let mut sum = Sum { hasher: &hasher, value: 0, rows: 0, bytes: 0, buffer: Vec::new() };
        loop {
            let mut heads = Vec::new();
            self.snapshot.scan(&from, &to, false, Tier::Any, &mut |row, value| {
                heads.push((row.to_vec(), value.to_vec()));
                go_on(heads.len() < HEADS_AT_ONCE)
            })?;
            let Some((last, _)) = heads.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            for (row, value) in &heads {
                self.add_key(&state.keyspaces, row, value, &mut sum)?;
            }
            moved(std::mem::take(&mut sum.bytes));
        }
        Ok(Digest { lsn: self.lsn, part, rows: sum.rows, value: sum.value })
    }

    fn add_key(
        &self,
        keyspaces: &BTreeMap<KeyspaceId, KeyspaceUsage>,
        row: &[u8],
        value: &[u8],
        sum: &mut Sum<'_>,
    ) -> Result<(), Error> {
        let damaged = || Error::new(ErrorKind::Corrupt, "a head row does not decode");
        let (slot, generation, ..) = key::parse_head(row).ok_or_else(damaged)?;
        if !is_current(keyspaces, generation) {
            return Ok(());
        }
        sum.add(row, value);
        let head = Head::decode(value).ok_or_else(damaged)?;
        let Some(id) = head.collection() else { return Ok(()) };
        let mut from = Vec::new();
        key::collection(&mut from, slot, id);
        let to = key::after_prefix(&from).unwrap_or_default();
        self.snapshot.scan(&from, &to, false, Tier::Any, &mut |row, value| {
            sum.add(row, value);
            go_on(true)
        })?;
        Ok(())
    }
}

/// Whether a keyspace has this generation now: its last one, or its first if it was never emptied.
fn is_current(keyspaces: &BTreeMap<KeyspaceId, KeyspaceUsage>, generation: Generation) -> bool {
    let first = u16::try_from(generation.0).ok().filter(|id| *id < KEYSPACES_MAX);
    first.is_some_and(|id| !keyspaces.contains_key(&KeyspaceId(id)))
        || keyspaces.values().any(|usage| usage.generation == generation)
}

fn go_on(yes: bool) -> std::ops::ControlFlow<()> {
    if yes { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
}

struct Sum<'h> {
    hasher: &'h KeyHasher,
    value: u64,
    rows: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Sum<'_> {
    fn add(&mut self, row: &[u8], value: &[u8]) {
        self.buffer.clear();
        self.buffer.extend_from_slice(&self.value.to_le_bytes());
        self.buffer.extend_from_slice(&(row.len() as u64).to_le_bytes());
        self.buffer.extend_from_slice(row);
        self.buffer.extend_from_slice(value);
        self.value = self.hasher.hash48(&self.buffer);
        self.rows += 1;
        self.bytes += (row.len() + value.len()) as u64;
    }
}
