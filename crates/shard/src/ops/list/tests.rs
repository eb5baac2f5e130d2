//! Lists against a plain vector, in every state between staging and applying.

use holdfast_base::KeyspaceId;
use proptest::prelude::*;

use super::*;
use crate::{Shard, ops::keys, ops::string, testing};

type Model = Vec<Vec<u8>>;

fn slices(values: &[Vec<u8>]) -> Vec<&[u8]> {
    values.iter().map(Vec::as_slice).collect()
}

fn plain(values: &[SharedBytes]) -> Model {
    values.iter().map(|value| value.to_vec()).collect()
}

fn push_text(shard: &Shard, end: End, values: &[&str]) -> Result<u64, OpError> {
    let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
    testing::write(shard, "k", |txn, key| push(txn, key, end, &values, false))
}

fn all(shard: &Shard) -> Result<Vec<String>, OpError> {
    let text = |value: &SharedBytes| String::from_utf8_lossy(value).into_owned();
    testing::read(shard, "k", |txn, key| Ok(range(txn, key, 0, -1)?.iter().map(text).collect()))
}

fn usage(shard: &Shard) -> (u64, u64) {
    shard.usage(KeyspaceId(0)).value
}

#[test]
fn pushing_puts_each_value_outermost_in_turn() -> Result<(), OpError> {
    let shard = testing::open();
    assert_eq!(push_text(&shard, End::Back, &["a", "b"])?, 2);
    assert_eq!(push_text(&shard, End::Front, &["x", "y"])?, 4);
    assert_eq!(all(&shard)?, ["y", "x", "a", "b"]);
    assert_eq!(usage(&shard), (1, 5));
    Ok(())
}

#[test]
fn a_push_only_to_what_exists_leaves_an_absent_key_absent() -> Result<(), OpError> {
    let shard = testing::open();
    let only = |txn: &mut Txn<'_>, key: &KeyRef<'_>| push(txn, key, End::Back, &[b"v"], true);
    assert_eq!(testing::write(&shard, "k", only)?, 0);
    assert_eq!(usage(&shard), (0, 0));
    push_text(&shard, End::Back, &["a"])?;
    assert_eq!(testing::write(&shard, "k", only)?, 2);
    Ok(())
}

#[test]
fn popping_takes_the_outermost_first_and_the_key_with_the_last() -> Result<(), OpError> {
    let shard = testing::open();
    push_text(&shard, End::Back, &["a", "b", "c", "d"])?;
    let take = |end, count| {
        testing::write(&shard, "k", |txn, key| {
            Ok(pop(txn, key, end, count)?.map(|values| plain(&values)))
        })
    };
    assert_eq!(take(End::Front, 0)?, Some(vec![]));
    assert_eq!(take(End::Back, 2)?, Some(vec![b"d".to_vec(), b"c".to_vec()]));
    assert_eq!(take(End::Front, 9)?, Some(vec![b"a".to_vec(), b"b".to_vec()]));
    assert_eq!(take(End::Front, 1)?, None);
    assert_eq!(usage(&shard), (0, 0));
    Ok(())
}

#[test]
fn setting_an_element_tells_a_missing_index_from_a_missing_key() -> Result<(), OpError> {
    let shard = testing::open();
    let put = |at, value: &[u8]| testing::write(&shard, "k", |txn, key| set(txn, key, at, value));
    assert_eq!(put(0, b"v"), Err(OpError::NoSuchKey));
    push_text(&shard, End::Back, &["a", "b"])?;
    assert_eq!((put(2, b"v")?, put(-3, b"v")?), (false, false));
    assert_eq!((put(0, b"long")?, put(-1, b"")?), (true, true));
    assert_eq!(all(&shard)?, ["long", ""]);
    assert_eq!(usage(&shard), (1, 5));
    Ok(())
}

#[test]
fn indexes_are_cut_to_the_list_and_negative_ones_count_from_the_back() {
    for (start, stop, kept) in [
        (0, -1, Some(0..5)),
        (1, 3, Some(1..4)),
        (-2, -1, Some(3..5)),
        (-100, 100, Some(0..5)),
        (3, 1, None),
        (5, 9, None),
        (0, -6, None),
        (i64::MIN, i64::MAX, Some(0..5)),
        (0, i64::MIN, None),
        (i64::MAX, -1, None),
    ] {
        assert_eq!(indexes(start, stop, 5), kept, "{start} to {stop}");
    }
    assert_eq!(indexes(0, -1, 0), None);
    assert_eq!((index_of(-5, 5), index_of(-6, 5)), (Some(0), None));
    assert_eq!((index_of(4, 5), index_of(5, 5)), (Some(4), None));
}

