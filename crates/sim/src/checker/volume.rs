//! Linear-time checks (but for one sort) for runs too large for a search: counters, unique list
//! pushes, set members, a constant total, and reads that never go back.
//!
//! Each is fed what clients were told and what was read, and names every defect it finds. They are
//! sound: a defect is a broken promise. They are not complete: see `check` for the whole of it.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};
use std::fmt::{self, Display};

use crate::history::ClientId;

/// What a client knows of an operation that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was told that the operation took effect.
    Acknowledged,
    /// It was told nothing: the operation takes effect once or never.
    Unknown,
    /// It was told that the operation has no effect.
    Refused,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A counter outside of what its acknowledged and unknown increments allow.
    CounterOutOfBounds {
        /// The final value.
        value: i64,
        /// The least possible value.
        least: i128,
        /// The greatest possible value.
        most: i128,
    },
    /// Two acknowledged increments were given results that one counter cannot have passed through.
    IncrementsOverlap {
        /// One result.
        first: i64,
        /// The other, not smaller.
        second: i64,
    },
    /// An acknowledged increment was given a result that the counter cannot have passed through.
    IncrementOutOfBounds {
        /// The result.
        result: i64,
    },
    /// An acknowledged value is not there.
    Lost(u64),
    /// A value is there more than once.
    Duplicated(u64),
    /// A value is there that was refused, or that nobody wrote.
    Phantom(u64),
    /// The same value was written twice: the workload is wrong, not the store.
    NotUnique(u64),
    /// One client's acknowledged values are in another order than it wrote them.
    OutOfOrder {
        /// Who wrote both.
        client: ClientId,
        /// Written first, found behind.
        earlier: u64,
        /// Written later, found before.
        later: u64,
    },
    /// A list that only grows at its end was read as something that the final list does not begin
    /// with.
    NotAPrefix {
        /// The number of the read.
        read: usize,
        /// The first place where they differ.
        place: usize,
    },
    /// An atomic read of all accounts shows another total.
    TotalChanged {
        /// The number of the read.
        read: usize,
        /// Its total.
        total: i128,
    },
    /// An atomic read shows another number of accounts.
    AccountsChanged {
        /// The number of the read.
        read: usize,
        /// How many it shows.
        accounts: usize,
    },
    /// A session read an older version than it had read before.
    WentBack {
        /// The session.
        client: ClientId,
        /// The key.
        key: u64,
        /// The version that it had seen.
        from: u64,
        /// The version that it saw then.
        to: u64,
    },
}

/// All defects that one check found: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defects(pub Vec<Defect>);

/// How many defects are written out.
const DEFECTS_SHOWN_MAX: usize = 10;

