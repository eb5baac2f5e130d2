//! Simulated clients: what they asked, what they wait for, what they were told, and whether all of
//! that can be true.
//!
//! A client may have several commands under way; they are executed and answered in its order. A
//! reply is held until its gate is durable. What a client did not learn stays unknown, except where
//! the simulator knows for certain that nothing came of it.

use std::collections::{BTreeMap, VecDeque};

use holdfast_base::{ErrorKind, Lsn, SharedBytes};
use holdfast_io::{Random, SeededRandom};
use holdfast_shard::{Done, OpError, WatchedKey};

use super::{
    Case, Checked, Reached, Trace,
    ask::{ACCOUNTS, Answer, Ask, COUNTERS, FIRST_BALANCE, FLUSHED_CELLS, is_wide},
    cells::{CellOp, CellReply, Cells, CellsAnswered, CellsAsked, KeepUntil},
    violation,
};
use crate::{
    checker::{
        Key, StepBudget, Verdict, check,
        volume::{Bank, Counter, Fate, Members, Pushes},
    },
    history::{ClientId, History, Moment, OpId},
};

/// Cells that are changed one at a time.
const SINGLE_CELLS: std::ops::Range<u32> = 0..4;
/// Cells that are mostly changed together.
const GROUP_CELLS: std::ops::Range<u32> = 10..13;

enum Stage {
    /// Not executed: these rows must be fetched first (none: try again with the disk).
    Fetching(Vec<SharedBytes>),
    /// Executed; the answer leaves when the position is durable.
    Held(Answer, Option<Lsn>),
}

/// One command under way.
struct Request {
    ask: Ask,
    sent: Moment,
    op: Option<OpId>,
    stage: Stage,
    tries: u32,
}

/// A client under WATCH.
pub(super) struct Watching {
    pub keys: Vec<WatchedKey>,
    pub values: Vec<(Key, Option<i64>)>,
}

#[derive(Default)]
struct Client {
    queue: VecDeque<Request>,
    watching: Option<Watching>,
}

/// A command that must be tried again.
pub(super) struct Retry {
    pub ask: Ask,
    /// Rows to fetch first.
    pub rows: Vec<SharedBytes>,
    pub tries: u32,
}

/// See the module's head.
pub(super) struct Clients {
    clients: Vec<Client>,
    /// Commands that one client may have under way.
    depth: usize,
    moment: u64,
    unique: u64,
    /// The last value that anybody read of each cell.
    seen: BTreeMap<Key, i64>,
    history: History<CellsAsked, CellsAnswered>,
    counters: Vec<Counter>,
    pushes: Pushes,
    members: Members,
    bank: Bank,
    answered: u64,
}

