//! Whose the data is. With an embedded log it is always this node's.
//!
//! On a replicated log one node at a time owns it: the one whose session was opened last. Others stand by,
//! follow the log, and take over once its owner has given the data up or no sign of life for longer than its
//! lease. The log is the judge of that, and clocks decide nothing but how long to wait:
//!
//! - The owner's **lease** runs for [`LEASE`] on its own clock, from before it sent the last sign that became
//!   durable (`Lease`). It covers what is answered from memory; writes need none, the log refuses them.
//! - Whoever takes over answers nothing before the lease of the last sign that it found has run out, counted
//!   from when it saw that sign, which is later than when it was sent.
//! - What was read is sent only if the lease holds then, so a process that stood still sends nothing old.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use holdfast_base::{Epoch, Error, ErrorKind};
use holdfast_log::{LogError, Owner, Position, Session, Sign};

use crate::{
    OpenProgress, TakeOver, ending,
    node::{Node, Opened, SHARD, log_error},
};

/// How long a sign of life is good for.
const LEASE: Duration = Duration::from_secs(2);
/// When others take it for run out: their clocks may run faster, by a twentieth.
const SILENCE: Duration = Duration::from_millis(2_100);
/// Between two signs of an owner that writes nothing.
pub(crate) const RENEW_EVERY: Duration = Duration::from_millis(500);
/// Between two looks of a node that stands by.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Records that a node that stands by lets gather for its engine: rows in order cost half.
const GATHER_BYTES: u64 = 1 << 20;
const GATHER_FOR: Duration = Duration::from_millis(500);

/// How long a stop waits for another node to take over.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(1);
/// Between two lines about log servers that do not answer.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What is answered instead of data.
pub(crate) const LAPSED_TEXT: &str = "TRYAGAIN the log servers have not confirmed for 2 seconds that this node \
                                      still owns its data";

/// This node's right to answer from what it holds.
pub(crate) struct Lease {
    /// What the end is counted from. `None`: nobody else can own the data.
    origin: Option<Instant>,
    end_us: AtomicU64,
}

impl Lease {
    /// One that never ends, or one that has not begun.
    pub(crate) fn new(is_replicated: bool) -> Lease {
        Lease { origin: is_replicated.then(Instant::now), end_us: AtomicU64::new(0) }
    }

    /// A sign that was sent then, or later, is durable.
    pub(crate) fn extend(&self, sent: Instant) {
        let Some(origin) = self.origin else { return };
        let end = sent.saturating_duration_since(origin) + LEASE;
        self.end_us.fetch_max(end.as_micros() as u64, Ordering::AcqRel);
    }

    /// Whether it holds now.
    pub(crate) fn holds(&self) -> bool {
        let Some(origin) = self.origin else { return true };
        (origin.elapsed().as_micros() as u64) < self.end_us.load(Ordering::Acquire)
    }
}

/// The shard, taken.
pub(crate) struct Taken {
    session: Box<dyn Session>,
    position: Position,
    /// When the last sign of this session was sent.
    sent: Instant,
    /// Until then the one before may still answer.
    others_until: Instant,
}

/// Follows the log until this node may have the data, and takes it. `None`: it was told to stop before.
pub(crate) fn take(
    opened: &mut Opened,
    policy: TakeOver,
    tell: &mut dyn FnMut(OpenProgress) -> ControlFlow<()>,
) -> Result<Option<Taken>, Error> {
    let log = opened.log.clone();
    let mut sign = log.look(SHARD).map_err(log_error)?;
    let mut seen = Instant::now();
    let mut applied = Instant::now();
    let mut complained: Option<Instant> = None;
    let mut complain = |error: &LogError| {
        if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            complained = Some(Instant::now());
            tracing::warn!(%error, "standing by: the log servers do not answer");
        }
    };
    loop {
        match try_to_take(opened, policy, sign, seen) {
            Ok(Some(taken)) => return Ok(Some(taken)),
            Ok(None) | Err(LogError::NotOwner(_)) => {}
            Err(error) if policy == TakeOver::AtStart || !is_passing(&error) => {
                return Err(log_error(error));
            }
            Err(error) => {
                complain(&error);
                // An owner that could not reach them either gets the time to say so.
                seen = Instant::now();
            }
        }
        if let Owner::Session(epoch) = sign.owner
            && tell(OpenProgress::StandingBy { epoch: epoch.0, applied: opened.applied() })
                .is_break()
        {
            return Ok(None);
        }
        std::thread::park_timeout(LOOK_EVERY);
        match log.look(SHARD) {
            Ok(newer) => {
                if newer != sign {
                    (sign, seen) = (newer, Instant::now());
                }
                if opened.behind_bytes() >= GATHER_BYTES || applied.elapsed() >= GATHER_FOR {
                    applied = Instant::now();
                    match opened.replay_rest() {
                        Err(error) if error.kind() != ErrorKind::Unavailable => return Err(error),
                        _ => {}
                    }
                }
            }
            Err(error) if is_passing(&error) => complain(&error),
            Err(error) => return Err(log_error(error)),
        }
    }
}

/// Whether it may be gone at the next try.
fn is_passing(error: &LogError) -> bool {
    matches!(error, LogError::Io(_))
}