impl Display for Defects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} defects", self.0.len())?;
        for defect in self.0.iter().take(DEFECTS_SHOWN_MAX) {
            write!(f, "\n  {defect:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Defects {}

fn sound(defects: Vec<Defect>) -> Result<(), Defects> {
    if defects.is_empty() { Ok(()) } else { Err(Defects(defects)) }
}

/// A counter that is only incremented (by negative amounts too): acked ≤ final ≤ acked + unknown,
/// and, while all amounts are positive, results that fit beside each other.
#[derive(Clone, Debug)]
pub struct Counter {
    initial: i64,
    least: i128,
    most: i128,
    only_up: bool,
    /// Amounts and results of the acknowledged increments whose result is known.
    results: Vec<(i64, i64)>,
}

impl Counter {
    /// A counter that begins at `initial`.
    pub fn new(initial: i64) -> Self {
        let start = i128::from(initial);
        Counter { initial, least: start, most: start, only_up: true, results: Vec::new() }
    }

    /// An acknowledged increment, and the value after it if the client was told.
    pub fn acknowledged(&mut self, by: i64, result: Option<i64>) {
        self.least += i128::from(by);
        self.most += i128::from(by);
        self.only_up &= by > 0;
        self.results.extend(result.map(|result| (by, result)));
    }

    /// An increment of unknown outcome.
    pub fn unknown(&mut self, by: i64) {
        self.least += i128::from(by.min(0));
        self.most += i128::from(by.max(0));
        self.only_up &= by > 0;
    }

    /// Compares with the value read when no increment can take effect any more.
    pub fn check(mut self, value: i64) -> Result<(), Defects> {
        let (least, most) = (self.least, self.most);
        let mut defects = Vec::new();
        if !(least..=most).contains(&i128::from(value)) {
            defects.push(Defect::CounterOutOfBounds { value, least, most });
        }
        if self.only_up {
            self.results.sort_unstable_by_key(|(_, result)| *result);
            let mut before = i128::from(self.initial);
            for (place, &(by, result)) in self.results.iter().enumerate() {
                if i128::from(result) - i128::from(by) < before {
                    defects.push(match place.checked_sub(1).and_then(|p| self.results.get(p)) {
                        Some(&(_, first)) => Defect::IncrementsOverlap { first, second: result },
                        None => Defect::IncrementOutOfBounds { result },
                    });
                } else if result > value {
                    defects.push(Defect::IncrementOutOfBounds { result });
                }
                before = i128::from(result);
            }
        }
        sound(defects)
    }
}

/// A list to which values, each unique, are only pushed at the end: nothing acknowledged is lost,
/// nothing is there twice, nothing unasked for, each client's acknowledged values are in its order,
/// and every read is a prefix of the final list.
#[derive(Clone, Debug, Default)]
pub struct Pushes {
    written: Written,
    reads: Vec<Vec<u64>>,
}

impl Pushes {
    /// A push, in the order in which this client sent its pushes.
    pub fn push(&mut self, client: ClientId, value: u64, fate: Fate) {
        self.written.add(client, value, fate);
    }

    /// A read of the whole list during the run; the number of the read, from 0, names it.
    pub fn read(&mut self, values: Vec<u64>) {
        self.reads.push(values);
    }

    /// Compares with the list read when no push can take effect any more.
    pub fn check(self, list: &[u64]) -> Result<(), Defects> {
        let mut defects = self.written.presence(list.iter().copied());
        // An unknown push may take effect late, so only acknowledged ones have an order.
        let mut latest = BTreeMap::new();
        for &value in list {
            let Some(written) = self.written.values.get(&value) else { continue };
            if written.fate != Fate::Acknowledged {
                continue;
            }
            let client = written.client;
            match latest.insert(client, (written.place, value)) {
                Some((place, later)) if place > written.place => {
                    defects.push(Defect::OutOfOrder { client, earlier: value, later });
                }
                _ => {}
            }
        }
        for (read, values) in self.reads.iter().enumerate() {
            let differ = (0..values.len()).find(|&place| values.get(place) != list.get(place));
            defects.extend(differ.map(|place| Defect::NotAPrefix { read, place }));
        }
        sound(defects)
    }
}

/// A set to which members are only added, each by one client: every acknowledged member is there,
/// none twice in one read, none that was refused or never added.
#[derive(Clone, Debug, Default)]
pub struct Members {
    written: Written,
}

impl Members {
    /// An addition.
    pub fn add(&mut self, client: ClientId, member: u64, fate: Fate) {
        self.written.add(client, member, fate);
    }

    /// Compares with the members read, in any order, when no addition can take effect any more.
    pub fn check(self, members: &[u64]) -> Result<(), Defects> {
        sound(self.written.presence(members.iter().copied()))
    }
}

/// Who wrote each value, when among its own, and with what fate.
#[derive(Clone, Debug, Default)]
struct Written {
    values: BTreeMap<u64, Writing>,
    repeated: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Writing {
    client: ClientId,
    place: usize,
    fate: Fate,
}

impl Written {
    fn add(&mut self, client: ClientId, value: u64, fate: Fate) {
        // Places grow over all clients, so within each client too.
        let place = self.values.len();
        match self.values.entry(value) {
            Entry::Occupied(_) => self.repeated.push(value),
            Entry::Vacant(entry) => {
                entry.insert(Writing { client, place, fate });
            }
        }
    }

    /// What is missing, there twice, or there without having been written.
    fn presence(&self, found: impl Iterator<Item = u64>) -> Vec<Defect> {
        let mut defects: Vec<_> = self.repeated.iter().copied().map(Defect::NotUnique).collect();
        let mut seen = BTreeSet::new();
        for value in found {
            if !seen.insert(value) {
                defects.push(Defect::Duplicated(value));
            } else if self.values.get(&value).is_none_or(|w| w.fate == Fate::Refused) {
                defects.push(Defect::Phantom(value));
            }
        }
        let acknowledged = self.values.iter().filter(|(_, w)| w.fate == Fate::Acknowledged);
        let lost = acknowledged.filter(|(value, _)| !seen.contains(value));
        defects.extend(lost.map(|(value, _)| Defect::Lost(*value)));
        defects
    }
}

/// Accounts between which amounts are moved: every atomic read of all of them has the same total.
#[derive(Clone, Debug)]
pub struct Bank {
    accounts: usize,
    total: i128,
    reads: usize,
    defects: Vec<Defect>,
}

impl Bank {
    /// Accounts that begin with these balances.
    pub fn new(balances: &[i64]) -> Self {
        let total = sum(balances);
        Bank { accounts: balances.len(), total, reads: 0, defects: Vec::new() }
    }

    /// A read of all accounts by one atomic operation.
    pub fn read(&mut self, balances: &[i64]) {
        let (read, accounts, total) = (self.reads, balances.len(), sum(balances));
        self.reads += 1;
        if accounts != self.accounts {
            self.defects.push(Defect::AccountsChanged { read, accounts });
        } else if total != self.total {
            self.defects.push(Defect::TotalChanged { read, total });
        }
    }

    /// The reads that did not fit.
    pub fn check(self) -> Result<(), Defects> {
        sound(self.defects)
    }
}

fn sum(balances: &[i64]) -> i128 {
    balances.iter().copied().map(i128::from).sum()
}

/// Keys whose versions only grow: no session reads an older version after a newer one.
#[derive(Clone, Debug, Default)]
pub struct MonotonicReads {
    seen: BTreeMap<(ClientId, u64), u64>,
    defects: Vec<Defect>,
}

impl MonotonicReads {
    /// A read, or a write, that returned to `client` before it sent the next that is given here.
    pub fn read(&mut self, client: ClientId, key: u64, version: u64) {
        let seen = self.seen.entry((client, key)).or_insert(version);
        if version < *seen {
            self.defects.push(Defect::WentBack { client, key, from: *seen, to: version });
        }
        *seen = version.max(*seen);
    }

    /// The reads that went back.
    pub fn check(self) -> Result<(), Defects> {
        sound(self.defects)
    }
}

#[cfg(test)]
mod tests {
    use super::Fate::{Acknowledged, Refused, Unknown};
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    fn found(result: Result<(), Defects>) -> Vec<Defect> {
        result.err().map_or(Vec::new(), |defects| defects.0)
    }

    fn counter(initial: i64, acknowledged: &[(i64, Option<i64>)], unknown: &[i64]) -> Counter {
        let mut counter = Counter::new(initial);
        acknowledged.iter().for_each(|(by, result)| counter.acknowledged(*by, *result));
        unknown.iter().for_each(|by| counter.unknown(*by));
        counter
    }

    #[test]
    fn a_counter_is_between_acknowledged_and_acknowledged_plus_unknown() {
        let counter = counter(10, &[(1, None), (5, None), (-2, None)], &[3, -4]);
        for (value, fits) in [(9, false), (10, true), (14, true), (17, true), (18, false)] {
            let defects = found(counter.clone().check(value));
            let out = Defect::CounterOutOfBounds { value, least: 10, most: 17 };
            assert_eq!(defects, if fits { vec![] } else { vec![out] });
        }
    }

    #[test]
    fn two_increments_with_the_same_result_are_a_lost_update() {
        assert_eq!(found(counter(0, &[(1, Some(1)), (1, Some(2))], &[]).check(2)), []);
        // The final value is saved by an unknown increment; the results still give it away.
        let defects = found(counter(0, &[(1, Some(1)), (1, Some(1))], &[1]).check(2));
        assert_eq!(defects, [Defect::IncrementsOverlap { first: 1, second: 1 }]);
        let defects = found(counter(0, &[(5, Some(6)), (3, Some(7))], &[]).check(8));
        assert_eq!(defects, [Defect::IncrementsOverlap { first: 6, second: 7 }]);
    }

    #[test]
    fn an_increment_result_beyond_the_counter_is_reported() {
        let defects = found(counter(0, &[(1, Some(3))], &[1, 1]).check(2));
        assert_eq!(defects, [Defect::IncrementOutOfBounds { result: 3 }]);
        let defects = found(counter(5, &[(1, Some(1))], &[]).check(6));
        assert_eq!(defects, [Defect::IncrementOutOfBounds { result: 1 }]);
    }

    fn pushes() -> Pushes {
        let mut pushes = Pushes::default();
        for (client, value, fate) in [
            (A, 1, Acknowledged),
            (A, 2, Unknown),
            (B, 10, Acknowledged),
            (A, 3, Acknowledged),
            (B, 11, Refused),
        ] {
            pushes.push(client, value, fate);
        }
        pushes
    }

    #[test]
    fn right_lists_are_accepted_with_an_unknown_push_absent_in_place_or_late() {
        for list in [vec![1, 10, 3], vec![10, 1, 2, 3], vec![1, 3, 10, 2]] {
            assert_eq!(found(pushes().check(&list)), []);
        }
    }

    #[test]
    fn lost_duplicated_phantom_and_misplaced_values_are_each_named() {
        use Defect::{Duplicated, Lost, NotUnique, OutOfOrder, Phantom};
        assert_eq!(found(pushes().check(&[1, 2, 3])), [Lost(10)]);
        assert_eq!(found(pushes().check(&[1, 2, 10, 2, 3])), [Duplicated(2)]);
        assert_eq!(found(pushes().check(&[1, 10, 3, 11])), [Phantom(11)]);
        assert_eq!(found(pushes().check(&[1, 10, 3, 99])), [Phantom(99)]);
        let defects = found(pushes().check(&[3, 10, 1]));
        assert_eq!(defects, [OutOfOrder { client: A, earlier: 1, later: 3 }]);
        let mut twice = pushes();
        twice.push(B, 1, Acknowledged);
        assert_eq!(found(twice.check(&[1, 10, 3])), [NotUnique(1)]);
    }

    #[test]
    fn every_read_of_a_growing_list_is_a_prefix_of_the_final_one() {
        let mut growing = pushes();
        for values in [vec![], vec![1], vec![1, 10], vec![1, 10, 3]] {
            growing.read(values);
        }
        assert_eq!(found(growing.clone().check(&[1, 10, 3])), []);
        growing.read(vec![1, 3]);
        growing.read(vec![1, 10, 3, 2]);
        let defects = found(growing.check(&[1, 10, 3]));
        let expected = [(4, 1), (5, 3)].map(|(read, place)| Defect::NotAPrefix { read, place });
        assert_eq!(defects, expected);
    }

    #[test]
    fn a_set_has_every_acknowledged_member_once_and_no_refused_one() {
        let members = || {
            let mut members = Members::default();
            members.add(A, 1, Acknowledged);
            members.add(B, 2, Unknown);
            members.add(A, 3, Refused);
            members
        };
        assert_eq!(found(members().check(&[1])), []);
        assert_eq!(found(members().check(&[2, 1])), []);
        assert_eq!(found(members().check(&[2])), [Defect::Lost(1)]);
        assert_eq!(found(members().check(&[1, 3])), [Defect::Phantom(3)]);
        assert_eq!(found(members().check(&[1, 1])), [Defect::Duplicated(1)]);
    }

    #[test]
    fn half_a_transfer_changes_the_total_of_the_bank() {
        let mut bank = Bank::new(&[100, 100, 0]);
        bank.read(&[70, 130, 0]);
        bank.read(&[70, 100, 0]);
        bank.read(&[-5, 205, 0]);
        bank.read(&[100, 100]);
        assert_eq!(
            found(bank.check()),
            [
                Defect::TotalChanged { read: 1, total: 170 },
                Defect::AccountsChanged { read: 3, accounts: 2 }
            ]
        );
        let mut sound = Bank::new(&[100, 100, 0]);
        sound.read(&[0, 0, 200]);
        assert_eq!(found(sound.check()), []);
    }

    #[test]
    fn a_session_that_reads_an_older_version_is_reported_and_others_are_not() {
        let mut reads = MonotonicReads::default();
        for (client, key, version) in [(A, 1, 5), (B, 1, 4), (A, 2, 1), (A, 1, 5), (B, 1, 6)] {
            reads.read(client, key, version);
        }
        assert_eq!(found(reads.clone().check()), []);
        reads.read(B, 1, 5);
        let error = reads.check().expect_err("B went from 6 to 5");
        assert_eq!(error.0, [Defect::WentBack { client: B, key: 1, from: 6, to: 5 }]);
        assert!(error.to_string().starts_with("1 defects\n  WentBack"), "{error}");
    }
}
