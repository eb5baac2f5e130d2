//! The catalog in memory: keyspaces and users, as versioned entries of the log.
//!
//! A change is staged like any write and takes effect once it is durable, before its reply leaves:
//! sessions compare one number per request, which is odd for as long as a change waits, and look
//! here if it differs. Tables are never changed, only replaced. Lock order: `changes`, then the
//! shard lock, then `state`, then the shard's leaves.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use holdfast_base::{
    Effect, Error, ErrorKind, KeyspaceId, ShardId,
    catalog::{self, KEYSPACE, Keyspace, KeyspaceKind, USER, User},
    key,
    limits::KEYSPACES_MAX,
};
use holdfast_engine::{Engine, Tier};
use holdfast_shard::{Gate, GateState, KeyspaceQuota, OpError, Shard, Txn};
use parking_lot::Mutex;

use crate::{
    DATABASES,
    session::CommandError,
    users::{Account, DEFAULT_USER, configured_default, digest},
};

/// Users of one node: all are in memory, and each change copies their list.
const USERS_MAX: usize = 1024;
/// Changes that may wait for the disk at once.
const STAGED_MAX: usize = 256;

/// Everything that the catalog holds, as of one change.
#[derive(Clone)]
pub(crate) struct Table {
    /// By name, with the version of the stored entry (0: not stored).
    keyspaces: BTreeMap<String, (u64, Keyspace)>,
    names: BTreeMap<KeyspaceId, String>,
    users: BTreeMap<String, (u64, Arc<Account>)>,
    /// Tells users of the same name apart.
    born: u64,
}

impl Table {
    fn new(password: &str) -> Table {
        let mut table = Table {
            keyspaces: BTreeMap::new(),
            names: BTreeMap::new(),
            users: BTreeMap::new(),
            born: 0,
        };
        for number in 0..DATABASES {
            let id = KeyspaceId(number);
            table.put_keyspace(&key::keyspace_default_name(id), 0, Keyspace::new(id));
        }
        table.put_user(DEFAULT_USER, 0, configured_default(password));
        table
    }

    fn put_keyspace(&mut self, name: &str, version: u64, keyspace: Keyspace) {
        self.names.insert(keyspace.id(), name.into());
        self.keyspaces.insert(name.into(), (version, keyspace));
    }

    fn put_user(&mut self, name: &str, version: u64, user: User) {
        self.born += 1;
        let born = self.users.get(name).map_or(self.born, |(_, old)| old.born);
        self.users.insert(name.into(), (version, Arc::new(Account::new(name, user, born))));
    }

    pub(crate) fn keyspace(&self, name: &str) -> Option<&Keyspace> {
        self.keyspaces.get(name).map(|(_, keyspace)| keyspace)
    }

    /// The name of the keyspace with this number.
    pub(crate) fn keyspace_name(&self, id: KeyspaceId) -> Option<&str> {
        self.names.get(&id).map(String::as_str)
    }

    /// All keyspaces with their names, by number.
    pub(crate) fn keyspaces(&self) -> impl Iterator<Item = (&str, &Keyspace)> {
        let names = self.names.values();
        names.filter_map(|name| Some((name.as_str(), self.keyspace(name)?)))
    }

    pub(crate) fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.users.get(name).map(|(_, account)| account)
    }

    /// All users, by name.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.users.values().map(|(_, account)| account)
    }

    fn forget(&mut self, kind: u8, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        match kind {
            KEYSPACE => {
                if let Some((_, keyspace)) = self.keyspaces.remove(name) {
                    self.names.remove(&keyspace.id());
                }
            }
            _ => drop(self.users.remove(name)),
        }
    }

    fn quotas(&self) -> impl Iterator<Item = (KeyspaceId, KeyspaceQuota)> {
        self.keyspaces.values().map(|(_, keyspace)| {
            let (bytes_max, keys_max) = (keyspace.bytes_max, keyspace.keys_max);
            (keyspace.id(), KeyspaceQuota { bytes_max, keys_max })
        })
    }

    /// Takes in one stored entry.
    fn load(&mut self, kind: u8, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let (version, body) = catalog::parse_row(value).ok_or_else(undecodable)?;
        self.put(kind, name, version, body)
    }

    fn put(&mut self, kind: u8, name: &[u8], version: u64, body: &[u8]) -> Result<(), Error> {
        let name = std::str::from_utf8(name).map_err(|_| undecodable())?;
        let what = |error: Error| error.context(format!("catalog entry {name:?}"));
        match kind {
            KEYSPACE => {
                let keyspace: Keyspace = catalog::decode(body).map_err(what)?;
                if keyspace.kind != KeyspaceKind::Durable {
                    let text = "this program has no keyspaces of kind cache";
                    return Err(what(Error::new(ErrorKind::Unsupported, text)));
                }
                let taken = self.keyspace_name(keyspace.id()).is_some_and(|other| other != name);
                if taken || keyspace.number >= KEYSPACES_MAX {
                    let text = format!("keyspace number {} is taken or too high", keyspace.number);
                    return Err(what(Error::new(ErrorKind::Corrupt, text)));
                }
                self.put_keyspace(name, version, keyspace);
            }
            USER => self.put_user(name, version, catalog::decode(body).map_err(what)?),
            _ => {
                let text =
                    format!("catalog entry {name:?} is of a kind ({kind}) of a later program");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        }
        Ok(())
    }
}

