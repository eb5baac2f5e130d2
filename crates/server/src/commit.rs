//! The commit path's two threads: the committer makes groups durable, the applier moves them on.
//!
//! Committer: take what is staged, one write, one sync, say so, ring the workers that wait. After a
//! failure it waits until everything durable is applied and opens the log again in a higher epoch;
//! until then writes are refused. Applier: engine, members in the row cache, overlay removal, heads clean,
//! in that order.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use holdfast_base::{Error, ErrorKind};
use holdfast_log::{Position, Session, lease::RENEW_EVERY};
use holdfast_shard::CommitStep;

use crate::{
    data::log_error,
    ending,
    metrics::MeasuredSession,
    node::Node,
    ownership::{now_ns, step_down},
};

/// Without work, the log's durable position is made explicit after this long (see DESIGN, "The log
/// contract": the residual is small and published).
const WATERMARK_AFTER: Duration = Duration::from_millis(10);
/// Records that one engine batch takes: some ten milliseconds of work.
const APPLY_BYTES: usize = 2 << 20;
/// How long the applier lets durable records gather, and how many bytes of them are enough: the closer
/// together the sorted rows of a batch are, the less of the memtable is searched for each. Whoever reads one head
/// does not notice. Other readers of a busy bucket pin a view past the row cache, so the first of them ends the
/// gathering; and those of members copy what is staged of a collection, so these do not wait for long.
const GATHER_HEADS: Duration = Duration::from_millis(100);
const GATHER_MEMBERS: Duration = Duration::from_millis(1);
const GATHER_BYTES: usize = APPLY_BYTES;
/// How often it looks whether members came, a reader pinned, or enough is there.
const GATHER_LOOK: Duration = Duration::from_millis(2);
/// Between two tries to open a failed log, or to apply to a failed engine.
const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long a thread sleeps without work; only to notice a stop that was not signalled.
const IDLE: Duration = Duration::from_millis(500);

/// The loop of the committer.
pub(crate) fn run_committer(node: &Node, session: Box<dyn Session>) {
    let mut session = Some(session);
    let mut watermark_due = false;
    let mut renewed = Instant::now();
    while !node.shard.is_stopping() || node.shard.has_staged() {
        if node.is_past_stop_deadline() {
            return;
        }
        let Some(open) = session.as_mut() else {
            session = reopen(node);
            renewed = Instant::now();
            continue;
        };
        let wait = if watermark_due { WATERMARK_AFTER } else { IDLE };
        if !node.shard.wait_staged(wait) {
            if std::mem::take(&mut watermark_due)
                && let Err(error) = open.watermark()
            {
                tracing::warn!(%error, "the log took no watermark");
            }
            if renewed.elapsed() < RENEW_EVERY {
                continue;
            }
        } else {
            watermark_due = true;
        }
        let (sent, sent_ns) = (Instant::now(), now_ns());
        let mut step = node.shard.commit_step(&mut **open);
        if step == CommitStep::Idle && renewed.elapsed() >= RENEW_EVERY {
            step = renew(node, &mut **open);
        }
        match step {
            CommitStep::Idle => {}
            CommitStep::Durable(durable) => {
                renewed = sent;
                node.lease.extend(sent_ns);
                node.lag.note(durable, Instant::now());
                node.inboxes.iter().for_each(|inbox| inbox.ring_durable());
            }
            CommitStep::Failed(error) if error.kind() == ErrorKind::NotOwner => {
                step_down(node, &error);
            }
            CommitStep::Failed(error) => {
                tracing::error!(%error, "the log failed: writes stop until it is open again");
                node.inboxes.iter().for_each(|inbox| inbox.ring());
                session = None;
                // A log that is full would fail again at once.
                std::thread::park_timeout(RETRY_AFTER);
            }
        }
    }
    if let Some(mut session) = session {
        let _ = session.watermark();
        if let Err(error) = session.renew(true) {
            tracing::warn!(%error, "the log does not know that this node has stopped: others wait");
        }
    }
}

/// Gives a sign of life. It is durable as a group is, and moves no position.
fn renew(node: &Node, session: &mut dyn Session) -> CommitStep {
    match session.renew(false) {
        Ok(()) => CommitStep::Durable(node.shard.durable()),
        Err(refused) => {
            node.metrics.lease_failures.fetch_add(1, Ordering::Relaxed);
            node.shard.refused(&refused)
        }
    }
}

