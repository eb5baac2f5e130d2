//! Active expiry: keys past their deadline are deleted by records of their own.
//!
//! Deadline rows give candidates in order of time; each is checked again under the shard lock, so a
//! key whose deadline was moved in between stays. Readers do not wait for this: they hide what is
//! past its deadline by shard time.

use std::ops::ControlFlow;

use holdfast_base::{DeleteReason, key};
use holdfast_engine::{Batch, Tier};

use crate::{OpError, Shard};

impl Shard {
    /// Deletes up to `keys_max` keys whose deadline has passed; gives how many rows were handled,
    /// so that a full step tells that there may be more. May block on the disk.
    pub fn expire_step(&self, keys_max: usize) -> Result<usize, OpError> {
        let mut from = Vec::new();
        key::deadline_position(&mut from, 0);
        let mut to = Vec::new();
        key::deadline_position(&mut to, self.now_ms() + 1);
        let mut due = Vec::new();
        self.engine().snapshot()?.scan(&from, &to, false, Tier::Any, &mut |row, _| {
            due.push(row.to_vec());
            if due.len() < keys_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for row in &due {
            self.expire_row(row)?;
        }
        self.submit();
        Ok(due.len())
    }

    fn expire_row(&self, row: &[u8]) -> Result<(), OpError> {
        let parsed = key::parse_deadline(row)
            .and_then(|(deadline_ms, head)| Some((deadline_ms, key::parse_head(head)?)));
        let Some((deadline_ms, (_, generation, _, user_key))) = parsed else {
            return Err(crate::op_error::corrupt_row(row, "the key"));
        };
        if let Some(keyspace) = self.keyspace_of(generation) {
            // The head is brought into memory first, so that the lock is not held over the disk.
            let head = row.get(key::DEADLINE_PREFIX_BYTES..).unwrap_or_default();
            self.engine().get(head, Tier::Any)?;
            let done = self.write(Tier::Cached, |txn| {
                let key = txn.key(keyspace, user_key);
                if key.generation == generation { txn.expire(&key, deadline_ms) } else { Ok(()) }
            });
            match done {
                // Thrown out of memory again already: the next round comes back to it.
                Ok(_) | Err(OpError::Miss(_)) => {}
                Err(error) => return Err(error),
            }
        } else if !self.is_applied_generation(generation) {
            // Left by a flushed keyspace; nobody writes to its generation any more. The row is
            // derived, so it goes without a record.
            let mut batch = Batch::new();
            batch.delete(row);
            self.engine().write(&batch)?;
        }
        Ok(())
    }
}

impl crate::Txn<'_> {
    /// Deletes the key if its head still has this deadline and it has passed.
    pub(crate) fn expire(
        &mut self,
        key: &crate::KeyRef<'_>,
        deadline_ms: u64,
    ) -> Result<(), OpError> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::is_planted(crate::planted::Bug::ExpiryUnchecked) {
            return self.put_head(key, None, DeleteReason::Expired);
        }
        if self.is_past(key, deadline_ms)? {
            self.put_head(key, None, DeleteReason::Expired)?;
        }
        Ok(())
    }
}
