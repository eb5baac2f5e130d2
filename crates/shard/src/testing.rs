//! For this crate's tests: a shard over the model engine, committed and applied by hand.

use std::sync::Arc;

use holdfast_base::{Epoch, Hlc, Incarnation, KeyspaceId, Lsn, ShardId, row::AppliedState};
use holdfast_engine::{ModelEngine, Tier};
use holdfast_log::Position;

use crate::{KeyRef, Limits, OpError, Shard, ShardParts, Txn};

/// An open shard at one second past 1970.
pub(crate) fn open() -> Shard {
    open_with(Limits::default())
}

/// The same with limits of its own.
pub(crate) fn open_with(limits: Limits) -> Shard {
    let shard = Shard::new(ShardParts {
        id: ShardId(0),
        engine: Arc::new(ModelEngine::new()),
        applied: AppliedState { hash_seed: [5; 16], ..AppliedState::default() },
        row_cache_bytes: 1 << 20,
        limits,
    });
    let position = Position {
        next_lsn: Lsn(1),
        next_n: 0,
        chain: 0,
        incarnation: Incarnation(1),
        epoch: Epoch(1),
        last_time: Hlc::default(),
    };
    shard.take_over(&position, b"test").expect("an empty shard opens at the first position");
    shard.advance_time(1_000, 0);
    shard
}

/// Makes everything staged durable and applies it.
pub(crate) fn settle(shard: &Shard) {
    commit(shard);
    while shard.apply_step(1 << 20).expect("the model engine does not fail") > 0 {}
}

/// Makes everything staged durable, without applying it.
pub(crate) fn commit(shard: &Shard) {
    if shard.take_batch().is_some() {
        shard.on_durable();
    }
}

/// Runs a write on one key of keyspace 0.
pub(crate) fn write<R>(
    shard: &Shard,
    key: &str,
    op: impl FnOnce(&mut Txn<'_>, &KeyRef<'_>) -> Result<R, OpError>,
) -> Result<R, OpError> {
    let done = shard.write(Tier::Any, |txn| {
        let key = txn.key(KeyspaceId(0), key.as_bytes());
        op(txn, &key)
    })?;
    Ok(done.value)
}

/// Runs a read on one key of keyspace 0.
pub(crate) fn read<R>(
    shard: &Shard,
    key: &str,
    mut op: impl FnMut(&mut Txn<'_>, &KeyRef<'_>) -> Result<R, OpError>,
) -> Result<R, OpError> {
    let key = shard.key(KeyspaceId(0), key.as_bytes());
    Ok(shard.read(std::slice::from_ref(&key), Tier::Any, |txn| op(txn, &key))?.value)
}
