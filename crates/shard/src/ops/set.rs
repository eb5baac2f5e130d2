//! Ops on sets. A member is a row of the set's collection, without a value.
//!
//! Reads go in hash order. Random choices are made here, from numbers that the caller hands in, and
//! logged as what they chose: replicas and replay never draw.

use std::collections::BTreeSet;

use holdfast_base::{Kind, SharedBytes};

use crate::{
    KeyRef, OpError, Txn,
    ops::hash::members::{Members, check_name},
};

mod random;
#[cfg(test)]
mod tests;

pub use random::{DRAWS_MAX, pop, random_distinct, random_repeated};

/// Adds members; gives how many are new.
pub fn add(txn: &mut Txn<'_>, key: &KeyRef<'_>, names: &[&[u8]]) -> Result<u64, OpError> {
    for name in names {
        check_name(name)?;
    }
    let mut members = Members::find_or_new(txn, key, Kind::Set)?;
    let names: BTreeSet<&[u8]> = names.iter().copied().collect();
    let old = members.get_many(txn, key, names.iter().copied())?;
    let new: Vec<&[u8]> = names
        .into_iter()
        .zip(old)
        .filter_map(|(name, old)| old.is_none().then_some(name))
        .collect();
    if new.is_empty() {
        return Ok(0);
    }
    members.check_room(new.len() as u64)?;
    for name in &new {
        members.put(txn, key, (*name, b""), None)?;
    }
    members.put_head(txn, key)?;
    Ok(new.len() as u64)
}

/// Removes members; gives how many there were. The key goes with its last member.
pub fn remove(txn: &mut Txn<'_>, key: &KeyRef<'_>, names: &[&[u8]]) -> Result<u64, OpError> {
    match Members::find(txn, key, Kind::Set)? {
        Some(members) => members.remove_named(txn, key, names),
        None => Ok(0),
    }
}

/// Whether this is a member.
pub fn is_member(txn: &mut Txn<'_>, key: &KeyRef<'_>, name: &[u8]) -> Result<bool, OpError> {
    match Members::find(txn, key, Kind::Set)? {
        Some(members) => Ok(members.get(txn, key, name)?.is_some()),
        None => Ok(false),
    }
}

/// Which of these are members, in the order asked for.
pub fn are_members(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    names: &[&[u8]],
) -> Result<Vec<bool>, OpError> {
    let Some(members) = Members::find(txn, key, Kind::Set)? else {
        return Ok(vec![false; names.len()]);
    };
    let found = members.get_many(txn, key, names.iter().copied())?;
    Ok(found.iter().map(Option::is_some).collect())
}

/// Number of members; 0 for an absent key.
pub fn cardinality(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<u64, OpError> {
    Ok(Members::find(txn, key, Kind::Set)?.map_or(0, |members| members.count))
}

/// Visits every member in hash order; gives how many there are. [`cardinality`] in the same op says
/// so beforehand. Before an error some may have been visited.
pub fn visit(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    mut each: impl FnMut(&[u8]),
) -> Result<u64, OpError> {
    match Members::find(txn, key, Kind::Set)? {
        Some(members) => members.visit_all(txn, key, |name, _| each(name)),
        None => Ok(0),
    }
}

/// Every member, in hash order. [`visit`] holds no copy.
pub fn members(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Vec<SharedBytes>, OpError> {
    let mut all = Vec::new();
    visit(txn, key, |name| all.push(name.into()))?;
    Ok(all)
}

/// One step of a scan over a set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanStep {
    /// Where the next step begins; 0 when the scan is complete.
    pub cursor: u64,
    /// Members found.
    pub members: Vec<Vec<u8>>,
}

/// Members in hash order from `cursor`, about `count` unless the set ends. A member that is there
/// throughout a whole scan is returned, whatever is written meanwhile, and in fact once.
pub fn scan(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    cursor: u64,
    count: usize,
) -> Result<ScanStep, OpError> {
    let mut step = ScanStep::default();
    if let Some(members) = Members::find(txn, key, Kind::Set)? {
        step.cursor = members.step(txn, key, cursor, count, |name, _| {
            step.members.push(name.to_vec());
        })?;
    }
    Ok(step)
}
