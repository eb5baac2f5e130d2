//! Whose the data is. With an embedded log it is always this node's.
//!
//! On a replicated log one node at a time owns it: the one whose session was opened last. Others stand by,
//! follow the log, and take over once its owner has given the data up or no sign of life for longer than its
//! lease ([`holdfast_log::lease`]):
//!
//! - The owner answers from memory while its lease holds; writes need none, the log refuses them.
//! - Whoever takes over answers nothing before the lease of the last sign that it found has run out.
//! - What was read is sent only if the lease holds then, so a process that stood still sends nothing old.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use holdfast_base::{Epoch, Error, ErrorKind};
use holdfast_io::{Clock, SystemClock};
use holdfast_log::{
    LogError, Owner, Position, Session, Sign,
    lease::{Lease, RENEW_EVERY, Watch},
};

use crate::{
    OpenProgress, TakeOver,
    data::{SHARD, log_error},
    ending,
    node::Node,
};

/// Between two looks of a node that stands by.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while something comes: how much later than at the owner it shows here, about.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a stop waits for another node to take over.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(1);
/// Between two lines about log servers that do not answer.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What is answered instead of data.
pub(crate) const LAPSED_TEXT: &str = "TRYAGAIN the log servers have not confirmed for 2 seconds that this node \
                                      still owns its data";

/// What leases are counted on.
pub(crate) fn now_ns() -> u64 {
    SystemClock.monotonic_ns()
}

/// Whether the lease holds now.
pub(crate) fn holds(lease: &Lease) -> bool {
    lease.is_endless() || lease.holds(now_ns())
}

/// The shard, taken.
pub(crate) struct Taken {
    session: Box<dyn Session>,
    position: Position,
    /// When the last sign of this session was sent.
    sent_ns: u64,
    /// Until then the one before may still answer.
    others_until_ns: u64,
}

/// Follows the log until this node may have the data, and takes it. `None`: it was told to stop before.
pub(crate) fn take(
    node: &Node,
    tell: &mut dyn FnMut(OpenProgress) -> Result<ControlFlow<()>, Error>,
) -> Result<Option<Taken>, Error> {
    let (log, policy) = (&node.log, node.config.log_take_over);
    let mut watch = Watch::new(log.look(SHARD).map_err(log_error)?, now_ns());
    let mut pause = LOOK_EVERY;
    // When the last sign was looked for whose records are not all taken in yet.
    let mut unheard_ns = None;
    let mut complained: Option<Instant> = None;
    let mut complain = |error: &LogError| {
        if complained.is_none_or(|at| at.elapsed() > COMPLAIN_EVERY) {
            complained = Some(Instant::now());
            tracing::warn!(%error, "standing by: the log servers do not answer");
        }
    };
    loop {
        match try_to_take(node, policy, &watch) {
            Ok(Some(taken)) => return Ok(Some(taken)),
            Ok(None) | Err(LogError::NotOwner(_)) => {}
            Err(error) if policy == TakeOver::AtStart || !is_passing(&error) => {
                return Err(log_error(error));
            }
            Err(error) => {
                complain(&error);
                watch.lost_sight(now_ns());
            }
        }
        if let Owner::Session(epoch) = watch.sign().owner
            && tell(OpenProgress::StandingBy { epoch: epoch.0, applied: node.shown() })?.is_break()
        {
            return Ok(None);
        }
        std::thread::park_timeout(pause);
        pause = LOOK_EVERY;
        let looked_ns = now_ns();
        match log.look(SHARD) {
            Ok(sign) => {
                if sign != watch.sign() {
                    pause = LOOK_AGAIN;
                    unheard_ns = Some(looked_ns);
                }
                watch.saw(sign, now_ns());
                match node.follow() {
                    Ok(true) => unheard_ns.take().into_iter().for_each(|at| node.note_heard(at)),
                    Ok(false) => pause = LOOK_AGAIN,
                    Err(error) if error.kind() == ErrorKind::Unavailable => {}
                    Err(error) => return Err(error),
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
fn try_to_take(node: &Node, policy: TakeOver, watch: &Watch) -> Result<Option<Taken>, LogError> {
    let sent_ns = now_ns();
    let is_free = watch.is_free(sent_ns);
    if node.has_diverged() {
        return Ok(None);
    }
    let (session, position) = match (is_free, policy) {
        (true, _) => node.log.open_session_after(SHARD, watch.sign())?,
        (false, TakeOver::AtStart) => node.log.open_session(SHARD)?,
        (false, TakeOver::WhenSilent) => return Ok(None),
    };
    let others_until_ns = Watch::others_until(is_free, sent_ns, now_ns());
    Ok(Some(Taken { session, position, sent_ns, others_until_ns }))
}

impl Taken {
    /// Epoch of the session.
    pub(crate) fn epoch(&self) -> Epoch {
        self.session.epoch()
    }

    /// Waits until nobody else answers any more. Gives when the last sign was sent besides: this node's lease
    /// may begin there.
    pub(crate) fn wait_for_others(mut self) -> Result<(Box<dyn Session>, Position, u64), Error> {
        loop {
            let now_ns = now_ns();
            let wait = Duration::from_nanos(self.others_until_ns.saturating_sub(now_ns));
            let since_sign = Duration::from_nanos(now_ns.saturating_sub(self.sent_ns));
            if wait.is_zero() && since_sign < RENEW_EVERY {
                return Ok((self.session, self.position, self.sent_ns));
            }
            std::thread::sleep(wait.min(RENEW_EVERY));
            self.sent_ns = self::now_ns();
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
        let sent_ns = now_ns();
        let session = Box::new(Signs { left: signs });
        Taken { session, position, sent_ns, others_until_ns: sent_ns + wait.as_nanos() as u64 }
    }

    #[test]
    fn leases_are_counted_on_a_clock_that_goes_on_while_the_machine_sleeps() {
        use rustix::time::{ClockId, clock_gettime};
        let boot_ns = || {
            let at = clock_gettime(ClockId::Boottime);
            at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
        };
        let (before, now, after) = (boot_ns(), now_ns(), boot_ns());
        assert!(before <= now && now <= after);
    }

    #[test]
    fn whoever_takes_over_waits_for_the_lease_before_and_keeps_its_own() {
        let wait = RENEW_EVERY + RENEW_EVERY / 2;
        let (began, lease) = (Instant::now(), Lease::new());
        let owned = taken(10, wait).wait_for_others().map(|(.., sent_ns)| lease.extend(sent_ns));
        owned.expect("the log takes the signs");
        assert!(began.elapsed() >= wait && holds(&lease));
        let lost = taken(1, wait).wait_for_others().map(drop);
        assert_eq!(lost.map_err(|error| error.kind()), Err(ErrorKind::NotOwner));
    }
}