impl Clients {
    pub fn new(count: usize, depth: usize) -> Clients {
        Clients {
            clients: (0..count).map(|_| Client::default()).collect(),
            depth,
            moment: 0,
            unique: 0,
            seen: BTreeMap::new(),
            history: History::new(),
            counters: vec![Counter::new(0); COUNTERS],
            pushes: Pushes::default(),
            members: Members::default(),
            bank: Bank::new(&[FIRST_BALANCE; ACCOUNTS]),
            answered: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.clients.len()
    }

    /// Answers that clients were given.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Whether the client can send another command.
    pub fn is_free(&self, client: usize) -> bool {
        let Some(client) = self.clients.get(client) else { return false };
        client.queue.len() < self.depth
            && !matches!(client.queue.back(), Some(Request { stage: Stage::Fetching(_), .. }))
    }

    /// Whether the client has nothing under way.
    pub fn is_idle(&self, client: usize) -> bool {
        self.clients.get(client).is_none_or(|client| client.queue.is_empty())
    }

    pub fn watching(&mut self, client: usize) -> &mut Option<Watching> {
        &mut self.clients[client].watching
    }

    /// The command of this client that must be tried again, if there is one.
    pub fn retry(&self, client: usize) -> Option<Retry> {
        let request = self.clients.get(client)?.queue.back()?;
        let Stage::Fetching(rows) = &request.stage else { return None };
        Some(Retry { ask: request.ask.clone(), rows: rows.clone(), tries: request.tries })
    }

    fn tick(&mut self) -> Moment {
        self.moment += 1;
        Moment(self.moment)
    }

    /// The client sends a command.
    pub fn send(&mut self, client: usize, ask: Ask) {
        let sent = self.tick();
        let stage = Stage::Fetching(Vec::new());
        self.clients[client].queue.push_back(Request { ask, sent, op: None, stage, tries: 0 });
    }

    /// The client's last command was executed at shard time `now_ms`, or tried.
    pub fn executed(
        &mut self,
        client: usize,
        now_ms: u64,
        result: Result<Done<Answer>, OpError>,
        reached: &mut Reached,
        trace: &mut Trace,
    ) -> Checked<()> {
        let Some(mut request) = self.clients[client].queue.pop_back() else { return Ok(()) };
        trace.note(format_args!("c{client} {:?} at {now_ms}: {}", request.ask, show(&result)));
        request.tries += 1;
        match result {
            Ok(done) => {
                if let Some(ops) = request.ask.cells() {
                    let watched = match &request.ask {
                        Ask::Exec(watched, _) => watched.clone(),
                        _ => Vec::new(),
                    };
                    let asked = CellsAsked { now_ms, watched, ops };
                    let from = ClientId(client as u32);
                    request.op = Some(self.history.invoke(from, request.sent, asked));
                }
                let gate = done.gate.map(|gate| gate.lsn);
                reached.hit_if(gate.is_some() && request.ask.is_read(), Case::ReadHeld);
                reached.hit_if(request.tries > 1 && request.ask.is_read(), Case::MissRetried);
                request.stage = Stage::Held(done.value, gate);
                self.clients[client].queue.push_back(request);
                Ok(())
            }
            Err(OpError::Miss(rows)) => {
                request.stage = Stage::Fetching(rows);
                self.clients[client].queue.push_back(request);
                Ok(())
            }
            Err(OpError::ColdRange) => {
                self.clients[client].queue.push_back(request);
                Ok(())
            }
            Err(OpError::Fault(error))
                if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal) =>
            {
                // Refused at once, because the log has failed: nothing was staged.
                self.settle(client, request, Fate::Refused);
                Ok(())
            }
            Err(error) => violation(format!("client {client}, {:?}: {error:?}", request.ask)),
        }
    }

    /// Answers leave whose gate is durable.
    pub fn release(&mut self, durable: Lsn, trace: &mut Trace) {
        for client in 0..self.clients.len() {
            let due = |request: &mut Request| match &request.stage {
                Stage::Held(_, gate) => gate.is_none_or(|gate| gate <= durable),
                Stage::Fetching(_) => false,
            };
            while let Some(request) = pop_if(&mut self.clients[client].queue, due) {
                trace.note(format_args!("c{client} is told of {:?}", request.ask));
                self.settle(client, request, Fate::Acknowledged);
            }
        }
    }

    /// No answer will come any more. Records from `unhanded` on were never handed to the log.
    pub fn lose(&mut self, unhanded: Lsn, reached: &mut Reached, trace: &mut Trace) {
        for client in 0..self.clients.len() {
            while let Some(request) = self.clients[client].queue.pop_front() {
                let fate = match &request.stage {
                    Stage::Fetching(_) => Fate::Refused,
                    Stage::Held(_, gate) if gate.is_some_and(|gate| gate >= unhanded) => {
                        reached.hit(Case::StagedRefused);
                        Fate::Refused
                    }
                    Stage::Held(..) if request.ask.is_read() => Fate::Refused,
                    Stage::Held(..) => {
                        reached.hit(Case::ReplyLost);
                        Fate::Unknown
                    }
                };
                trace.note(format_args!("c{client} learns {fate:?} of {:?}", request.ask));
                self.settle(client, request, fate);
            }
        }
    }

    /// The process that watched is gone.
    pub fn forget_watches(&mut self) {
        self.clients.iter_mut().for_each(|client| client.watching = None);
    }

