//! Active expiry: keys past their deadline are deleted by records of their own, many in one.
//!
//! Deadline rows give candidates in order of time; each is checked again under the shard lock, so a
//! key whose deadline was moved in between stays. Readers do not wait for this: they hide what is
//! past its deadline by shard time. The lock is held for one small record at a time.

use std::ops::ControlFlow;

use holdfast_base::{DeleteReason, Generation, KeyspaceId, key};
use holdfast_engine::{Batch, Tier};

use crate::{OpError, Shard};

/// Keys that one record deletes: about 3 microseconds each under the shard lock.
const RECORD_KEYS: usize = 32;
/// Bytes of keys in one record, above which it takes no further one.
const RECORD_KEY_BYTES: usize = 64 << 10;
/// Rows are looked at again for as long as this after their deadline: a key may be written shortly
/// before its deadline and its rows reach the engine after it.
const LATE_MS: u64 = 1_000;

/// Where expiry goes on: before this lie only deadline rows that are done with, whose traces in the
/// engine (a deleted row costs a scan nearly as much as a live one) are not walked over again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ExpireAt(Vec<u8>);

impl ExpireAt {
    fn deadline(deadline_ms: u64) -> ExpireAt {
        let mut row = Vec::new();
        key::deadline_position(&mut row, deadline_ms);
        ExpireAt(row)
    }
}

/// What a step of expiry did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpiryStep {
    /// Deadline rows that were handled. As many as were asked for: there may be more.
    pub handled: usize,
    /// Keys that were deleted.
    pub expired: usize,
    /// How long the oldest of them had been past its deadline.
    pub overdue_ms: u64,
    /// Where the next step goes on.
    pub next: ExpireAt,
}

/// A key that may have to go.
struct Candidate {
    keyspace: KeyspaceId,
    generation: Generation,
    key: Vec<u8>,
    deadline_ms: u64,
}