/// Opens the log again, once everything durable is applied.
fn reopen(node: &Node) -> Option<Box<dyn Session>> {
    let opened = if node.shard.is_drained() {
        open_session(node)
    } else {
        Err(Error::new(ErrorKind::Unavailable, "records wait to be applied"))
    };
    match opened {
        Ok(session) => {
            node.metrics.reopened.fetch_add(1, Ordering::Relaxed);
            tracing::info!("the log is open again");
            Some(session)
        }
        Err(error) if error.kind() == ErrorKind::NotOwner => step_down(node, &error),
        Err(error) => {
            tracing::debug!(%error, "the log stays closed");
            std::thread::park_timeout(RETRY_AFTER);
            None
        }
    }
}

/// Opens a session in a higher epoch and takes the shard over.
pub(crate) fn open_session(node: &Node) -> Result<Box<dyn Session>, Error> {
    let sent_ns = now_ns();
    let (session, position) = node.log.open_session(node.shard.id()).map_err(log_error)?;
    let (known, next) = (node.shard.durable(), position.next_lsn);
    if next != known.next() {
        // Only on a replicated log: an append without an answer was stored after all.
        tracing::warn!(%known, %next, "the log holds what had no answer here: it is taken in");
        node.follow_to_end()?;
    }
    node.lease.extend(sent_ns);
    let session = begin_session(node, session, &position)?;
    node.members.iter().for_each(|members| members.note_owner(position.epoch.0));
    Ok(session)
}

/// Takes the shard over in a session that was opened.
pub(crate) fn begin_session(
    node: &Node,
    session: Box<dyn Session>,
    position: &Position,
) -> Result<Box<dyn Session>, Error> {
    node.shard.take_over(position, node.config.node_name.as_bytes())?;
    Ok(MeasuredSession::wrap(session, node.metrics.log.clone()))
}

/// How long the engine may refuse rows for another reason than a full disk. It does not recover from
/// a failed sync by itself: ending the process is the way back, what is durable is replayed.
const ENGINE_PATIENCE: Duration = Duration::from_secs(5);

/// Lets durable records gather.
fn gather(node: &Node) {
    let pins = node.shard.pins();
    let mut gathered = Duration::ZERO;
    while !node.is_stopping()
        && node.shard.staged_bytes() < GATHER_BYTES
        && node.shard.pins() == pins
    {
        let (wait, longest) = if node.shard.has_only_heads_staged() {
            (GATHER_LOOK, GATHER_HEADS)
        } else {
            (GATHER_MEMBERS, GATHER_MEMBERS)
        };
        if gathered >= longest {
            return;
        }
        std::thread::park_timeout(wait);
        gathered += wait;
    }
}

/// The loop of the applier.
pub(crate) fn run_applier(node: &Arc<Node>) {
    let mut failing_since: Option<Instant> = None;
    loop {
        if !node.shard.wait_committed(IDLE) {
            if node.applier_may_end() {
                return;
            }
            continue;
        }
        gather(node);
        let start = Instant::now();
        match node.shard.apply_step(APPLY_BYTES) {
            Ok(0) => {}
            Ok(records) => {
                if failing_since.take().is_some() {
                    node.apply_fails(false);
                    tracing::info!("the engine takes rows again");
                }
                node.metrics.apply.add(start.elapsed().as_micros() as u64, 1);
                node.metrics.records.fetch_add(records as u64, Ordering::Relaxed);
            }
            Err(error) => {
                let since = *failing_since.get_or_insert_with(|| {
                    node.apply_fails(true);
                    tracing::error!(%error, "the engine refuses durable records: they wait");
                    start
                });
                if error.kind() != ErrorKind::Full && since.elapsed() > ENGINE_PATIENCE {
                    tracing::error!(
                        %error,
                        "the engine does not recover: this process ends; what is durable is \
                         replayed at the next start"
                    );
                    ending::end(node);
                }
                if node.is_past_stop_deadline() {
                    return;
                }
                std::thread::park_timeout(RETRY_AFTER);
            }
        }
    }
}
