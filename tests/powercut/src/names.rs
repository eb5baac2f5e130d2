//! The name space: what each directory holds now, what of it is durable, and the operations between.
//! A name changes at once for the program and becomes durable when its directory is synced.
//! A rename is one operation: after a cut its file has the old name or the new one, never none; across
//! directories a file may have both, a directory never. Pure bookkeeping, no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The number of a file, directory or symbolic link on the disk.
pub type Ino = u64;
/// The root directory, as FUSE numbers it.
pub const ROOT: Ino = 1;
/// Operations that may wait for a directory sync; above it, changes are refused with ENOSPC.
/// Each takes about 150 bytes and may hold a deleted file back.
pub const PENDING_MAX: usize = 1 << 20;

/// The entries of one directory by name.
pub type Entries = BTreeMap<OsString, Ino>;

/// How un-synced directory operations survive a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Per directory the oldest operations survive, as in a journalled file system.
    Prefix,
    /// Any subset survives.
    Any,
}

/// One operation on one directory, waiting to become durable.
#[derive(Debug)]
struct Pending {
    /// Name by name what it sets (`Some`) or removes (`None`), all or nothing.
    changes: Vec<(OsString, Option<Ino>)>,
    /// The other half of a rename across directories, without which this half must not survive.
    needs: Option<Ino>,
}

#[derive(Debug, Default)]
struct Directory {
    now: Entries,
    durable: Entries,
    /// By sequence number; both halves of a rename have the same.
    pending: BTreeMap<u64, Pending>,
}

/// The whole name space.
#[derive(Debug)]
pub struct Names {
    directories: HashMap<Ino, Directory>,
    /// The names that each inode has now.
    names_of: HashMap<Ino, BTreeSet<(Ino, OsString)>>,
    /// How many entries and waiting operations mention an inode, now or durably.
    mentions: HashMap<Ino, usize>,
    unmentioned: Vec<Ino>,
    next_sequence: u64,
    pending: usize,
}

impl Names {
    /// An empty root directory.
    pub fn new() -> Self {
        Self {
            directories: HashMap::from([(ROOT, Directory::default())]),
            names_of: HashMap::new(),
            mentions: HashMap::from([(ROOT, 1)]),
            unmentioned: Vec::new(),
            next_sequence: 1,
            pending: 0,
        }
    }

    /// What the directory holds now; `None` if it is no directory.
    pub fn entries(&self, directory: Ino) -> Option<&Entries> {
        Some(&self.directories.get(&directory)?.now)
    }

    /// What the directory holds durably.
    pub fn durable_entries(&self, directory: Ino) -> Option<&Entries> {
        Some(&self.directories.get(&directory)?.durable)
    }

    /// The inode behind a name now.
    pub fn find(&self, directory: Ino, name: &OsStr) -> Option<Ino> {
        self.entries(directory)?.get(name).copied()
    }

    /// How many names an inode has now.
    pub fn links(&self, ino: Ino) -> usize {
        self.names_of.get(&ino).map_or(0, BTreeSet::len)
    }

    /// The directory that holds a directory now; the root holds itself.
    pub fn parent(&self, directory: Ino) -> Ino {
        let names = self.names_of.get(&directory);
        names.and_then(BTreeSet::first).map_or(ROOT, |(parent, _)| *parent)
    }

    /// Every path of an inode now, relative to the root. None for a deleted file.
    pub fn paths(&self, ino: Ino) -> Vec<PathBuf> {
        if ino == ROOT {
            return vec![PathBuf::new()];
        }
        let names = self.names_of.get(&ino).into_iter().flatten();
        let mut paths = Vec::new();
        for (parent, name) in names {
            paths.extend(self.paths(*parent).into_iter().map(|above| above.join(name)));
        }
        paths
    }

    /// True while any entry or waiting operation mentions the inode.
    pub fn mentioned(&self, ino: Ino) -> bool {
        self.mentions.contains_key(&ino)
    }

