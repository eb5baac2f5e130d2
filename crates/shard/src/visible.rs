//! What readers see without the shard lock: generations, buckets and the row cache.
//!
//! Written under the shard lock (the row cache's clean rows excepted). Heads and generations are read
//! one at a time without any lock but their own, so a reader that could see one of a record's and miss
//! another looks at `several` before and after: it is odd while those of one record are being changed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Buckets, RowCache, txn::Generations};

/// See the module's head.
pub(crate) struct Visible {
    pub generations: Generations,
    pub buckets: Buckets,
    pub cache: RowCache,
    several: AtomicU64,
}

/// Several heads are being changed, until this is dropped.
pub(crate) struct ChangeOfSeveral<'a>(&'a AtomicU64);

impl Drop for ChangeOfSeveral<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

impl Visible {
    pub(crate) fn new(row_cache_bytes: u64) -> Visible {
        Visible {
            generations: Generations::default(),
            buckets: Buckets::default(),
            cache: RowCache::new(row_cache_bytes),
            several: AtomicU64::new(0),
        }
    }

    /// Begins to change the heads of a record that has several. Under the shard lock.
    pub(crate) fn change_several(&self) -> ChangeOfSeveral<'_> {
        self.several.fetch_add(1, Ordering::AcqRel);
        ChangeOfSeveral(&self.several)
    }

    /// What to compare after the read of one head; `None` while several are being changed.
    pub(crate) fn before_one(&self) -> Option<u64> {
        let before = self.several.load(Ordering::Acquire);
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::SeveralUnnoticed) {
            return Some(before);
        }
        before.is_multiple_of(2).then_some(before)
    }

    /// Whether no record with several heads came in between.
    pub(crate) fn is_still(&self, before: u64) -> bool {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::SeveralUnnoticed) {
            return true;
        }
        self.several.load(Ordering::Acquire) == before
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use holdfast_base::KeyspaceId;
    use holdfast_engine::Tier;

    use crate::{
        Shard,
        ops::string::{self, Expiry, SetCondition},
        testing,
    };

    fn write_both(shard: &Shard, value: u64) {
        let text = value.to_string();
        let done = shard.write(Tier::Any, |txn| {
            for name in ["a", "b"] {
                let key = txn.key(KeyspaceId(0), name.as_bytes());
                let (always, never) = (SetCondition::Always, Expiry::None);
                string::set(txn, &key, text.as_bytes(), never, always, false)?;
            }
            Ok(())
        });
        done.expect("nothing refuses two small strings");
    }

    fn value(shard: &Shard, key: &str) -> u64 {
        let text = testing::read(shard, key, string::get).expect("the model engine does not fail");
        let text = text.map_or(Vec::new(), |text| text.to_vec());
        String::from_utf8_lossy(&text).parse().unwrap_or(0)
    }

    /// One thread writes the same number under two keys again and again; this one reads one key,
    /// then the other. Whether it ever saw a record by half within so many reads.
    fn sees_halves(reads: u64) -> bool {
        let (shard, ended) = (testing::open(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1.. {
                    write_both(&shard, number);
                    match number % 64 {
                        0 => testing::settle(&shard),
                        32 => testing::commit(&shard),
                        _ => {}
                    }
                    if ended.load(Ordering::Acquire) {
                        return;
                    }
                }
            });
            let started = Instant::now();
            let seen = (0..reads).take_while(|_| started.elapsed() < Duration::from_secs(20)).any(
                |number| {
                    let (first, second) = if number % 2 == 0 { ("a", "b") } else { ("b", "a") };
                    value(&shard, first) > value(&shard, second)
                },
            );
            ended.store(true, Ordering::Release);
            seen
        })
    }

    #[test]
    fn a_record_with_two_heads_is_never_read_by_half() {
        assert!(!sees_halves(300_000));
    }

    #[test]
    fn what_changes_several_heads_or_keyspaces_at_once_is_announced() {
        let (shard, one) = (testing::open(), KeyspaceId(0));
        let announced = |change: &dyn Fn(&Shard)| {
            let before = shard.visible().before_one().expect("nobody is changing anything");
            change(&shard);
            !shard.visible().is_still(before)
        };
        let set = |shard: &Shard, flush: &[KeyspaceId]| {
            let done = shard.write(Tier::Any, |txn| {
                flush.iter().for_each(|keyspace| txn.flush_keyspace(*keyspace));
                let (always, never) = (SetCondition::Always, Expiry::None);
                let key = txn.key(KeyspaceId(1), b"a");
                string::set(txn, &key, b"1", never, always, false)
            });
            done.expect("nothing refuses a small string");
        };
        assert!(announced(&|shard| write_both(shard, 1)), "two heads");
        assert!(announced(&|shard| set(shard, &[one])), "a head and a keyspace");
        assert!(announced(&|shard| set(shard, &[one, KeyspaceId(2)])), "two keyspaces");
        assert!(!announced(&|shard| set(shard, &[])), "one head is changed at once by itself");
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn a_record_is_read_by_half_if_nobody_looks() {
        crate::planted::plant(Some(crate::planted::Bug::SeveralUnnoticed));
        let seen = sees_halves(u64::MAX);
        crate::planted::plant(None);
        assert!(seen, "the check above cannot fail");
    }
}
