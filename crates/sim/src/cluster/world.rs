//! A run: what happens when, what clients are told, and whether it can be true.

use std::collections::VecDeque;

use holdfast_base::KeyspaceId;
use holdfast_engine::Tier;
use holdfast_io::{Random, SeededRandom};
use holdfast_log::lease::RENEW_EVERY;
use holdfast_shard::{
    Gate, GateState, OpError,
    ops::{
        keys,
        string::{self, Expiry, SetCondition},
    },
};

use super::{
    Broken, Planted, Reached,
    node::{Node, Role},
    servers::Stream,
};
use crate::{
    checker::{Key, KeyedOp, Register, RegisterOp, RegisterReply, StepBudget, Verdict, check},
    history::{ClientId, History, OpId},
};

const NODES: usize = 3;
const STEPS: usize = 6_000;
/// Keys that clients write; the last one is only counted up.
const KEYS: u64 = 4;
const COUNTER: Key = Key(KEYS as u32);
const MS: u64 = 1_000_000;
const EVENTS_KEPT: usize = 40;

/// A reply on its way out: it leaves when its gate is open, if the lease holds then.
struct Pending {
    node: usize,
    op: OpId,
    reply: RegisterReply,
    gate: Option<Gate>,
}

/// See the module's head.
pub(super) struct World {
    seed: u64,
    planted: Option<Planted>,
    random: SeededRandom,
    now_ns: u64,
    stream: Stream,
    nodes: Vec<Node>,
    pending: Vec<Pending>,
    history: History<KeyedOp, RegisterReply>,
    /// What each node's life has shown of the counter.
    counted: [i64; NODES],
    written: i64,
    reached: Reached,
    events: VecDeque<String>,
    loses_at: Option<usize>,
}

impl World {
    pub fn new(seed: u64, planted: Option<Planted>) -> World {
        let mut random = SeededRandom::new(seed);
        let nodes = (0..NODES).map(|name| {
            // Together they differ by less than a twentieth.
            let rate = random.below(47) as i64 - 23;
            Node::new(name, rate, random.below(1_000_000) * MS, planted)
        });
        World {
            seed,
            planted,
            nodes: nodes.collect(),
            random,
            now_ns: 10_000 * MS,
            stream: Stream::default(),
            pending: Vec::new(),
            history: History::new(),
            counted: [0; NODES],
            written: 0,
            reached: Reached::default(),
            events: VecDeque::new(),
            loses_at: None,
        }
    }

    /// The log loses its end once.
    pub fn losing(mut self) -> World {
        self.loses_at = Some(STEPS / 4 + self.random.below(STEPS as u64 / 2) as usize);
        self
    }

    pub fn run(mut self) -> Result<Reached, Box<Broken>> {
        match self.all_steps() {
            Ok(()) => Ok(self.reached),
            Err(what) => {
                let events = self.events.into();
                Err(Box::new(Broken { seed: self.seed, planted: self.planted, what, events }))
            }
        }
    }

    fn note(&mut self, what: String) {
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(format!("{:>9} ms {what}", self.now_ns / MS));
    }

    fn all_steps(&mut self) -> Result<(), String> {
        for at in 0..NODES {
            self.start(at)?;
        }
        for step in 0..STEPS {
            self.pass_time();
            if self.loses_at == Some(step) {
                let count = 1 + self.random.below(8) as usize;
                self.stream.lose(count);
                self.note(format!("the log servers lose {count} messages"));
            }
            let at = self.random.below(NODES as u64) as usize;
            self.step(at)?;
        }
        self.settle()?;
        self.judge()
    }

    fn pass_time(&mut self) {
        let ms = match self.random.below(100) {
            0 => self.random.below(2_500),
            1..20 => self.random.below(120),
            _ => self.random.below(12),
        };
        self.now_ns += ms * MS;
        for node in &self.nodes {
            let ms = node.clock_ns(self.now_ns) / MS;
            node.shard.advance_time(1_000_000 + ms, ms);
        }
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        self.counted[at] = 0;
        self.nodes[at].start(&self.stream, self.now_ns).map_err(|what| format!("node {at}: {what}"))
    }

