//! A follower of the log that trusts nothing: every durable record since the first, what the rows
//! must be after them, and whether log and engine still say the same.
//!
//! It applies each record exactly once to a map of its own, remembers each record's chained
//! checksum, and never forgets: a position that comes back with other bytes, or a record that
//! vanishes after it could be read, is a violation.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_base::{
    CollectionId, Error, ErrorKind, Generation, Head, KeyHasher, KeyspaceId, Lsn, Payload, ShardId,
    key,
    key::Family,
    limits::KEYSPACES_MAX,
    record::Record,
    row::{AppliedState, RowExpander},
};
use holdfast_log::{Log, ReadError};

use super::{Checked, violation};

/// Rows by key.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// See the module's head.
#[derive(Default)]
pub(super) struct Archive {
    /// Chained checksum of each record, from position 1 on.
    chains: Vec<u32>,
    /// Applied state after each record.
    states: Vec<AppliedState>,
    state: AppliedState,
    rows: Rows,
    /// Checksums of records that were acknowledged, until they were found in the log.
    promised: BTreeMap<Lsn, u32>,
    /// Keys that records of active expiry deleted.
    pub expired: u64,
}

impl Archive {
    /// The last position seen.
    pub fn last(&self) -> Lsn {
        Lsn(self.chains.len() as u64)
    }

    /// This record was acknowledged as durable.
    pub fn promise(&mut self, lsn: Lsn, chain: u32) -> Checked<()> {
        match self.chain(lsn) {
            Some(known) if known == chain => Ok(()),
            Some(_) => violation(format!("acknowledged record {lsn} is another in the log")),
            None => {
                self.promised.insert(lsn, chain);
                Ok(())
            }
        }
    }

    fn chain(&self, lsn: Lsn) -> Option<u32> {
        let place = usize::try_from(lsn.0.checked_sub(1)?).ok()?;
        self.chains.get(place).copied()
    }

    /// Takes in what is new, and compares what it has seen before from `from` on. The inner error
    /// is the disk's.
    pub fn follow(
        &mut self,
        shard: ShardId,
        log: &dyn Log,
        from: Lsn,
    ) -> Checked<Result<(), Error>> {
        let bounds = log.bounds(shard);
        let mut next = from.max(bounds.first);
        if bounds.next <= self.last() {
            let text = format!(
                "durable record {} is gone: the log ends before {}",
                self.last(),
                bounds.next
            );
            return violation(text);
        }
        if bounds.first > self.last().next() {
            return violation(format!("{} was trimmed before it was read", self.last().next()));
        }
        if !self.chains.is_empty() && bounds.incarnation != self.state.incarnation {
            return violation("the log has another life than before");
        }
        self.state.incarnation = bounds.incarnation;
        while next < bounds.next {
            let read = match log.read(shard, next, 8 << 10) {
                Ok(read) => read,
                Err(ReadError::Io(error)) => {
                    return Ok(Err(Error::new(ErrorKind::Unavailable, error.to_string())));
                }
                Err(error) => return violation(format!("reading {next}: {error}")),
            };
            if read.is_empty() {
                return violation(format!("the log gives nothing at {next}"));
            }
            for record in read.records() {
                if record.lsn != next {
                    return violation(format!("record {} stands at {next}", record.lsn));
                }
                self.take(shard, &record)?;
                next = next.next();
            }
        }
        match self.promised.first_key_value() {
            Some((lsn, _)) => violation(format!("acknowledged record {lsn} is not in the log")),
            None => Ok(Ok(())),
        }
    }

