//! An owner that is written to at random, and a shard that follows its log.

use std::sync::Arc;

use holdfast_base::{
    Effect, Epoch, KeyspaceId, Lsn,
    record::{Batch, BatchView},
    row::AppliedState,
};
use holdfast_engine::{ModelEngine, Tier};
use holdfast_io::{Random, SeededRandom};
use holdfast_log::Position;

use crate::{
    Digest, KeyRef, Limits, OpError, Shard, ShardParts, Txn,
    ops::{
        hash,
        keys::{self, DeadlineCondition},
        list::{self, End},
        set,
        string::{self, Expiry, SetCondition},
    },
    stored_state, testing,
};

const ONE: KeyspaceId = KeyspaceId(0);

/// A shard that has nothing, not even the seed of the log that it will follow.
fn follower() -> Shard {
    Shard::new(ShardParts {
        id: holdfast_base::ShardId(0),
        engine: Arc::new(ModelEngine::new()),
        applied: AppliedState { hash_seed: [9; 16], ..AppliedState::default() },
        row_cache_bytes: 1 << 20,
        limits: Limits::default(),
    })
}

fn follow(shard: &Shard, batch: &Batch) -> Result<usize, holdfast_base::Error> {
    let mut catalog = 0;
    let mut bytes = batch.bytes.as_slice();
    let view = BatchView::decode(&mut bytes).expect("a batch that was just sealed");
    shard.follow(std::iter::once(view), |_| {
        catalog += 1;
        Ok(())
    })?;
    Ok(catalog)
}

/// One write of some kind to one of a few keys.
fn write_something(shard: &Shard, random: &mut dyn Random) {
    let name = format!("key {}", random.below(12));
    let value = vec![b'v'; random.below(40) as usize + 1];
    let kind = random.below(9);
    let member = format!("m{}", random.below(6)).into_bytes();
    let op = |txn: &mut Txn<'_>, key: &KeyRef<'_>| -> Result<(), OpError> {
        let always = SetCondition::Always;
        match kind {
            0 | 1 => string::set(txn, key, &value, Expiry::None, always, false).map(drop),
            2 => string::append(txn, key, &value).map(drop),
            3 => hash::set(txn, key, &[(&member, &value)]).map(drop),
            4 => list::push(txn, key, End::Back, &[&value, &member], false).map(drop),
            5 => list::pop(txn, key, End::Front, 1).map(drop),
            6 => set::add(txn, key, &[&member, b"always"]).map(drop),
            7 => {
                let deadline = Some(1_000_000);
                keys::set_deadline(txn, key, deadline, DeadlineCondition::default()).map(drop)
            }
            _ => keys::delete(txn, key).map(drop),
        }
    };
    // Of the wrong kind, now and then.
    let _ = testing::write(shard, &name, op);
    if random.below(60) == 0 {
        let flushed = shard.write(Tier::Any, |txn| {
            txn.flush_keyspace(ONE);
            Ok(())
        });
        flushed.expect("nothing refuses a flush");
    }
}

type Told = (Option<Vec<u8>>, Result<Vec<hash::Field>, OpError>, Result<u64, OpError>);

/// What can be read of a key.
fn told(shard: &Shard, name: &str) -> Told {
    let text = testing::read(shard, name, string::get).ok().flatten().map(|text| text.to_vec());
    (text, testing::read(shard, name, hash::get_all), testing::read(shard, name, list::length))
}

fn same(owner: &Shard, other: &Shard, when: &str) {
    for name in (0..12).map(|number| format!("key {number}")) {
        assert_eq!(told(owner, &name), told(other, &name), "{name} {when}");
    }
    assert_eq!(owner.usage(ONE).value, other.usage(ONE).value, "usage {when}");
}

/// All rows but what tells where the shard stands.
fn rows(shard: &Shard) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut applied = Vec::new();
    holdfast_base::key::applied(&mut applied, shard.id());
    let snapshot = shard.engine().snapshot().expect("the model engine does not fail");
    let scanned = snapshot.scan(&[], &[], false, Tier::Any, &mut |row, value| {
        if row != applied {
            rows.push((row.to_vec(), value.to_vec()));
        }
        std::ops::ControlFlow::Continue(())
    });
    scanned.expect("the model engine does not fail");
    rows
}

