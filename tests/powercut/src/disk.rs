//! The disk: inodes, names, power, faults. Every operation of the program is one method here and holds
//! the power for reading, so that a cut falls between operations, never into one.
//! What a program sees lives in objects on the backing folder; see `pages` and `names` for what is durable.
//! The disk itself does not survive the death of its process: it then refuses to start again.

mod content;

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard};
use std::time::SystemTime;

use fuser::Errno;

use crate::faults::{Counters, Faults, Space};
use crate::inode::{Attributes, Body, Inode, Kind};
use crate::names::{Entries, Ino, Names, Order, PENDING_MAX, ROOT};
use crate::pages::{Fate, PAGE, Survived};
use crate::rng::Rng;
use crate::tree;

/// The result of an operation of the program.
pub type Outcome<T> = Result<T, Errno>;

/// How a cut chooses what survives.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The fate of every file, or one at random for each.
    pub files: Option<Fate>,
    /// The fate of every directory: dropped, kept, or at random.
    pub directories: Option<bool>,
    /// How directory operations survive at random.
    pub order: Order,
    /// Fixes the random choices.
    pub seed: u64,
}

/// What a cut did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Files that had un-synced content.
    pub files_unsynced: u64,
    /// Page by page what became of it.
    pub pages: Survived,
    /// Directory operations that waited.
    pub names_unsynced: u64,
    /// Those that survived.
    pub names_kept: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    On,
    Off,
}

/// An inode and how often the kernel has looked it up.
struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

struct Table {
    names: Names,
    inodes: HashMap<Ino, Known>,
    next_ino: Ino,
}

/// Settings of a disk.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The backing folder: `disk/` in it holds the durable tree while the disk is not mounted.
    pub backing: PathBuf,
    /// fsync of a file also makes its names durable, as ext4 does in practice. Off by default.
    pub fsync_names: bool,
    /// Un-synced pages that may be held; above it, writes are refused with ENOSPC.
    pub unsynced_pages_max: u64,
}

/// The disk.
pub struct Disk {
    settings: Settings,
    /// First in the lock order; see `Inode::body`.
    power: RwLock<Power>,
    table: Mutex<Table>,
    unsynced_pages: AtomicU64,
    /// The faults that are on.
    pub faults: Faults,
    /// What happened so far.
    pub counters: Counters,
    /// The space on the disk.
    pub space: Space,
}

impl Disk {
    /// Takes over the tree in `backing/disk`, or makes an empty one.
    pub fn open(settings: Settings) -> io::Result<Self> {
        let (names, inodes) = tree::load(&settings.backing)?;
        let next_ino = inodes.iter().map(|inode| inode.ino).max().unwrap_or(ROOT) + 1;
        let space = Space::new();
        for inode in &inodes {
            space.take(inode.body().charged_to);
        }
        let known = |inode: Inode| (inode.ino, Known { inode: Arc::new(inode), lookups: 0 });
        let inodes = inodes.into_iter().map(known).collect();
        Ok(Self {
            settings,
            power: RwLock::new(Power::On),
            table: Mutex::new(Table { names, inodes, next_ino }),
            unsynced_pages: AtomicU64::new(0),
            faults: Faults::default(),
            counters: Counters::default(),
            space,
        })
    }

    /// Cuts the power: from here on every operation fails, and the backing folder holds what survived.
    pub fn cut(&self, cut: Cut) -> io::Result<Report> {
        let mut power = self.power.write().expect("no holder panics");
        if *power == Power::Off {
            return Err(io::Error::other("the power is off already"));
        }
        *power = Power::Off;
        let mut table = self.table();
        let rng = Rng::new(cut.seed);
        let mut report = Report::default();
        cut_names(&mut table.names, cut, rng.fork(0), &mut report);
        for known in table.inodes.values() {
            let inode = &known.inode;
            let mut body = inode.body();
            body.attributes = body.durable_attributes;
            if inode.kind != Kind::File || body.pages.is_durable() {
                continue;
            }
            let mut own = rng.fork(inode.ino);
            let fate = cut.files.unwrap_or_else(|| Fate::random(&mut own));
            let object = self.object(inode.ino, &mut body)?;
            report.files_unsynced += 1;
            let survived = body.pages.cut(&object, fate, &mut own)?;
            report.pages.kept += survived.kept;
            report.pages.dropped += survived.dropped;
            report.pages.torn += survived.torn;
        }
        self.save(&mut table)?;
        Ok(report)
    }

