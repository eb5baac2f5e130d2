//! Submitting, applying and reading within bounds, by hand.

use std::time::Duration;

use super::*;
use crate::{
    ops::{
        hash, keys,
        string::{Expiry, SetCondition, set},
    },
    testing,
};

fn put(shard: &Shard, key: &str) -> Result<(), OpError> {
    testing::write(shard, key, |txn, key| {
        set(txn, key, b"v", Expiry::None, SetCondition::Always, false).map(|_| ())
    })
}

#[test]
fn what_is_staged_gathers_until_it_is_submitted() -> Result<(), OpError> {
    let shard = testing::open();
    testing::settle(&shard);
    put(&shard, "a")?;
    assert!(!shard.core.lock().is_submitted(), "nobody said that there is no more at hand");
    assert!(shard.wait_staged(Duration::ZERO), "but it is not forgotten either");
    shard.submit();
    assert!(shard.core.lock().is_submitted());
    testing::commit(&shard);
    put(&shard, "b")?;
    assert!(!shard.core.lock().is_submitted(), "the next group has to be submitted itself");
    Ok(())
}

#[test]
fn a_failure_between_two_groups_loses_no_count() -> Result<(), OpError> {
    let shard = testing::open();
    testing::settle(&shard);
    for key in ["a", "b"] {
        put(&shard, key)?;
        testing::commit(&shard);
    }
    put(&shard, "lost")?;
    let keys = || shard.core.lock().usage(KeyspaceId(0)).keys;
    assert_eq!(keys(), 3);
    // As in `apply_step`, between two of its groups.
    shard.core.lock().on_applied(&shard.visible);
    shard.failed(Error::new(ErrorKind::Unavailable, "a disk"));
    assert_eq!(keys(), 2);
    Ok(())
}

#[test]
fn an_op_reads_no_more_of_a_collection_than_it_may() -> Result<(), OpError> {
    let shard = testing::open_with(Limits { scan_bytes_max: 1_000, ..Limits::default() });
    testing::settle(&shard);
    for at in 0..100 {
        put(&shard, &format!("string {at}"))?;
    }
    for (key, fields) in [("small", 5), ("large", 50)] {
        for field in 0..fields {
            let field = format!("field {field}");
            testing::write(&shard, key, |txn, key| {
                hash::set(txn, key, &[(field.as_bytes(), b"value")])
            })?;
        }
    }
    for stage in ["staged", "applied"] {
        let all = |key| testing::read(&shard, key, hash::get_all);
        let found = shard.read_heads(&[], Tier::Any, |txn, seen_until| {
            keys::scan(txn, KeyspaceId(0), 0, 1_000, seen_until)
        })?;
        assert_eq!(found.value.keys.len(), 100 + 2, "{stage}: heads are not kept");
        assert_eq!(all("small")?.len(), 5, "{stage}");
        assert!(matches!(all("large"), Err(OpError::TooLarge(_))), "{stage}");
        testing::settle(&shard);
    }
    Ok(())
}
