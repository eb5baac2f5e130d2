//! What can happen: on the way, at the server, at a node, and with time.

use stateright::{Model, Property};

use crate::{
    Bug,
    rules::properties,
    state::{
        Acknowledged, Cluster, Content, LEASE, Message, Owner, Pending, Reader, Request, Role,
        SILENCE, State,
    },
};

/// One step; the number names a node.
#[expect(missing_docs, reason = "a variant's text says what it is")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Time goes on; one clock may miss it.
    Tick {
        slow: Option<u8>,
    },
    /// A clock is set back.
    SetBack(u8),
    /// The server takes the next request, or one of a broken connection.
    Arrives(u8),
    StrayArrives(u8),
    /// A node takes the next answer.
    Answered(u8),
    /// A connection breaks.
    Cut(u8),
    /// A node reads the log up to so many messages.
    Look(u8, u8),
    /// A node sends its barrier.
    Open(u8),
    /// An owner that was poisoned looks whether it was replaced, and begins again if not.
    Reopen(u8),
    Write(u8),
    Renew(u8),
    Part(u8),
    ReadBegins(u8),
    ReadLeaves(u8),
}

/// Appends of one session on the way.
const PENDING_MAX: usize = 2;

impl Cluster {
    fn silence(&self) -> u8 {
        if self.has(Bug::NoAllowance) { LEASE } else { SILENCE }
    }

    fn reader(&self, state: &State, known: u8) -> Reader {
        Reader::of(&state.log, known, !self.has(Bug::NoFilter))
    }

    fn may_answer(&self, state: &State, at: usize) -> bool {
        let node = &state.nodes[at];
        match &node.role {
            Role::Owner(owner) => {
                let has_given_up = owner.parted && !self.has(Bug::PartingEarly);
                node.clock < owner.lease_end && node.clock >= owner.others_until && !has_given_up
            }
            _ => false,
        }
    }

    /// Whether a node that stands by may take the shard, and whether it is free.
    fn may_open(&self, state: &State, at: usize) -> Option<bool> {
        let node = &state.nodes[at];
        let Role::Standby { seen, .. } = node.role else { return None };
        let reader = self.reader(state, node.known);
        // All nodes are alike in the beginning.
        if reader.opened == 0 && at > 0 {
            return None;
        }
        let silent = node.clock - seen >= self.silence();
        let is_free = reader.opened == 0 || reader.given_up || silent || self.has(Bug::NoWait);
        let forces = self.scope.at_start && at == 1;
        (is_free || forces).then_some(is_free)
    }

    fn open(&self, state: &mut State, at: usize, was_free: bool) {
        let opened = self.reader(state, state.nodes[at].known).opened;
        let node = &mut state.nodes[at];
        let epoch = opened + 1;
        let (signs, seen) = match node.role {
            Role::Standby { signs, seen } => (signs, seen),
            _ => (0, node.clock),
        };
        if self.has(Bug::NoBarrier) {
            node.role = Role::Owner(begin(epoch, node.known, node.clock + LEASE, 0));
            return;
        }
        let expected = (!self.has(Bug::BarrierAnywhere)).then_some(node.known);
        let message = Message { epoch, content: Content::Barrier };
        node.requests.push(Request { expected, message });
        node.role = Role::Opening { epoch, sent: node.clock, was_free, signs, seen };
    }

    fn arrives(&self, state: &mut State, request: Request) -> Option<u8> {
        let sequence = state.log.len() as u8;
        if request.expected.is_some_and(|expected| expected != sequence) {
            return None;
        }
        state.log.push(request.message);
        Some(sequence)
    }

