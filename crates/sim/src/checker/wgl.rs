//! The search of Wing and Gong with Lowe's memo: depth first over the orders of one partition.
//!
//! The events of the operations that returned form a linked list; an operation that is taken is
//! lifted out of it, and unlifted on the way back. Candidates are the calls before the first return
//! left in the list, then the unknown operations invoked by then. Explained when no return is left.
//!
//! Shortcuts, each of which keeps the search exact: an operation that never changes state is taken
//! at once, without alternatives; of unknown operations with equal inputs only the earliest is
//! tried; one that would change nothing here, or that overwrites the unknown operation taken just
//! before it, is not tried; see also `memo`. (Were such an operation next on a shortest way to an
//! explanation, then a way as short would start at a configuration that is tried, or a shorter.)

use std::collections::HashMap;
use std::rc::Rc;

use super::Model;
use super::memo::{Bits, FixedHash, Memo, StateId, States};
use super::partition::Call;

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Explained,
    Contradiction,
    OutOfSteps,
}

/// What a search has learned.
pub(super) struct Found<S> {
    pub end: End,
    /// Calls of `Model::step`, and configurations looked up.
    pub steps: u64,
    /// The largest number of returns, by time, that some order explained.
    pub explained: usize,
    /// Some of the states that such orders end in.
    pub states: Vec<S>,
}

/// How many states `Found` keeps: enough for a person to see a pattern.
const STATES_SHOWN_MAX: usize = 8;

