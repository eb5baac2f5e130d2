//! What simulated clients ask, and how it is done with a shard: the part that the server's session
//! plays in production.

use holdfast_base::{Error, ErrorKind, KeyspaceId};
use holdfast_engine::Tier;
use holdfast_shard::{
    Done, KeyRef, OpError, Shard, Txn, WatchedKey,
    ops::{
        keys::{self, DeadlineCondition, TimeToLive},
        set,
        string::{self, Expiry, SetCondition},
    },
};

use super::{
    cells::{CellOp, CellReply, KeepUntil},
    pushes,
};
use crate::checker::Key;

/// Counters that are only incremented.
pub(super) const COUNTERS: usize = 2;
/// Accounts of the bank, and what each begins with.
pub(super) const ACCOUNTS: usize = 4;
pub(super) const FIRST_BALANCE: i64 = 100;
/// Cells from this number on are in the keyspace that is emptied now and then.
pub(super) const FLUSHED_CELLS: std::ops::Range<u32> = 20..23;

/// One command or transaction of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// Cells, read or changed as one.
    Cells(Vec<(Key, CellOp)>),
    /// EXEC under a watch of these cells, with the values that were read of them.
    Exec(Vec<(Key, Option<i64>)>, Vec<(Key, CellOp)>),
    /// FLUSHDB of the second keyspace.
    Flush,
    /// INCRBY of a counter.
    Increment(usize, i64),
    /// A unique token into a string, a list, a hash and a sorted set, as one record.
    Push(u64),
    /// All four.
    Tokens,
    /// A unique member into the only set.
    AddMember(u64),
    /// The whole set.
    Members,
    /// Gives every account its first balance.
    OpenBank,
    /// Moves an amount from one account to another.
    Transfer(usize, usize, i64),
    /// Adds to one account: half of a transfer, which a planted bug makes two records of.
    Deposit(usize, i64),
    /// All accounts as one.
    Balances,
    /// All counters as one.
    Counters,
}

/// What a client is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// One reply a cell operation.
    Cells(Vec<CellReply>),
    /// A watched cell was written.
    Aborted,
    /// OK.
    Done,
    /// A counter's value.
    Number(i64),
    /// Tokens or members.
    Values(Vec<u64>),
    /// Balances.
    Balances(Vec<i64>),
}

impl Ask {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            Ask::Cells(ops) => ops.iter().all(|(_, op)| op.is_read()),
            Ask::Tokens | Ask::Members | Ask::Balances | Ask::Counters => true,
            _ => false,
        }
    }

    /// Its operations on cells, if it is about cells.
    pub fn cells(&self) -> Option<Vec<(Key, CellOp)>> {
        match self {
            Ask::Cells(ops) | Ask::Exec(_, ops) => Some(ops.clone()),
            Ask::Flush => Some(FLUSHED_CELLS.map(|n| (Key(n), CellOp::Clear)).collect()),
            _ => None,
        }
    }

    /// The keys that it names.
    fn names(&self) -> Vec<(KeyspaceId, Vec<u8>)> {
        let first = |name: String| (KeyspaceId(0), name.into_bytes());
        match self {
            Ask::Cells(ops) | Ask::Exec(_, ops) => ops.iter().map(|(key, _)| cell(*key)).collect(),
            Ask::Flush => Vec::new(),
            Ask::Increment(counter, _) => vec![first(format!("counter{counter}"))],
            Ask::Counters => (0..COUNTERS).map(|c| first(format!("counter{c}"))).collect(),
            Ask::Push(_) | Ask::Tokens => pushes::NAMES.map(|name| first(name.into())).into(),
            Ask::AddMember(_) | Ask::Members => vec![first("members".into())],
            Ask::Deposit(account, _) => vec![first(format!("account{account}"))],
            Ask::Transfer(from, to, _) => [from, to].map(|a| first(format!("account{a}"))).into(),
            Ask::OpenBank | Ask::Balances => {
                (0..ACCOUNTS).map(|a| first(format!("account{a}"))).collect()
            }
        }
    }

    /// Does it, as one read or one record.
    pub fn execute(
        &self,
        shard: &Shard,
        watched: &[WatchedKey],
        tier: Tier,
    ) -> Result<Done<Answer>, OpError> {
        let names = self.names();
        if self.is_read() {
            let keys: Vec<_> = names.iter().map(|(space, name)| shard.key(*space, name)).collect();
            return shard.read(&keys, tier, |txn| self.work(txn, &keys));
        }
        let done = shard.write_unless_changed(watched, tier, |txn| {
            let keys: Vec<_> = names.iter().map(|(space, name)| txn.key(*space, name)).collect();
            self.work(txn, &keys)
        })?;
        Ok(Done { value: done.value.unwrap_or(Answer::Aborted), gate: done.gate })
    }

    fn work(&self, txn: &mut Txn<'_>, keys: &[KeyRef<'_>]) -> Result<Answer, OpError> {
        let [first, rest @ ..] = keys else {
            txn.flush_keyspace(KeyspaceId(1));
            return Ok(Answer::Done);
        };
        Ok(match self {
            Ask::Cells(ops) | Ask::Exec(_, ops) => {
                let mut replies = Vec::with_capacity(ops.len());
                for ((cell, op), key) in ops.iter().zip(keys) {
                    replies.push(on_cell(txn, key, *cell, *op)?);
                }
                Answer::Cells(replies)
            }
            Ask::Increment(_, by) | Ask::Deposit(_, by) => {
                Answer::Number(string::increment(txn, first, *by)?)
            }
            Ask::Push(token) => {
                pushes::push(txn, keys, *token)?;
                Answer::Done
            }
            Ask::Tokens => Answer::Values(pushes::read(txn, keys)?),
            Ask::AddMember(member) => {
                set::add(txn, first, &[member.to_string().as_bytes()])?;
                Answer::Done
            }
            Ask::Members => Answer::Values(members(txn, first)?),
            Ask::OpenBank => {
                for account in keys {
                    put(txn, account, FIRST_BALANCE.to_string().as_bytes(), Expiry::None)?;
                }
                Answer::Done
            }
            Ask::Transfer(_, _, amount) => {
                string::increment(txn, first, -amount)?;
                for to in rest {
                    string::increment(txn, to, *amount)?;
                }
                Answer::Done
            }
            Ask::Balances | Ask::Counters => {
                let mut balances = Vec::with_capacity(keys.len());
                for account in keys {
                    let text = string::get(txn, account)?;
                    balances.push(number(text.as_deref().unwrap_or(b"0"))?);
                }
                Answer::Balances(balances)
            }
            Ask::Flush => Answer::Done,
        })
    }
}

