//! Ops on keys of any type: existence, type, deadline, deletion, scanning a keyspace.

use std::{cmp::Ordering, ops::ControlFlow};

use holdfast_base::{DeleteReason, Head, KeyspaceId, Kind, SLOTS, Slot, key};

use crate::{KeyRef, OpError, Txn};

/// Whether the key exists.
pub fn exists(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<bool, OpError> {
    Ok(txn.head(key)?.is_some())
}

/// The key's type.
pub fn kind(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Option<Kind>, OpError> {
    Ok(txn.head(key)?.map(|stored| stored.head().kind()))
}

/// Removes the key. True if it was there.
pub fn delete(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<bool, OpError> {
    let existed = txn.head(key)?.is_some();
    // A key past its deadline is removed as well, but nobody is told that it was there.
    let reason = if existed { DeleteReason::Removed } else { DeleteReason::Expired };
    txn.put_head(key, None, reason)?;
    Ok(existed)
}

/// What is left of a key's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeToLive {
    /// No such key.
    NoKey,
    /// It has no deadline.
    Forever,
    /// Deadline in milliseconds since 1970.
    Until(u64),
}

/// When the key goes.
pub fn time_to_live(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<TimeToLive, OpError> {
    Ok(match txn.head(key)? {
        None => TimeToLive::NoKey,
        Some(stored) => stored.head().deadline_ms.map_or(TimeToLive::Forever, TimeToLive::Until),
    })
}

/// On which condition [`set_deadline`] changes a deadline. A key without one counts as infinite.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeadlineCondition {
    /// Only if the key has no deadline.
    pub none_yet: bool,
    /// Only if the key has a deadline.
    pub some_already: bool,
    /// Only if the new deadline is later.
    pub later: bool,
    /// Only if the new deadline is earlier.
    pub earlier: bool,
}

/// Gives the key a deadline (`None`: for ever). A deadline that has passed removes the key. True if
/// something changed.
pub fn set_deadline(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    deadline_ms: Option<u64>,
    condition: DeadlineCondition,
) -> Result<bool, OpError> {
    let Some(stored) = txn.head(key)? else { return Ok(false) };
    let head = stored.head();
    let old = head.deadline_ms;
    if deadline_ms.is_none() && old.is_none() {
        return Ok(false);
    }
    let new_or_infinite = deadline_ms.unwrap_or(u64::MAX);
    let old_or_infinite = old.unwrap_or(u64::MAX);
    if condition.none_yet && old.is_some()
        || condition.some_already && old.is_none()
        || condition.later && (old.is_none() || new_or_infinite <= old_or_infinite)
        || condition.earlier && new_or_infinite >= old_or_infinite
    {
        return Ok(false);
    }
    if deadline_ms.is_some_and(|deadline| deadline <= txn.now_ms()) {
        txn.put_head(key, None, DeleteReason::Removed)?;
    } else {
        txn.put_head(key, Some(Head { deadline_ms, ..head }), DeleteReason::Removed)?;
    }
    Ok(true)
}

/// One step of a scan over a keyspace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanStep {
    /// Where the next step begins; 0 when the scan is complete.
    pub cursor: u64,
    /// Keys found, with their types.
    pub keys: Vec<(Vec<u8>, Kind)>,
}

/// Seeks of one step at most: rows of other keyspaces between two of this one cost a seek each.
const SEEKS_PER_STEP: usize = 1024;

/// Where a scan with this cursor begins, as a head row position; for [`crate::Shard::read_heads`].
pub fn scan_position(txn: &KeyRef<'_>, cursor: u64) -> Vec<u8> {
    let (slot, hash) = key::parse_cursor(cursor);
    let mut from = Vec::new();
    key::head_position(&mut from, txn.generation, slot, hash);
    from
}

/// Keys of a keyspace in hash order from `cursor`, at least about `count` unless the keyspace ends.
/// A key that exists throughout a whole scan is returned, whatever is written meanwhile: a cursor
/// is a position in hash order, not a memory of the server's. Staged heads are known only before
/// the row `seen_until`.
pub fn scan(
    txn: &mut Txn<'_>,
    keyspace: KeyspaceId,
    cursor: u64,
    count: usize,
    seen_until: Option<&[u8]>,
) -> Result<ScanStep, OpError> {
    let at = txn.key(keyspace, b"");
    txn.observed = txn.observed.max(at.flushed);
    let generation = at.generation;
    let now_ms = txn.now_ms();
    let mut step = ScanStep::default();
    // All keys at the position of the last one belong to this step, or they would be lost.
    let mut last: Option<(Slot, u64)> = None;
    let mut at = Some(key::parse_cursor(cursor));
    let end = [key::Family::Head as u8 + 1];
    // The first of this keyspace's positions whose staged heads are not known.
    let hidden_from =
        seen_until.and_then(key::parse_head).map(|(slot, of, hash, _)| match of.cmp(&generation) {
            Ordering::Less => (slot, 0),
            Ordering::Equal => (slot, hash),
            Ordering::Greater => (Slot(slot.0 + 1), 0),
        });
    for _ in 0..SEEKS_PER_STEP {
        let Some((slot, hash)) = at.filter(|(slot, _)| slot.0 < SLOTS) else { break };
        let mut from = Vec::new();
        key::head_position(&mut from, generation, slot, hash);
        let (mut damaged, mut full) = (false, false);
        at = None;
        txn.scan((&from, &end), false, |row, stored| {
            let (Some((slot, of, hash, user_key)), Some(head)) =
                (key::parse_head(row), Head::decode(stored))
            else {
                damaged = true;
                return ControlFlow::Break(());
            };
            // Rows of another generation: go on at this one's next place.
            match of.cmp(&generation) {
                Ordering::Less => at = Some((slot, 0)),
                Ordering::Greater => at = Some((Slot(slot.0 + 1), 0)),
                Ordering::Equal => {
                    let here = Some((slot, hash));
                    let hidden = hidden_from.is_some() && here >= hidden_from;
                    full = hidden || (step.keys.len() >= count && here != last);
                    if !full {
                        last = Some((slot, hash));
                        if !head.expired(now_ms) {
                            step.keys.push((user_key.to_vec(), head.kind()));
                        }
                        return ControlFlow::Continue(());
                    }
                    at = Some((slot, hash));
                }
            }
            ControlFlow::Break(())
        })?;
        if damaged {
            return Err(crate::op_error::corrupt_row(&from, "a head at or after the position"));
        }
        if hidden_from.is_some_and(|hidden| at.is_none_or(|at| at >= hidden)) {
            (at, full) = (hidden_from, true);
        }
        if full {
            break;
        }
    }
    step.cursor = match at {
        Some((slot, hash)) if slot.0 < SLOTS => key::cursor(slot, hash),
        _ => 0,
    };
    Ok(step)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        Shard,
        ops::string::{Expiry, SetCondition, set},
        testing,
    };
    use holdfast_engine::Tier;

    fn put(shard: &Shard, keyspace: u16, name: &str) -> Result<(), OpError> {
        shard.write(Tier::Any, |txn| {
            let key = txn.key(KeyspaceId(keyspace), name.as_bytes());
            set(txn, &key, b"v", Expiry::None, SetCondition::Always, false)
        })?;
        Ok(())
    }

    /// A whole scan; `between` runs before each step.
    fn scan_all(
        shard: &Shard,
        count: usize,
        mut between: impl FnMut() -> Result<(), OpError>,
    ) -> Result<Vec<String>, OpError> {
        let (mut cursor, mut found, mut steps) = (0, Vec::new(), 0);
        loop {
            between()?;
            let position = scan_position(&shard.key(KeyspaceId(1), b""), cursor);
            let step = shard.read_heads(&position, Tier::Any, |txn, seen_until| {
                scan(txn, KeyspaceId(1), cursor, count, seen_until)
            })?;
            let names = step.value.keys.into_iter().map(|(key, _)| key);
            found.extend(names.map(|key| String::from_utf8_lossy(&key).into_owned()));
            assert!(step.value.cursor == 0 || step.value.cursor > cursor, "no way back");
            cursor = step.value.cursor;
            steps += 1;
            assert!(steps < 100_000, "a scan ends");
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    #[test]
    fn a_scan_returns_each_key_once_staged_or_applied() -> Result<(), OpError> {
        let shard = testing::open();
        let expected: BTreeSet<String> = (0..3_000).map(|i| format!("key:{i}")).collect();
        for (at, name) in expected.iter().enumerate() {
            put(&shard, 1, name)?;
            put(&shard, 0, name)?;
            put(&shard, 2, name)?;
            if at == 700 {
                testing::settle(&shard);
            }
        }
        // 2,300 heads of each of three keyspaces are staged: more than one step copies.
        for count in [1, 10, 1_000, 100_000] {
            let found = scan_all(&shard, count, || Ok(()))?;
            assert_eq!(found.len(), expected.len(), "count {count}");
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        Ok(())
    }

    #[test]
    fn keys_that_stay_are_found_while_others_come_and_go() -> Result<(), OpError> {
        let shard = testing::open();
        let stays: Vec<String> = (0..500).map(|i| format!("stays:{i}")).collect();
        for name in &stays {
            put(&shard, 1, name)?;
        }
        let mut turn = 0;
        let found = scan_all(&shard, 7, || {
            turn += 1;
            put(&shard, 1, &format!("comes:{turn}"))?;
            shard.write(Tier::Any, |txn| {
                let name = format!("comes:{}", turn / 2);
                let key = txn.key(KeyspaceId(1), name.as_bytes());
                delete(txn, &key).map(|_| ())
            })?;
            if turn % 5 == 0 {
                testing::settle(&shard);
            }
            Ok(())
        })?;
        let found: BTreeSet<_> = found.into_iter().collect();
        assert!(stays.iter().all(|name| found.contains(name)));
        Ok(())
    }

    #[test]
    fn a_small_keyspace_is_scanned_in_one_step() -> Result<(), OpError> {
        let shard = testing::open();
        put(&shard, 1, "a")?;
        let position = scan_position(&shard.key(KeyspaceId(1), b""), 0);
        let step = shard.read_heads(&position, Tier::Any, |txn, seen_until| {
            scan(txn, KeyspaceId(1), 0, 10, seen_until)
        })?;
        assert_eq!((step.value.cursor, step.value.keys.len()), (0, 1));
        Ok(())
    }
}
