//! Sets against a plain set, in every state that their rows can be in; random choices; refusals.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_base::{Effect, KeyspaceId, Lsn, limits::MEMBER_BYTES_MAX};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Shard,
    ops::{keys, string},
    testing,
};

type Model = BTreeSet<Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Add(Vec<Vec<u8>>),
    Remove(Vec<Vec<u8>>),
    Pop(u64, u64),
    Drop,
}

#[derive(Clone, Debug)]
enum Step {
    /// Ops of one record.
    Write(Vec<Op>),
    Commit,
    Settle,
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    vec(0..3u8, 0..4)
}

fn any_step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        5 => vec(any_name(), 0..9).prop_map(Op::Add),
        3 => vec(any_name(), 0..6).prop_map(Op::Remove),
        2 => (0..8u64, any::<u64>()).prop_map(|(count, seed)| Op::Pop(count, seed)),
        1 => Just(Op::Drop),
    ];
    prop_oneof![
        4 => vec(op, 1..4).prop_map(Step::Write),
        1 => Just(Step::Commit),
        1 => Just(Step::Settle),
    ]
}

/// Numbers for tests (Steele, Lea and Flood, 2014: SplitMix).
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn slices(names: &[Vec<u8>]) -> Vec<&[u8]> {
    names.iter().map(Vec::as_slice).collect()
}

/// Runs the op on both and compares what they give.
fn run(op: &Op, txn: &mut Txn<'_>, key: &KeyRef<'_>, model: &mut Model) -> Result<(), OpError> {
    let before = model.len();
    match op {
        Op::Add(names) => {
            model.extend(names.iter().cloned());
            assert_eq!(add(txn, key, &slices(names))?, (model.len() - before) as u64);
        }
        Op::Remove(names) => {
            model.retain(|name| !names.contains(name));
            assert_eq!(remove(txn, key, &slices(names))?, (before - model.len()) as u64);
        }
        Op::Pop(count, seed) => {
            let popped = pop(txn, key, *count, &mut numbers(*seed))?;
            assert_eq!(popped.len() as u64, (*count).min(before as u64));
            for name in &popped {
                assert!(model.remove(&name[..]), "{name:?} was no member, or was popped twice");
            }
        }
        Op::Drop => {
            assert_eq!(keys::delete(txn, key)?, before > 0);
            model.clear();
        }
    }
    Ok(())
}

/// Every way of reading agrees with the model.
fn check(txn: &mut Txn<'_>, key: &KeyRef<'_>, model: &Model) -> Result<(), OpError> {
    let all = members(txn, key)?;
    assert_eq!(all.len(), model.len());
    assert_eq!(all.iter().map(|name| name.to_vec()).collect::<Model>(), *model);
    assert_eq!(cardinality(txn, key)?, model.len() as u64);
    assert_eq!(keys::exists(txn, key)?, !model.is_empty());
    let asked: Vec<&[u8]> = vec![b"absent", b"", &[0], &[1, 2], &[2, 2, 2]];
    let expected: Vec<bool> = asked.iter().map(|name| model.contains(*name)).collect();
    assert_eq!(are_members(txn, key, &asked)?, expected);
    for (name, expected) in asked.iter().zip(expected) {
        assert_eq!(is_member(txn, key, name)?, expected);
    }
    let chosen = random_distinct(txn, key, 5, &mut numbers(model.len() as u64))?;
    assert_eq!(chosen.len(), model.len().min(5));
    assert!(chosen.iter().all(|name| model.contains(&name[..])));
    assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
    let drawn = random_repeated(txn, key, 5, &mut numbers(model.len() as u64))?;
    assert_eq!(drawn.len(), if model.is_empty() { 0 } else { 5 });
    assert!(drawn.iter().all(|name| model.contains(&name[..])));
    Ok(())
}

fn usage(shard: &Shard) -> (u64, u64) {
    shard.usage(KeyspaceId(0)).value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_set_is_a_set_staged_durable_and_applied(steps in vec(any_step(), 1..25)) {
        prop_assert_eq!(compare_with_model(&steps), Ok(()));
    }
}

fn compare_with_model(steps: &[Step]) -> Result<(), OpError> {
    let shard = testing::open();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Commit => testing::commit(&shard),
            Step::Settle => testing::settle(&shard),
            Step::Write(ops) => testing::write(&shard, "key", |txn, key| {
                for op in ops {
                    run(op, txn, key, &mut model)?;
                    check(txn, key, &model)?;
                }
                Ok(())
            })?,
        }
        testing::read(&shard, "key", |txn, key| check(txn, key, &model))?;
        let bytes: usize = model.iter().map(Vec::len).sum();
        let expected = if model.is_empty() { (0, 0) } else { (1, 3 + bytes as u64) };
        assert_eq!(usage(&shard), expected);
    }
    let all = Op::Pop(model.len() as u64, 1);
    testing::write(&shard, "key", |txn, key| run(&all, txn, key, &mut model))?;
    assert_eq!(usage(&shard), (0, 0));
    Ok(())
}

