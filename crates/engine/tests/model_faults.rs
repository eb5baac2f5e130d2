//! What the model engine can do beyond the contract: crashes that keep a prefix, reads that answer
//! `Incomplete` by seed, writes and flushes that fail once.

use holdfast_engine::{Batch, Engine, EngineError, EngineErrorKind, Lookup, ModelEngine, Tier};
use proptest::prelude::*;

/// Batch `number` writes a row of its own and the counter that all batches share.
fn write(engine: &ModelEngine, number: u32) {
    let mut batch = Batch::new();
    batch.put(format!("row{number}").as_bytes(), b"there");
    batch.put(b"count", &number.to_be_bytes());
    engine.write(&batch).expect("write");
}

fn rows_there(engine: &ModelEngine, upto: u32) -> Vec<bool> {
    let there = |number| {
        let lookup = engine.get(format!("row{number}").as_bytes(), Tier::Any);
        lookup.expect("get") != Lookup::Absent
    };
    (1..=upto).map(there).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_crash_keeps_a_prefix_that_holds_all_flushed_batches(
        flushed in 0u32..10, in_background in 0usize..5, unflushed in 0u32..10, keep in 0usize..14,
    ) {
        let engine = ModelEngine::new();
        (1..=flushed).for_each(|number| write(&engine, number));
        engine.flush().expect("flush");
        (flushed + 1..=flushed + unflushed).for_each(|number| write(&engine, number));
        engine.flush_oldest(in_background);
        let mut at_risk = 0;
        engine.crash(|count| { at_risk = count; keep });
        prop_assert_eq!(at_risk, (unflushed as usize).saturating_sub(in_background));

        let total = flushed + unflushed;
        let kept = total - at_risk.saturating_sub(keep) as u32;
        let want: Vec<bool> = (1..=total).map(|number| number <= kept).collect();
        prop_assert_eq!(rows_there(&engine, total), want);
        let count = match kept {
            0 => Lookup::Absent,
            kept => Lookup::Found(kept.to_be_bytes().to_vec()),
        };
        prop_assert_eq!(engine.get(b"count", Tier::Any).expect("get"), count.clone());
        prop_assert_eq!(engine.get(b"count", Tier::Persisted).expect("get"), count);
        prop_assert_eq!(engine.unflushed(), 0);
    }
}

#[test]
fn incomplete_answers_are_decided_by_the_seed_alone() {
    let answers = |seed| -> Vec<bool> {
        let engine = ModelEngine::new();
        engine.set_incomplete(seed, 4);
        let get = |_| engine.get(b"k", Tier::Cached).expect("get") == Lookup::Incomplete;
        (0..400).map(get).collect()
    };
    assert_eq!(answers(1), answers(1));
    assert_ne!(answers(1), answers(2));
    let share = answers(1).iter().filter(|incomplete| **incomplete).count();
    assert!((50..150).contains(&share), "about one in four, not {share} of 400");

    let engine = ModelEngine::new();
    engine.set_incomplete(1, 1);
    assert_eq!(engine.get(b"k", Tier::Cached).expect("get"), Lookup::Incomplete);
    assert_eq!(engine.get(b"k", Tier::Any).expect("get"), Lookup::Absent);
    assert_eq!(engine.get(b"k", Tier::Persisted).expect("get"), Lookup::Absent);
}

#[test]
fn a_failed_write_changes_nothing_and_a_failed_flush_makes_nothing_durable() {
    let engine = ModelEngine::new();
    let full = EngineError::new(EngineErrorKind::NoSpace, "disk full");
    write(&engine, 1);

    engine.fail_next_write(full.clone());
    let mut batch = Batch::new();
    batch.put(b"row2", b"there");
    assert_eq!(engine.write(&batch), Err(full.clone()));
    assert_eq!(rows_there(&engine, 2), [true, false]);

    engine.fail_next_flush(full.clone());
    assert_eq!(engine.flush(), Err(full.clone()));
    assert_eq!(engine.get(b"row1", Tier::Persisted).expect("get"), Lookup::Absent);
    assert_eq!(engine.stats().background_error, Some("disk full".to_owned()));

    engine.flush().expect("it fails once");
    assert_ne!(engine.get(b"row1", Tier::Persisted).expect("get"), Lookup::Absent);
    assert_eq!(engine.stats().background_error, None);
}