fn undecodable() -> Error {
    Error::new(ErrorKind::Corrupt, "a catalog row does not decode")
}

/// A change at work: the table as it will be, and the record that says so.
pub(crate) struct Draft<'d, 't> {
    pub table: Table,
    pub txn: &'d mut Txn<'t>,
    changed: bool,
}

fn refused(error: &Error) -> CommandError {
    CommandError::Text(format!("ERR {}", error.text()).into())
}

impl Draft<'_, '_> {
    pub(crate) fn put_keyspace(
        &mut self,
        name: &str,
        keyspace: Keyspace,
    ) -> Result<(), CommandError> {
        let version = self.table.keyspaces.get(name).map_or(0, |(version, _)| *version) + 1;
        let body = catalog::encode(&keyspace).map_err(|error| refused(&error))?;
        self.put(KEYSPACE, name, version, &body);
        self.table.put_keyspace(name, version, keyspace);
        Ok(())
    }

    /// Empties the keyspace and forgets it.
    pub(crate) fn drop_keyspace(&mut self, name: &str) {
        let Some((version, keyspace)) = self.table.keyspaces.remove(name) else { return };
        self.table.names.remove(&keyspace.id());
        self.txn.flush_keyspace(keyspace.id());
        self.delete(KEYSPACE, name, version + 1);
    }

    pub(crate) fn put_user(&mut self, name: &str, user: User) -> Result<(), CommandError> {
        let old = self.table.users.get(name).map(|(version, _)| *version);
        if old.is_none() && self.table.users.len() == USERS_MAX {
            return Err(CommandError::text("ERR there may be at most 1024 users"));
        }
        let version = old.unwrap_or(0) + 1;
        let body = catalog::encode(&user).map_err(|error| refused(&error))?;
        self.put(USER, name, version, &body);
        self.table.put_user(name, version, user);
        Ok(())
    }

    /// Whether there was such a user.
    pub(crate) fn delete_user(&mut self, name: &str) -> bool {
        let Some((version, _)) = self.table.users.remove(name) else { return false };
        self.delete(USER, name, version + 1);
        true
    }

    fn put(&mut self, kind: u8, name: &str, version: u64, body: &[u8]) {
        let name = name.as_bytes();
        self.txn.push_catalog(&Effect::PutCatalog { kind, name, version, body });
        self.changed = true;
    }

    fn delete(&mut self, kind: u8, name: &str, version: u64) {
        let name = name.as_bytes();
        self.txn.push_catalog(&Effect::DeleteCatalog { kind, name, version });
        self.changed = true;
    }
}

struct State {
    durable: Arc<Table>,
    /// Changes that are not durable yet, oldest first, each with the table after it.
    staged: VecDeque<(Gate, Arc<Table>)>,
    /// How often `durable` or `staged` was settled.
    version: u64,
}

/// What sessions see of the catalog.
pub(crate) struct Seen {
    /// To be compared with [`Catalog::word`].
    pub word: u64,
    /// What is in force.
    pub durable: Arc<Table>,
    /// With the changes that wait; whoever answers from it waits for `gate`.
    pub latest: Arc<Table>,
    pub gate: Option<Gate>,
}

/// See the module's head.
pub(crate) struct Catalog {
    /// The version, doubled; one more while changes wait.
    word: AtomicU64,
    /// Held by the one who changes something.
    changes: Mutex<()>,
    /// Guards the tables; never held over anything but [`Shard::gate_state`] and quotas.
    state: Mutex<State>,
}

impl Catalog {
    /// Reads the entries from an engine that has applied the whole log, and puts quotas in force.
    pub(crate) fn load(
        engine: &dyn Engine,
        shard: &Shard,
        password: &str,
    ) -> Result<Catalog, Error> {
        let mut table = Table::new(password);
        for (kind, name, value) in rows(engine, shard.id())? {
            table.load(kind, &name, &value)?;
        }
        table.quotas().for_each(|(id, quota)| shard.set_quota(id, quota));
        let default = table.account(DEFAULT_USER).map(|account| &account.user);
        let known = |user: &User| user.passwords.contains(&digest(password.as_bytes()));
        if !password.is_empty() && !default.is_some_and(known) {
            tracing::warn!(
                "redis.password is not in force: the user `default` was changed by ACL SETUSER"
            );
        }
        let state = State { durable: Arc::new(table), staged: VecDeque::new(), version: 1 };
        let (changes, state) = (Mutex::new(()), Mutex::new(state));
        Ok(Catalog { word: AtomicU64::new(2), changes, state })
    }