#[test]
fn a_trim_that_keeps_little_moves_it_instead_of_deleting_the_rest() -> Result<(), OpError> {
    let shard = testing::open();
    let values: Model = (0..10_000).map(|i| format!("{i:05}").into_bytes()).collect();
    let put =
        |txn: &mut Txn<'_>, key: &KeyRef<'_>| push(txn, key, End::Back, &slices(&values), false);
    testing::write(&shard, "k", put)?;
    testing::settle(&shard);
    let effects = testing::write(&shard, "k", |txn, key| {
        trim(txn, key, 5_000, 5_002)?;
        Ok(txn.pending.effects.len())
    })?;
    assert!(effects < 200, "{effects} bytes of effects");
    assert_eq!(all(&shard)?, ["05000", "05001", "05002"]);
    assert_eq!(usage(&shard), (1, 16));
    testing::settle(&shard);
    assert_eq!(shard.sweep_collections(10)?, 1);
    assert_eq!(all(&shard)?, ["05000", "05001", "05002"]);
    Ok(())
}

#[test]
fn a_trim_of_large_elements_does_not_write_them_again() -> Result<(), OpError> {
    let shard = testing::open();
    let values: Model = (0..100).map(|i| vec![i; 10_000]).collect();
    let put =
        |txn: &mut Txn<'_>, key: &KeyRef<'_>| push(txn, key, End::Back, &slices(&values), false);
    testing::write(&shard, "k", put)?;
    let effects = testing::write(&shard, "k", |txn, key| {
        trim(txn, key, -1, -1)?;
        Ok(txn.pending.effects.len())
    })?;
    assert!(effects < 2_000, "{effects} bytes of effects");
    assert_eq!(usage(&shard), (1, 10_001));
    Ok(())
}

#[test]
fn the_deadline_survives_changes_and_a_dead_list_begins_anew() -> Result<(), OpError> {
    let shard = testing::open();
    push_text(&shard, End::Back, &["a", "b", "c"])?;
    let at = |deadline_ms| {
        testing::write(&shard, "k", |txn, key| {
            keys::set_deadline(txn, key, Some(deadline_ms), keys::DeadlineCondition::default())
        })
    };
    at(2_000)?;
    push_text(&shard, End::Front, &["d"])?;
    testing::write(&shard, "k", |txn, key| pop(txn, key, End::Back, 1))?;
    testing::write(&shard, "k", |txn, key| trim(txn, key, 0, 0))?;
    let left = testing::read(&shard, "k", keys::time_to_live)?;
    assert_eq!(left, keys::TimeToLive::Until(2_000));
    shard.advance_time(2_000, 1_000);
    assert_eq!(all(&shard)?, Vec::<String>::new());
    assert_eq!(push_text(&shard, End::Back, &["new"])?, 1);
    assert_eq!(all(&shard)?, ["new"]);
    assert_eq!(usage(&shard), (1, 4));
    assert_eq!(testing::read(&shard, "k", keys::time_to_live)?, keys::TimeToLive::Forever);
    Ok(())
}

#[test]
fn another_type_is_refused_by_every_op() -> Result<(), OpError> {
    let shard = testing::open();
    testing::write(&shard, "k", |txn, key| string::append(txn, key, b"text"))?;
    type Run = fn(&mut Txn<'_>, &KeyRef<'_>) -> Result<(), OpError>;
    let ops: [Run; 10] = [
        |txn, key| push(txn, key, End::Back, &[b"v"], false).map(drop),
        |txn, key| pop(txn, key, End::Back, 1).map(drop),
        |txn, key| range(txn, key, 0, -1).map(drop),
        |txn, key| length(txn, key).map(drop),
        |txn, key| index(txn, key, 0).map(drop),
        |txn, key| set(txn, key, 0, b"v").map(drop),
        |txn, key| trim(txn, key, 0, 0),
        |txn, key| find(txn, key, b"v", 1, (1, u64::MAX)).map(drop),
        |txn, key| insert(txn, key, Side::After, b"p", b"v").map(drop),
        |txn, key| remove(txn, key, 0, b"v").map(drop),
    ];
    for (number, op) in ops.into_iter().enumerate() {
        let done = testing::write(&shard, "k", |txn, key| {
            let done = op(txn, key);
            assert!(txn.pending.is_empty(), "op {number} had an effect");
            done
        });
        assert_eq!(done, Err(OpError::WrongType), "op {number}");
    }
    Ok(())
}