impl Shard {
    /// Deletes up to `keys_max` keys whose deadline has passed, from `at` on (the default is the
    /// beginning). May block on the disk.
    pub fn expire_step(&self, at: &ExpireAt, keys_max: usize) -> Result<ExpiryStep, OpError> {
        let now_ms = self.now_ms();
        let ExpireAt(from) = at.max(&ExpireAt::deadline(0)).clone();
        let ExpireAt(to) = ExpireAt::deadline(now_ms + 1);
        let mut due = Vec::new();
        self.engine().snapshot()?.scan(&from, &to, false, Tier::Any, &mut |row, _| {
            due.push(row.to_vec());
            if due.len() < keys_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let oldest_ms = due.first().and_then(|row| key::parse_deadline(row)).map(|(ms, _)| ms);
        let candidates = self.candidates(&due)?;
        let mut expired = 0;
        let mut rest = candidates.as_slice();
        while !rest.is_empty() {
            let (record, later) = rest.split_at(record_keys(rest));
            expired += self.expire_record(record)?;
            rest = later;
        }
        let next = match due.last() {
            // A row's successor: the same with a zero behind it.
            Some(last) if due.len() == keys_max => ExpireAt([last, &[0][..]].concat()),
            _ => ExpireAt::deadline(now_ms.saturating_sub(LATE_MS)),
        };
        let overdue_ms = oldest_ms.map_or(0, |oldest_ms| now_ms.saturating_sub(oldest_ms));
        Ok(ExpiryStep { handled: due.len(), expired, overdue_ms, next })
    }

    /// Those of the deadline rows that belong to a key. Rows that a flushed keyspace has left are
    /// removed: nobody writes to its generation any more, and a derived row goes without a record.
    fn candidates(&self, due: &[Vec<u8>]) -> Result<Vec<Candidate>, OpError> {
        let mut candidates = Vec::with_capacity(due.len());
        let mut left = Batch::new();
        for row in due {
            let parsed = key::parse_deadline(row)
                .and_then(|(deadline_ms, head)| Some((deadline_ms, key::parse_head(head)?)));
            let Some((deadline_ms, (_, generation, _, user_key))) = parsed else {
                return Err(crate::op_error::corrupt_row(row, "the key"));
            };
            if let Some(keyspace) = self.keyspace_of(generation) {
                let key = user_key.to_vec();
                candidates.push(Candidate { keyspace, generation, key, deadline_ms });
            } else if !self.is_applied_generation(generation) {
                left.delete(row);
            }
        }
        if !left.is_empty() {
            self.engine().write(&left)?;
        }
        Ok(candidates)
    }

    /// Deletes those of the keys that are past their deadline, by one record; gives how many.
    fn expire_record(&self, candidates: &[Candidate]) -> Result<usize, OpError> {
        // Heads are brought into memory first, so that the lock is not held over the disk.
        for candidate in candidates {
            let key = self.key(candidate.keyspace, &candidate.key);
            self.read(std::slice::from_ref(&key), Tier::Any, |txn| {
                txn.is_past(&key, candidate.deadline_ms)
            })?;
        }
        let done = self.write(Tier::Cached, |txn| {
            let mut expired = 0;
            for candidate in candidates {
                let key = txn.key(candidate.keyspace, &candidate.key);
                if key.generation != candidate.generation {
                    continue;
                }
                match txn.expire(&key, candidate.deadline_ms) {
                    Ok(deleted) => expired += usize::from(deleted),
                    // Thrown out of memory again already: the next pass comes back to it.
                    Err(OpError::Miss(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(expired)
        })?;
        self.submit();
        Ok(done.value)
    }
}

/// How many of the candidates the next record takes: at least one.
fn record_keys(candidates: &[Candidate]) -> usize {
    let mut bytes = 0;
    let fitting = candidates.iter().take(RECORD_KEYS).take_while(|candidate| {
        bytes += candidate.key.len();
        bytes <= RECORD_KEY_BYTES
    });
    fitting.count().max(1)
}

impl crate::Txn<'_> {
    /// Deletes the key if its head still has this deadline and it has passed; says whether it did.
    pub(crate) fn expire(
        &mut self,
        key: &crate::KeyRef<'_>,
        deadline_ms: u64,
    ) -> Result<bool, OpError> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::ExpiryUnchecked) {
            return self.put_head(key, None, DeleteReason::Expired).map(|()| true);
        }
        let past = self.is_past(key, deadline_ms)?;
        if past {
            self.put_head(key, None, DeleteReason::Expired)?;
        }
        Ok(past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::string::{Expiry, SetCondition, set},
        testing,
    };

    fn put(shard: &Shard, key: &str, deadline_ms: u64) {
        let expiry = Expiry::At(deadline_ms);
        testing::write(shard, key, |txn, key| {
            set(txn, key, b"v", expiry, SetCondition::Always, false)
        })
        .expect("a small string is no trouble");
    }

    fn open_with(keys: usize) -> Shard {
        let shard = testing::open();
        (0..keys).for_each(|at| put(&shard, &format!("key:{at}"), 2_000 + at as u64));
        testing::settle(&shard);
        shard
    }

    #[test]
    fn many_keys_go_by_few_records_and_each_step_goes_on_behind_the_last() -> Result<(), OpError> {
        let shard = open_with(100);
        shard.advance_time(4_000, 4_000);
        let before = shard.stats().staged_lsn;
        let first = shard.expire_step(&ExpireAt::default(), 70)?;
        assert_eq!((first.handled, first.expired, first.overdue_ms), (70, 70, 2_000));
        assert_eq!(shard.stats().staged_lsn.0 - before.0, 70usize.div_ceil(RECORD_KEYS) as u64);
        // Nothing is applied yet, and still nothing is handled twice.
        let second = shard.expire_step(&first.next, 70)?;
        assert_eq!((second.handled, second.expired), (30, 30));
        testing::settle(&shard);
        assert_eq!(shard.usage(KeyspaceId(0)).value, (0, 0));
        Ok(())
    }

    #[test]
    fn a_key_whose_deadline_was_moved_since_stays() -> Result<(), OpError> {
        let shard = open_with(3);
        shard.advance_time(3_000, 3_000);
        // Staged and not applied: the engine still has the old deadline row.
        put(&shard, "key:1", 9_000);
        let step = shard.expire_step(&ExpireAt::default(), 10)?;
        assert_eq!((step.handled, step.expired), (3, 2));
        testing::settle(&shard);
        assert_eq!(shard.usage(KeyspaceId(0)).value.0, 1);
        Ok(())
    }

    #[test]
    fn rows_that_reach_the_engine_shortly_after_their_deadline_are_found() -> Result<(), OpError> {
        let shard = open_with(0);
        shard.advance_time(5_000, 5_000);
        put(&shard, "late", 5_001);
        shard.advance_time(5_500, 5_500);
        let before = shard.expire_step(&ExpireAt::default(), 10)?;
        assert_eq!(before.handled, 0);
        testing::settle(&shard);
        assert_eq!(shard.expire_step(&before.next, 10)?.expired, 1);
        Ok(())
    }

    #[test]
    fn a_record_is_bounded_in_keys_and_bytes_and_takes_one_key_however_long() {
        let candidates = |bytes: usize, count: usize| -> Vec<Candidate> {
            let key = vec![b'k'; bytes];
            let one = |_| Candidate {
                keyspace: KeyspaceId(0),
                generation: Generation(0),
                key: key.clone(),
                deadline_ms: 1,
            };
            (0..count).map(one).collect()
        };
        assert_eq!(record_keys(&candidates(10, 100)), RECORD_KEYS);
        assert_eq!(record_keys(&candidates(RECORD_KEY_BYTES / 4, 100)), 4);
        assert_eq!(record_keys(&candidates(RECORD_KEY_BYTES + 1, 2)), 1);
    }
}
