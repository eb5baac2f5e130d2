//! Nodes compare their rows: what a node does about the digests that it and the others have taken.
//!
//! The log has chained checksums, so all nodes follow the same records; that they made the same rows of them,
//! and that their disks still hold these, is what digests tell (`holdfast_shard::DigestJob`). Nodes
//! publish theirs in their entries. One that stands by and whose rows are not the owner's serves no reads, takes
//! nothing over, and begins anew with a backup if there is one (`bootstrap`), unless another node
//! has the same rows as it: then it is the owner's that are doubtful, which a person decides.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use holdfast_base::{Error, Lsn};
use holdfast_io::write_file_durably;
use holdfast_shard::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    backup::Pace,
    data::io_error,
    ending,
    members::{Members, View},
    node::Node,
};

/// Marks a data folder whose engine is to be replaced at the next start.
pub(crate) const DIVERGED_FILE: &str = "diverged";

/// Own digests that are kept to be compared, and those that the others are told.
const KEPT: usize = 16;
const TOLD: usize = 4;
/// How long the digests of all others are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks for work.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// As it stands in a node's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub lsn: u64,
    pub rows: u64,
    pub value: u64,
}

/// What comparing comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// Not all that is needed is there.
    Waits,
    /// All that is there is the same.
    Same,
    /// The owner has other rows than this node, and nobody has this node's.
    IsOdd,
    /// The owner is not alone in having other rows than some node, or this node is the owner.
    OthersDiffer,
}

/// Figures of comparing.
#[derive(Default)]
pub(crate) struct DigestMetrics {
    pub taken: AtomicU64,
    pub same: AtomicU64,
    pub differ: AtomicU64,
    pub rows: AtomicU64,
    pub diverged: AtomicBool,
}

/// This node's digests.
#[derive(Default)]
pub(crate) struct Digests {
    /// Each with when it was taken, until it was compared. A leaf in the lock order.
    own: Mutex<BTreeMap<u64, (Told, Instant, bool)>>,
    pub metrics: DigestMetrics,
}

impl Digests {
    fn note(&self, digest: Digest) {
        let told = Told { lsn: digest.lsn.0, rows: digest.rows, value: digest.value };
        let mut own = self.own.lock();
        own.insert(told.lsn, (told, Instant::now(), false));
        while own.len() > KEPT {
            own.pop_first();
        }
        self.metrics.taken.fetch_add(1, Ordering::Relaxed);
        self.metrics.rows.fetch_add(digest.rows, Ordering::Relaxed);
    }

    /// The last ones, for the entry.
    pub(crate) fn told(&self) -> Vec<Told> {
        self.own.lock().values().rev().take(TOLD).map(|(told, ..)| *told).collect()
    }

    /// Compares what was not compared yet. Gives this node's digest and the owner's if this node is the odd one.
    fn compare(&self, view: &View, name: &str) -> Option<(Told, Told)> {
        for (own, taken, is_done) in self.own.lock().values_mut().filter(|(.., done)| !done) {
            let others: Vec<_> = others(view, name, own.lsn).collect();
            let verdict = judge(*own, &others, taken.elapsed() > PATIENCE);
            *is_done = verdict != Verdict::Waits;
            let told = others.iter().filter(|(.., told)| told.is_some()).count();
            match verdict {
                Verdict::Waits => {}
                Verdict::Same if told == 0 => {}
                Verdict::Same => drop(self.metrics.same.fetch_add(1, Ordering::Relaxed)),
                Verdict::OthersDiffer => {
                    self.metrics.differ.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(lsn = own.lsn, ?own, ?others, "nodes hold different rows");
                }
                Verdict::IsOdd => {
                    self.metrics.differ.fetch_add(1, Ordering::Relaxed);
                    let owners = others.iter().find(|(_, owns, _)| *owns);
                    return owners.and_then(|(.., told)| *told).map(|owners| (*own, owners));
                }
            }
        }
        None
    }
}

/// Name, whether it owns the data, and its digest as of this record.
fn others<'v>(
    view: &'v View,
    name: &str,
    lsn: u64,
) -> impl Iterator<Item = (&'v str, bool, Option<Told>)> {
    let owner = view.owner().map(|owner| owner.name.clone());
    let others = view.members.iter().filter(move |member| member.name != name && member.is_alive());
    others.map(move |member| {
        let told = member.entry.digests.iter().find(|told| told.lsn == lsn).copied();
        (member.name.as_str(), owner.as_deref() == Some(&member.name), told)
    })
}