    fn step(&mut self, at: usize) -> Result<(), String> {
        let told = |what: String| format!("node {at}: {what}");
        let kind = self.random.below(100);
        // The network and the servers go on, whatever the node does.
        let is_cut_off = self.now_ns < self.nodes[at].cut_off_until_ns;
        match kind {
            0..14 => {
                if !is_cut_off {
                    self.arrives(at);
                }
                return Ok(());
            }
            14..16 => {
                self.stray_arrives(at);
                return Ok(());
            }
            _ => {}
        }
        if self.now_ns < self.nodes[at].asleep_until_ns {
            return Ok(());
        }
        if !self.nodes[at].is_up() {
            return if kind < 60 { Ok(()) } else { self.start(at) };
        }
        let (now_ns, reached) = (self.now_ns, &mut self.reached);
        let (node, random) = (&mut self.nodes[at], &mut self.random);
        match kind {
            16..30 if is_cut_off => {}
            16..30 => node.answered(now_ns, reached).map_err(told)?,
            30..40 if is_cut_off => node.looks_in_vain(now_ns),
            30..40 => self.look(at)?,
            40..50 => self.commit(at),
            50..75 => self.ask(at)?,
            75..90 => self.replies_leave(at),
            90..94 => {
                let bytes = random.below(4_000) as usize + 1;
                node.shard.apply_step(bytes).map_err(|error| told(error.to_string()))?;
            }
            94 => node.flush().map_err(told)?,
            95 => self.trim(at),
            96 => {
                if random.chance(0.4) {
                    reached.cuts += 1;
                    node.cut(reached).map_err(told)?;
                    self.note(format!("node {at}: its connection breaks"));
                }
            }
            97 => {
                if random.chance(0.15) {
                    reached.pauses += 1;
                    node.asleep_until_ns = now_ns + random.below(5_000) * MS;
                    self.note(format!("node {at} stands still"));
                }
            }
            98 => {
                if random.chance(0.15) {
                    self.crash(at);
                }
            }
            _ => {
                if random.chance(0.1) {
                    reached.partitions += 1;
                    node.cut_off_until_ns = now_ns + random.below(6_000) * MS;
                    self.note(format!("node {at} is cut off from the log servers"));
                } else if self.planted == Some(Planted::WallClockLease) && random.chance(0.3) {
                    node.set_back_ns += 4_000 * MS;
                }
            }
        }
        Ok(())
    }

    fn arrives(&mut self, at: usize) {
        let Some(request) = self.nodes[at].line.requests.pop_front() else { return };
        let answer = self.stream.offer(request);
        self.nodes[at].line.answers.push_back(answer);
    }

    fn stray_arrives(&mut self, at: usize) {
        let Some(request) = self.nodes[at].line.stray.pop_front() else { return };
        // Or it is lost.
        if self.random.chance(0.7) && self.stream.offer(request).is_some() {
            self.reached.late_appends += 1;
        }
    }

    fn look(&mut self, at: usize) -> Result<(), String> {
        let told = |what: String| format!("node {at}: {what}");
        let node = &mut self.nodes[at];
        if matches!(node.role, Role::Standby(_) | Role::Between(_)) {
            let (random, reached) = (&mut self.random, &mut self.reached);
            node.look(&self.stream, self.now_ns, random, reached).map_err(told)?;
            if node.was_replaced() {
                // As the program, which ends: its supervisor starts it again.
                self.crash(at);
            } else {
                node.try_to_take(self.now_ns);
            }
        }
        Ok(())
    }

    fn commit(&mut self, at: usize) {
        let parts = 1 + self.random.below(3) as usize;
        let node = &self.nodes[at];
        let Role::Owner(session) = &node.role else { return };
        let idle_ns = node.clock_ns(self.now_ns).saturating_sub(session.renewed_ns);
        let renews = idle_ns >= RENEW_EVERY.as_nanos() as u64;
        let owes = self.pending.iter().any(|pending| pending.node == at);
        let parts_with = !owes && !node.shard.has_staged() && self.random.chance(0.003);
        self.nodes[at].commit(self.now_ns, parts, renews, parts_with);
    }

