//! Hashes against a plain map, in every state that their rows can be in, and their refusals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use holdfast_base::{
    DeleteReason, Effect, Epoch, Head, Hlc, Incarnation, KeyspaceId, Kind, Lsn, Payload, ShardId,
    key,
    limits::{COLLECTION_COUNT_MAX, MEMBER_BYTES_MAX, VALUE_BYTES_MAX},
    row::AppliedState,
};
use holdfast_engine::{ModelEngine, Tier};
use holdfast_log::Position;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    Limits, Shard, ShardParts,
    ops::{keys, string},
    testing,
};

/// Two names at one hash position under the seed of `testing::open`.
const TWINS: [&str; 2] = ["29603944", "36863071"];

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Set(Vec<(Vec<u8>, Vec<u8>)>),
    SetIfAbsent(Vec<u8>, Vec<u8>),
    Delete(Vec<Vec<u8>>),
    Increment(Vec<u8>, i64),
    Drop,
}

#[derive(Clone, Debug)]
enum Step {
    /// Ops of one record, on one of two keys.
    Write(bool, Vec<Op>),
    Commit,
    Settle,
}

fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let twin = (0..TWINS.len()).prop_map(|twin| TWINS[twin].as_bytes().to_vec());
    prop_oneof![6 => vec(0..3u8, 0..3), 1 => twin]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![-3..3i64, Just(i64::MAX), Just(i64::MIN)];
    prop_oneof![vec(any::<u8>(), 0..4), number.prop_map(|number| number.to_string().into_bytes())]
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => vec((any_name(), any_value()), 0..6).prop_map(Op::Set),
        1 => (any_name(), any_value()).prop_map(|(name, value)| Op::SetIfAbsent(name, value)),
        3 => vec(any_name(), 0..6).prop_map(Op::Delete),
        2 => (any_name(), -2..3i64).prop_map(|(name, by)| Op::Increment(name, by)),
        1 => Just(Op::Drop),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), vec(any_op(), 1..4)).prop_map(|(second, ops)| Step::Write(second, ops)),
        1 => Just(Step::Commit),
        1 => Just(Step::Settle),
    ]
}

