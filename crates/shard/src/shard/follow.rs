//! Following the log: of another owner, or after an append of this one that had no answer.

#[cfg(test)]
mod tests;

use holdfast_base::{
    Effect, Error, Incarnation, Lsn,
    record::{BatchView, Record},
};

use super::{Done, Shard};
use crate::core::Followed;

/// Records that enter under one hold of the shard lock: some hundred microseconds.
const RECORDS_AT_ONCE: usize = 128;

impl Shard {
    /// Takes in what the log holds behind the last durable record: it shows at once, and waits to be
    /// applied. Tells of each change of the catalog once it shows. Only while nothing is staged here: before
    /// [`Self::take_over`], or after the log failed.
    pub fn follow<'b>(
        &self,
        batches: impl Iterator<Item = BatchView<'b>>,
        mut catalog: impl FnMut(&Effect<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for view in batches {
            let known = self.durable();
            let mut records = view.records().filter(|record| record.lsn > known).peekable();
            while records.peek().is_some() {
                let records: Vec<Record<'_>> = records.by_ref().take(RECORDS_AT_ONCE).collect();
                let rows = records.iter().map(|record| {
                    self.learn_seed(record);
                    Followed::new(self.id, self.hasher.get(), &view.header, record)
                });
                let followed = rows.collect::<Result<Vec<_>, Error>>()?;
                let mut core = self.core.lock();
                let taken = core.follow(followed, &self.visible);
                self.tell_staged(&core);
                self.durable.store(core.durable_at().1.0, std::sync::atomic::Ordering::Release);
                drop(core);
                self.committed.notify_all();
                taken?;
                for effect in records.iter().flat_map(Record::effects).flatten() {
                    if matches!(effect, Effect::PutCatalog { .. } | Effect::DeleteCatalog { .. }) {
                        catalog(&effect)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn learn_seed(&self, record: &Record<'_>) {
        // It stands nowhere else.
        if record.lsn != Lsn(1) {
            return;
        }
        for effect in record.effects().flatten() {
            if let Effect::Genesis { hash_seed } = effect {
                self.hasher.learn(hash_seed);
            }
        }
    }

    /// The life of the log and the last position, staged ones included; whoever answers with it waits for the gate.
    pub fn position(&self) -> Done<(Incarnation, Lsn)> {
        let term = self.term();
        let core = self.core.lock();
        let (incarnation, _) = core.durable_at();
        let staged = core.positions().0;
        Done { value: (incarnation, staged), gate: self.gate(term, staged) }
    }
}