    /// Switches off in order: everything becomes durable first. Does nothing after a cut.
    pub fn shut_down(&self) -> io::Result<()> {
        let mut power = self.power.write().expect("no holder panics");
        if *power == Power::Off {
            return Ok(());
        }
        *power = Power::Off;
        let mut table = self.table();
        table.names.sync_all();
        for known in table.inodes.values() {
            let mut body = known.inode.body();
            body.durable_attributes = body.attributes;
        }
        self.save(&mut table)
    }

    /// Pages and directory operations that a cut could take away now.
    pub fn unsynced(&self) -> (u64, u64) {
        (self.unsynced_pages.load(Ordering::Relaxed), self.table().names.pending() as u64)
    }

    /// The files that exist, for telling the kernel to forget what it cached.
    pub fn files(&self) -> Vec<Ino> {
        self.table().inodes.keys().copied().collect()
    }

    /// Where the backing folder is.
    pub fn backing(&self) -> &Path {
        &self.settings.backing
    }

    /// Looks a name up and counts the kernel's reference.
    pub fn look_up(&self, parent: Ino, name: &OsStr) -> Outcome<Stat> {
        let _power = self.power()?;
        let mut table = self.table();
        let ino = table.names.find(parent, name).ok_or(Errno::ENOENT)?;
        table.entry(ino)
    }

    /// The kernel gives references back.
    pub fn forget(&self, ino: Ino, lookups: u64) {
        let Ok(_power) = self.power() else { return };
        let mut table = self.table();
        if let Some(known) = table.inodes.get_mut(&ino) {
            known.lookups = known.lookups.saturating_sub(lookups);
        }
        self.sweep(&mut table, vec![ino]);
    }

    /// The attributes of an inode.
    pub fn stat(&self, ino: Ino) -> Outcome<Stat> {
        let _power = self.power()?;
        let (inode, links) = {
            let table = self.table();
            (table.inode(ino)?, table.links(ino))
        };
        Ok(Stat::of(inode, links))
    }

