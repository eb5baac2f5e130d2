//! A node in steps: what the server's threads do, in an order that the world chooses.

use std::{collections::VecDeque, sync::Arc};

use holdfast_base::{
    Epoch, Incarnation, LogId, Lsn, ShardId,
    record::{BATCH_HEADER_BYTES, BatchView},
    row::AppliedState,
};
use holdfast_engine::{Engine, ModelEngine};
use holdfast_jetstream::parts::{Content, Message, Part, Tail, Taken};
use holdfast_log::{
    Completion, Outcome, Position, ReadBatches,
    lease::{Lease, Watch},
    place::Point,
};
use holdfast_shard::{Limits, Shard, ShardParts, stored_state};

use super::{
    Planted, Reached,
    servers::{Line, Request, Stream},
};

pub(super) const LOG: LogId = LogId(11);
pub(super) const SHARD: ShardId = ShardId(0);
/// Calls of one session on the way: more than the server sends today, as many as the contract allows for.
const CALLS_MAX: usize = 3;
/// Bytes of the last calls that a reader keeps: all of a run's.
const RECENT_BYTES: usize = 1 << 30;

/// What a node does.
pub(super) enum Role {
    Standby(Watch),
    /// Its barrier is on the way.
    Opening {
        epoch: Epoch,
        point: Point,
        sent_ns: u64,
        before: Before,
    },
    Owner(Session),
    /// Its session is over: it looks whether another node has the data, and begins again if not.
    Between(Epoch),
    Down,
}

/// What a node was before it sent its barrier.
#[derive(Clone, Copy)]
pub(super) enum Before {
    Standby(Watch),
    Owner(Epoch),
}

impl Before {
    fn role(self) -> Role {
        match self {
            Before::Standby(watch) => Role::Standby(watch),
            Before::Owner(epoch) => Role::Between(epoch),
        }
    }
}

/// A session, with a few calls on the way.
pub(super) struct Session {
    pub epoch: Epoch,
    incarnation: Incarnation,
    last_sequence: u64,
    calls: VecDeque<Call>,
    pub others_until_ns: u64,
    pub renewed_ns: u64,
    pub parted: bool,
}

struct Call {
    /// Sequence that each message is to have, oldest first.
    messages: VecDeque<(u64, Vec<u8>)>,
    last_lsn: Option<Lsn>,
    sent_ns: u64,
    is_parting: bool,
}

/// See the module's head.
pub(super) struct Node {
    pub name: usize,
    pub engine: Arc<ModelEngine>,
    pub shard: Shard,
    pub tail: Tail,
    pub line: Line,
    pub role: Role,
    pub lease: Lease,
    /// Parts per thousand by which its clock is fast.
    rate: i64,
    offset_ns: u64,
    /// What a clock that people set shows less.
    pub set_back_ns: u64,
    /// It stands still until then.
    pub asleep_until_ns: u64,
    /// Nothing passes between it and the log servers until then; clients reach it.
    pub cut_off_until_ns: u64,
    planted: Option<Planted>,
}

fn shard_of(engine: &Arc<ModelEngine>, seed: u8) -> Result<Shard, String> {
    let stored = stored_state(&**engine, SHARD).map_err(|error| error.to_string())?;
    let fresh = || AppliedState { hash_seed: [seed; 16], ..AppliedState::default() };
    Ok(Shard::new(ShardParts {
        id: SHARD,
        engine: engine.clone(),
        applied: stored.unwrap_or_else(fresh),
        row_cache_bytes: 1 << 16,
        limits: Limits::default(),
    }))
}

impl Node {
    pub fn new(name: usize, rate: i64, offset_ns: u64, planted: Option<Planted>) -> Node {
        let engine = Arc::new(ModelEngine::new());
        let shard = shard_of(&engine, name as u8).expect("an empty engine holds no state");
        let mut tail = Tail::new(LOG, SHARD, 1);
        tail.keep_recent(RECENT_BYTES);
        Node {
            name,
            engine,
            shard,
            tail,
            line: Line::default(),
            role: Role::Down,
            lease: Lease::new(),
            rate,
            offset_ns,
            set_back_ns: 0,
            asleep_until_ns: 0,
            cut_off_until_ns: 0,
            planted,
        }
    }

    fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }

    /// What this node's clock shows.
    pub fn clock_ns(&self, now_ns: u64) -> u64 {
        let shown = now_ns as i64 + now_ns as i64 / 1_000 * self.rate + self.offset_ns as i64;
        (shown as u64).saturating_sub(self.set_back_ns)
    }

    pub fn is_up(&self) -> bool {
        !matches!(self.role, Role::Down)
    }

    /// Whether it answers as the owner.
    pub fn serves(&self, now_ns: u64) -> bool {
        let clock = self.clock_ns(now_ns);
        match &self.role {
            Role::Owner(session) => {
                self.lease.holds(clock) && clock >= session.others_until_ns && !session.parted
            }
            _ => false,
        }
    }

    /// The process starts: from what the engine has left of it, and the log.
    pub fn start(&mut self, stream: &Stream, now_ns: u64) -> Result<(), String> {
        self.shard = shard_of(&self.engine, self.name as u8)?;
        self.tail = Tail::new(LOG, SHARD, stream.first());
        self.tail.keep_recent(RECENT_BYTES);
        self.lease = Lease::new();
        self.read_all(stream)?;
        self.follow()?;
        self.role = Role::Standby(Watch::new(self.tail.sign(), self.clock_ns(now_ns)));
        Ok(())
    }

    /// The process ends: nothing but what its engine had flushed is left.
    pub fn crash(&mut self, keep: impl FnOnce(usize) -> usize) {
        self.engine.crash(keep);
        self.line.cut();
        self.role = Role::Down;
    }

    fn read_all(&mut self, stream: &Stream) -> Result<(), String> {
        let mut exact = holdfast_io::SeededRandom::new(0);
        loop {
            let (messages, lagged) = stream.read(self.tail.last_sequence() + 1, &mut exact);
            self.take(stream, &messages)?;
            if !lagged {
                return Ok(());
            }
        }
    }

    fn take(&mut self, stream: &Stream, messages: &[(u64, Vec<u8>)]) -> Result<(), String> {
        // Signs of life behind what it has read may be trimmed with what is before them.
        if messages.first().is_some_and(|(first, _)| *first > self.tail.last_sequence() + 1) {
            self.tail.begin_anew(stream.first());
        }
        for (sequence, bytes) in messages {
            let taken = self.tail.take(*sequence, bytes).map_err(|damage| damage.what)?;
            if taken == Taken::Dead && self.has(Planted::NoEpochFilter) {
                self.follow_blindly(bytes)?;
            }
        }
        Ok(())
    }

    fn follow_blindly(&mut self, bytes: &[u8]) -> Result<(), String> {
        let message = Message::decode(bytes).map_err(str::to_owned)?;
        let Content::Part(Part { bytes, count: 1, .. }) = message.content else { return Ok(()) };
        self.follow()?;
        let next = self.shard.durable().next();
        let read = ReadBatches::new(next, Lsn(next.0 + 1), bytes.to_vec());
        let followed = self.shard.follow(read.batches(), |_| Ok(()));
        followed.map_err(|error| error.to_string())
    }

    /// Takes what is in the log and not in the shard into it.
    pub fn follow(&mut self) -> Result<u64, String> {
        let known = self.shard.durable();
        let entries: Vec<_> = self.tail.entries_from(known.next()).copied().collect();
        let Some(first) = entries.first() else { return self.must_know(known) };
        if first.first_lsn > known.next() {
            return Err(format!(
                "it needs {} next, but the log begins at {}",
                known.next(),
                first.first_lsn
            ));
        }
        let bytes = self.tail.recent(&entries).ok_or("the reader has not kept what it read")?;
        let read = ReadBatches::new(known.next(), self.tail.point().next_lsn, bytes);
        let followed = self.shard.follow(read.batches(), |_| Ok(()));
        followed.map_err(|error| error.to_string())?;
        Ok(self.shard.durable().0 - known.0)
    }

    fn must_know(&self, known: Lsn) -> Result<u64, String> {
        let next = self.tail.point().next_lsn;
        if known.next() == next {
            return Ok(0);
        }
        Err(format!("the engine has applied {known}, and the log goes on at {next}"))
    }

    /// A look at the log, perhaps at an old copy of it.
    pub fn look(
        &mut self,
        stream: &Stream,
        now_ns: u64,
        random: &mut dyn holdfast_io::Random,
        reached: &mut Reached,
    ) -> Result<(), String> {
        let (messages, lagged) = stream.read(self.tail.last_sequence() + 1, random);
        reached.stale_looks += u64::from(lagged);
        self.take(stream, &messages)?;
        let (clock, sign) = (self.clock_ns(now_ns), self.tail.sign());
        match &mut self.role {
            Role::Standby(watch) => {
                watch.saw(sign, clock);
                self.follow().map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Sends its barrier, if it may have the data.
    pub fn try_to_take(&mut self, now_ns: u64) {
        let clock = self.clock_ns(now_ns);
        let before = match &self.role {
            Role::Standby(watch) if watch.is_free(clock) || self.has(Planted::NoWait) => {
                Before::Standby(*watch)
            }
            Role::Between(epoch) => Before::Owner(*epoch),
            _ => return,
        };
        let point = self.tail.point();
        let epoch = Epoch(self.tail.opened().max(point.epoch).0 + 1);
        let content = Content::Barrier(point);
        let message = Message { shard: SHARD, incarnation: point.incarnation, epoch, content };
        let expected = self.tail.last_sequence();
        self.line.requests.push_back(Request { expected, bytes: message.encode() });
        self.role = Role::Opening { epoch, point, sent_ns: clock, before };
    }

    /// Whether its session is over for good: another node has the data, as far as it has read.
    pub fn was_replaced(&self) -> bool {
        matches!(&self.role, Role::Between(own) if self.tail.opened() > *own)
    }

    fn opened(&mut self, sequence: u64, now_ns: u64, reached: &mut Reached) -> Result<(), String> {
        let Role::Opening { epoch, point, sent_ns, before } = self.role else { return Ok(()) };
        let is_first = matches!(before, Before::Standby(_));
        let message = Message {
            shard: SHARD,
            incarnation: point.incarnation,
            epoch,
            content: Content::Barrier(point),
        };
        self.tail.take(sequence, &message.encode()).map_err(|damage| damage.what)?;
        reached.adopted += if is_first { 0 } else { self.follow()? };
        self.follow()?;
        let position = Position {
            next_lsn: point.next_lsn,
            next_n: 0,
            chain: point.chain,
            incarnation: point.incarnation,
            epoch,
            last_time: point.time,
        };
        let taken = self.shard.take_over(&position, b"simulated");
        taken.map_err(|error| error.to_string())?;
        self.shard.submit();
        reached.take_overs += u64::from(is_first);
        self.lease.extend(sent_ns);
        let clock = self.clock_ns(now_ns);
        self.role = Role::Owner(Session {
            epoch,
            incarnation: point.incarnation,
            last_sequence: sequence,
            calls: VecDeque::new(),
            others_until_ns: Watch::others_until(true, sent_ns, clock),
            renewed_ns: sent_ns,
            parted: false,
        });
        Ok(())
    }

    /// Takes the next answer.
    pub fn answered(&mut self, now_ns: u64, reached: &mut Reached) -> Result<(), String> {
        let Some(answer) = self.line.answers.pop_front() else { return Ok(()) };
        match &mut self.role {
            Role::Opening { before, .. } => match answer {
                Some(sequence) => self.opened(sequence, now_ns, reached),
                None => {
                    reached.refused_barriers += 1;
                    self.role = before.role();
                    Ok(())
                }
            },
            Role::Owner(_) => self.call_answered(answer, reached),
            _ => Ok(()),
        }
    }

    fn call_answered(&mut self, answer: Option<u64>, reached: &mut Reached) -> Result<(), String> {
        let no_fencing = self.has(Planted::NoFencing);
        let Role::Owner(session) = &mut self.role else { return Ok(()) };
        let Some(call) = session.calls.front_mut() else { return Ok(()) };
        let Some((sequence, bytes)) = call.messages.pop_front() else { return Ok(()) };
        if answer != Some(sequence) && !no_fencing {
            return self.failed(reached);
        }
        if answer == Some(sequence) {
            let taken = self.tail.take(sequence, &bytes).map_err(|damage| damage.what)?;
            if matches!(taken, Taken::Dead) && !no_fencing {
                return self.failed(reached);
            }
        }
        if !call.messages.is_empty() {
            return Ok(());
        }
        let (epoch, sent_ns, is_parting, last_lsn) =
            (session.epoch, call.sent_ns, call.is_parting, call.last_lsn);
        session.calls.pop_front();
        session.renewed_ns = sent_ns;
        if self.tail.opened() > epoch && !no_fencing {
            return self.failed(reached);
        }
        self.lease.extend(sent_ns);
        if let Some(last) = last_lsn {
            let completion = Completion { last_lsns: vec![last], outcome: Outcome::Durable };
            self.shard.resolve(Some(completion));
        }
        if is_parting {
            reached.hand_overs += 1;
            self.role = Role::Down;
        }
        Ok(())
    }

    /// The call on the way has no outcome that is known: the session ends.
    pub fn failed(&mut self, reached: &mut Reached) -> Result<(), String> {
        let Role::Owner(session) = &mut self.role else { return Ok(()) };
        let epoch = session.epoch;
        let had_call = !std::mem::take(&mut session.calls).is_empty();
        // What is still on the way may be stored; what is answered to it nobody looks at.
        self.line.cut();
        if had_call {
            reached.unknown_outcomes += 1;
            let outcome = Outcome::Unknown("no answer".to_owned());
            self.shard.resolve(Some(Completion { last_lsns: Vec::new(), outcome }));
        }
        self.role = Role::Between(epoch);
        Ok(())
    }

    /// The log servers do not answer a look.
    pub fn looks_in_vain(&mut self, now_ns: u64) {
        let clock = self.clock_ns(now_ns);
        if let Role::Standby(watch) = &mut self.role {
            watch.lost_sight(clock);
        }
    }

    /// The connection breaks, or an answer does not come in time.
    pub fn cut(&mut self, reached: &mut Reached) -> Result<(), String> {
        self.line.cut();
        match &mut self.role {
            Role::Opening { before, .. } => {
                self.role = before.role();
                Ok(())
            }
            Role::Owner(session) if !session.calls.is_empty() => self.failed(reached),
            _ => Ok(()),
        }
    }

    /// Sends what is staged, in one or more parts; or a sign of life if there is nothing and one is due.
    pub fn commit(&mut self, now_ns: u64, parts: usize, renews: bool, parts_with: bool) {
        let clock = self.clock_ns(now_ns);
        let Role::Owner(session) = &mut self.role else { return };
        if session.calls.len() >= CALLS_MAX || session.parted {
            return;
        }
        let (epoch, incarnation) = (session.epoch, session.incarnation);
        let message = |content| Message { shard: SHARD, incarnation, epoch, content }.encode();
        let mut messages = Vec::new();
        let mut last_lsn = None;
        if let Some(batch) = self.shard.take_batch() {
            let mut rest = batch.bytes.as_slice();
            let view = BatchView::decode(&mut rest);
            let first_n = view.map_or(0, |view| view.header.first_n);
            last_lsn = Some(batch.last_lsn());
            // As in the product, the first part holds the whole header of a batch.
            let chunk = batch.bytes.len().div_ceil(parts).max(BATCH_HEADER_BYTES);
            let chunks: Vec<_> = batch.bytes.chunks(chunk).collect();
            let count = chunks.len() as u32;
            messages.extend(chunks.into_iter().zip(0..).map(|(bytes, index)| {
                message(Content::Part(Part { first_n, index, count, bytes }))
            }));
        } else if parts_with && session.calls.is_empty() {
            session.parted = true;
            messages.push(message(Content::Parting));
        } else if renews && session.calls.is_empty() {
            messages.push(message(Content::Renewal));
        }
        if messages.is_empty() {
            return;
        }
        let mut call = Call {
            messages: Default::default(),
            last_lsn,
            sent_ns: clock,
            is_parting: session.parted,
        };
        for bytes in messages {
            let expected = session.last_sequence;
            session.last_sequence += 1;
            self.line.requests.push_back(Request { expected, bytes: bytes.clone() });
            call.messages.push_back((session.last_sequence, bytes));
        }
        session.calls.push_back(call);
    }

    /// The last position that a crash leaves in its engine.
    pub fn flushed(&self) -> Lsn {
        self.shard.flushed().unwrap_or_default()
    }

    pub fn flush(&self) -> Result<(), String> {
        self.engine.flush().map_err(|error| error.to_string())
    }

    /// Sequence of the first message that holds this position, as far as this node knows.
    pub fn sequence_of(&self, lsn: Lsn) -> Option<u64> {
        self.tail.entries_from(lsn).next().map(|entry| entry.first_sequence)
    }
}