#[test]
fn an_element_over_the_limit_is_refused() {
    let shard = testing::open();
    let large = vec![0; VALUE_BYTES_MAX + 1];
    let done = testing::write(&shard, "k", |txn, key| {
        push(txn, key, End::Back, &[b"small", &large], false)
    });
    assert!(matches!(done, Err(OpError::TooLarge(_))), "{done:?}");
    assert_eq!(grown(COLLECTION_COUNT_MAX - 1, 1), Ok(COLLECTION_COUNT_MAX));
    assert!(matches!(grown(COLLECTION_COUNT_MAX, 1), Err(OpError::TooLarge(_))));
    assert_eq!(usage(&shard), (0, 0));
}

#[test]
fn a_missing_element_is_reported_as_damage() -> Result<(), OpError> {
    let shard = testing::open();
    push_text(&shard, End::Back, &["a", "b", "c"])?;
    testing::settle(&shard);
    let row = testing::read(&shard, "k", |txn, key| {
        let list = List::load(txn, key)?.ok_or(OpError::NoSuchKey)?;
        Ok(list.row(1))
    })?;
    let mut batch = holdfast_engine::Batch::new();
    batch.delete(&row);
    shard.engine().write(&batch)?;
    assert!(matches!(all(&shard), Err(OpError::Fault(_))));
    Ok(())
}

#[derive(Clone, Debug)]
enum Op {
    Push(bool, Vec<u8>),
    Pop(bool, u64),
    Set(i64, u8),
    Trim(i64, i64),
    Insert(bool, u8, u8),
    Remove(i64, u8),
    Delete,
}

#[derive(Clone, Debug)]
enum Step {
    /// Ops in one record.
    Write(Vec<Op>),
    Commit,
    Settle,
}

fn any_op() -> impl Strategy<Value = Op> {
    let at = -9..9i64;
    prop_oneof![
        5 => (any::<bool>(), prop::collection::vec(0..6u8, 0..8)).prop_map(|(f, v)| Op::Push(f, v)),
        2 => (any::<bool>(), 0..4u64).prop_map(|(front, count)| Op::Pop(front, count)),
        2 => (at.clone(), 0..6u8).prop_map(|(at, value)| Op::Set(at, value)),
        1 => (at.clone(), at).prop_map(|(start, stop)| Op::Trim(start, stop)),
        2 => (any::<bool>(), 0..6u8, 0..6u8).prop_map(|(after, p, v)| Op::Insert(after, p, v)),
        2 => (-3..3i64, 0..6u8).prop_map(|(count, value)| Op::Remove(count, value)),
        1 => Just(Op::Delete),
    ]
}

/// A value whose length depends on its number, so that bytes are counted too.
fn value(number: u8) -> Vec<u8> {
    vec![b'a' + number; usize::from(number)]
}

fn end(front: bool) -> End {
    if front { End::Front } else { End::Back }
}

fn run(op: &Op, txn: &mut Txn<'_>, key: &KeyRef<'_>, model: &mut Model) -> Result<(), OpError> {
    match op {
        Op::Push(front, numbers) => {
            let values: Model = numbers.iter().map(|number| value(*number)).collect();
            let length = push(txn, key, end(*front), &slices(&values), false)?;
            for value in values {
                model.insert(if *front { 0 } else { model.len() }, value);
            }
            assert_eq!(length, model.len() as u64);
        }
        Op::Pop(front, count) => {
            let popped = pop(txn, key, end(*front), *count)?;
            assert_eq!(popped.is_none(), model.is_empty());
            let next = |model: &mut Model| {
                if *front && !model.is_empty() { Some(model.remove(0)) } else { model.pop() }
            };
            let expected: Model = (0..*count).map_while(|_| next(model)).collect();
            assert_eq!(plain(&popped.unwrap_or_default()), expected);
        }
        Op::Set(at, number) if model.is_empty() => {
            assert_eq!(set(txn, key, *at, &value(*number)), Err(OpError::NoSuchKey));
        }
        Op::Set(at, number) => {
            let slot = index_of(*at, model.len() as u64).and_then(|at| model.get_mut(at as usize));
            assert_eq!(set(txn, key, *at, &value(*number))?, slot.is_some());
            slot.into_iter().for_each(|slot| *slot = value(*number));
        }
        Op::Trim(start, stop) => {
            trim(txn, key, *start, *stop)?;
            let kept = indexes(*start, *stop, model.len() as u64).unwrap_or(0..0);
            *model = model[kept.start as usize..kept.end as usize].to_vec();
        }
        Op::Insert(after, pivot, number) => {
            let (pivot, value) = (value(*pivot), value(*number));
            let side = if *after { Side::After } else { Side::Before };
            let done = insert(txn, key, side, &pivot, &value)?;
            let expected = match model.iter().position(|element| *element == pivot) {
                None if model.is_empty() => Inserted::NoKey,
                None => Inserted::NoPivot,
                Some(at) => {
                    model.insert(at + usize::from(*after), value);
                    Inserted::Length(model.len() as u64)
                }
            };
            assert_eq!(done, expected);
        }
        Op::Remove(count, number) => {
            let removed = remove(txn, key, *count, &value(*number))?;
            let mut left = if *count == 0 { u64::MAX } else { count.unsigned_abs() };
            let before = model.len();
            let mut keep = |element: &Vec<u8>| {
                let gone = left > 0 && *element == value(*number);
                left -= u64::from(gone);
                !gone
            };
            if *count < 0 {
                model.reverse();
                model.retain(&mut keep);
                model.reverse();
            } else {
                model.retain(&mut keep);
            }
            assert_eq!(removed, (before - model.len()) as u64);
        }
        Op::Delete => {
            assert_eq!(keys::delete(txn, key)?, !model.is_empty());
            model.clear();
        }
    }
    Ok(())
}