    /// Differs from the last one seen if there is something new; odd while something may be.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        self.word.load(Ordering::Acquire)
    }

    /// The tables, after what has become durable meanwhile was put in force.
    pub(crate) fn look(&self, shard: &Shard) -> Seen {
        let mut state = self.state.lock();
        self.settle(&mut state, shard);
        let durable = state.durable.clone();
        let (latest, gate) = match state.staged.back() {
            Some((gate, table)) => (table.clone(), Some(*gate)),
            None => (durable.clone(), None),
        };
        Seen { word: state.version << 1, durable, latest, gate }
    }

    /// Puts in force what is durable and forgets what was lost.
    fn settle(&self, state: &mut State, shard: &Shard) {
        while let Some((gate, table)) = state.staged.front() {
            match shard.gate_state(*gate) {
                GateState::Waiting => break,
                GateState::Durable => {
                    let table = table.clone();
                    state.staged.pop_front();
                    self.enforce(state, shard, table);
                }
                // Every later one was made from it and staged after it: lost as well.
                GateState::Lost => state.staged.clear(),
            }
            state.version += 1;
        }
        self.publish(state);
    }

    fn enforce(&self, state: &mut State, shard: &Shard, table: Arc<Table>) {
        for (id, _) in state.durable.quotas() {
            if table.keyspace_name(id).is_none() {
                shard.set_quota(id, KeyspaceQuota::default());
            }
        }
        table.quotas().for_each(|(id, quota)| shard.set_quota(id, quota));
        state.durable = table;
    }

    fn publish(&self, state: &State) {
        let word = state.version << 1 | u64::from(!state.staged.is_empty());
        self.word.store(word, Ordering::Release);
    }

    /// Takes in a change that came from the log: it is in force at once.
    pub(crate) fn follow(&self, shard: &Shard, change: &Effect<'_>) -> Result<(), Error> {
        let _one_at_a_time = self.changes.lock();
        let mut state = self.state.lock();
        let mut table = (*state.durable).clone();
        match *change {
            Effect::PutCatalog { kind, name, version, body } => {
                table.put(kind, name, version, body)?;
            }
            Effect::DeleteCatalog { kind, name, .. } => table.forget(kind, name),
            _ => return Ok(()),
        }
        // Changes that waited here were lost: whoever follows does not own the data.
        state.staged.clear();
        self.enforce(&mut state, shard, Arc::new(table));
        state.version += 1;
        self.publish(&state);
        Ok(())
    }

    /// Makes a change as one record of the log. It is in force when the gate is open. Must not be
    /// called under the shard lock: not within a transaction.
    pub(crate) fn change<R>(
        &self,
        shard: &Shard,
        edit: impl FnOnce(&mut Draft<'_, '_>) -> Result<R, CommandError>,
    ) -> Result<(R, Option<Gate>), CommandError> {
        let _one_at_a_time = self.changes.lock();
        let mut outcome = None;
        let done = shard.write(Tier::Cached, |txn| {
            // Under the shard lock, so that the log cannot fail between this look and the write.
            let seen = self.look(shard);
            let mut draft = Draft { table: (*seen.latest).clone(), txn, changed: false };
            let result = edit(&mut draft);
            let table = draft.changed.then_some(draft.table);
            let full = self.state.lock().staged.len() >= STAGED_MAX;
            let stop = full || result.is_err();
            outcome = Some((result, table, seen.gate, full));
            // Any error stops the record; the command's own words are told below.
            if stop { Err(OpError::WrongType) } else { Ok(()) }
        });
        let (result, table, seen, full) = match (outcome, done.as_ref().err()) {
            (Some(outcome), None | Some(OpError::WrongType)) => outcome,
            (_, Some(error)) => return Err(CommandError::Op(error.clone())),
            (None, None) => unreachable!("a write that succeeds has run its op"),
        };
        let value = result?;
        if full {
            return Err(CommandError::text("BUSY too many catalog changes wait: retry later"));
        }
        let gate = done.ok().and_then(|done| done.gate);
        let Some(table) = table else { return Ok((value, gate.or(seen))) };
        let mut state = self.state.lock();
        match gate {
            Some(gate) => state.staged.push_back((gate, Arc::new(table))),
            None => {
                self.settle(&mut state, shard);
                self.enforce(&mut state, shard, Arc::new(table));
                state.version += 1;
            }
        }
        self.publish(&state);
        Ok((value, gate))
    }
}

/// A row's kind, name and value.
type Row = (u8, Vec<u8>, Vec<u8>);

/// The catalog's rows.
fn rows(engine: &dyn Engine, shard: ShardId) -> Result<Vec<Row>, Error> {
    let mut from = Vec::new();
    key::catalog(&mut from, shard, 0, b"");
    // Of every kind: the kind stands last in the prefix.
    from.pop();
    let to = key::after_prefix(&from).unwrap_or_default();
    let mut rows = Vec::new();
    engine.snapshot()?.scan(&from, &to, false, Tier::Any, &mut |row, value| {
        if let Some((kind, name)) = row.get(from.len()..).and_then(<[u8]>::split_first) {
            rows.push((*kind, name.to_vec(), value.to_vec()));
        }
        std::ops::ControlFlow::Continue(())
    })?;
    Ok(rows)
}