fn take(owner: &Shard) -> Option<Batch> {
    let batch = owner.take_batch()?;
    owner.on_durable();
    Some(batch)
}

fn position_after(shard: &Shard, epoch: u64) -> Position {
    while shard.apply_step(1 << 20).expect("the model engine does not fail") > 0 {}
    let state = stored_state(&**shard.engine(), shard.id());
    let state = state.expect("the model engine does not fail").expect("something was applied");
    Position {
        next_lsn: state.lsn.next(),
        next_n: 0,
        chain: state.chain,
        incarnation: state.incarnation,
        epoch: Epoch(epoch),
        last_time: state.time,
    }
}

#[test]
fn who_follows_shows_what_the_owner_had_and_can_take_its_place() {
    for seed in 0..40 {
        let mut random = SeededRandom::new(seed);
        let (mut owner, mut other) = (testing::open(), follower());
        for epoch in 2..5 {
            for _ in 0..random.below(60) + 1 {
                for _ in 0..random.below(8) {
                    write_something(&owner, &mut random);
                }
                if let Some(batch) = take(&owner) {
                    follow(&other, &batch).expect("it continues");
                    same(&owner, &other, "when it was followed");
                }
                // Either applies as it pleases.
                for shard in [&owner, &other] {
                    if random.below(3) == 0 {
                        shard.apply_step(random.below(4_000) as usize + 1).expect("a model");
                        same(&owner, &other, "while it is applied");
                    }
                }
            }
            let position = position_after(&owner, epoch);
            assert_eq!(position, position_after(&other, epoch), "both stand at the same place");
            assert_eq!(rows(&owner), rows(&other), "and hold the same rows");
            // The other one takes over; half of the time before all of it is in its engine.
            std::mem::swap(&mut owner, &mut other);
            other = follower_of(&owner, &other);
            owner.take_over(&position, b"other").expect("it knows all of the log");
            owner.advance_time(1_000, 0);
        }
    }
}

/// All digests that a shard has taken since it was asked last, at most one.
fn digested(shard: &Shard) -> Option<Digest> {
    shard.take_digest_job().map(|job| job.run(&mut |_| {}).expect("the model engine does not fail"))
}

/// Digests of an owner and of one that follows, by position; `tamper` sees the follower's engine before each.
fn digests(seed: u64, tamper: impl Fn(&Shard)) -> Vec<(Digest, Option<Digest>)> {
    let mut random = SeededRandom::new(seed);
    let (owner, other) = (testing::open(), follower());
    owner.want_digests(true);
    other.want_digests(true);
    let (mut owners, mut others) = (Vec::new(), std::collections::BTreeMap::new());
    for step in 0..1_500 {
        // Now and then no ten seconds are left out, now and then many.
        owner.advance_time(1_000 + step * (1 + seed * 700), 0);
        for _ in 0..random.below(5) {
            write_something(&owner, &mut random);
        }
        let Some(batch) = take(&owner) else { continue };
        follow(&other, &batch).expect("it continues");
        while random.below(3) == 0
            && owner.apply_step(random.below(2_000) as usize + 1).expect("a model") > 0
        {
            owners.extend(digested(&owner));
        }
        while random.below(3) == 0
            && other.apply_step(random.below(2_000) as usize + 1).expect("a model") > 0
        {
            tamper(&other);
            others.extend(digested(&other).map(|digest| (digest.lsn, digest)));
        }
    }
    owners.into_iter().map(|digest| (digest, others.get(&digest.lsn).copied())).collect()
}

#[test]
fn two_that_hold_the_same_rows_have_the_same_digests() {
    let (mut compared, mut rows) = (0, 0);
    for seed in 0..12 {
        for (own, other) in digests(seed, |_| {}) {
            if let Some(other) = other {
                assert_eq!(own, other, "seed {seed}");
                (compared, rows) = (compared + 1, rows + own.rows);
            }
        }
    }
    assert!(
        compared > 1_000 && rows > 100,
        "{compared} digests of {rows} rows: this checked little"
    );
}