/// Keyspace and name of a cell.
pub(super) fn cell(key: Key) -> (KeyspaceId, Vec<u8>) {
    let keyspace = KeyspaceId(u16::from(FLUSHED_CELLS.contains(&key.0)));
    (keyspace, format!("cell{}", key.0).into_bytes())
}

/// Whether the cell's text is so long that it lies in chunks; such a cell is never incremented.
pub(super) fn is_wide(key: Key) -> bool {
    key.0 % 4 == 3
}

fn cell_text(key: Key, value: i64) -> Vec<u8> {
    // Two chunks and a part of a third, all telling the value.
    let copies = if is_wide(key) { 4_500 } else { 1 };
    if copies == 1 { value.to_string().into_bytes() } else { value.to_le_bytes().repeat(copies) }
}

fn cell_value(key: Key, text: &[u8]) -> Result<i64, OpError> {
    if !is_wide(key) {
        return number(text);
    }
    let first = text.first_chunk::<8>().map(|bytes| i64::from_le_bytes(*bytes));
    match first.filter(|value| cell_text(key, *value) == text) {
        Some(value) => Ok(value),
        None => Err(damaged("a wide cell holds pieces of several values")),
    }
}

fn number(text: &[u8]) -> Result<i64, OpError> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| damaged(&format!("not a number: {}", text.escape_ascii())))
}

fn members(txn: &mut Txn<'_>, key: &KeyRef<'_>) -> Result<Vec<u64>, OpError> {
    let mut members = Vec::new();
    for member in set::members(txn, key)? {
        let text = std::str::from_utf8(&member).ok();
        let member = text.and_then(|text| text.parse().ok());
        members.push(member.ok_or_else(|| damaged("a member is no number"))?);
    }
    Ok(members)
}

fn damaged(what: &str) -> OpError {
    OpError::Fault(Error::new(ErrorKind::Corrupt, what))
}

fn put(txn: &mut Txn<'_>, key: &KeyRef<'_>, text: &[u8], expiry: Expiry) -> Result<(), OpError> {
    string::set(txn, key, text, expiry, SetCondition::Always, false).map(|_| ())
}

fn on_cell(
    txn: &mut Txn<'_>,
    key: &KeyRef<'_>,
    cell: Key,
    op: CellOp,
) -> Result<CellReply, OpError> {
    let value = |text: Option<string::Text>| text.map(|text| cell_value(cell, &text)).transpose();
    Ok(match op {
        CellOp::Get => CellReply::Value(value(string::get(txn, key)?)?),
        CellOp::Set(new, keep) => {
            let expiry = match keep {
                KeepUntil::Forever => Expiry::None,
                KeepUntil::AsItWas => Expiry::Keep,
                KeepUntil::Deadline(at) => Expiry::At(at),
            };
            put(txn, key, &cell_text(cell, new), expiry)?;
            CellReply::Done
        }
        CellOp::SetIfPresent(new, present) => {
            let condition = if present { SetCondition::Present } else { SetCondition::Absent };
            let text = cell_text(cell, new);
            let done = string::set(txn, key, &text, Expiry::None, condition, false)?;
            CellReply::Applied(done.written)
        }
        CellOp::GetSet(new) => {
            let (text, always) = (cell_text(cell, new), SetCondition::Always);
            let done = string::set(txn, key, &text, Expiry::None, always, true)?;
            CellReply::Value(value(done.old)?)
        }
        CellOp::Take => CellReply::Value(value(string::take(txn, key)?)?),
        CellOp::Del => CellReply::Applied(keys::delete(txn, key)?),
        CellOp::IncrBy(by) => CellReply::Value(Some(string::increment(txn, key, by)?)),
        CellOp::CompareAndSet(old, new) => {
            let same = value(string::get(txn, key)?)? == Some(old);
            if same {
                put(txn, key, &cell_text(cell, new), Expiry::Keep)?;
            }
            CellReply::Applied(same)
        }
        CellOp::SetDeadline(at) => {
            let condition = DeadlineCondition::default();
            CellReply::Applied(keys::set_deadline(txn, key, at, condition)?)
        }
        CellOp::GetDeadline => CellReply::Deadline(match keys::time_to_live(txn, key)? {
            TimeToLive::NoKey => None,
            TimeToLive::Forever => Some(None),
            TimeToLive::Until(at) => Some(Some(at)),
        }),
        CellOp::Clear => CellReply::Done,
    })
}