/// Everything that can be read equals the model.
fn check(txn: &mut Txn<'_>, key: &KeyRef<'_>, model: &Model) -> Result<(), OpError> {
    assert_eq!(length(txn, key)?, model.len() as u64);
    if let Some(list) = List::load(txn, key)? {
        // No row is left behind beside the elements.
        let (mut from, mut rows) = (Vec::new(), 0);
        key::collection(&mut from, list.slot, list.id);
        let to = key::after_prefix(&from).unwrap_or_default();
        txn.scan((&from, &to), false, |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })?;
        assert_eq!(rows, model.len());
    }
    assert_eq!(plain(&range(txn, key, 0, -1)?), *model);
    assert_eq!(
        plain(&range(txn, key, 1, -2)?),
        model.get(1..model.len().max(2) - 1).unwrap_or(&[])
    );
    for at in -2..2i64 {
        let expected = index_of(at, model.len() as u64).and_then(|at| model.get(at as usize));
        assert_eq!(index(txn, key, at)?.as_deref(), expected.map(Vec::as_slice));
    }
    let searched = value(3);
    let mut expected: Vec<u64> = Vec::new();
    expected.extend((0..).zip(model).filter(|(_, v)| **v == searched).map(|(at, _)| at));
    assert_eq!(find(txn, key, &searched, 1, (u64::MAX, u64::MAX))?, expected);
    let from_second: Vec<u64> = expected.iter().rev().skip(1).take(2).copied().collect();
    assert_eq!(find(txn, key, &searched, -2, (2, u64::MAX))?, from_second);
    expected.retain(|at| *at < 3);
    assert_eq!(find(txn, key, &searched, 1, (u64::MAX, 3))?, expected);
    Ok(())
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(any_op(), 1..4).prop_map(Step::Write),
        1 => Just(Step::Commit),
        1 => Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn lists_equal_a_vector_staged_durable_and_applied(
        steps in prop::collection::vec(any_step(), 1..40),
    ) {
        let shard = testing::open();
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Commit => testing::commit(&shard),
                Step::Settle => testing::settle(&shard),
                Step::Write(ops) => testing::write(&shard, "k", |txn, key| {
                    ops.iter().try_for_each(|op| {
                        run(op, txn, key, &mut model)?;
                        check(txn, key, &model)
                    })
                }).expect("no op of these is refused"),
            }
            testing::read(&shard, "k", |txn, key| check(txn, key, &model)).expect("a list");
            let bytes: usize = model.iter().map(Vec::len).sum();
            let expected = if model.is_empty() { (0, 0) } else { (1, 1 + bytes as u64) };
            prop_assert_eq!(usage(&shard), expected);
        }
        testing::write(&shard, "k", keys::delete).expect("a deletion is never refused");
        testing::settle(&shard);
        prop_assert_eq!(usage(&shard), (0, 0));
        while shard.sweep_collections(100).expect("the model engine does not fail") > 0 {}
        // Nothing is left of any element.
        let (mut rows, first) = (0, [key::Family::Member as u8]);
        shard
            .engine()
            .snapshot()
            .and_then(|snapshot| {
                let to = [key::Family::Member as u8 + 1];
                snapshot.scan(&first, &to, false, holdfast_engine::Tier::Any, &mut |_, _| {
                    rows += 1;
                    ControlFlow::Continue(())
                })
            })
            .expect("the model engine does not fail");
        prop_assert_eq!(rows, 0);
    }
}