/// Takes the shard if nobody has it, or the last sign of who has it was seen long enough ago.
fn try_to_take(
    opened: &Opened,
    policy: TakeOver,
    sign: Sign,
    seen: Instant,
) -> Result<Option<Taken>, LogError> {
    let is_free = sign.owner == Owner::Nobody || seen.elapsed() >= SILENCE;
    let sent = Instant::now();
    let (session, position) = match (is_free, policy) {
        (true, _) => opened.log.open_session_after(SHARD, sign)?,
        (false, TakeOver::AtStart) => opened.log.open_session(SHARD)?,
        (false, TakeOver::WhenSilent) => return Ok(None),
    };
    // The signs before this session's own are at most as late as now.
    let others_until = if is_free { sent } else { Instant::now() + SILENCE };
    Ok(Some(Taken { session, position, sent, others_until }))
}

impl Taken {
    /// Epoch of the session.
    pub(crate) fn epoch(&self) -> Epoch {
        self.session.epoch()
    }

    /// Waits until nobody else answers any more; the lease of this node holds then.
    pub(crate) fn wait_for_others(
        mut self,
        lease: &Lease,
    ) -> Result<(Box<dyn Session>, Position), Error> {
        loop {
            lease.extend(self.sent);
            let wait = self.others_until.saturating_duration_since(Instant::now());
            if wait.is_zero() && self.sent.elapsed() < RENEW_EVERY {
                return Ok((self.session, self.position));
            }
            std::thread::sleep(wait.min(RENEW_EVERY));
            self.sent = Instant::now();
            let renewed = self.session.renew(false);
            renewed.map_err(|refused| Error::new(refused.kind(), refused.to_string()))?;
        }
    }
}

/// After the data was given up: waits until another node has taken it, if one stands by. Until then clients are
/// held rather than refused.
pub(crate) fn wait_for_successor(node: &Node) {
    let Some(members) = node.members.as_ref().filter(|members| members.has_successor()) else {
        return;
    };
    let began = Instant::now();
    while began.elapsed() < SUCCESSOR_PATIENCE {
        match node.log.look(SHARD) {
            Ok(Sign { owner: Owner::Nobody, .. }) => std::thread::sleep(LOOK_EVERY / 5),
            Ok(_) => return,
            Err(error) => {
                return tracing::warn!(%error, "whether another node took over is not known");
            }
        }
    }
    tracing::warn!(node = members.name, "no other node has taken the data over");
}

/// Another node has taken over: this one ends. What it acknowledged is in the log, and the other one has it.
pub(crate) fn step_down(node: &Node, error: &Error) -> ! {
    tracing::error!(%error, "this node no longer owns its data: it ends");
    ending::end(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_base::{Hlc, Incarnation, Lsn, record::Batch};
    use holdfast_log::{Completion, Refused};

    /// Counts the signs that it is asked for; refuses them from the given one on.
    struct Signs {
        left: u32,
    }

    impl Session for Signs {
        fn epoch(&self) -> Epoch {
            Epoch(7)
        }

        fn submit(&mut self, _: Vec<Batch>) -> Result<(), Refused> {
            Err(Refused::Busy)
        }

        fn complete(&mut self) -> Option<Completion> {
            None
        }

        fn renew(&mut self, _: bool) -> Result<(), Refused> {
            self.left = self.left.checked_sub(1).ok_or(Refused::Fenced(Epoch(8)))?;
            Ok(())
        }
    }

    fn taken(signs: u32, wait: Duration) -> Taken {
        let position = Position {
            next_lsn: Lsn(1),
            next_n: 0,
            chain: 0,
            incarnation: Incarnation(1),
            epoch: Epoch(7),
            last_time: Hlc(0),
        };
        let now = Instant::now();
        let session = Box::new(Signs { left: signs });
        Taken { session, position, sent: now, others_until: now + wait }
    }

    #[test]
    fn a_lease_holds_for_two_seconds_from_when_its_sign_was_sent() {
        let lease = Lease::new(true);
        assert!(!lease.holds(), "before the first sign");
        lease.extend(Instant::now());
        assert!(lease.holds());
        let old =
            Lease { origin: Instant::now().checked_sub(2 * LEASE), end_us: AtomicU64::new(0) };
        let origin = old.origin.expect("the clock has run for longer");
        old.extend(origin + LEASE / 2);
        assert!(!old.holds(), "its end was half a lease ago");
        old.extend(origin);
        old.extend(origin + LEASE + LEASE / 2);
        old.extend(origin);
        assert!(old.holds(), "an older sign takes nothing away");
        assert!(Lease::new(false).holds(), "nobody else can own an embedded log's data");
    }

    #[test]
    fn whoever_takes_over_waits_for_the_lease_before_and_keeps_its_own() {
        let (lease, wait) = (Lease::new(true), RENEW_EVERY + RENEW_EVERY / 2);
        let began = Instant::now();
        taken(10, wait).wait_for_others(&lease).map(drop).expect("the log takes the signs");
        assert!(began.elapsed() >= wait && lease.holds());
        let lost = taken(1, wait).wait_for_others(&Lease::new(true)).map(drop);
        assert_eq!(lost.map_err(|error| error.kind()), Err(ErrorKind::NotOwner));
    }
}
