//! Ops on hashes. A field is a row of the hash's collection; the head counts fields and bytes.
//!
//! Reads go in hash order, which is neither the order of writing nor that of the fields. A field's
//! value is one row of up to 32 MiB, rewritten whole. Fields have no deadlines of their own.

use std::collections::BTreeMap;

use holdfast_base::{Kind, SharedBytes, limits::VALUE_BYTES_MAX};

use crate::{KeyRef, OpError, Txn, ops::string::parse_integer};

pub(super) mod members;
#[cfg(test)]
mod tests;

use members::{Members, check_name};

/// Writes fields; gives how many of them are new. Of a field named twice the last value counts.
pub fn set(txn: &mut Txn<'_>, key: &KeyRef<'_>, fields: &[(&[u8], &[u8])]) -> Result<u64, OpError> {
    for (field, value) in fields {
        check_field(field, value)?;
    }
    let mut members = Members::find_or_new(txn, key, Kind::Hash)?;
    let fields: BTreeMap<&[u8], &[u8]> = fields.iter().copied().collect();
    if fields.is_empty() {
        return Ok(0);
    }
    let old = members.get_many(txn, key, fields.keys().copied())?;
    let new = old.iter().filter(|old| old.is_none()).count() as u64;
    members.check_room(new)?;
    for ((field, value), old) in fields.into_iter().zip(&old) {
        members.put(txn, key, (field, value), old.as_deref())?;
    }
    members.put_head(txn, key)?;
    Ok(new)
}

/// Writes a field unless it exists. True if it was written.
pub fn set_if_absent(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    field: &[u8],
    value: &[u8],
) -> Result<bool, OpError> {
    check_field(field, value)?;
    let members = Members::find_or_new(txn, key, Kind::Hash)?;
    if members.get(txn, key, field)?.is_some() {
        return Ok(false);
    }
    put_one(members, txn, key, (field, value), None)?;
    Ok(true)
}

/// The value of a field.
pub fn get(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    field: &[u8],
) -> Result<Option<SharedBytes>, OpError> {
    match Members::find(txn, key, Kind::Hash)? {
        Some(members) => members.get(txn, key, field),
        None => Ok(None),
    }
}

/// The values of several fields, in the order asked for.
pub fn get_many(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    fields: &[&[u8]],
) -> Result<Vec<Option<SharedBytes>>, OpError> {
    match Members::find(txn, key, Kind::Hash)? {
        Some(members) => members.get_many(txn, key, fields.iter().copied()),
        None => Ok(vec![None; fields.len()]),
    }
}

/// Visits every field with its value, in hash order; gives how many there are. [`length`] in the
/// same op says so beforehand. Before an error some may have been visited.
pub fn visit(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    each: impl FnMut(&[u8], &[u8]),
) -> Result<u64, OpError> {
    match Members::find(txn, key, Kind::Hash)? {
        Some(members) => members.visit_all(txn, key, each),
        None => Ok(0),
    }
}

/// A field and its value.
pub type Field = (Vec<u8>, Vec<u8>);

/// Every field with its value, in hash order. [`visit`] holds no copy.
pub fn get_all(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Vec<Field>, OpError> {
    let mut pairs = Vec::new();
    visit(txn, key, |field, value| pairs.push((field.to_vec(), value.to_vec())))?;
    Ok(pairs)
}

/// Every field, in hash order.
pub fn keys(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Vec<Vec<u8>>, OpError> {
    let mut fields = Vec::new();
    visit(txn, key, |field, _| fields.push(field.to_vec()))?;
    Ok(fields)
}

/// Every value, in the order of [`keys`].
pub fn values(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Vec<Vec<u8>>, OpError> {
    let mut values = Vec::new();
    visit(txn, key, |_, value| values.push(value.to_vec()))?;
    Ok(values)
}

/// Removes fields; gives how many there were. The key goes with its last field.
pub fn delete(txn: &mut Txn<'_>, key: &KeyRef<'_>, fields: &[&[u8]]) -> Result<u64, OpError> {
    match Members::find(txn, key, Kind::Hash)? {
        Some(members) => members.remove_named(txn, key, fields),
        None => Ok(0),
    }
}

/// Whether the field exists.
pub fn exists(txn: &mut Txn<'_>, key: &KeyRef<'_>, field: &[u8]) -> Result<bool, OpError> {
    Ok(get(txn, key, field)?.is_some())
}

/// Number of fields; 0 for an absent key.
pub fn length(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<u64, OpError> {
    Ok(Members::find(txn, key, Kind::Hash)?.map_or(0, |members| members.count))
}

/// Length of a field's value in bytes; 0 for an absent field.
pub fn value_length(txn: &mut Txn<'_>, key: &KeyRef<'_>, field: &[u8]) -> Result<u64, OpError> {
    Ok(get(txn, key, field)?.map_or(0, |value| value.len() as u64))
}

/// Adds to the integer in a field; an absent field counts as 0.
pub fn increment(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    field: &[u8],
    by: i64,
) -> Result<i64, OpError> {
    check_name(field)?;
    let members = Members::find_or_new(txn, key, Kind::Hash)?;
    let old = members.get(txn, key, field)?;
    let before = match &old {
        Some(digits) => parse_integer(digits).ok_or(OpError::FieldNotInteger)?,
        None => 0,
    };
    let after = before.checked_add(by).ok_or(OpError::Overflow)?;
    put_one(members, txn, key, (field, after.to_string().as_bytes()), old.as_deref())?;
    Ok(after)
}

fn put_one(
    mut members: Members,
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    field: (&[u8], &[u8]),
    old: Option<&[u8]>,
) -> Result<(), OpError> {
    members.check_room(u64::from(old.is_none()))?;
    members.put(txn, key, field, old)?;
    members.put_head(txn, key)
}

/// One step of a scan over a hash.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanStep {
    /// Where the next step begins; 0 when the scan is complete.
    pub cursor: u64,
    /// Fields found, with their values.
    pub fields: Vec<Field>,
}

/// Fields in hash order from `cursor`, about `count` unless the hash ends. A field that exists
/// throughout a whole scan is returned, whatever is written meanwhile, and in fact once.
pub fn scan(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    cursor: u64,
    count: usize,
) -> Result<ScanStep, OpError> {
    let mut step = ScanStep::default();
    if let Some(members) = Members::find(txn, key, Kind::Hash)? {
        step.cursor = members.step(txn, key, cursor, count, |field, value| {
            step.fields.push((field.to_vec(), value.to_vec()));
        })?;
    }
    Ok(step)
}

fn check_field(field: &[u8], value: &[u8]) -> Result<(), OpError> {
    check_name(field)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(OpError::TooLarge("a hash field's value holds at most 32 MiB"));
    }
    Ok(())
}