/// A set of `count` members m0, m1, ...
fn filled(count: usize) -> Shard {
    let shard = testing::open();
    let names: Vec<Vec<u8>> = (0..count).map(|i| format!("m{i}").into_bytes()).collect();
    testing::write(&shard, "k", |txn, key| add(txn, key, &slices(&names)))
        .expect("an empty shard takes a set");
    testing::settle(&shard);
    shard
}

/// How often each member comes up in `rounds` times `count` draws.
fn tally(shard: &Shard, rounds: usize, count: u64, repeated: bool) -> BTreeMap<Vec<u8>, u64> {
    let mut random = numbers(3);
    let mut tally = BTreeMap::new();
    for _ in 0..rounds {
        let drawn = testing::read(shard, "k", |txn, key| match repeated {
            true => random_repeated(txn, key, count, &mut random),
            false => random_distinct(txn, key, count, &mut random),
        });
        let drawn = drawn.expect("the set can be read");
        assert_eq!(drawn.len() as u64, count);
        drawn.iter().for_each(|name| *tally.entry(name.to_vec()).or_default() += 1);
    }
    tally
}

#[test]
fn draws_from_a_small_set_are_uniform() {
    let shard = filled(10);
    for (rounds, count, repeated) in [(10_000, 1, false), (2_500, 4, false), (100, 100, true)] {
        let tally = tally(&shard, rounds, count, repeated);
        // 1,000 each are expected with a standard deviation of at most 30: five of them.
        assert_eq!(tally.len(), 10);
        assert!(tally.values().all(|times| (850..1_150).contains(times)), "{tally:?}");
    }
}

#[test]
fn draws_from_a_large_set_leave_nobody_out_and_favour_nobody_much() {
    let shard = filled(1_000);
    for repeated in [false, true] {
        let tally = tally(&shard, 5_000, 20, repeated);
        // 100 each are expected; the neighbourhood moves that by a quarter, chance by a tenth.
        assert_eq!(tally.len(), 1_000);
        assert!(tally.values().all(|times| (15..300).contains(times)), "{tally:?}");
    }
}

#[test]
fn different_members_are_different_however_many_are_wanted() -> Result<(), OpError> {
    let shard = filled(600);
    for count in [0, 1, 30, 37, 38, 300, 599, 600, 601, u64::MAX] {
        let chosen = testing::read(&shard, "k", |txn, key| {
            random_distinct(txn, key, count, &mut numbers(count))
        })?;
        assert_eq!(chosen.len() as u64, count.min(600));
        assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
    }
    Ok(())
}

#[test]
fn numbers_that_always_aim_at_one_place_still_choose_different_members() -> Result<(), OpError> {
    let shard = filled(600);
    for number in [0, u64::MAX / 2, u64::MAX] {
        let chosen = testing::write(&shard, "k", |txn, key| pop(txn, key, 20, &mut || number))?;
        assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 20);
    }
    assert_eq!(testing::read(&shard, "k", cardinality)?, 540);
    Ok(())
}

#[test]
fn popping_a_large_set_empty_gives_every_member_once() -> Result<(), OpError> {
    let shard = filled(1_000);
    let mut random = numbers(11);
    let mut popped = BTreeSet::new();
    let mut round = 0;
    while testing::read(&shard, "k", cardinality)? > 0 {
        let some = testing::write(&shard, "k", |txn, key| pop(txn, key, 17, &mut random))?;
        for name in some {
            assert!(popped.insert(name));
        }
        round += 1;
        match round % 3 {
            0 => testing::settle(&shard),
            1 => testing::commit(&shard),
            _ => {}
        }
    }
    assert_eq!(popped.len(), 1_000);
    assert_eq!(usage(&shard), (0, 0));
    Ok(())
}

#[test]
fn what_was_popped_is_logged_as_members_removed() -> Result<(), OpError> {
    let shard = filled(5);
    testing::write(&shard, "k", |txn, key| {
        let popped = pop(txn, key, 2, &mut numbers(1))?;
        let mut input = &txn.pending.effects[..];
        let mut removed: Vec<SharedBytes> = Vec::new();
        while !input.is_empty() {
            if let Effect::DeleteMember { member, .. } =
                Effect::decode(&mut input).expect("just encoded")
            {
                removed.push(member.into());
            }
        }
        assert_eq!(removed, popped);
        assert_eq!(removed.len(), 2);
        Ok(())
    })
}

