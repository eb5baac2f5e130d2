//! Random histories: the search against a checker by permutations on tiny ones, and a simulated
//! correct store, whose histories are accepted and, with one reply falsified, mostly rejected.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::super::{
    HistoryOf, Key, KeyedOp, Model, Register, RegisterOp, RegisterReply, StepBudget, Transaction,
    TransactionReply, Transactions, Verdict, check,
};
use crate::history::{ClientId, History, Moment, Operation, Outcome};

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How much happens at once.
#[derive(Clone, Copy)]
struct Shape {
    clients: u32,
    operations: u64,
    latency_max: u64,
    unknown_percent: u64,
}

/// Runs `make`'s operations against `apply` as concurrent clients of a correct store would: each
/// takes effect at one moment between invocation and return; an unknown one late, or never.
fn simulate<I: Clone, O>(
    random: &mut Random,
    shape: Shape,
    mut make: impl FnMut(&mut Random) -> I,
    mut apply: impl FnMut(&I) -> O,
) -> History<I, O> {
    let mut free_at = vec![0; shape.clients as usize];
    let mut planned = Vec::new();
    for number in 0..shape.operations {
        let client = (number % u64::from(shape.clients)) as usize;
        let invoked = free_at[client] + random.below(shape.latency_max);
        let effect = invoked + random.below(shape.latency_max + 1);
        let returned = effect + random.below(shape.latency_max + 1);
        free_at[client] = returned;
        let unknown = random.percent(shape.unknown_percent);
        let effect = match (unknown, random.below(3)) {
            (true, 0) => None,
            (true, 1) => Some(effect + random.below(20 * shape.latency_max)),
            _ => Some(effect),
        };
        let returned = Some(returned).filter(|_| !unknown);
        planned.push((invoked, effect, returned, client as u32, make(random)));
    }
    let mut effects: Vec<_> = planned.iter().enumerate().collect();
    effects.sort_by_key(|(_, plan)| plan.1);
    let mut replies: BTreeMap<_, _> = effects
        .into_iter()
        .filter(|(_, plan)| plan.1.is_some())
        .map(|(number, plan)| (number, apply(&plan.4)))
        .collect();
    let mut order: Vec<_> = planned.into_iter().enumerate().collect();
    order.sort_by_key(|(_, plan)| plan.0);
    let mut history = History::new();
    for (number, (invoked, _, returned, client, input)) in order {
        let op = history.invoke(ClientId(client), Moment(invoked), input);
        if let (Some(at), Some(reply)) = (returned, replies.remove(&number)) {
            history.complete(op, Moment(at), reply);
        }
    }
    history
}

fn make_op(random: &mut Random, keys: u64, value: i64) -> KeyedOp {
    let op = match random.below(12) {
        0..=4 => RegisterOp::Get,
        5..=6 => RegisterOp::Set(value),
        7 => RegisterOp::IncrBy(1),
        8 => RegisterOp::Del,
        9 => RegisterOp::SetIfAbsent(value),
        10 => RegisterOp::GetSet(value),
        _ => RegisterOp::CompareAndSet { expected: value - 1, new: value },
    };
    KeyedOp { key: Key(random.below(keys) as u32), op }
}

fn apply_op(state: &mut BTreeMap<Key, i64>, KeyedOp { key, op }: &KeyedOp) -> RegisterReply {
    let (value, reply) = op.apply(state.get(key).copied());
    match value {
        Some(value) => state.insert(*key, value),
        None => state.remove(key),
    };
    reply
}

fn registers(random: &mut Random, shape: Shape, keys: u64, values: u64) -> HistoryOf<Register> {
    let mut state = BTreeMap::new();
    let mut unique = 0;
    let make = |random: &mut Random| {
        unique += 1;
        let value = if values == 0 { unique * 10 } else { random.below(values) as i64 + 1 };
        make_op(random, keys, value)
    };
    simulate(random, shape, make, |op| apply_op(&mut state, op))
}

fn transactions(random: &mut Random, shape: Shape, keys: u64) -> HistoryOf<Transactions> {
    let mut state = BTreeMap::new();
    let make = |random: &mut Random| {
        let ops = 1 + random.below(2);
        let value = random.below(3) as i64 + 1;
        let watch = random.percent(20).then(|| (Key(random.below(keys) as u32), Some(value)));
        Transaction {
            watched: watch.into_iter().collect(),
            ops: (0..ops).map(|_| make_op(random, keys, value)).collect(),
        }
    };
    simulate(random, shape, make, |transaction| {
        if transaction.watched.iter().any(|(key, value)| state.get(key) != value.as_ref()) {
            return TransactionReply::Aborted;
        }
        let replies = transaction.ops.iter().map(|op| apply_op(&mut state, op)).collect();
        TransactionReply::Executed(replies)
    })
}