    fn answered(&self, state: &mut State, at: usize) {
        let answer = state.nodes[at].answers.remove(0);
        let (clock, known) = (state.nodes[at].clock, state.nodes[at].known);
        match state.nodes[at].role.clone() {
            Role::Opening { epoch, sent, was_free, signs, seen } => match answer {
                Some(sequence) => {
                    let waits = !was_free && !self.has(Bug::AtStartNoWait);
                    let others_until = if waits { clock + SILENCE } else { 0 };
                    let known = if self.has(Bug::BarrierAnywhere) { known } else { sequence + 1 };
                    state.nodes[at].known = known;
                    state.nodes[at].role =
                        Role::Owner(begin(epoch, sequence + 1, sent + LEASE, others_until));
                }
                None if self.has(Bug::NoCheckOfSign) => {
                    state.nodes[at].known = state.log.len() as u8;
                    state.nodes[at].role = Role::Standby { signs, seen };
                    self.open(state, at, was_free);
                }
                None => state.nodes[at].role = Role::Standby { signs, seen },
            },
            Role::Owner(mut owner) if !owner.pending.is_empty() && !owner.poisoned => {
                let Pending { sequence, content, sent } = owner.pending.remove(0);
                if answer == Some(sequence) {
                    let from = if self.has(Bug::LeaseFromAnswer) { clock } else { sent };
                    owner.lease_end = owner.lease_end.max(from + LEASE);
                    state.nodes[at].known = known.max(sequence + 1);
                    if let Content::Write { value, .. } = content
                        && !self.has(Bug::AckBeforeCommit)
                    {
                        state.acknowledged.push(Acknowledged { epoch: owner.epoch, value });
                    }
                } else if self.has(Bug::NotPoisoned) {
                    // It goes on behind what is there now.
                    let refused = std::mem::take(&mut owner.pending).len() as u8;
                    let is_write = matches!(content, Content::Write { .. });
                    owner.next_n -= (refused + u8::from(is_write)).min(owner.next_n);
                    owner.next = state.log.len() as u8;
                    state.nodes[at].answers.clear();
                    state.nodes[at].requests.clear();
                } else {
                    owner.poisoned = true;
                    owner.pending.clear();
                    // What is still on the way may be stored; what is answered to it nobody looks at.
                    let node = &mut state.nodes[at];
                    node.answers.clear();
                    node.stray.append(&mut node.requests);
                }
                let is_over = content == Content::Parting;
                state.nodes[at].role = if is_over { Role::Gone } else { Role::Owner(owner) };
            }
            _ => {}
        }
    }

    fn cut(&self, state: &mut State, at: usize) {
        let node = &mut state.nodes[at];
        node.answers.clear();
        node.stray.append(&mut node.requests);
        match &mut node.role {
            Role::Opening { signs, seen, .. } => {
                node.role = Role::Standby { signs: *signs, seen: *seen };
            }
            Role::Owner(owner) if !owner.pending.is_empty() => {
                owner.poisoned = true;
                owner.pending.clear();
            }
            _ => {}
        }
        state.cuts += 1;
    }

    fn look(&self, state: &mut State, at: usize, known: u8) {
        let now_signs = self.reader(state, known).signs;
        let node = &mut state.nodes[at];
        node.known = known;
        if let Role::Standby { signs, seen } = &mut node.role
            && *signs != now_signs
        {
            (*signs, *seen) = (now_signs, node.clock);
        }
    }

    fn send(&self, state: &mut State, at: usize, content: Content) {
        let node = &mut state.nodes[at];
        let Role::Owner(owner) = &mut node.role else { return };
        let message = Message { epoch: owner.epoch, content };
        node.requests.push(Request { expected: Some(owner.next), message });
        owner.pending.push(Pending { sequence: owner.next, content, sent: node.clock });
        owner.next += 1;
    }

    fn write(&self, state: &mut State, at: usize) {
        let Role::Owner(owner) = &mut state.nodes[at].role else { return };
        let (epoch, n, value) = (owner.epoch, owner.next_n, state.written);
        owner.next_n += 1;
        state.written += 1;
        self.send(state, at, Content::Write { n, value });
        if self.has(Bug::AckBeforeCommit) {
            state.acknowledged.push(Acknowledged { epoch, value });
        }
    }

    fn read_begins(&self, state: &mut State, at: usize) {
        let known = state.nodes[at].known;
        let mut shown = self.reader(state, known).records;
        if self.has(Bug::AckBeforeCommit)
            && let Role::Owner(owner) = &state.nodes[at].role
        {
            shown.extend(owner.pending.iter().filter_map(|pending| match pending.content {
                Content::Write { value, .. } => Some(value),
                _ => None,
            }));
        }
        let lacks = state.acknowledged.iter().any(|write| !shown.contains(&write.value));
        state.stale_read |= lacks;
        if let Role::Owner(owner) = &mut state.nodes[at].role {
            owner.reading = true;
        }
    }

    fn read_leaves(&self, state: &mut State, at: usize) {
        let Role::Owner(owner) = &mut state.nodes[at].role else { return };
        let epoch = owner.epoch;
        owner.reading = false;
        state.old_left |= state.acknowledged.iter().any(|write| write.epoch > epoch);
        state.read_after_take_over |= epoch > 1;
    }

    fn reopen(&self, state: &mut State, at: usize) {
        let opened = self.reader(state, state.nodes[at].known).opened;
        let Role::Owner(owner) = &state.nodes[at].role else { return };
        if opened > owner.epoch {
            state.nodes[at].role = Role::Gone;
        } else {
            // Nobody else can have answered behind this session, so it need not wait.
            self.open(state, at, true);
        }
    }
}