    fn settle(&mut self, client: usize, request: Request, fate: Fate) {
        let at = self.tick();
        let from = ClientId(client as u32);
        let answer = match request.stage {
            Stage::Held(answer, _) if fate == Fate::Acknowledged => Some(answer),
            _ => None,
        };
        self.answered += u64::from(answer.is_some());
        match (request.ask, answer) {
            (Ask::Increment(counter, by), answer) => {
                let counter = &mut self.counters[counter];
                match (fate, answer) {
                    (_, Some(Answer::Number(result))) => counter.acknowledged(by, Some(result)),
                    (Fate::Unknown, _) => counter.unknown(by),
                    _ => {}
                }
            }
            (Ask::Push(token), _) => self.pushes.push(from, token, fate),
            (Ask::AddMember(member), _) => self.members.add(from, member, fate),
            (Ask::Tokens, Some(Answer::Values(values))) => self.pushes.read(values),
            (Ask::Balances, Some(Answer::Balances(balances))) => self.bank.read(&balances),
            (ask, answer) => {
                let Some(op) = request.op else { return };
                let output = match answer {
                    Some(Answer::Cells(replies)) => {
                        for ((key, _), reply) in ask.cells().iter().flatten().zip(&replies) {
                            if let CellReply::Value(Some(value)) = reply {
                                self.seen.insert(*key, *value);
                            }
                        }
                        CellsAnswered::Executed(replies)
                    }
                    Some(Answer::Aborted) => CellsAnswered::Aborted,
                    // FLUSHDB answers once for all cells that it clears.
                    Some(_) => CellsAnswered::Executed(
                        ask.cells().iter().flatten().map(|_| CellReply::Done).collect(),
                    ),
                    None if fate == Fate::Refused => return self.history.refuse(op, at),
                    None => return,
                };
                self.history.complete(op, at, output);
            }
        }
    }

    /// Something for this client to ask.
    pub fn next_ask(&mut self, client: usize, random: &mut SeededRandom, now_ms: u64) -> Ask {
        if let Some(watching) = &self.clients[client].watching {
            let watched = watching.values.clone();
            let ops = self.group_ops(random, now_ms, true);
            return Ask::Exec(watched, ops);
        }
        match random.below(100) {
            0..42 => {
                let key = Key(range(random, SINGLE_CELLS));
                Ask::Cells(vec![(key, self.cell_op(key, random, now_ms))])
            }
            42..50 => Ask::Cells(self.group_ops(random, now_ms, false)),
            50..57 => Ask::Cells(GROUP_CELLS.map(|n| (Key(n), CellOp::Get)).collect()),
            57..66 => {
                let key = Key(range(random, FLUSHED_CELLS));
                Ask::Cells(vec![(key, self.cell_op(key, random, now_ms))])
            }
            66..68 => Ask::Flush,
            68..74 => {
                Ask::Increment(random.below(COUNTERS as u64) as usize, 1 + random.below(5) as i64)
            }
            74..80 => Ask::Push(self.unique()),
            80..83 => Ask::Tokens,
            83..87 => Ask::AddMember(self.unique()),
            87..89 => Ask::Members,
            89..95 => {
                let from = random.below(ACCOUNTS as u64) as usize;
                let to = (from + 1 + random.below(ACCOUNTS as u64 - 1) as usize) % ACCOUNTS;
                Ask::Transfer(from, to, 1 + random.below(20) as i64)
            }
            _ => Ask::Balances,
        }
    }

    /// A number that was never given out before.
    pub fn unique(&mut self) -> u64 {
        self.unique += 1;
        self.unique
    }

    fn group_ops(
        &mut self,
        random: &mut SeededRandom,
        now_ms: u64,
        must_write: bool,
    ) -> Vec<(Key, CellOp)> {
        let mut keys: Vec<_> = GROUP_CELLS.map(Key).collect();
        random.shuffle(&mut keys);
        keys.truncate(2 + random.below(2) as usize);
        let mut ops: Vec<_> =
            keys.iter().map(|key| (*key, self.cell_op(*key, random, now_ms))).collect();
        if must_write && let Some((_, op)) = ops.first_mut() {
            *op = CellOp::Set(self.unique() as i64, KeepUntil::Forever);
        }
        ops
    }