fn judge(own: Told, others: &[(&str, bool, Option<Told>)], is_late: bool) -> Verdict {
    let told = || others.iter().filter_map(|(_, owns, told)| told.map(|told| (*owns, told)));
    let all_are_there = others.iter().all(|(.., told)| told.is_some());
    if told().all(|(_, told)| told == own) {
        return if all_are_there || is_late { Verdict::Same } else { Verdict::Waits };
    }
    let owner_differs = told().any(|(owns, told)| owns && told != own);
    let is_alone = told().all(|(_, told)| told != own);
    match (owner_differs && is_alone, all_are_there || is_late) {
        (_, false) => Verdict::Waits,
        (true, true) => Verdict::IsOdd,
        (false, true) => Verdict::OthersDiffer,
    }
}

/// The loop of the thread that takes digests.
pub(crate) fn run(node: &Arc<Node>) {
    let rate = node.config.log_digest_bytes_per_second.0;
    node.shard.want_digests(rate > 0);
    while rate > 0 && !node.is_stopping() {
        let Some(job) = node.shard.take_digest_job() else {
            std::thread::park_timeout(LOOK_EVERY);
            continue;
        };
        let mut pace = Pace::new(rate);
        let digest = job.run(&mut |bytes| pace.moved(bytes, |pause| node.park_background(pause)));
        match digest {
            Ok(digest) if !node.is_stopping() => node.digests.note(digest),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the rows could not be digested"),
        }
    }
}

/// Compares with what the others have told.
pub(crate) fn compare(node: &Node, members: &Members) {
    let Some((own, owners)) = node.digests.compare(&members.view(), &members.name) else { return };
    if node.digests.metrics.diverged.swap(true, Ordering::AcqRel) {
        return;
    }
    let text = "this node's rows are not the owner's: it serves no reads and takes nothing over";
    tracing::error!(lsn = own.lsn, ?own, ?owners, "{text}");
    if node.config.backup_url.is_empty() {
        return;
    }
    match mark(node, Lsn(own.lsn)) {
        Ok(()) => {
            tracing::error!("it ends, to begin anew with a backup");
            ending::end(node);
        }
        Err(error) => tracing::error!(%error, "it cannot be marked to begin anew"),
    }
}

fn mark(node: &Node, lsn: Lsn) -> Result<(), Error> {
    let text = format!("rows as of record {lsn} differed from the owner's\n");
    write_file_durably(&*node.disk, DIVERGED_FILE, text.as_bytes())
        .map_err(io_error(&node.config.data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_with_its_rows_is_the_odd_one() {
        let digest = |value| Some(Told { lsn: 7, rows: 3, value });
        let own = Told { lsn: 7, rows: 3, value: 1 };
        let judged = |owners, other, is_late| {
            judge(own, &[("owner", true, owners), ("other", false, other)], is_late)
        };
        assert_eq!(judged(digest(1), digest(1), false), Verdict::Same);
        assert_eq!(judged(digest(1), None, false), Verdict::Waits);
        assert_eq!(judged(digest(1), None, true), Verdict::Same);
        assert_eq!(
            judged(digest(2), None, false),
            Verdict::Waits,
            "the third may be with this one"
        );
        assert_eq!(judged(digest(2), None, true), Verdict::IsOdd);
        assert_eq!(judged(digest(2), digest(2), false), Verdict::IsOdd);
        assert_eq!(judged(digest(2), digest(3), false), Verdict::IsOdd);
        assert_eq!(
            judged(digest(2), digest(1), false),
            Verdict::OthersDiffer,
            "two against the owner"
        );
        assert_eq!(judged(digest(1), digest(2), false), Verdict::OthersDiffer, "the other is odd");
        assert_eq!(judged(None, digest(2), true), Verdict::OthersDiffer, "the owner has not said");
        let at_the_owner = [("one", false, digest(2)), ("two", false, digest(1))];
        assert_eq!(judge(own, &at_the_owner, false), Verdict::OthersDiffer);
        assert_eq!(judge(own, &[], true), Verdict::Same);
    }
}
