//! Tests of the catalog over a shard that is committed, failed and applied by hand.

use holdfast_base::{Epoch, Hlc, Incarnation, Lsn, row::AppliedState};
use holdfast_engine::ModelEngine;
use holdfast_log::{Completion, Outcome, Position};
use holdfast_shard::{CommitStep, Limits, ShardParts};

use super::*;
use crate::users::modify;

fn open(engine: &Arc<ModelEngine>) -> Shard {
    let shard = Shard::new(ShardParts {
        id: ShardId(0),
        engine: engine.clone(),
        applied: AppliedState { hash_seed: [5; 16], ..AppliedState::default() },
        row_cache_bytes: 1 << 20,
        limits: Limits::default(),
    });
    take_over(&shard, 1, Lsn(1));
    commit(&shard, Outcome::Durable);
    shard
}

fn take_over(shard: &Shard, epoch: u64, next_lsn: Lsn) {
    let position = Position {
        next_lsn,
        next_n: 0,
        chain: 0,
        incarnation: Incarnation(1),
        epoch: Epoch(epoch),
        last_time: Hlc::default(),
    };
    shard.take_over(&position, b"test").expect("the position continues what was applied");
}

fn commit(shard: &Shard, outcome: Outcome) -> CommitStep {
    shard.take_batch().expect("something is staged");
    shard.resolve(Some(Completion { last_lsns: Vec::new(), outcome }))
}

fn apply(shard: &Shard) {
    while shard.apply_step(1 << 20).expect("the model engine does not fail") > 0 {}
}

fn add(catalog: &Catalog, shard: &Shard, name: &str) -> Option<Gate> {
    let changed = catalog.change(shard, |draft| {
        let number = DATABASES + draft.table.keyspaces().count() as u16;
        let limited = Keyspace { keys_max: Some(3), ..Keyspace::new(KeyspaceId(number)) };
        draft.put_keyspace(name, limited)?;
        let mut user = User::default();
        modify(&mut user, b"+get").map_err(CommandError::text)?;
        draft.put_user(name, user)
    });
    changed.expect("the shard is open").1
}

#[test]
fn a_change_is_in_force_once_it_is_durable_and_is_loaded_again() {
    let engine = Arc::new(ModelEngine::new());
    let shard = open(&engine);
    let catalog = Catalog::load(&*engine, &shard, "").expect("the engine is empty");
    let before = catalog.word();
    assert!(add(&catalog, &shard, "one").is_some() && add(&catalog, &shard, "two").is_some());
    assert_eq!(catalog.word() % 2, 1, "sessions are told to look");
    let seen = catalog.look(&shard);
    assert!(seen.durable.keyspace("one").is_none() && seen.gate.is_some());
    assert!(seen.latest.keyspace("one").is_some() && seen.latest.keyspace("two").is_some());
    assert_eq!(catalog.word() % 2, 1, "it still waits");

    commit(&shard, Outcome::Durable);
    let seen = catalog.look(&shard);
    assert!(seen.durable.keyspace("two").is_some() && seen.durable.account("two").is_some());
    assert_eq!((seen.gate, seen.word), (None, catalog.word()));
    assert_ne!(catalog.word(), before);

    apply(&shard);
    let again = Catalog::load(&*engine, &shard, "").expect("the rows are good").look(&shard);
    let keyspaces = |table: &Table| table.keyspaces.clone();
    assert_eq!(keyspaces(&again.durable), keyspaces(&seen.durable));
    let users = |table: &Table| -> Vec<_> {
        let users = table.users.iter();
        users
            .map(|(name, (version, account))| (name.clone(), *version, account.user.clone()))
            .collect()
    };
    assert_eq!(users(&again.durable), users(&seen.durable));
}

#[test]
fn a_change_that_the_log_lost_is_never_in_force() {
    let engine = Arc::new(ModelEngine::new());
    let shard = open(&engine);
    apply(&shard);
    let catalog = Catalog::load(&*engine, &shard, "").expect("the engine is empty");
    add(&catalog, &shard, "lost");
    commit(&shard, Outcome::Unknown("the disk failed".into()));
    take_over(&shard, 2, Lsn(2));
    // Under the positions that the lost ones had.
    add(&catalog, &shard, "kept");
    commit(&shard, Outcome::Durable);
    let seen = catalog.look(&shard);
    assert!(seen.durable.keyspace("lost").is_none() && seen.durable.account("lost").is_none());
    assert!(seen.durable.keyspace("kept").is_some());
    assert_eq!(seen.durable.keyspaces["kept"].0, 1, "it is the first version");
}

#[test]
fn a_refused_change_leaves_no_trace() {
    let engine = Arc::new(ModelEngine::new());
    let shard = open(&engine);
    let catalog = Catalog::load(&*engine, &shard, "").expect("the engine is empty");
    let word = catalog.word();
    let refused = catalog.change(&shard, |draft| {
        draft.put_keyspace("some", Keyspace::new(KeyspaceId(20)))?;
        Err::<(), _>(CommandError::text("ERR no"))
    });
    assert!(matches!(refused, Err(CommandError::Text(text)) if text == "ERR no"));
    assert!(!shard.has_staged() && catalog.look(&shard).latest.keyspace("some").is_none());
    assert_eq!(catalog.word(), word);
}

#[test]
fn entries_of_a_later_program_stop_the_start() {
    let engine = Arc::new(ModelEngine::new());
    let shard = open(&engine);
    for (kind, body) in [
        (USER, &br#"{"format":9}"#[..]),
        (KEYSPACE, b"{"),
        (KEYSPACE, b""),
        (KEYSPACE, br#"{"format":1,"number":20,"kind":"cache"}"#),
        (KEYSPACE, br#"{"format":1,"number":2000}"#),
        (KEYSPACE, br#"{"format":1,"number":3}"#),
        (9, br#"{"format":1}"#),
    ] {
        let mut row = Vec::new();
        key::catalog(&mut row, shard.id(), kind, b"some");
        let mut batch = holdfast_engine::Batch::new();
        batch.put(&row, &[&[1], body].concat());
        engine.write(&batch).expect("the model engine does not fail");
        let error = Catalog::load(&*engine, &shard, "").err().expect("it cannot be read");
        assert!(error.text().contains("\"some\""), "{error}");
        let mut batch = holdfast_engine::Batch::new();
        batch.delete(&row);
        engine.write(&batch).expect("the model engine does not fail");
    }
}