    fn take(&mut self, shard: ShardId, record: &Record<'_>) -> Checked<()> {
        let lsn = record.lsn;
        if let Some(chain) = self.promised.remove(&lsn)
            && chain != record.chain
        {
            return violation(format!("record {lsn} is not the one that was acknowledged"));
        }
        if let Some(known) = self.chain(lsn) {
            let same = known == record.chain;
            let text = || format!("position {lsn} was given to another durable record before");
            return if same { Ok(()) } else { violation(text()) };
        }
        let state = &mut self.state;
        let follows = record.chain_before == state.chain
            && if record.epoch == state.epoch && lsn > Lsn(1) {
                record.n == state.n + 1
            } else {
                record.epoch > state.epoch && record.n == 0
            };
        if !follows || record.time <= state.time {
            return violation(format!("record {lsn} does not follow the one before: {record:?}"));
        }
        let effects: Result<Vec<_>, _> = record.effects().collect();
        let effects = effects.or_else(|damaged| violation(format!("record {lsn}: {damaged}")))?;
        for effect in &effects {
            let expired = holdfast_base::DeleteReason::Expired;
            if let holdfast_base::Effect::DeleteHead { reason, .. } = effect
                && *reason == expired
            {
                self.expired += 1;
            }
            state.learn(effect);
        }
        let hasher = KeyHasher::new(state.hash_seed);
        let mut expander = RowExpander::new(shard, &hasher);
        let mut changes = Vec::new();
        for effect in &effects {
            let done = expander.expand(effect, &mut |row| changes.push(row));
            done.or_else(|_| violation(format!("record {lsn}: an effect without its key")))?;
        }
        for change in changes {
            match change.value {
                Some(value) => self.rows.insert(change.key.to_vec(), value.to_vec()),
                None => self.rows.remove(&change.key[..]),
            };
        }
        (state.lsn, state.chain, state.n) = (lsn, record.chain, record.n);
        (state.epoch, state.time) = (record.epoch, record.time);
        self.chains.push(record.chain);
        self.states.push(state.clone());
        Ok(())
    }

    /// The engine, which has applied everything, holds what it must. With `swept`, nothing else.
    pub fn check_engine(&self, shard: ShardId, mut rows: Rows, swept: bool) -> Checked<()> {
        let mut applied = Vec::new();
        key::applied(&mut applied, shard);
        let stored = rows.remove(&applied).and_then(|row| AppliedState::decode(&row));
        let Some(stored) = stored else { return violation("the engine has no applied state") };
        let essence = |s: &AppliedState| {
            let place = (s.lsn, s.chain, s.epoch, s.n, s.time, s.incarnation, s.hash_seed);
            let free = Generation(u32::from(KEYSPACES_MAX));
            let ids = (s.next_collection.max(CollectionId(1)), s.next_generation.max(free));
            (place, ids, s.keyspaces.clone())
        };
        if essence(&stored) != essence(&self.state) {
            let text = format!("applied state: engine {stored:?}, log {:?}", self.state);
            return violation(text);
        }
        let expected = self.live(&self.rows)?;
        let found = if swept { rows } else { self.live(&rows)? };
        compare(&expected, &found)?;
        self.check_derived(&found)
    }

    /// The generations that keyspaces have now.
    fn generations(&self) -> BTreeMap<Generation, KeyspaceId> {
        (0..KEYSPACES_MAX).map(|id| (self.generation(KeyspaceId(id)), KeyspaceId(id))).collect()
    }