#[test]
fn adding_what_is_there_and_removing_what_is_not_stages_nothing() -> Result<(), OpError> {
    let shard = filled(3);
    let before: Lsn = shard.stats().staged_lsn;
    assert_eq!(testing::write(&shard, "k", |txn, key| add(txn, key, &[b"m0", b"m2"]))?, 0);
    assert_eq!(testing::write(&shard, "k", |txn, key| remove(txn, key, &[b"m3"]))?, 0);
    assert_eq!(testing::write(&shard, "absent", |txn, key| remove(txn, key, &[b"m0"]))?, 0);
    assert_eq!(testing::write(&shard, "absent", |txn, key| add(txn, key, &[]))?, 0);
    testing::write(&shard, "k", |txn, key| pop(txn, key, 0, &mut numbers(1)))?;
    assert_eq!(shard.stats().staged_lsn, before);
    Ok(())
}

#[test]
fn a_key_of_another_type_is_refused_by_every_op() -> Result<(), OpError> {
    type AnyOp = fn(&mut Txn<'_>, &KeyRef<'_>) -> Result<(), OpError>;
    let ops: [AnyOp; 10] = [
        |txn, key| add(txn, key, &[b"m"]).map(drop),
        |txn, key| remove(txn, key, &[b"m"]).map(drop),
        |txn, key| is_member(txn, key, b"m").map(drop),
        |txn, key| are_members(txn, key, &[b"m"]).map(drop),
        |txn, key| cardinality(txn, key).map(drop),
        |txn, key| members(txn, key).map(drop),
        |txn, key| pop(txn, key, 1, &mut || 0).map(drop),
        |txn, key| random_distinct(txn, key, 1, &mut || 0).map(drop),
        |txn, key| random_repeated(txn, key, 1, &mut || 0).map(drop),
        |txn, key| scan(txn, key, 0, 10).map(drop),
    ];
    let shard = testing::open();
    testing::write(&shard, "string", |txn, key| string::append(txn, key, b"text"))?;
    testing::write(&shard, "hash", |txn, key| crate::ops::hash::set(txn, key, &[(b"m", b"")]))?;
    let before = shard.stats().staged_lsn;
    for name in ["string", "hash"] {
        for (number, op) in ops.iter().enumerate() {
            let refused = testing::write(&shard, name, op);
            assert_eq!(refused, Err(OpError::WrongType), "op {number} on {name}");
        }
    }
    assert_eq!(shard.stats().staged_lsn, before);
    Ok(())
}

#[test]
fn members_and_draws_over_their_limits_are_refused() -> Result<(), OpError> {
    let shard = filled(2);
    let too_long = vec![0; MEMBER_BYTES_MAX + 1];
    let added = testing::write(&shard, "k", |txn, key| add(txn, key, &[b"new", &too_long]));
    assert!(matches!(added, Err(OpError::TooLarge(_))));
    assert!(!testing::read(&shard, "k", |txn, key| is_member(txn, key, b"new"))?);
    let drawn = |count| {
        testing::read(&shard, "k", |txn, key| random_repeated(txn, key, count, &mut numbers(1)))
    };
    assert!(matches!(drawn(DRAWS_MAX + 1), Err(OpError::TooLarge(_))));
    assert_eq!(drawn(DRAWS_MAX)?.len() as u64, DRAWS_MAX);
    Ok(())
}

#[test]
fn a_scan_returns_every_member_that_stays_however_others_come_and_go() -> Result<(), OpError> {
    for seed in 0..10 {
        let shard = filled(100);
        let mut random = numbers(seed);
        let mut found = BTreeMap::<Vec<u8>, usize>::new();
        let mut cursor = 0;
        loop {
            let step = testing::read(&shard, "k", |txn, key| scan(txn, key, cursor, 4))?;
            step.members.into_iter().for_each(|name| *found.entry(name).or_default() += 1);
            cursor = step.cursor;
            if cursor == 0 {
                break;
            }
            assert!(found.values().all(|times| *times < 3), "the cursor does not move on");
            let passing: Vec<Vec<u8>> =
                (0..20).map(|_| format!("passing-{}", random() % 60).into_bytes()).collect();
            let (added, removed) = passing.split_at(10);
            testing::write(&shard, "k", |txn, key| add(txn, key, &slices(added)))?;
            testing::write(&shard, "k", |txn, key| remove(txn, key, &slices(removed)))?;
            match random() % 3 {
                0 => testing::settle(&shard),
                1 => testing::commit(&shard),
                _ => {}
            }
        }
        for i in 0..100 {
            assert_eq!(found.get(format!("m{i}").as_bytes()), Some(&1), "m{i}, seed {seed}");
        }
    }
    Ok(())
}