fn begin(epoch: u8, next: u8, lease_end: u8, others_until: u8) -> Owner {
    Owner {
        epoch,
        next_n: 0,
        next,
        pending: Vec::new(),
        lease_end,
        others_until,
        poisoned: false,
        parted: false,
        reading: false,
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::first(self.scope)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let scope = self.scope;
        if state.ticks < scope.ticks {
            steps.push(Step::Tick { slow: None });
            if !state.clock_erred || self.has(Bug::ClockStops) {
                steps.extend((0..scope.nodes).map(|at| Step::Tick { slow: Some(at) }));
            }
        }
        let has_room = |more: usize| state.log.len() + more < scope.messages.into();
        for (node, at) in state.nodes.iter().zip(0..) {
            if !node.requests.is_empty() && has_room(0) {
                steps.push(Step::Arrives(at));
            }
            if !node.stray.is_empty() && has_room(0) {
                steps.push(Step::StrayArrives(at));
            }
            if !node.answers.is_empty() {
                steps.push(Step::Answered(at));
            }
            let is_busy = !node.requests.is_empty() || !node.answers.is_empty();
            if is_busy && state.cuts < scope.cuts {
                steps.push(Step::Cut(at));
            }
            let may_write = state.written < scope.writes && has_room(node.requests.len());
            match &node.role {
                Role::Gone | Role::Opening { .. } => {}
                Role::Standby { .. } => {
                    let end = state.log.len() as u8;
                    steps.extend((node.known + 1..=end).map(|known| Step::Look(at, known)));
                    if self.may_open(state, at.into()).is_some() && has_room(0) {
                        steps.push(Step::Open(at));
                    }
                }
                Role::Owner(owner) if owner.poisoned => {
                    let end = state.log.len() as u8;
                    steps.extend((node.known + 1..=end).map(|known| Step::Look(at, known)));
                    if has_room(0) {
                        steps.push(Step::Reopen(at));
                    }
                }
                Role::Owner(owner) => {
                    let idle = owner.pending.is_empty() && has_room(0);
                    // What is acknowledged is answered, too: not before others have ceased to.
                    let serves = node.clock >= owner.others_until && !owner.parted;
                    if serves && may_write && owner.pending.len() < PENDING_MAX {
                        steps.push(Step::Write(at));
                    }
                    if !owner.parted && idle {
                        steps.push(Step::Renew(at));
                    }
                    let has_answered = !owner.reading || self.has(Bug::PartingEarly);
                    if !owner.parted && idle && has_answered {
                        steps.push(Step::Part(at));
                    }
                    if self.has(Bug::WallClock) && node.clock >= LEASE && !state.clock_erred {
                        steps.push(Step::SetBack(at));
                    }
                }
            }
            if let Role::Owner(owner) = &node.role {
                let may_answer = self.may_answer(state, at.into());
                if !owner.reading && may_answer && !owner.parted {
                    steps.push(Step::ReadBegins(at));
                }
                if owner.reading && (may_answer || self.has(Bug::CheckedAtBeginOnly)) {
                    steps.push(Step::ReadLeaves(at));
                }
            }
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        match step {
            Step::Tick { slow } => {
                state.ticks += 1;
                state.clock_erred |= slow.is_some();
                for (node, at) in state.nodes.iter_mut().zip(0..) {
                    node.clock += u8::from(slow != Some(at));
                }
            }
            Step::SetBack(at) => {
                state.nodes[usize::from(at)].clock -= LEASE;
                state.clock_erred = true;
            }
            Step::Arrives(at) => {
                let request = state.nodes[usize::from(at)].requests.remove(0);
                let answer = self.arrives(&mut state, request);
                state.nodes[usize::from(at)].answers.push(answer);
            }
            Step::StrayArrives(at) => {
                let request = state.nodes[usize::from(at)].stray.remove(0);
                self.arrives(&mut state, request);
            }
            Step::Answered(at) => self.answered(&mut state, at.into()),
            Step::Cut(at) => self.cut(&mut state, at.into()),
            Step::Look(at, known) => self.look(&mut state, at.into(), known),
            Step::Open(at) => {
                let is_free = self.may_open(&state, at.into())?;
                self.open(&mut state, at.into(), is_free);
            }
            Step::Reopen(at) => self.reopen(&mut state, at.into()),
            Step::Write(at) => self.write(&mut state, at.into()),
            Step::Renew(at) => self.send(&mut state, at.into(), Content::Sign),
            Step::Part(at) => {
                self.send(&mut state, at.into(), Content::Parting);
                if let Role::Owner(owner) = &mut state.nodes[usize::from(at)].role {
                    owner.parted = true;
                }
            }
            Step::ReadBegins(at) => self.read_begins(&mut state, at.into()),
            Step::ReadLeaves(at) => self.read_leaves(&mut state, at.into()),
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}