    /// Where a symbolic link points.
    pub fn read_link(&self, ino: Ino) -> Outcome<PathBuf> {
        let _power = self.power()?;
        match &self.table().inode(ino)?.kind {
            Kind::Symlink(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Every entry of a directory now, with `.` and `..`.
    pub fn list(&self, ino: Ino) -> Outcome<Vec<(Ino, Kind, OsString)>> {
        let _power = self.power()?;
        let table = self.table();
        let entries = table.names.entries(ino).ok_or(Errno::ENOTDIR)?;
        let mut list = vec![
            (ino, Kind::Directory, ".".into()),
            (table.names.parent(ino), Kind::Directory, "..".into()),
        ];
        for (name, ino) in entries {
            list.push((*ino, table.inode(*ino)?.kind.clone(), name.clone()));
        }
        Ok(list)
    }

    /// Makes a file, directory or symbolic link; a file is opened once if `open` is set.
    pub fn make(
        &self,
        parent: Ino,
        name: &OsStr,
        kind: Kind,
        owner: (u32, u32),
        mode: u32,
        open: bool,
    ) -> Outcome<Stat> {
        let _power = self.power()?;
        let mut table = self.table();
        self.check_new_name(&table, parent, name)?;
        let ino = table.next_ino;
        let now = SystemTime::now();
        let attributes = Attributes {
            mode: mode & 0o7777,
            uid: owner.0,
            gid: owner.1,
            atime: now,
            mtime: now,
            ctime: now,
        };
        let inode = Arc::new(Inode::new(ino, kind, attributes, 0, 0));
        match inode.kind {
            Kind::Directory => table.names.add_directory(ino),
            Kind::Symlink(_) => {}
            Kind::File => {
                let path = tree::object(&self.settings.backing, ino);
                let object =
                    OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
                if open {
                    let mut body = inode.body();
                    body.object = Some(Arc::new(object));
                    body.opens = 1;
                }
            }
        }
        table.next_ino += 1;
        table.names.set(parent, name, Some(ino));
        table.inodes.insert(ino, Known { inode, lookups: 0 });
        touch(&table, parent);
        Counters::add(&self.counters.creates, 1);
        table.entry(ino)
    }

    /// Gives a file one more name.
    pub fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Outcome<Stat> {
        let _power = self.power()?;
        let mut table = self.table();
        self.check_new_name(&table, parent, name)?;
        if table.inode(ino)?.kind == Kind::Directory {
            return Err(Errno::EPERM);
        }
        table.names.set(parent, name, Some(ino));
        touch(&table, parent);
        Counters::add(&self.counters.creates, 1);
        table.entry(ino)
    }

    /// Removes a name; `directory` says which kind it has to be.
    pub fn remove(&self, parent: Ino, name: &OsStr, directory: bool) -> Outcome<()> {
        let _power = self.power()?;
        let mut table = self.table();
        let ino = table.names.find(parent, name).ok_or(Errno::ENOENT)?;
        match (table.names.entries(ino).map(Entries::is_empty), directory) {
            (Some(_), false) => return Err(Errno::EISDIR),
            (None, true) => return Err(Errno::ENOTDIR),
            (Some(false), true) => return Err(Errno::ENOTEMPTY),
            (Some(true), true) | (None, false) => {}
        }
        table.names.set(parent, name, None);
        touch(&table, parent);
        Counters::add(&self.counters.unlinks, 1);
        self.name_lost(&mut table, ino);
        Ok(())
    }

    /// Moves a name, replacing what is there unless `keep_target`.
    pub fn rename(&self, from: (Ino, &OsStr), to: (Ino, &OsStr), keep_target: bool) -> Outcome<()> {
        let _power = self.power()?;
        let mut table = self.table();
        let ino = table.names.find(from.0, from.1).ok_or(Errno::ENOENT)?;
        self.check_room(&table)?;
        let replaced = table.names.find(to.0, to.1);
        if let Some(target) = replaced {
            let of_directory = table.names.entries(ino).is_some();
            match (table.names.entries(target).map(Entries::is_empty), of_directory) {
                _ if keep_target => return Err(Errno::EEXIST),
                (Some(_), false) => return Err(Errno::EISDIR),
                (None, true) => return Err(Errno::ENOTDIR),
                (Some(false), true) => return Err(Errno::ENOTEMPTY),
                (Some(true), true) | (None, false) => {}
            }
        }
        if replaced == Some(ino) {
            return Ok(());
        }
        table.names.rename(from, to, ino);
        touch(&table, from.0);
        touch(&table, to.0);
        Counters::add(&self.counters.renames, 1);
        if let Some(target) = replaced {
            self.name_lost(&mut table, target);
        }
        Ok(())
    }

    /// Changes attributes other than the size.
    pub fn change(&self, ino: Ino, apply: impl FnOnce(&mut Attributes)) -> Outcome<()> {
        let _power = self.power()?;
        let inode = self.table().inode(ino)?;
        let mut body = inode.body();
        apply(&mut body.attributes);
        body.attributes.ctime = SystemTime::now();
        Ok(())
    }

    fn power(&self) -> Outcome<RwLockReadGuard<'_, Power>> {
        let power = self.power.read().expect("no holder panics");
        if *power == Power::Off { Err(Errno::EIO) } else { Ok(power) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder panics")
    }

    fn save(&self, table: &mut Table) -> io::Result<()> {
        let inodes = table.inodes.values().map(|known| (known.inode.ino, &*known.inode)).collect();
        tree::save(&self.settings.backing, &table.names, &inodes)
    }

    fn no_space(&self) -> Errno {
        Counters::add(&self.counters.errors_injected, 1);
        Errno::ENOSPC
    }

    fn check_new_name(&self, table: &Table, parent: Ino, name: &OsStr) -> Outcome<()> {
        let entries = table.names.entries(parent).ok_or(Errno::ENOTDIR)?;
        if entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if table.links(parent) == 0 {
            return Err(Errno::ENOENT);
        }
        if self.space.left() == Some(0) {
            return Err(self.no_space());
        }
        self.check_room(table)
    }

    fn check_room(&self, table: &Table) -> Outcome<()> {
        if table.names.pending() >= PENDING_MAX { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Gives the space of a file without name and handle back, and removes it if nothing mentions it.
    fn name_lost(&self, table: &mut Table, ino: Ino) {
        if let Ok(inode) = table.inode(ino) {
            let mut body = inode.body();
            if table.links(ino) == 0 && body.opens == 0 {
                self.space.give_back(std::mem::take(&mut body.charged_to));
            }
        }
        self.sweep(table, vec![ino]);
    }

    fn sweep_unmentioned(&self, table: &mut Table) {
        let gone = table.names.take_unmentioned();
        self.sweep(table, gone);
    }

    /// Removes those inodes that no name, operation, handle or kernel reference needs.
    fn sweep(&self, table: &mut Table, mut candidates: Vec<Ino>) {
        while let Some(ino) = candidates.pop() {
            let Some(known) = table.inodes.get(&ino) else { continue };
            let body = known.inode.body();
            if ino == ROOT || known.lookups > 0 || body.opens > 0 || table.names.mentioned(ino) {
                continue;
            }
            let unsynced = body.pages.unsynced();
            drop(body);
            self.unsynced_pages.fetch_sub(unsynced, Ordering::Relaxed);
            match known.inode.kind {
                Kind::Directory => table.names.drop_directory(ino),
                Kind::Symlink(_) => {}
                Kind::File => {
                    let path = tree::object(&self.settings.backing, ino);
                    if let Err(error) = std::fs::remove_file(&path) {
                        eprintln!("powercut: cannot remove {}: {error}", path.display());
                    }
                }
            }
            table.inodes.remove(&ino);
            candidates.extend(table.names.take_unmentioned());
        }
    }
}

impl Table {
    fn inode(&self, ino: Ino) -> Outcome<Arc<Inode>> {
        Ok(self.inodes.get(&ino).ok_or(Errno::ESTALE)?.inode.clone())
    }

    /// As stat(2) counts them; 1 for a directory, as file systems do that do not count.
    fn links(&self, ino: Ino) -> usize {
        if ino == ROOT { 1 } else { self.names.links(ino) }
    }

    /// Attributes for a reply that gives the kernel one more reference.
    fn entry(&mut self, ino: Ino) -> Outcome<Stat> {
        let links = self.links(ino);
        let known = self.inodes.get_mut(&ino).ok_or(Errno::ESTALE)?;
        known.lookups += 1;
        Ok(Stat::of(known.inode.clone(), links))
    }
}

/// An inode and how many names it has; the attributes are read from it without the table's lock.
#[derive(Debug)]
pub struct Stat {
    /// The inode.
    pub inode: Arc<Inode>,
    /// Its names.
    pub links: usize,
}

impl Stat {
    fn of(inode: Arc<Inode>, links: usize) -> Self {
        Self { inode, links }
    }
}

fn touch(table: &Table, directory: Ino) {
    if let Ok(inode) = table.inode(directory) {
        modified(&mut inode.body());
    }
}

fn modified(body: &mut Body) {
    let now = SystemTime::now();
    body.attributes.mtime = now;
    body.attributes.ctime = now;
}

fn cut_names(names: &mut Names, cut: Cut, mut rng: Rng, report: &mut Report) {
    let waiting = names.waiting();
    report.names_unsynced = waiting.len() as u64;
    let mut lengths: HashMap<Ino, (u64, u64)> = HashMap::new();
    for (_, directory) in &waiting {
        lengths.entry(*directory).or_default().0 += 1;
    }
    for (directory, (length, kept)) in &mut lengths {
        *kept = rng.fork(*directory).below(*length + 1);
    }
    let mut picked = BTreeSet::new();
    for (sequence, directory) in waiting {
        let Some((_, left)) = lengths.get_mut(&directory) else { continue };
        let survives = match (cut.directories, cut.order) {
            (Some(all), _) => all,
            (None, Order::Any) => rng.chance(50),
            (None, Order::Prefix) => *left > 0,
        };
        *left = left.saturating_sub(1);
        if survives {
            picked.insert((sequence, directory));
        }
    }
    report.names_kept = names.commit(picked, cut.order) as u64;
}

/// The bound on un-synced pages that a number of MiB makes.
pub fn pages_of_mib(mib: u64) -> u64 {
    mib * 1024 * 1024 / PAGE
}
