//! Random members of a set, from numbers that the caller hands in.
//!
//! Small sets, and draws of a large part of a set, are exactly uniform: one pass over the members.
//! Else a draw seeks to a random hash position, wrapping around at the end, and takes one of the
//! next members. That is near-uniform: a member's chance follows how sparse its neighbourhood is,
//! with a deviation of about a quarter (1 / sqrt of the window) from the mean. Each draw costs the
//! window, never the set.

use std::{collections::BTreeSet, ops::ControlFlow};

use holdfast_base::{Kind, SharedBytes, key::HASH_BITS};

use crate::{KeyRef, OpError, Txn, ops::hash::members::Members};

/// Members that a draw by position chooses among.
const WINDOW: u64 = 16;

/// Up to this size a set is passed over whole: no dearer than a handful of seeks.
const PASS_COUNT_MAX: u64 = 256;

/// Draws with repetition that one op makes: bounds what a small set can be multiplied to.
pub const DRAWS_MAX: u64 = 1 << 20;

/// Removes and gives `count` random members, or all if there are fewer.
pub fn pop(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    count: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<SharedBytes>, OpError> {
    let Some(mut members) = Members::find(txn, key, Kind::Set)? else { return Ok(Vec::new()) };
    let chosen = distinct(&members, txn, key, count, random)?;
    if !chosen.is_empty() {
        members.remove(txn, key, chosen.iter().map(|name| (&name[..], 0)))?;
        members.put_head(txn, key)?;
    }
    Ok(chosen)
}

/// `count` different random members, or all if there are fewer.
pub fn random_distinct(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    count: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<SharedBytes>, OpError> {
    match Members::find(txn, key, Kind::Set)? {
        Some(members) => distinct(&members, txn, key, count, random),
        None => Ok(Vec::new()),
    }
}

/// Exactly `count` random members, some perhaps more than once; none if the key is absent.
pub fn random_repeated(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    count: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<SharedBytes>, OpError> {
    let Some(members) = Members::find(txn, key, Kind::Set)? else { return Ok(Vec::new()) };
    if count > DRAWS_MAX {
        return Err(OpError::TooLarge("at most 1,048,576 members are drawn with repetition"));
    }
    if !pass_is_cheap(&members, count) {
        return (0..count).map(|_| draw(&members, txn, key, random)).collect();
    }
    let mut all: Vec<SharedBytes> = Vec::new();
    members.visit_all(txn, key, |name, _| all.push(name.into()))?;
    let pick = |_| all.get(below(random, all.len() as u64) as usize).cloned();
    (0..count).map(pick).collect::<Option<_>>().ok_or_else(|| members.wrong_count(key))
}

/// Whether one pass over all members costs no more than so many draws by position.
fn pass_is_cheap(members: &Members, draws: u64) -> bool {
    members.count <= PASS_COUNT_MAX || members.count / WINDOW <= draws
}

fn distinct(
    members: &Members,
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    count: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<SharedBytes>, OpError> {
    let wanted = count.min(members.count);
    if wanted == 0 {
        return Ok(Vec::new());
    }
    if pass_is_cheap(members, wanted) {
        return choose_in_one_pass(members, txn, key, wanted, random);
    }
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    // At most one member in 16 is wanted, so a draw seldom gives one again: but hashes may cluster.
    for _ in 0..wanted * 4 + 64 {
        let name = draw(members, txn, key, random)?;
        if seen.insert(name.clone()) {
            chosen.push(name);
        }
        if chosen.len() as u64 == wanted {
            return Ok(chosen);
        }
    }
    choose_in_one_pass(members, txn, key, wanted, random)
}

/// Selection sampling (Knuth, The Art of Computer Programming, vol. 2, 3.4.2, algorithm S): every
/// subset of the size wanted is equally likely.
fn choose_in_one_pass(
    members: &Members,
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    wanted: u64,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<SharedBytes>, OpError> {
    let (mut missing, mut left) = (wanted, members.count);
    let mut chosen = Vec::new();
    members.visit_from(txn, key, 0, |_, name, _| {
        if left == 0 {
            return ControlFlow::Break(());
        }
        if below(random, left) < missing {
            chosen.push(name.into());
            missing -= 1;
        }
        left -= 1;
        if missing == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if missing == 0 { Ok(chosen) } else { Err(members.wrong_count(key)) }
}

/// One member, near a random position.
fn draw(
    members: &Members,
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    random: &mut dyn FnMut() -> u64,
) -> Result<SharedBytes, OpError> {
    let position = below(random, 1 << HASH_BITS);
    let mut skip = below(random, WINDOW.min(members.count));
    let mut chosen = None;
    for from in [position, 0] {
        members.visit_from(txn, key, from, |_, name, _| {
            if skip == 0 {
                chosen = Some(name.into());
                return ControlFlow::Break(());
            }
            skip -= 1;
            ControlFlow::Continue(())
        })?;
        if chosen.is_some() {
            break;
        }
    }
    chosen.ok_or_else(|| members.wrong_count(key))
}

/// A number below `bound`: the upper half of a product, whose bias is at most `bound` in 2^64.
fn below(random: &mut dyn FnMut() -> u64, bound: u64) -> u64 {
    ((u128::from(random()) * u128::from(bound)) >> 64) as u64
}