    fn cell_op(&mut self, key: Key, random: &mut SeededRandom, now_ms: u64) -> CellOp {
        let new = self.unique() as i64;
        let deadline = now_ms + random.below(600);
        match random.below(20) {
            0..7 => CellOp::Get,
            7..9 => CellOp::Set(new, KeepUntil::Forever),
            9..11 => CellOp::Set(new, KeepUntil::Deadline(deadline)),
            11 => CellOp::Set(new, KeepUntil::AsItWas),
            12 => CellOp::SetIfPresent(new, random.chance(0.5)),
            13 => CellOp::GetSet(new),
            14 => CellOp::Del,
            15 => CellOp::Take,
            16 => CellOp::SetDeadline(random.chance(0.7).then_some(deadline)),
            17 => CellOp::GetDeadline,
            18 if !is_wide(key) => CellOp::IncrBy(1_000_000),
            _ => CellOp::CompareAndSet(self.seen.get(&key).copied().unwrap_or(0), new),
        }
    }

    /// The cells that a client watches next.
    pub fn cells_to_watch(random: &mut SeededRandom) -> Vec<Key> {
        let mut keys: Vec<_> = GROUP_CELLS.map(Key).collect();
        random.shuffle(&mut keys);
        keys.truncate(1 + random.below(2) as usize);
        keys
    }

    /// Every cell that clients ever use.
    pub fn all_cells() -> impl Iterator<Item = Key> {
        SINGLE_CELLS.chain(GROUP_CELLS).chain(FLUSHED_CELLS).map(Key)
    }

    /// Judges everything, given what is read when no write can take effect any more. False: what
    /// was told of the cells could not be judged within the budget.
    pub fn check(&self, last: &LastReads) -> Checked<bool> {
        for (number, (counter, value)) in self.counters.iter().zip(&last.counters).enumerate() {
            let checked = counter.clone().check(*value);
            checked.or_else(|defects| violation(format!("counter {number}: {defects:?}")))?;
        }
        let pushes = self.pushes.clone().check(&last.tokens);
        pushes.or_else(|defects| violation(format!("pushes: {defects:?}")))?;
        let members = self.members.clone().check(&last.members);
        members.or_else(|defects| violation(format!("members: {defects:?}")))?;
        let bank = self.bank.clone().check();
        bank.or_else(|defects| violation(format!("bank: {defects:?}")))?;
        match check(&Cells, &self.history, StepBudget(20_000_000)) {
            Verdict::Linearizable => Ok(true),
            Verdict::NotLinearizable(found) => violation(format!("cells: {}", found.report)),
            Verdict::Undecided { .. } => Ok(false),
        }
    }
}

/// What is read at the end.
#[derive(PartialEq, Eq, Default, Debug)]
pub(super) struct LastReads {
    pub counters: Vec<i64>,
    pub tokens: Vec<u64>,
    pub members: Vec<u64>,
}

fn range(random: &mut SeededRandom, range: std::ops::Range<u32>) -> u32 {
    range.start + random.below(u64::from(range.end - range.start)) as u32
}

fn pop_if<T>(queue: &mut VecDeque<T>, due: impl FnOnce(&mut T) -> bool) -> Option<T> {
    queue.front_mut().is_some_and(due).then(|| queue.pop_front()).flatten()
}

fn show(result: &Result<Done<Answer>, OpError>) -> String {
    match result {
        Ok(Done { value, gate: Some(gate) }) => format!("{value:?} from {}", gate.lsn),
        Ok(Done { value, gate: None }) => format!("{value:?}"),
        Err(OpError::Miss(rows)) => format!("misses {} rows", rows.len()),
        Err(error) => format!("{error:?}"),
    }
}