    fn crash(&mut self, at: usize) {
        self.reached.crashes += 1;
        self.pending.retain(|pending| pending.node != at);
        let kept = self.random.next_u64();
        self.nodes[at].crash(|batches| (kept % (batches as u64 + 1)) as usize);
        self.note(format!("node {at} ends"));
    }

    fn trim(&mut self, at: usize) {
        if !self.nodes[at].serves(self.now_ns) || !self.random.chance(0.3) {
            return;
        }
        let own = self.nodes[at].flushed();
        let all = self.nodes.iter().map(Node::flushed).fold(own, Ord::min);
        let below = if self.planted == Some(Planted::TrimPastCursor) { own } else { all };
        let Some(sequence) = self.nodes[at].sequence_of(below.next()) else { return };
        if sequence > self.stream.first() {
            self.reached.trims += 1;
            self.stream.trim(sequence);
        }
    }

    /// A client asks this node for something, if it answers.
    fn ask(&mut self, at: usize) -> Result<(), String> {
        if !self.nodes[at].serves(self.now_ns) {
            return self.ask_replica(at);
        }
        let key = Key(self.random.below(KEYS + 1) as u32);
        self.written += 1;
        let op = match self.random.below(10) {
            0..5 => RegisterOp::Get,
            _ if key == COUNTER => RegisterOp::IncrBy(1),
            5..8 => RegisterOp::Set(self.written),
            8 => RegisterOp::IncrBy(1),
            _ => RegisterOp::Del,
        };
        let client = ClientId(self.random.below(4) as u32);
        let moment = self.history.next_moment();
        let id = self.history.invoke(client, moment, KeyedOp { key, op });
        match run_op(&self.nodes[at], key, op) {
            Ok((reply, gate)) => {
                let pending = Pending { node: at, op: id, reply, gate };
                if self.planted == Some(Planted::AckBeforeCommit) {
                    self.leave(pending);
                } else {
                    self.pending.push(pending);
                }
            }
            Err(_) => {
                let moment = self.history.next_moment();
                self.history.refuse(id, moment);
            }
        }
        Ok(())
    }

    /// What a node that stands by shows is a prefix: a counter never goes back there.
    fn ask_replica(&mut self, at: usize) -> Result<(), String> {
        let node = &self.nodes[at];
        if !matches!(node.role, Role::Standby(_)) {
            return Ok(());
        }
        let Ok((RegisterReply::Value(value), _)) = run_op(node, COUNTER, RegisterOp::Get) else {
            return Ok(());
        };
        self.reached.replica_reads += 1;
        let (value, before) = (value.unwrap_or(0), self.counted[at]);
        if value < before {
            return Err(format!("node {at}: as a replica it showed {before}, and then {value}"));
        }
        self.counted[at] = value;
        Ok(())
    }

    fn replies_leave(&mut self, at: usize) {
        let mut stays = Vec::new();
        for pending in std::mem::take(&mut self.pending) {
            if pending.node != at {
                stays.push(pending);
                continue;
            }
            let state = pending
                .gate
                .map_or(GateState::Durable, |gate| self.nodes[at].shard.gate_state(gate));
            match state {
                GateState::Waiting => stays.push(pending),
                // The client never learns what came of it.
                GateState::Lost => {}
                GateState::Durable if self.nodes[at].serves(self.now_ns) => self.leave(pending),
                GateState::Durable => self.reached.lapsed_reads += 1,
            }
        }
        self.pending = stays;
    }

    fn leave(&mut self, pending: Pending) {
        let is_read = matches!(pending.reply, RegisterReply::Value(_));
        self.reached.reads += u64::from(is_read);
        self.reached.acknowledged_writes += u64::from(!is_read);
        let moment = self.history.next_moment();
        self.history.complete(pending.op, moment, pending.reply);
    }