#[test]
fn a_row_that_differs_shows_in_the_digest_of_its_slots() {
    let spoil = |shard: &Shard| {
        let found =
            rows(shard).into_iter().find(|(row, _)| holdfast_base::key::parse_head(row).is_some());
        let Some((row, mut value)) = found else { return };
        // The last byte is of what the key holds, and decodes whatever it is.
        if let Some(last) = value.last_mut() {
            *last ^= 1;
        }
        let mut batch = holdfast_engine::Batch::new();
        batch.put(&row, &value);
        shard.engine().write(&batch).expect("the model engine does not fail");
    };
    let differ = |(own, other): &(Digest, Option<Digest>)| other.is_some_and(|other| other != *own);
    assert!((0..12).any(|seed| digests(seed, spoil).iter().any(differ)));
}

/// The one that owned the data has forgotten that it did.
fn follower_of(owner: &Shard, old: &Shard) -> Shard {
    let state = stored_state(&**owner.engine(), owner.id()).expect("a model").expect("it has some");
    Shard::new(ShardParts {
        id: owner.id(),
        engine: old.engine().clone(),
        applied: state,
        row_cache_bytes: 1 << 20,
        limits: Limits::default(),
    })
}

#[test]
fn what_was_appended_without_an_answer_is_taken_in() {
    let owner = testing::open();
    testing::settle(&owner);
    let put = |name: &str| {
        testing::write(&owner, name, |txn, key| {
            string::set(txn, key, b"v", Expiry::None, SetCondition::Always, false).map(drop)
        })
        .expect("nothing refuses a small string");
    };
    put("before");
    let stored = owner.take_batch().expect("one record is staged");
    put("lost");
    owner.failed(holdfast_base::Error::new(holdfast_base::ErrorKind::UnknownOutcome, "no answer"));
    let exists = |name: &str| testing::read(&owner, name, keys::exists).expect("a model");
    assert!(!exists("before") && !exists("lost"), "neither is known to be durable");
    follow(&owner, &stored).expect("it continues what was durable");
    assert!(exists("before") && !exists("lost"));
    let position = position_after(&owner, 2);
    owner.take_over(&position, b"again").expect("it knows all of the log");
    put("after");
    testing::settle(&owner);
    assert!(exists("before") && exists("after"));
}

#[test]
fn what_does_not_continue_the_log_is_refused() {
    let (owner, other, stranger) = (testing::open(), follower(), testing::open());
    let write = |shard: &Shard, value: &[u8]| {
        testing::write(shard, "k", |txn, key| {
            string::set(txn, key, value, Expiry::None, SetCondition::Always, false).map(drop)
        })
        .expect("nothing refuses a small string");
        take(shard).expect("something is staged")
    };
    let (first, second) = (write(&owner, b"1"), write(&owner, b"2"));
    let (_, foreign) = (write(&stranger, b"x"), write(&stranger, b"y"));
    assert!(follow(&other, &second).is_err(), "the first one is missing");
    follow(&other, &first).expect("the beginning");
    assert!(follow(&other, &foreign).is_err(), "of another log: its chain is another one");
    assert_eq!(other.durable(), Lsn(2), "nothing of it was taken in");
    follow(&other, &second).expect("the next");
    follow(&other, &second).expect("again: it is known");
    assert_eq!(told(&other, "k").0.as_deref(), Some(&b"2"[..]));
}

#[test]
fn changes_of_the_catalog_are_told() {
    let (owner, other) = (testing::open(), follower());
    let changed = owner.write(Tier::Any, |txn| {
        txn.push_catalog(&Effect::PutCatalog { kind: 1, name: b"n", version: 1, body: b"{}" });
        Ok(())
    });
    changed.expect("nothing refuses a small row");
    let batch = take(&owner).expect("something is staged");
    assert_eq!(follow(&other, &batch).ok(), Some(1));
}