fn run(op: &Op, txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<i64, OpError> {
    match op {
        Op::Set(fields) => {
            let fields: Vec<_> = fields.iter().map(|(f, v)| (&f[..], &v[..])).collect();
            Ok(set(txn, key, &fields)? as i64)
        }
        Op::SetIfAbsent(field, value) => Ok(set_if_absent(txn, key, field, value)?.into()),
        Op::Delete(fields) => {
            let fields: Vec<_> = fields.iter().map(|field| &field[..]).collect();
            Ok(delete(txn, key, &fields)? as i64)
        }
        Op::Increment(field, by) => increment(txn, key, field, *by),
        Op::Drop => Ok(keys::delete(txn, key)?.into()),
    }
}

fn run_on_model(op: &Op, model: &mut Model) -> Result<i64, OpError> {
    let before = model.len() as i64;
    match op {
        Op::Set(fields) => {
            model.extend(fields.iter().cloned());
            Ok(model.len() as i64 - before)
        }
        Op::SetIfAbsent(field, value) => {
            model.entry(field.clone()).or_insert_with(|| value.clone());
            Ok(model.len() as i64 - before)
        }
        Op::Delete(fields) => {
            model.retain(|field, _| !fields.contains(field));
            Ok(before - model.len() as i64)
        }
        Op::Increment(field, by) => {
            let old = model.get(field).map_or(Some(0), |digits| parse_integer(digits));
            let new = old.ok_or(OpError::FieldNotInteger)?.checked_add(*by);
            let new = new.ok_or(OpError::Overflow)?;
            model.insert(field.clone(), new.to_string().into_bytes());
            Ok(new)
        }
        Op::Drop => {
            model.clear();
            Ok((before > 0).into())
        }
    }
}

/// Runs the ops as one record: first from memory alone, and once more if a row was not there.
fn write(shard: &Shard, name: &str, ops: &[Op]) -> Vec<Result<i64, OpError>> {
    let attempt = |tier| {
        shard.write(tier, |txn| {
            let key = txn.key(KeyspaceId(0), name.as_bytes());
            let mut results = Vec::new();
            for op in ops {
                match run(op, txn, &key) {
                    Err(cold @ (OpError::Miss(_) | OpError::ColdRange)) => return Err(cold),
                    result => results.push(result),
                }
            }
            Ok(results)
        })
    };
    let done = match attempt(Tier::Cached) {
        Err(OpError::Miss(_) | OpError::ColdRange) => attempt(Tier::Any),
        done => done,
    };
    done.expect("every refusal is caught above").value
}

/// Every way of reading agrees with the model.
fn check(txn: &mut Txn<'_>, key: &KeyRef<'_>, model: &Model) -> Result<(), OpError> {
    let all = get_all(txn, key)?;
    assert_eq!(all.iter().cloned().collect::<Model>(), *model);
    assert_eq!(all.len(), model.len());
    assert_eq!(length(txn, key)?, model.len() as u64);
    assert_eq!(keys(txn, key)?, all.iter().map(|(field, _)| field.clone()).collect::<Vec<_>>());
    assert_eq!(values(txn, key)?, all.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>());
    let mut scanned = Vec::new();
    let mut cursor = 0;
    loop {
        let step = scan(txn, key, cursor, 2)?;
        scanned.extend(step.fields);
        assert!(scanned.len() <= all.len(), "the scan repeats itself");
        cursor = step.cursor;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(scanned, all);
    let asked: Vec<&[u8]> = vec![b"absent", b"", &[1], &[2, 0], TWINS[0].as_bytes()];
    for (field, found) in asked.iter().zip(get_many(txn, key, &asked)?) {
        let expected = model.get(*field);
        assert_eq!(found.as_deref(), expected.map(Vec::as_slice));
        assert_eq!(get(txn, key, field)?, found);
        assert_eq!(exists(txn, key, field)?, expected.is_some());
        assert_eq!(value_length(txn, key, field)?, expected.map_or(0, |v| v.len() as u64));
    }
    Ok(())
}

/// A shard whose engine does not find a third of the rows without the disk.
fn open_with_cold_rows() -> Shard {
    let engine = Arc::new(ModelEngine::new());
    engine.set_incomplete(9, 3);
    open_over(engine)
}

fn open_over(engine: Arc<ModelEngine>) -> Shard {
    let shard = Shard::new(ShardParts {
        id: ShardId(0),
        engine,
        applied: AppliedState { hash_seed: [5; 16], ..AppliedState::default() },
        row_cache_bytes: 1 << 12,
        limits: Limits::default(),
    });
    let position = Position {
        next_lsn: Lsn(1),
        next_n: 0,
        chain: 0,
        incarnation: Incarnation(1),
        epoch: Epoch(1),
        last_time: Hlc::default(),
    };
    shard.take_over(&position, b"test").expect("an empty shard opens at the first position");
    shard.advance_time(1_000, 0);
    shard
}

fn usage(shard: &Shard) -> (u64, u64) {
    shard.usage(KeyspaceId(0)).value
}

fn member_rows(shard: &Shard) -> Result<usize, OpError> {
    let (from, to) = ([key::Family::Member as u8], [key::Family::Member as u8 + 1]);
    let mut rows = 0;
    shard.engine().snapshot()?.scan(&from, &to, false, Tier::Any, &mut |_, _| {
        rows += 1;
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(rows)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_hash_is_a_map_staged_durable_and_applied(steps in vec(any_step(), 1..25)) {
        prop_assert_eq!(compare_with_model(&steps), Ok(()));
    }
}

fn compare_with_model(steps: &[Step]) -> Result<(), OpError> {
    let shard = open_with_cold_rows();
    let mut models = [("k", Model::new()), ("second", Model::new())];
    for step in steps {
        match step {
            Step::Commit => testing::commit(&shard),
            Step::Settle => testing::settle(&shard),
            Step::Write(second, ops) => {
                let (name, model) = &mut models[usize::from(*second)];
                let expected: Vec<_> = ops.iter().map(|op| run_on_model(op, model)).collect();
                assert_eq!(write(&shard, name, ops), expected);
                testing::write(&shard, name, |txn, key| check(txn, key, model))?;
            }
        }
        let mut expected = (0, 0);
        for (name, model) in &models {
            testing::read(&shard, name, |txn, key| check(txn, key, model))?;
            if !model.is_empty() {
                let bytes: usize = model.iter().map(|(f, v)| f.len() + v.len()).sum();
                expected = (expected.0 + 1, expected.1 + (name.len() + bytes) as u64);
            }
        }
        assert_eq!(usage(&shard), expected);
    }
    for (name, model) in models {
        write(&shard, name, &[Op::Delete(model.into_keys().collect())]);
    }
    assert_eq!(usage(&shard), (0, 0));
    testing::settle(&shard);
    while shard.sweep_collections(10)? > 0 {}
    assert_eq!(member_rows(&shard)?, 0);
    Ok(())
}

fn put(shard: &Shard, fields: &[(&str, &str)]) -> Result<u64, OpError> {
    let fields: Vec<_> = fields.iter().map(|(f, v)| (f.as_bytes(), v.as_bytes())).collect();
    testing::write(shard, "k", |txn, key| set(txn, key, &fields))
}

fn value_of(shard: &Shard, field: &str) -> Result<Option<Vec<u8>>, OpError> {
    let field = field.as_bytes();
    testing::read(shard, "k", |txn, key| Ok(get(txn, key, field)?.map(|value| value.to_vec())))
}

#[test]
fn a_field_named_twice_counts_once_and_keeps_the_last_value() -> Result<(), OpError> {
    let shard = testing::open();
    assert_eq!(put(&shard, &[("f", "1"), ("g", "2"), ("f", "three")])?, 2);
    assert_eq!(value_of(&shard, "f")?.as_deref(), Some(&b"three"[..]));
    assert_eq!(usage(&shard), (1, 1 + 6 + 2));
    Ok(())
}

#[test]
fn one_op_writes_one_head_and_each_row_once() -> Result<(), OpError> {
    let shard = testing::open();
    let effects = |op: &dyn Fn(&mut Txn<'_>, &KeyRef<'_>) -> Result<u64, OpError>| {
        testing::write(&shard, "k", |txn, key| {
            op(txn, key)?;
            let mut input = &txn.pending.effects[..];
            let (mut heads, mut others) = (0, 0);
            while !input.is_empty() {
                match Effect::decode(&mut input).expect("just encoded") {
                    Effect::Key { .. } => {}
                    Effect::PutHead { .. } | Effect::DeleteHead { .. } => heads += 1,
                    _ => others += 1,
                }
            }
            Ok((heads, others))
        })
    };
    let three: [(&[u8], &[u8]); 4] = [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4")];
    assert_eq!(effects(&|txn, key| set(txn, key, &three))?, (1, 3));
    assert_eq!(effects(&|txn, key| delete(txn, key, &[b"a", b"absent", b"a"]))?, (1, 1));
    assert_eq!(effects(&|txn, key| delete(txn, key, &[b"absent"]))?, (0, 0));
    // The last members go with their collection: no row of theirs is logged.
    assert_eq!(effects(&|txn, key| delete(txn, key, &[b"b", b"c"]))?, (1, 1));
    Ok(())
}

#[test]
fn a_hash_written_after_its_last_field_went_has_none_of_the_old_ones() -> Result<(), OpError> {
    let shard = testing::open();
    put(&shard, &[("old", "1"), ("older", "2")])?;
    testing::settle(&shard);
    let gone = testing::write(&shard, "k", |txn, key| delete(txn, key, &[b"old", b"older"]))?;
    assert_eq!(gone, 2);
    assert!(!testing::read(&shard, "k", keys::exists)?);
    put(&shard, &[("new", "3")])?;
    testing::settle(&shard);
    let all = testing::read(&shard, "k", get_all)?;
    assert_eq!(all, [(b"new".to_vec(), b"3".to_vec())]);
    Ok(())
}

#[test]
fn changes_keep_the_deadline_and_a_hash_past_it_begins_anew() -> Result<(), OpError> {
    let shard = testing::open();
    put(&shard, &[("f", "1"), ("g", "1")])?;
    testing::write(&shard, "k", |txn, key| {
        keys::set_deadline(txn, key, Some(2_000), keys::DeadlineCondition::default())
    })?;
    put(&shard, &[("h", "1")])?;
    testing::write(&shard, "k", |txn, key| increment(txn, key, b"f", 1))?;
    testing::write(&shard, "k", |txn, key| delete(txn, key, &[b"g"]))?;
    let left = testing::read(&shard, "k", keys::time_to_live)?;
    assert_eq!(left, keys::TimeToLive::Until(2_000));
    shard.advance_time(2_000, 1_000);
    assert_eq!(testing::read(&shard, "k", length)?, 0);
    assert_eq!(testing::write(&shard, "k", |txn, key| delete(txn, key, &[b"f"]))?, 0);
    assert_eq!(testing::write(&shard, "k", |txn, key| increment(txn, key, b"f", 5))?, 5);
    assert_eq!(testing::read(&shard, "k", get_all)?, [(b"f".to_vec(), b"5".to_vec())]);
    assert_eq!(testing::read(&shard, "k", keys::time_to_live)?, keys::TimeToLive::Forever);
    assert_eq!(usage(&shard), (1, 3));
    Ok(())
}

#[test]
fn increments_of_a_field_refuse_text_and_overflow_without_effect() -> Result<(), OpError> {
    let shard = testing::open();
    let by = |by| testing::write(&shard, "k", |txn, key| increment(txn, key, b"n", by));
    assert_eq!(by(i64::MIN)?, i64::MIN);
    assert_eq!(by(-1), Err(OpError::Overflow));
    assert_eq!(by(1)?, i64::MIN + 1);
    put(&shard, &[("n", "1.5")])?;
    assert_eq!(by(1), Err(OpError::FieldNotInteger));
    assert_eq!(value_of(&shard, "n")?.as_deref(), Some(&b"1.5"[..]));
    Ok(())
}

#[test]
fn a_key_of_another_type_is_refused_by_every_op() -> Result<(), OpError> {
    type AnyOp = fn(&mut Txn<'_>, &KeyRef<'_>) -> Result<(), OpError>;
    let ops: [AnyOp; 13] = [
        |txn, key| set(txn, key, &[(b"f", b"v")]).map(drop),
        |txn, key| set_if_absent(txn, key, b"f", b"v").map(drop),
        |txn, key| get(txn, key, b"f").map(drop),
        |txn, key| get_many(txn, key, &[b"f"]).map(drop),
        |txn, key| get_all(txn, key).map(drop),
        |txn, key| keys(txn, key).map(drop),
        |txn, key| values(txn, key).map(drop),
        |txn, key| delete(txn, key, &[b"f"]).map(drop),
        |txn, key| exists(txn, key, b"f").map(drop),
        |txn, key| length(txn, key).map(drop),
        |txn, key| value_length(txn, key, b"f").map(drop),
        |txn, key| increment(txn, key, b"f", 1).map(drop),
        |txn, key| scan(txn, key, 0, 10).map(drop),
    ];
    let shard = testing::open();
    testing::write(&shard, "string", |txn, key| string::append(txn, key, b"text"))?;
    testing::write(&shard, "set", |txn, key| crate::ops::set::add(txn, key, &[b"f"]))?;
    let before = usage(&shard);
    for name in ["string", "set"] {
        for (number, op) in ops.iter().enumerate() {
            let refused = testing::write(&shard, name, op);
            assert_eq!(refused, Err(OpError::WrongType), "op {number} on {name}");
        }
    }
    assert_eq!(usage(&shard), before);
    Ok(())
}

#[test]
fn names_and_values_over_their_limits_are_refused_without_effect() -> Result<(), OpError> {
    let shard = testing::open();
    let (longest, too_long) = (vec![7; MEMBER_BYTES_MAX], vec![7; MEMBER_BYTES_MAX + 1]);
    let too_large = vec![7; VALUE_BYTES_MAX + 1];
    let refused = |result: Result<u64, OpError>| matches!(result, Err(OpError::TooLarge(_)));
    for pair in [(&too_long[..], &b"v"[..]), (b"g", &too_large)] {
        let set_both = testing::write(&shard, "k", |txn, key| set(txn, key, &[(b"f", b"v"), pair]));
        assert!(refused(set_both));
        let absent = |txn: &mut Txn<'_>, key: &KeyRef<'_>| set_if_absent(txn, key, pair.0, pair.1);
        assert!(refused(testing::write(&shard, "k", absent).map(u64::from)));
    }
    let sum = testing::write(&shard, "k", |txn, key| increment(txn, key, &too_long, 1));
    assert!(refused(sum.map(|sum| sum as u64)));
    assert_eq!(usage(&shard), (0, 0));
    assert_eq!(testing::write(&shard, "k", |txn, key| set(txn, key, &[(&longest, b"v")]))?, 1);
    assert!(testing::read(&shard, "k", |txn, key| exists(txn, key, &longest))?);
    assert!(!testing::read(&shard, "k", |txn, key| exists(txn, key, &too_long))?);
    Ok(())
}

#[test]
fn a_full_hash_takes_new_values_but_no_new_field() -> Result<(), OpError> {
    let shard = testing::open();
    testing::write(&shard, "k", |txn, key| {
        let id = txn.new_collection();
        txn.push(key, &Effect::PutField { id, field: b"f", value: b"1" })?;
        let count = COLLECTION_COUNT_MAX;
        let payload = Payload::Collection { kind: Kind::Hash, id, count, bytes: 2 };
        txn.put_head(key, Some(Head { deadline_ms: None, payload }), DeleteReason::Removed)
    })?;
    let full = |result| assert!(matches!(result, Err(OpError::TooLarge(_))), "{result:?}");
    full(put(&shard, &[("f", "2"), ("g", "2")]));
    full(testing::write(&shard, "k", |txn, key| set_if_absent(txn, key, b"g", b"")).map(u64::from));
    full(testing::write(&shard, "k", |txn, key| increment(txn, key, b"g", 1)).map(|n| n as u64));
    assert_eq!(value_of(&shard, "f")?.as_deref(), Some(&b"1"[..]));
    assert_eq!(put(&shard, &[("f", "2"), ("f", "3")])?, 0);
    assert_eq!(testing::write(&shard, "k", |txn, key| increment(txn, key, b"f", 1))?, 4);
    Ok(())
}

#[test]
fn a_count_that_disagrees_with_the_rows_is_reported_and_not_served() -> Result<(), OpError> {
    let shard = testing::open();
    testing::write(&shard, "k", |txn, key| {
        let id = txn.new_collection();
        txn.push(key, &Effect::PutField { id, field: b"f", value: b"1" })?;
        let payload = Payload::Collection { kind: Kind::Hash, id, count: 2, bytes: 2 };
        txn.put_head(key, Some(Head { deadline_ms: None, payload }), DeleteReason::Removed)
    })?;
    assert!(matches!(testing::read(&shard, "k", get_all), Err(OpError::Fault(_))));
    Ok(())
}

#[test]
fn rows_that_are_not_in_memory_are_named_all_at_once() -> Result<(), OpError> {
    let engine = Arc::new(ModelEngine::new());
    let shard = open_over(engine.clone());
    put(&shard, &[("a", "1"), ("b", "2"), ("c", "3")])?;
    testing::settle(&shard);
    assert_eq!(testing::read(&shard, "k", length)?, 3);
    engine.set_incomplete(1, 1);
    let missed = shard.write(Tier::Cached, |txn| {
        let key = txn.key(KeyspaceId(0), b"k");
        set(txn, &key, &[(b"a", b""), (b"b", b""), (b"new", b"")])
    });
    assert!(matches!(missed, Err(OpError::Miss(rows)) if rows.len() == 3));
    assert_eq!(value_of(&shard, "a")?.as_deref(), Some(&b"1"[..]));
    Ok(())
}

/// Scans the hash in steps, changing other fields between them; gives each field found with how
/// often it was.
fn scan_under_change(shard: &Shard, seed: u64, count: usize) -> BTreeMap<Vec<u8>, usize> {
    let mut found = BTreeMap::new();
    let (mut cursor, mut round) = (0, seed);
    loop {
        let step = testing::read(shard, "k", |txn, key| scan(txn, key, cursor, count))
            .expect("the hash can be read");
        assert!(step.cursor == 0 || step.fields.len() >= count);
        step.fields.into_iter().for_each(|(field, _)| *found.entry(field).or_default() += 1);
        cursor = step.cursor;
        if cursor == 0 {
            return found;
        }
        round += 1;
        assert!(round < seed + 1_000, "the cursor does not move on");
        let names: Vec<String> =
            (0..20).map(|i| format!("passing-{}", (round * 7 + i) % 60)).collect();
        let names: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        let (added, removed) = names.split_at(10);
        let added: Vec<_> = added.iter().map(|name| (*name, &b""[..])).collect();
        testing::write(shard, "k", |txn, key| {
            set(txn, key, &added)?;
            delete(txn, key, removed)
        })
        .expect("the hash can be written");
        match round % 3 {
            0 => testing::settle(shard),
            1 => testing::commit(shard),
            _ => {}
        }
    }
}

#[test]
fn a_scan_returns_every_field_that_stays_however_others_come_and_go() -> Result<(), OpError> {
    for seed in 0..10 {
        for count in [1, 3, 50] {
            let shard = testing::open();
            let lasting: Vec<String> = (0..100).map(|i| format!("lasting-{i}")).collect();
            let pairs: Vec<_> = lasting.iter().map(|field| (field.as_str(), "v")).collect();
            put(&shard, &pairs)?;
            let found = scan_under_change(&shard, seed, count);
            for field in &lasting {
                assert_eq!(found.get(field.as_bytes()), Some(&1), "{field}, seed {seed}");
            }
        }
    }
    Ok(())
}

#[test]
fn fields_at_one_hash_position_come_in_one_step() -> Result<(), OpError> {
    let shard = testing::open();
    put(&shard, &TWINS.map(|twin| (twin, "v")))?;
    put(&shard, &[("a", "v"), ("b", "v"), ("c", "v"), ("d", "v")])?;
    testing::write(&shard, "k", |txn, _| {
        let [first, second] = TWINS.map(|twin| txn.member_hash(twin.as_bytes()));
        assert_eq!(first, second);
        Ok(())
    })?;
    let (mut cursor, mut steps) = (0, Vec::new());
    loop {
        let step = testing::read(&shard, "k", |txn, key| scan(txn, key, cursor, 1))?;
        assert!(steps.len() < 10, "the cursor does not move on");
        steps.push(step.fields.into_iter().map(|(field, _)| field).collect::<BTreeSet<_>>());
        cursor = step.cursor;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(steps.len(), 5);
    assert!(steps.contains(&TWINS.map(|twin| twin.as_bytes().to_vec()).into()));
    Ok(())
}

#[test]
fn a_cursor_that_was_never_given_out_ends_the_scan() -> Result<(), OpError> {
    let shard = testing::open();
    put(&shard, &[("f", "v")])?;
    for cursor in [1 << 48, u64::MAX] {
        let step = testing::read(&shard, "k", |txn, key| scan(txn, key, cursor, 10))?;
        assert_eq!(step, ScanStep::default());
    }
    assert_eq!(testing::read(&shard, "k", |txn, key| scan(txn, key, 0, 0))?.fields.len(), 1);
    Ok(())
}