    /// The rows that something leads to.
    fn live(&self, rows: &Rows) -> Checked<Rows> {
        let generations = self.generations();
        let current = |row: &[u8]| {
            key::parse_head(row)
                .is_some_and(|(_, generation, ..)| generations.contains_key(&generation))
        };
        let mut collections = BTreeSet::new();
        for (row, value) in rows.iter().filter(|(row, _)| current(row)) {
            let Some(head) = Head::decode(value) else {
                return violation(format!("head {} does not decode", row.escape_ascii()));
            };
            collections.extend(head.collection());
        }
        let live = |row: &[u8]| match row.first() {
            Some(&family) if family == Family::Head as u8 => current(row),
            Some(&family) if family == Family::Member as u8 => {
                collection_of(row).is_some_and(|id| collections.contains(&id))
            }
            Some(&family) if family == Family::Deadline as u8 => {
                key::parse_deadline(row).is_some_and(|(_, head)| current(head))
            }
            Some(&family) => {
                family != Family::DroppedCollection as u8
                    && family != Family::DroppedGeneration as u8
            }
            None => true,
        };
        Ok(rows.iter().filter(|(row, _)| live(row)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    /// Deadlines, counts and usage are those of the heads.
    fn check_derived(&self, rows: &Rows) -> Checked<()> {
        let generations = self.generations();
        let mut deadlines = BTreeSet::new();
        let mut usage: BTreeMap<KeyspaceId, (i64, i64)> = BTreeMap::new();
        for (row, value) in rows {
            let Some((_, generation, _, name)) = key::parse_head(row) else { continue };
            let Some(head) = Head::decode(value) else { continue };
            if let Some(deadline_ms) = head.deadline_ms {
                let mut deadline = Vec::new();
                key::deadline_position(&mut deadline, deadline_ms);
                deadline.extend_from_slice(row);
                deadlines.insert(deadline);
            }
            let keyspace = generations.get(&generation).copied().unwrap_or_default();
            let counted = usage.entry(keyspace).or_default();
            counted.0 += 1;
            counted.1 += (name.len() as u64 + head.content_bytes()) as i64;
            check_members(rows, row, &head)?;
        }
        let stored = rows.keys().filter(|row| row.first() == Some(&(Family::Deadline as u8)));
        if !stored.eq(deadlines.iter()) {
            return violation("the deadline rows are not those of the heads");
        }
        for id in (0..KEYSPACES_MAX).map(KeyspaceId) {
            let claimed = self.state.keyspaces.get(&id).map_or((0, 0), |u| (u.keys, u.bytes));
            let counted = usage.get(&id).copied().unwrap_or_default();
            if claimed != counted {
                let text = format!("keyspace {id}: usage says {claimed:?}, there is {counted:?}");
                return violation(text);
            }
        }
        Ok(())
    }

    /// The applied state after the last record.
    pub fn state(&self) -> &AppliedState {
        &self.state
    }

    /// The generation that a keyspace has after the last record.
    pub fn generation(&self, keyspace: KeyspaceId) -> Generation {
        let known = self.state.keyspaces.get(&keyspace);
        known.map_or(Generation(keyspace.0.into()), |usage| usage.generation)
    }

    /// Keys and bytes of a keyspace after the last record; `check_engine` has counted them.
    pub fn usage(&self, keyspace: KeyspaceId) -> (u64, u64) {
        let usage = self.state.keyspaces.get(&keyspace).copied().unwrap_or_default();
        (usage.keys.max(0) as u64, usage.bytes.max(0) as u64)
    }

    /// The applied state after this record.
    pub fn state_at(&self, lsn: Lsn) -> Option<&AppliedState> {
        self.states.get(usize::try_from(lsn.0.checked_sub(1)?).ok()?)
    }
}

fn collection_of(row: &[u8]) -> Option<CollectionId> {
    let id = row.get(3..11)?.first_chunk::<8>()?;
    Some(CollectionId(u64::from_be_bytes(*id)))
}

/// The rows of a key's collection are as many, and as long, as its head says.
fn check_members(rows: &Rows, head_row: &[u8], head: &Head<'_>) -> Checked<()> {
    let Some(id) = head.collection() else { return Ok(()) };
    let slot = head_row.get(1..3).unwrap_or_default();
    let mut from = vec![Family::Member as u8];
    from.extend_from_slice(slot);
    from.extend_from_slice(&id.0.to_be_bytes());
    let members = rows.range(from.clone()..).take_while(|(row, _)| row.starts_with(&from));
    let (mut count, mut bytes) = (0, 0);
    for (row, value) in members {
        // Only chunks have their length in the head; other kinds are counted.
        let counted = matches!(row.get(11), Some(1 | 4 | 5));
        count += u64::from(counted);
        bytes += value.len() as u64;
    }
    let right = match head.payload {
        Payload::Inline(_) => true,
        Payload::Chunked { len, .. } => bytes == len,
        Payload::Collection { count: claimed, .. } | Payload::List { count: claimed, .. } => {
            count == claimed
        }
    };
    let name = head_row.escape_ascii();
    let text = || format!("key {name} claims {:?}, has {count} rows, {bytes} bytes", head.payload);
    if right { Ok(()) } else { violation(text()) }
}

fn compare(expected: &Rows, found: &Rows) -> Checked<()> {
    let all: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    for row in all {
        let (expected, found) = (expected.get(row), found.get(row));
        if expected != found {
            let show = |value: Option<&Vec<u8>>| match value {
                Some(value) => value.escape_ascii().to_string().chars().take(80).collect(),
                None => String::from("(none)"),
            };
            return violation(format!(
                "row {}: the log makes it {}, the engine has {}",
                row.escape_ascii(),
                show(expected),
                show(found)
            ));
        }
    }
    Ok(())
}