/// Searches for an order that explains `calls`.
pub(super) fn search<M: Model>(
    model: &M,
    calls: &[Call<'_, M>],
    steps_max: u64,
) -> Found<M::State> {
    let mut search = Search::new(model, calls);
    let end = search.run(steps_max);
    let states = search.deepest_states.iter().map(|id| search.states.get(*id).clone()).collect();
    Found { end, steps: search.steps, explained: search.deepest, states }
}

/// The calls (by index) in the order of their returns; those without one are left out.
pub(super) fn by_return<M: Model>(calls: &[Call<'_, M>]) -> Vec<usize> {
    let mut returns: Vec<_> = calls
        .iter()
        .enumerate()
        .filter_map(|(call, c)| c.returned.map(|(at, _)| (at, call)))
        .collect();
    returns.sort_unstable();
    returns.into_iter().map(|(_, call)| call).collect()
}

/// Where a scan for candidates goes on.
#[derive(Clone, Copy)]
enum Cursor {
    /// Nothing was tried in this configuration.
    Start,
    /// An event of the list.
    Known(usize),
    /// A place in the moves of this state.
    Open(usize),
    End,
}

/// One operation taken, and how to go on without it.
struct Frame {
    call: usize,
    state_before: StateId,
    explained_before: usize,
    next: Cursor,
}

/// An unknown operation.
struct Open {
    call: usize,
    /// Returns before its invocation: it cannot come before those are explained.
    after_returns: usize,
    /// The latest earlier unknown operation with the same input.
    twin: Option<usize>,
}

/// An unknown operation (index into `open`) that changes a state, and the state after it.
struct Move {
    open: usize,
    state: StateId,
}

/// The end of the event list, and its start.
const SENTINEL: usize = 0;

struct Search<'a, 'h, M: Model> {
    model: &'a M,
    calls: &'a [Call<'h, M>],
    /// Per event: the call, and whether it is the call's return. The first is the sentinel.
    events: Vec<(usize, bool)>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Per call: its two events (known calls only), and its bit in `known` or `open_taken`.
    places: Vec<(usize, usize)>,
    bits: Vec<usize>,
    /// Per call: whether it returned and changes no state whatever.
    keeps_state: Vec<bool>,
    open: Vec<Open>,
    /// Per unknown operation: those that overwrite it (indices into `open`).
    overwriters: Vec<Bits>,
    /// Per state, once asked for: the unknown operations that change it, and what to.
    moves: HashMap<StateId, Rc<[Move]>, FixedHash>,
    returns: Vec<usize>,
    states: States<M::State>,
    memo: Memo,
    steps: u64,
    deepest: usize,
    deepest_states: Vec<StateId>,
    // The current configuration.
    state: StateId,
    taken: Vec<bool>,
    explained: usize,
    known: Bits,
    open_taken: Bits,
}

impl<'a, 'h, M: Model> Search<'a, 'h, M> {
    fn new(model: &'a M, calls: &'a [Call<'h, M>]) -> Self {
        let returns = by_return(calls);
        let mut order: Vec<_> = calls.iter().enumerate().map(|(i, c)| (c.invoked, 0, i)).collect();
        order.extend(
            returns.iter().enumerate().filter_map(|(rank, &call)| {
                calls[call].returned.map(|(at, _)| (at, 1 + rank, call))
            }),
        );
        order.sort_unstable();

        let mut events = vec![(0, false)];
        let mut places = vec![(SENTINEL, SENTINEL); calls.len()];
        let (mut bits, mut slots) = (vec![0; calls.len()], Slots::default());
        let (mut open, mut returned) = (Vec::<Open>::new(), 0);
        for (_, rank, call) in order {
            let (is_return, has_return) = (rank > 0, calls[call].returned.is_some());
            if is_return {
                places[call].1 = events.len();
                slots.free(bits[call]);
                returned += 1;
            } else if has_return {
                places[call].0 = events.len();
                bits[call] = slots.lowest();
            } else {
                let same = |o: &Open| calls[o.call].input == calls[call].input;
                bits[call] = open.len();
                open.push(Open {
                    call,
                    after_returns: returned,
                    twin: open.iter().rfind(|o| same(o)).map(|o| o.call),
                });
                continue;
            }
            events.push((call, is_return));
        }
        let keeps = |c: &Call<'_, M>| c.output().is_some_and(|o| model.keeps_state(c.input, o));
        let overwriters = |earlier: &Open| {
            let input = |open: &Open| calls[open.call].input;
            let mut overwriters = Bits::below(open.len());
            for (place, later) in open.iter().enumerate() {
                if model.overwrites(input(earlier), input(later)) {
                    overwriters.insert(place);
                }
            }
            overwriters
        };
        let count = events.len();
        let mut states = States::new();
        let state = states.id(model.init());
        Search {
            model,
            calls,
            events,
            next: (0..count).map(|e| (e + 1) % count).collect(),
            previous: (0..count).map(|e| (e + count - 1) % count).collect(),
            places,
            bits,
            keeps_state: calls.iter().map(keeps).collect(),
            known: Bits::below(slots.count()),
            open_taken: Bits::below(open.len()),
            overwriters: open.iter().map(overwriters).collect(),
            moves: HashMap::default(),
            open,
            returns,
            states,
            memo: Memo::default(),
            steps: 0,
            deepest: 0,
            deepest_states: vec![state],
            state,
            taken: vec![false; calls.len()],
            explained: 0,
        }
    }

    fn run(&mut self, steps_max: u64) -> End {
        let mut stack: Vec<Frame> = Vec::new();
        let mut cursor = Cursor::Start;
        while self.explained < self.returns.len() {
            if self.steps >= steps_max {
                return End::OutOfSteps;
            }
            if let Some((call, state, next)) = self.candidate(cursor, stack.last()) {
                let frame = Frame {
                    call,
                    state_before: self.state,
                    explained_before: self.explained,
                    next,
                };
                self.lift(call, state);
                self.steps += 1;
                if self.memo.visit(self.explained, self.state, &self.known, &self.open_taken) {
                    self.note_depth();
                    stack.push(frame);
                    cursor = Cursor::Start;
                } else {
                    cursor = frame.next;
                    self.unlift(&frame);
                }
            } else if let Some(frame) = stack.pop() {
                cursor = frame.next;
                self.unlift(&frame);
            } else {
                return End::Contradiction;
            }
        }
        End::Explained
    }

    /// The next possible operation, the state after it, and where to look after it.
    fn candidate(
        &mut self,
        mut cursor: Cursor,
        before: Option<&Frame>,
    ) -> Option<(usize, StateId, Cursor)> {
        if matches!(cursor, Cursor::Start) {
            if let Some(call) = self.free_read() {
                return Some((call, self.state, Cursor::End));
            }
            cursor = Cursor::Known(self.next[SENTINEL]);
        }
        if let Cursor::Known(mut event) = cursor {
            while event != SENTINEL && !self.events[event].1 {
                let call = self.events[event].0;
                event = self.next[event];
                if self.keeps_state[call] {
                    continue; // Not possible here: else it were the only candidate.
                }
                if let Some(state) = self.step(call) {
                    return Some((call, state, Cursor::Known(event)));
                }
            }
            cursor = Cursor::Open(0);
        }
        let Cursor::Open(start) = cursor else { return None };
        let before = before.filter(|frame| self.calls[frame.call].returned.is_none());
        let overwriters = before.map(|frame| self.bits[frame.call]);
        let moves = self.moves();
        for (place, &Move { open, state }) in moves.iter().enumerate().skip(start) {
            let Open { call, after_returns, twin } = self.open[open];
            if after_returns > self.explained {
                return None;
            }
            let overwrites =
                overwriters.is_some_and(|before| self.overwriters[before].contains(open));
            if !overwrites && !self.taken[call] && twin.is_none_or(|twin| self.taken[twin]) {
                return Some((call, state, Cursor::Open(place + 1)));
            }
        }
        None
    }

    /// The unknown operations that change the present state, whether or not they are taken.
    fn moves(&mut self) -> Rc<[Move]> {
        if let Some(moves) = self.moves.get(&self.state) {
            return Rc::clone(moves);
        }
        let mut moves = Vec::new();
        for open in 0..self.open.len() {
            if let Some(state) = self.step(self.open[open].call).filter(|s| *s != self.state) {
                moves.push(Move { open, state });
            }
        }
        let moves: Rc<[Move]> = moves.into();
        self.moves.insert(self.state, Rc::clone(&moves));
        moves
    }

    /// A possible operation that keeps every state: nothing is lost by taking it now.
    fn free_read(&mut self) -> Option<usize> {
        let mut event = self.next[SENTINEL];
        while event != SENTINEL && !self.events[event].1 {
            let call = self.events[event].0;
            if self.keeps_state[call]
                && let Some(state) = self.step(call)
            {
                assert!(
                    state == self.state,
                    "keeps_state holds for operation {call}, step differs"
                );
                return Some(call);
            }
            event = self.next[event];
        }
        None
    }

    fn step(&mut self, call: usize) -> Option<StateId> {
        self.steps += 1;
        let Call { input, .. } = self.calls[call];
        let output = self.calls[call].output();
        let state = self.model.step(self.states.get(self.state), input, output)?;
        Some(self.states.id(state))
    }

    fn lift(&mut self, call: usize, state: StateId) {
        self.state = state;
        self.taken[call] = true;
        if self.calls[call].returned.is_none() {
            self.open_taken.insert(self.bits[call]);
            return;
        }
        let (invoked, returned) = self.places[call];
        for event in [invoked, returned] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = next;
            self.previous[next] = previous;
        }
        self.known.insert(self.bits[call]);
        while let Some(&call) = self.returns.get(self.explained).filter(|c| self.taken[**c]) {
            self.known.remove(self.bits[call]);
            self.explained += 1;
        }
    }

    /// Undoes the latest lift that is not undone yet.
    fn unlift(&mut self, frame: &Frame) {
        let call = frame.call;
        self.state = frame.state_before;
        if self.calls[call].returned.is_none() {
            self.open_taken.remove(self.bits[call]);
            self.taken[call] = false;
            return;
        }
        while self.explained > frame.explained_before {
            self.explained -= 1;
            self.known.insert(self.bits[self.returns[self.explained]]);
        }
        self.known.remove(self.bits[call]);
        self.taken[call] = false;
        let (invoked, returned) = self.places[call];
        for event in [returned, invoked] {
            let (previous, next) = (self.previous[event], self.next[event]);
            self.next[previous] = event;
            self.previous[next] = event;
        }
    }

    fn note_depth(&mut self) {
        if self.explained > self.deepest {
            self.deepest = self.explained;
            self.deepest_states.clear();
        }
        let room = self.deepest_states.len() < STATES_SHOWN_MAX;
        if self.explained == self.deepest && room && !self.deepest_states.contains(&self.state) {
            self.deepest_states.push(self.state);
        }
    }
}

/// Hands out the lowest free number, so that few bits tell the concurrent operations apart.
#[derive(Default)]
struct Slots {
    used: Vec<bool>,
}

impl Slots {
    fn lowest(&mut self) -> usize {
        let free = self.used.iter().position(|used| !used).unwrap_or(self.used.len());
        if free == self.used.len() {
            self.used.push(true);
        } else {
            self.used[free] = true;
        }
        free
    }

    fn free(&mut self, slot: usize) {
        self.used[slot] = false;
    }

    fn count(&self) -> usize {
        self.used.len()
    }
}
