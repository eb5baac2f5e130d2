//! Replay: from the engine's flushed state to the end of the log, before a shard is opened.
//!
//! Applies exactly the records after the engine's applied one, in order, each once; checks that the
//! chained checksum continues from the engine's. Stops at the first thing that does not fit.

use holdfast_base::{
    Error, ErrorKind, KeyHasher, Lsn, ShardId, key,
    record::{BatchView, Record},
    row::{AppliedState, RowChange, RowExpander},
};
use holdfast_engine::{Batch, Engine, Lookup, Tier};
use holdfast_log::{Log, ReadError};

use crate::key_order::newest_in_key_order;

/// Bytes of records read from the log, and written to the engine, at once.
const STEP_BYTES: usize = 4 << 20;

/// How far a replay has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayProgress {
    /// The last record applied.
    pub applied: Lsn,
    /// Where the log ends.
    pub end: Lsn,
}

/// Reads the shard's applied state from the engine; an empty one if it has none.
pub fn stored_state(engine: &dyn Engine, shard: ShardId) -> Result<Option<AppliedState>, Error> {
    let mut row = Vec::new();
    key::applied(&mut row, shard);
    match engine.get(&row, Tier::Any)? {
        Lookup::Found(stored) => AppliedState::decode(&stored).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "the engine's applied state does not decode")
        }),
        Lookup::Absent => Ok(None),
        Lookup::Incomplete => Err(Error::new(ErrorKind::Internal, "a full read was incomplete")),
    }
}

/// Brings the engine up to the end of the log and gives the state reached. `None` if neither has
/// anything: the shard is new.
pub fn replay(
    shard: ShardId,
    log: &dyn Log,
    engine: &dyn Engine,
    mut progress: impl FnMut(ReplayProgress),
) -> Result<Option<AppliedState>, Error> {
    let stored = stored_state(engine, shard)?;
    let bounds = log.bounds(shard);
    let end = Lsn(bounds.next.0.saturating_sub(1));
    if stored.is_none() && end == Lsn::ZERO {
        return Ok(None);
    }
    let mut state = stored.unwrap_or_default();
    if state.lsn > end {
        let text = format!("the engine has applied {} but the log ends at {end}", state.lsn);
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    if state.lsn > Lsn::ZERO && state.incarnation != bounds.incarnation {
        let text = "engine and log are of different lives: restore both from one backup";
        return Err(Error::new(ErrorKind::Corrupt, text));
    }
    while state.lsn < end {
        let needed = state.lsn.next();
        let read = log.read(shard, needed, STEP_BYTES);
        let read = read.map_err(|error| read_failed(needed, error))?;
        let before = state.lsn;
        apply_batches(shard, engine, &mut state, read.batches(), |_| true)?;
        if state.lsn == before {
            let text = format!("the log gave nothing at {needed} although it ends at {end}");
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        progress(ReplayProgress { applied: state.lsn, end });
    }
    Ok(Some(state))
}

/// What it means that the log could not be read from the record on that is needed next.
pub fn read_failed(needed: Lsn, error: ReadError) -> Error {
    match error {
        ReadError::Trimmed(first) => {
            let text = format!(
                "the engine needs record {needed} next but the log begins at {first}: restore from a \
                 backup"
            );
            Error::new(ErrorKind::Corrupt, text)
        }
        ReadError::Io(error) => Error::new(ErrorKind::Unavailable, error.to_string()),
        other => Error::new(ErrorKind::Corrupt, other.to_string()),
    }
}

/// Applies the records behind the state's last one, in order, up to the first that is not wanted:
/// their rows and the state that they lead to, as one batch of the engine. The caller has made sure
/// that the batches are of the state's incarnation.
pub fn apply_batches<'b>(
    shard: ShardId,
    engine: &dyn Engine,
    state: &mut AppliedState,
    batches: impl Iterator<Item = BatchView<'b>>,
    mut wanted: impl FnMut(&Record<'_>) -> bool,
) -> Result<(), Error> {
    let before = state.lsn;
    let mut rows = Vec::new();
    'batches: for view in batches {
        for record in view.records().filter(|record| record.lsn > before) {
            if !wanted(&record) {
                break 'batches;
            }
            apply(shard, &record, state, &mut rows)?;
            state.incarnation = view.header.incarnation;
        }
    }
    if state.lsn == before {
        return Ok(());
    }
    let mut batch = Batch::new();
    for row in newest_in_key_order(rows.iter(), |row| &row.key) {
        match &row.value {
            Some(value) => batch.put(&row.key, value),
            None => batch.delete(&row.key),
        }
    }
    put_state(&mut batch, shard, state);
    engine.write(&batch)?;
    Ok(())
}

/// Writes the state into the engine: for a restore, which begins a new life.
pub fn store_state(shard: ShardId, engine: &dyn Engine, state: &AppliedState) -> Result<(), Error> {
    let mut batch = Batch::new();
    put_state(&mut batch, shard, state);
    engine.write(&batch)?;
    Ok(())
}

fn put_state(batch: &mut Batch, shard: ShardId, state: &AppliedState) {
    let mut row = Vec::new();
    key::applied(&mut row, shard);
    batch.put(&row, &state.encode());
}

fn apply(
    shard: ShardId,
    record: &Record<'_>,
    state: &mut AppliedState,
    rows: &mut Vec<RowChange>,
) -> Result<(), Error> {
    let corrupt = |what: &str| {
        Error::new(ErrorKind::Corrupt, format!("record {} of the log: {what}", record.lsn))
    };
    if record.lsn != state.lsn.next() {
        return Err(corrupt(&format!("follows {}", state.lsn)));
    }
    if record.chain_before != state.chain {
        return Err(corrupt("its chained checksum does not continue the engine's"));
    }
    let effects: Vec<_> = record
        .effects()
        .collect::<Result<_, _>>()
        .map_err(|damaged| corrupt(&damaged.to_string()))?;
    effects.iter().for_each(|effect| state.learn(effect));
    let hasher = KeyHasher::new(state.hash_seed);
    let mut expander = RowExpander::new(shard, &hasher);
    for effect in &effects {
        expander
            .expand(effect, &mut |row| rows.push(row))
            .map_err(|_| corrupt("an effect names no key"))?;
    }
    state.lsn = record.lsn;
    state.chain = record.chain;
    state.epoch = record.epoch;
    state.n = record.n;
    state.time = record.time;
    Ok(())
}
