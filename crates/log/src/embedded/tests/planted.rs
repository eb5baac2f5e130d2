//! The suite itself: logs with planted bugs must fail it.

use std::sync::Arc;

use holdfast_base::{Epoch, Lsn, ShardId, record::Batch};
use holdfast_io::{Disk, SimDisk};
use parking_lot::Mutex;

use super::{OpenLog, SimWorld, open_any};
use crate::{
    Bounds, Caps, Completion, Log, LogError, Outcome, Position, ReadBatches, ReadError, Refused,
    Session, Space,
    suite::{self, World, crash_property},
};

/// What is wrong with the log.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Acknowledges before the sync.
    Early,
    /// Every session begins anew.
    Amnesia,
    /// Says that nothing was trimmed.
    Denial,
}

struct Planted {
    bug: Bug,
    /// The last one is in use.
    logs: Mutex<Vec<Arc<dyn Log>>>,
}

impl Planted {
    fn open(disk: Arc<dyn Disk>, bug: Bug) -> Result<Arc<dyn Log>, LogError> {
        let logs = Mutex::new(vec![open_any(disk)?]);
        Ok(Arc::new(Planted { bug, logs }))
    }

    fn current(&self) -> Arc<dyn Log> {
        let logs = self.logs.lock();
        Arc::clone(logs.last().expect("made with one, and none is ever taken away"))
    }
}

impl Log for Planted {
    fn open_session(&self, shard: ShardId) -> Result<(Box<dyn Session>, Position), LogError> {
        if self.bug == Bug::Amnesia {
            self.logs.lock().push(open_any(Arc::new(SimDisk::new()))?);
        }
        let (inner, position) = self.current().open_session(shard)?;
        if self.bug == Bug::Early {
            return Ok((Box::new(Early { inner, behind: 0, ahead: Vec::new() }), position));
        }
        Ok((inner, position))
    }

    fn read(&self, shard: ShardId, from: Lsn, bytes_max: usize) -> Result<ReadBatches, ReadError> {
        self.current().read(shard, from, bytes_max)
    }

    fn bounds(&self, shard: ShardId) -> Bounds {
        let bounds = self.current().bounds(shard);
        if self.bug == Bug::Denial { Bounds { first: Lsn(1), ..bounds } } else { bounds }
    }

    fn bytes_from(&self, shard: ShardId, from: Lsn) -> u64 {
        self.current().bytes_from(shard, from)
    }

    fn trim(&self, shard: ShardId, below: Lsn) -> Result<Lsn, LogError> {
        self.current().trim(shard, below)
    }

    fn space(&self) -> Space {
        self.current().space()
    }

    fn caps(&self) -> Caps {
        self.current().caps()
    }

    fn prepare_reserve(&self) -> Result<(), LogError> {
        self.current().prepare_reserve()
    }
}

/// Says durable at once; the sync comes with the next call.
struct Early {
    inner: Box<dyn Session>,
    behind: usize,
    ahead: Vec<Vec<Lsn>>,
}

impl Session for Early {
    fn epoch(&self) -> Epoch {
        self.inner.epoch()
    }

    fn submit(&mut self, batches: Vec<Batch>) -> Result<(), Refused> {
        for _ in 0..std::mem::take(&mut self.behind) {
            self.inner.complete();
        }
        let last_lsns = batches.iter().map(Batch::last_lsn).collect();
        self.inner.submit(batches)?;
        self.ahead.push(last_lsns);
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        if self.ahead.is_empty() {
            return None;
        }
        self.behind += 1;
        Some(Completion { last_lsns: self.ahead.remove(0), outcome: Outcome::Durable })
    }
}

fn run_suite(open: OpenLog) -> Result<(), String> {
    suite::run(&mut || -> Box<dyn World> {
        Box::new(SimWorld::fresh(1, open).expect("an empty disk takes a log"))
    })
}

fn crash_seeds(bug: Bug) -> Result<(), String> {
    (0..50).try_for_each(|seed| crash_property(seed, &|disk| Planted::open(disk, bug)))
}

#[test]
fn the_wrapper_without_a_bug_passes() {
    assert_eq!(run_suite(|disk| Planted::open(disk, Bug::None)), Ok(()));
    assert_eq!(crash_seeds(Bug::None), Ok(()));
}

#[test]
fn a_log_that_acknowledges_before_the_sync_is_caught_within_50_seeds() {
    let broken = crash_seeds(Bug::Early).expect_err("one of 50 seeds must fail");
    assert!(broken.contains("not there") || broken.contains("continues at"), "{broken}");
}

#[test]
fn a_log_that_gives_a_position_twice_fails_the_suite() {
    run_suite(|disk| Planted::open(disk, Bug::Amnesia)).expect_err("the suite must see it");
    crash_seeds(Bug::Amnesia).expect_err("the crash property must see it, too");
}

#[test]
fn a_log_that_hides_what_was_trimmed_fails_the_suite() {
    let broken = run_suite(|disk| Planted::open(disk, Bug::Denial)).expect_err("must be seen");
    assert!(broken.contains("below the first position"), "{broken}");
}