fn falsify_reply(random: &mut Random, reply: &mut RegisterReply) {
    match reply {
        RegisterReply::Done => {}
        RegisterReply::Value(value) => {
            *value = match value {
                Some(value) if random.percent(50) => Some(*value + 1),
                Some(_) => None,
                None => Some(random.below(3) as i64),
            }
        }
        RegisterReply::Number(number) => *number += if random.percent(50) { 1 } else { -1 },
        RegisterReply::Applied(applied) => *applied = !*applied,
        RegisterReply::Overflow => *reply = RegisterReply::Number(0),
    }
}

/// The history with one reply that says something falsified; unchanged when there is none.
fn falsify<I: Clone, O: Clone + PartialEq>(
    random: &mut Random,
    history: &History<I, O>,
    mut change: impl FnMut(&mut Random, &mut O),
) -> History<I, O> {
    let mut operations = history.operations().to_vec();
    for _ in 0..operations.len() {
        let place = random.below(operations.len() as u64) as usize;
        if let Outcome::Returned { output, .. } = &mut operations[place].outcome {
            let before = output.clone();
            change(random, output);
            if *output != before {
                break;
            }
        }
    }
    let mut falsified = History::new();
    operations.into_iter().for_each(|operation| falsified.push(operation));
    falsified
}

fn falsify_transaction(random: &mut Random, reply: &mut TransactionReply) {
    if let TransactionReply::Executed(replies) = reply {
        let place = random.below(replies.len() as u64) as usize;
        falsify_reply(random, &mut replies[place]);
    }
}

/// By definition: some permutation of all returned and some unknown operations, in which none
/// precedes another that had returned before it was sent, gives every reply.
fn permutation_exists<M: Model>(
    model: &M,
    operations: &[Operation<M::Input, M::Output>],
    chosen: &mut Vec<usize>,
    state: &M::State,
) -> bool {
    let missing = |(place, op): (usize, &Operation<_, _>)| {
        op.returned().is_some() && !chosen.contains(&place)
    };
    if !operations.iter().enumerate().any(missing) {
        return true;
    }
    for (place, op) in operations.iter().enumerate() {
        let too_late = |&earlier: &usize| {
            let sent = operations[earlier].invoked;
            op.returned().is_some_and(|returned| returned < sent)
        };
        if chosen.contains(&place) || chosen.iter().any(too_late) {
            continue;
        }
        if let Some(after) = model.step(state, &op.input, op.output()) {
            chosen.push(place);
            let found = permutation_exists(model, operations, chosen, &after);
            chosen.pop();
            if found {
                return true;
            }
        }
    }
    false
}

/// A model without the hints that shorten the search: one partition, no free reads.
struct Plain<M>(M);

impl<M: Model> Model for Plain<M> {
    type State = M::State;
    type Input = M::Input;
    type Output = M::Output;
    type Key = M::Key;

    fn init(&self) -> M::State {
        self.0.init()
    }

    fn step(
        &self,
        state: &M::State,
        input: &M::Input,
        output: Option<&M::Output>,
    ) -> Option<M::State> {
        self.0.step(state, input, output)
    }

    fn keys(&self, _: &M::Input) -> Vec<M::Key> {
        Vec::new()
    }
}

/// Whether the history is linearizable; a failing prefix must fail alone, and no longer without
/// its last return.
fn linearizable<M: Model>(model: &M, history: &HistoryOf<M>, seed: u64) -> bool {
    let verdict = |history| check(model, history, StepBudget::default());
    match verdict(history) {
        Verdict::Linearizable => true,
        Verdict::Undecided { .. } => panic!("seed {seed}: undecided\n{}", history.dump()),
        Verdict::NotLinearizable(violation) => {
            let failing = &violation.failing;
            let alone = matches!(verdict(failing), Verdict::NotLinearizable(_));
            assert!(violation.shortest && alone, "seed {seed}: {}", violation.report);
            let shorter = without_last_return(failing);
            let passes = matches!(verdict(&shorter), Verdict::Linearizable);
            assert!(passes, "seed {seed}: a shorter prefix fails: {}", violation.report);
            false
        }
    }
}

fn without_last_return<I: Clone + Display, O: Clone + Display>(
    history: &History<I, O>,
) -> History<I, O> {
    let last = history.operations().iter().filter_map(Operation::returned).max();
    // Returns at one moment have an order that is not ours to know: the last recorded is the last.
    let place = history.operations().iter().rposition(|op| op.returned() == last);
    let mut shorter = History::new();
    for (index, operation) in history.operations().iter().enumerate() {
        let mut operation = operation.clone();
        if Some(index) == place {
            operation.outcome = Outcome::Unknown;
        }
        shorter.push(operation);
    }
    shorter
}

fn tiny(random: &mut Random) -> Shape {
    Shape {
        clients: 1 + random.below(4) as u32,
        operations: 1 + random.below(6),
        latency_max: 1 + random.below(6),
        unknown_percent: random.below(60),
    }
}