    /// Everybody wakes up and nothing breaks any more: one of them serves, all follow, and clients read everything.
    fn settle(&mut self) -> Result<(), String> {
        for at in 0..NODES {
            self.nodes[at].asleep_until_ns = 0;
            self.nodes[at].cut_off_until_ns = 0;
        }
        let mut owner = None;
        for round in 0..2_000 {
            self.now_ns += 5 * MS;
            let at = round % NODES;
            if !self.nodes[at].is_up() {
                self.start(at)?;
            }
            self.stray_arrives(at);
            self.arrives(at);
            let told = |what: String| format!("node {at}: {what}");
            self.nodes[at].answered(self.now_ns, &mut self.reached).map_err(told)?;
            self.look(at)?;
            if self.nodes[at].is_up() {
                self.commit(at);
                self.replies_leave(at);
                let applied = self.nodes[at].shard.apply_step(1 << 20);
                applied.map_err(|error| told(error.to_string()))?;
            }
            owner = (0..NODES).find(|at| self.nodes[*at].serves(self.now_ns));
            let is_quiet = owner.is_some_and(|at| !self.nodes[at].shard.has_staged());
            if round > 1_000 && is_quiet && self.pending.is_empty() {
                break;
            }
        }
        let Some(owner) = owner else { return Err("in the end nobody serves".to_owned()) };
        for key in (0..=KEYS as u32).map(Key) {
            let moment = self.history.next_moment();
            let op = KeyedOp { key, op: RegisterOp::Get };
            let id = self.history.invoke(ClientId(9), moment, op);
            let read = run_op(&self.nodes[owner], key, RegisterOp::Get);
            let (reply, gate) = read.map_err(|error| format!("{error:?}"))?;
            if gate.is_some() {
                return Err("in the end a read waits for the log".to_owned());
            }
            let moment = self.history.next_moment();
            self.history.complete(id, moment, reply);
            self.all_show(owner, key, reply)?;
        }
        Ok(())
    }

    fn all_show(&mut self, owner: usize, key: Key, reply: RegisterReply) -> Result<(), String> {
        for at in (0..NODES).filter(|at| *at != owner) {
            let mut exact = SeededRandom::new(0);
            for _ in 0..8 {
                let node = &mut self.nodes[at];
                if matches!(node.role, Role::Standby(_)) {
                    let told = |what: String| format!("node {at}: {what}");
                    node.look(&self.stream, self.now_ns, &mut exact, &mut self.reached)
                        .map_err(told)?;
                }
            }
            let node = &self.nodes[at];
            if !matches!(node.role, Role::Standby(_)) {
                continue;
            }
            let shown = run_op(node, key, RegisterOp::Get).map_err(|error| format!("{error:?}"))?.0;
            let is_caught_up = node.shard.durable() == self.nodes[owner].shard.durable();
            if is_caught_up && shown != reply {
                return Err(format!("node {at} shows {shown:?} at {key}, the owner {reply:?}"));
            }
        }
        Ok(())
    }

    fn judge(&self) -> Result<(), String> {
        match check(&Register, &self.history, StepBudget::default()) {
            Verdict::Linearizable => Ok(()),
            Verdict::NotLinearizable(violation) => Err(violation.report),
            undecided => Err(format!("the history is too hard to judge: {undecided:?}")),
        }
    }
}

/// Runs an operation on a node's shard; gives its reply and what that waits for.
fn run_op(node: &Node, key: Key, op: RegisterOp) -> Result<(RegisterReply, Option<Gate>), OpError> {
    let (shard, keyspace, name) = (&node.shard, KeyspaceId(0), key.to_string());
    let number = |text: Option<string::Text>| {
        text.and_then(|text| String::from_utf8_lossy(&text).parse::<i64>().ok())
    };
    if op == RegisterOp::Get {
        let key = shard.key(keyspace, name.as_bytes());
        let keys = std::slice::from_ref(&key);
        let done = shard.read(keys, Tier::Any, |txn| string::get(txn, &key))?;
        return Ok((RegisterReply::Value(number(done.value)), done.gate));
    }
    let done = shard.write(Tier::Any, |txn| {
        let key = txn.key(keyspace, name.as_bytes());
        Ok(match op {
            RegisterOp::Set(value) => {
                let text = value.to_string();
                let always = SetCondition::Always;
                string::set(txn, &key, text.as_bytes(), Expiry::None, always, false)?;
                RegisterReply::Done
            }
            RegisterOp::IncrBy(by) => RegisterReply::Number(string::increment(txn, &key, by)?),
            _ => RegisterReply::Applied(keys::delete(txn, &key)?),
        })
    })?;
    Ok((done.value, done.gate))
}
