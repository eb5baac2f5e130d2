//! One unique token written into a string, a list, a hash and a sorted set as one record, and all
//! four read as one: each must hold the same tokens, or a record was torn.

use holdfast_base::{Error, ErrorKind};
use holdfast_shard::{
    KeyRef, OpError, Txn,
    ops::{
        hash,
        list::{self, End},
        sorted_set::{self, AddCondition, Selection},
        string,
    },
};

/// The four keys, in the order in which the functions here expect them.
pub(super) const NAMES: [&str; 4] = ["tokens", "list", "hash", "sorted"];

/// Bytes of one token in the string: 40 of them pass the border of a chunk.
const TOKEN_BYTES: usize = 400;

fn torn<T>(what: impl Into<String>) -> Result<T, OpError> {
    Err(OpError::Fault(Error::new(ErrorKind::Corrupt, what)))
}

/// Adds the token to all four.
pub(super) fn push(txn: &mut Txn<'_>, keys: &[KeyRef<'_>], token: u64) -> Result<(), OpError> {
    let [tokens, list, hash, sorted] = keys else { return torn("four keys are needed") };
    let text = token.to_string();
    let text = text.as_bytes();
    string::append(txn, tokens, &token_bytes(token))?;
    list::push(txn, list, End::Back, &[text], false)?;
    hash::set(txn, hash, &[(text, text)])?;
    sorted_set::add(txn, sorted, &[(token as f64, text)], AddCondition::default())?;
    Ok(())
}

/// Reads all four; gives the tokens in the order of the pushes.
pub(super) fn read(txn: &mut Txn<'_>, keys: &[KeyRef<'_>]) -> Result<Vec<u64>, OpError> {
    let [tokens, list, hash, sorted] = keys else { return torn("four keys are needed") };
    let in_string = match string::get(txn, tokens)? {
        Some(text) => split(&text)?,
        None => Vec::new(),
    };
    let elements = list::range(txn, list, 0, -1)?;
    let in_list: Vec<u64> = elements.iter().map(|e| parse(e)).collect::<Result<_, _>>()?;
    let mut in_hash = Vec::new();
    for (field, value) in hash::get_all(txn, hash)? {
        if field[..] != value[..] {
            return torn("a hash field has the value of another");
        }
        in_hash.push(parse(&field)?);
    }
    let all = (0, u64::MAX);
    let scored = sorted_set::range(txn, sorted, &Selection::Indexes(0, -1), false, all)?;
    let in_sorted: Vec<u64> = scored.iter().map(|s| parse(&s.member)).collect::<Result<_, _>>()?;
    in_hash.sort_unstable();
    let mut ordered = in_string.clone();
    ordered.sort_unstable();
    if in_list != in_string || in_hash != ordered || in_sorted != ordered {
        let text = format!(
            "one record, four keys, and they differ: string {in_string:?}, list {in_list:?}, \
             hash {in_hash:?}, sorted set {in_sorted:?}"
        );
        return torn(text);
    }
    Ok(in_string)
}

fn parse(text: &[u8]) -> Result<u64, OpError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.map_or_else(|| torn(format!("{} is no token", text.escape_ascii())), Ok)
}

fn token_bytes(token: u64) -> Vec<u8> {
    token.to_le_bytes().repeat(TOKEN_BYTES / 8)
}

fn split(text: &[u8]) -> Result<Vec<u64>, OpError> {
    let one = |bytes: &[u8]| {
        let first = bytes.first_chunk::<8>().map(|token| u64::from_le_bytes(*token));
        first.filter(|token| token_bytes(*token) == bytes)
    };
    let tokens: Option<Vec<u64>> = text.chunks(TOKEN_BYTES).map(one).collect();
    tokens.map_or_else(|| torn("the string of tokens has a torn one"), Ok)
}