/// Counts of linearizable and other histories; both checkers must agree on each.
fn compare<M: Model>(
    model: &M,
    plain: &Plain<M>,
    rounds: u64,
    mut make: impl FnMut(&mut Random) -> HistoryOf<M>,
) -> (u64, u64) {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..rounds {
        let history = make(&mut Random(seed));
        let expected =
            permutation_exists(model, history.operations(), &mut Vec::new(), &model.init());
        let text = || format!("seed {seed}, by permutations {expected}:\n{}", history.dump());
        assert_eq!(linearizable(model, &history, seed), expected, "{}", text());
        assert_eq!(linearizable(plain, &history, seed), expected, "plain, {}", text());
        *(if expected { &mut right } else { &mut wrong }) += 1;
    }
    (right, wrong)
}

#[test]
fn the_search_agrees_with_all_permutations_on_one_register() {
    let (right, wrong) = compare(&Register, &Plain(Register), 20_000, |random| {
        let shape = tiny(random);
        let mut history = registers(random, shape, 1, 2);
        for _ in 0..random.below(3) {
            history = falsify(random, &history, falsify_reply);
        }
        history
    });
    assert!(right > 5_000 && wrong > 5_000, "right {right}, wrong {wrong}");
}

#[test]
fn the_search_agrees_with_all_permutations_on_transactions() {
    let (right, wrong) = compare(&Transactions, &Plain(Transactions), 20_000, |random| {
        let shape = tiny(random);
        let mut history = transactions(random, shape, 3);
        for _ in 0..random.below(3) {
            history = falsify(random, &history, falsify_transaction);
        }
        history
    });
    assert!(right > 5_000 && wrong > 5_000, "right {right}, wrong {wrong}");
}

#[test]
fn histories_of_a_correct_store_are_accepted_and_falsified_ones_mostly_rejected() {
    let (mut rejected, rounds) = (0, 400);
    for seed in 0..rounds {
        let random = &mut Random(seed);
        let shape =
            Shape { clients: 5, operations: 80, latency_max: 12, unknown_percent: random.below(8) };
        let history = registers(random, shape, 2, 0);
        assert!(linearizable(&Register, &history, seed), "seed {seed}:\n{}", history.dump());
        let falsified = falsify(random, &history, falsify_reply);
        rejected += u64::from(!linearizable(&Register, &falsified, seed));
    }
    assert!(rejected * 100 > rounds * 80, "{rejected} of {rounds} rejected");
}

#[test]
fn transactions_of_a_correct_store_are_accepted_and_falsified_ones_mostly_rejected() {
    let (mut rejected, rounds) = (0, 200);
    for seed in 0..rounds {
        let random = &mut Random(seed);
        let shape =
            Shape { clients: 5, operations: 60, latency_max: 12, unknown_percent: random.below(8) };
        let history = transactions(random, shape, 4);
        assert!(linearizable(&Transactions, &history, seed), "seed {seed}:\n{}", history.dump());
        let falsified = falsify(random, &history, falsify_transaction);
        rejected += u64::from(!linearizable(&Transactions, &falsified, seed));
    }
    assert!(rejected * 100 > rounds * 60, "{rejected} of {rounds} rejected");
}

fn one_key(operations: u64, unknown_percent: u64, seed: u64) -> HistoryOf<Register> {
    let shape = Shape { clients: 10, operations, latency_max: 20, unknown_percent };
    registers(&mut Random(seed), shape, 1, 0)
}

#[test]
fn thousands_of_operations_on_one_key_are_explained_within_the_budget() {
    for (unknown_percent, steps) in [(0, 100_000), (1, 1_000_000), (2, 3_000_000)] {
        for seed in 0..3 {
            let verdict =
                check(&Register, &one_key(5_000, unknown_percent, seed), StepBudget(steps));
            let right = matches!(verdict, Verdict::Linearizable);
            assert!(right, "seed {seed}, {unknown_percent} % unknown");
        }
    }
}

/// The search must exhaust all orders before it may say so.
#[test]
fn an_impossible_last_read_is_found_behind_thousands_of_operations_on_one_key() {
    for (operations, unknown_percent) in [(5_000, 0), (1_000, 1), (500, 4)] {
        for seed in 0..3 {
            let mut history = one_key(operations, unknown_percent, seed);
            let read = KeyedOp { key: Key(0), op: RegisterOp::Get };
            let op = history.invoke(ClientId(99), history.next_moment(), read);
            history.complete(op, history.next_moment(), RegisterReply::Value(Some(-5)));
            let verdict = check(&Register, &history, StepBudget::default());
            let Verdict::NotLinearizable(violation) = verdict else {
                panic!("seed {seed}, {unknown_percent} % unknown: not found")
            };
            assert_eq!(violation.failing, history, "seed {seed}: it is the shortest prefix");
        }
    }
}