    /// Inodes that nothing mentions any more, since the last call.
    pub fn take_unmentioned(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.unmentioned)
    }

    /// Operations that wait for a directory sync.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Declares `ino` to be a directory; `set` gives it a name.
    pub fn add_directory(&mut self, ino: Ino) {
        self.directories.insert(ino, Directory::default());
    }

    /// Gives `ino` a name, or with `None` removes the name, as one operation.
    pub fn set(&mut self, directory: Ino, name: &OsStr, ino: Option<Ino>) {
        let sequence = self.sequence();
        self.change_now(directory, name, ino);
        self.push(sequence, directory, vec![(name.to_owned(), ino)], None);
    }

    /// Moves a name, replacing what had the new one.
    pub fn rename(&mut self, from: (Ino, &OsStr), to: (Ino, &OsStr), ino: Ino) {
        let sequence = self.sequence();
        self.change_now(from.0, from.1, None);
        self.change_now(to.0, to.1, Some(ino));
        let removed = (from.1.to_owned(), None);
        let added = (to.1.to_owned(), Some(ino));
        if from.0 == to.0 {
            return self.push(sequence, from.0, vec![removed, added], None);
        }
        let together = self.directories.contains_key(&ino).then_some(from.0);
        self.push(sequence, to.0, vec![added], together);
        self.push(sequence, from.0, vec![removed], Some(to.0));
    }

    /// Makes the operations of one directory durable, with what they need elsewhere.
    pub fn sync(&mut self, directory: Ino) {
        let Some(found) = self.directories.get(&directory) else { return };
        let picked = found.pending.keys().map(|sequence| (*sequence, directory)).collect();
        self.commit(picked, Order::Prefix);
    }

    /// Makes every operation that gave `ino` a name durable, and so for the directories above it.
    pub fn sync_names_of(&mut self, ino: Ino) {
        let parents: BTreeSet<Ino> =
            self.names_of.get(&ino).into_iter().flatten().map(|(parent, _)| *parent).collect();
        for parent in parents {
            let Some(found) = self.directories.get(&parent) else { continue };
            let naming = |change: &(OsString, Option<Ino>)| change.1 == Some(ino);
            let picked: BTreeSet<_> = found
                .pending
                .iter()
                .filter(|(_, pending)| pending.changes.iter().any(naming))
                .map(|(sequence, _)| (*sequence, parent))
                .collect();
            if !picked.is_empty() {
                self.commit(picked, Order::Prefix);
                self.sync_names_of(parent);
            }
        }
    }

    /// Makes everything durable.
    pub fn sync_all(&mut self) {
        let picked = self.waiting().into_iter().collect();
        self.commit(picked, Order::Prefix);
    }

    /// Every waiting operation as (sequence, directory), oldest first.
    pub fn waiting(&self) -> Vec<(u64, Ino)> {
        let all = self.directories.iter();
        let mut waiting: Vec<_> =
            all.flat_map(|(ino, d)| d.pending.keys().map(|sequence| (*sequence, *ino))).collect();
        waiting.sort_unstable();
        waiting
    }

    /// Makes the picked operations durable, with those without which they cannot be.
    /// Returns how many that were.
    pub fn commit(&mut self, picked: BTreeSet<(u64, Ino)>, order: Order) -> usize {
        let all = self.with_needed(picked, order);
        for &(sequence, directory) in &all {
            let Some(found) = self.directories.get_mut(&directory) else { continue };
            let Some(pending) = found.pending.remove(&sequence) else { continue };
            self.pending -= 1;
            for (name, ino) in pending.changes {
                self.change_durable(directory, name, ino);
            }
        }
        all.len()
    }

    /// Forgets a directory that nothing mentions, and what it mentioned.
    pub fn drop_directory(&mut self, ino: Ino) {
        let Some(gone) = self.directories.remove(&ino) else { return };
        self.pending -= gone.pending.len();
        let waiting = gone.pending.into_values().flat_map(|pending| pending.changes);
        let mentioned: Vec<Ino> = waiting
            .filter_map(|(_, ino)| ino)
            .chain(gone.durable.into_values())
            .chain(gone.now.into_values())
            .collect();
        for other in mentioned {
            self.unmention(other);
        }
    }

    fn with_needed(&self, picked: BTreeSet<(u64, Ino)>, order: Order) -> BTreeSet<(u64, Ino)> {
        let mut queue: Vec<(u64, Ino)> = picked.into_iter().rev().collect();
        let mut all = BTreeSet::new();
        while let Some((sequence, directory)) = queue.pop() {
            let Some(found) = self.directories.get(&directory) else { continue };
            let Some(pending) = found.pending.get(&sequence) else { continue };
            if !all.insert((sequence, directory)) {
                continue;
            }
            queue.extend(pending.needs.map(|other| (sequence, other)));
            if order == Order::Prefix {
                // One step back is enough: the earlier one brings its own predecessor.
                let before = found.pending.range(..sequence).next_back();
                queue.extend(before.map(|(earlier, _)| (*earlier, directory)));
            }
        }
        all
    }

    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }

    fn push(
        &mut self,
        sequence: u64,
        directory: Ino,
        changes: Vec<(OsString, Option<Ino>)>,
        needs: Option<Ino>,
    ) {
        for ino in changes.iter().filter_map(|(_, ino)| *ino) {
            self.mention(ino);
        }
        if let Some(found) = self.directories.get_mut(&directory) {
            found.pending.insert(sequence, Pending { changes, needs });
            self.pending += 1;
        }
    }

    fn change_now(&mut self, directory: Ino, name: &OsStr, ino: Option<Ino>) {
        let Some(found) = self.directories.get_mut(&directory) else { return };
        let before = match ino {
            Some(ino) => found.now.insert(name.to_owned(), ino),
            None => found.now.remove(name),
        };
        if let Some(before) = before {
            let names = self.names_of.entry(before).or_default();
            names.remove(&(directory, name.to_owned()));
            if names.is_empty() {
                self.names_of.remove(&before);
            }
        }
        if let Some(ino) = ino {
            self.names_of.entry(ino).or_default().insert((directory, name.to_owned()));
            self.mention(ino);
        }
        if let Some(before) = before {
            self.unmention(before);
        }
    }

    /// Carries one waiting change over; its mention goes over to the durable entry.
    fn change_durable(&mut self, directory: Ino, name: OsString, ino: Option<Ino>) {
        let Some(found) = self.directories.get_mut(&directory) else { return };
        let before = match ino {
            Some(ino) => found.durable.insert(name, ino),
            None => found.durable.remove(&name),
        };
        if let Some(before) = before {
            self.unmention(before);
        }
    }

    fn mention(&mut self, ino: Ino) {
        *self.mentions.entry(ino).or_insert(0) += 1;
    }

    fn unmention(&mut self, ino: Ino) {
        let Some(count) = self.mentions.get_mut(&ino) else { return };
        *count -= 1;
        if *count == 0 {
            self.mentions.remove(&ino);
            self.unmentioned.push(ino);
        }
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
