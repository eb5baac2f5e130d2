//! Faults that a test can switch on, and counters that it can read.
//! A rule names an operation, a path pattern (`*` any text, `?` any character) and what happens.
//! Space is charged by each file's high-water mark (writes and preallocation; holes below it count),
//! so overwriting and preallocated space stay writable on a full disk, and deleting gives space back.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fuser::Errno;

/// The operations that rules can name. `Fsync` covers files, directories and O_SYNC writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Fsync,
    Read,
    Write,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails; a failed sync loses what it should have saved.
    Eio,
    /// The operation (fsync only) waits first.
    Slow(Duration),
}

/// One switched-on fault.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The operation it strikes.
    pub op: Op,
    /// What it does.
    pub effect: Effect,
    /// Which paths, relative to the mount; a deleted file has the path "".
    pub pattern: String,
    /// How often it still strikes; `None` is always.
    pub left: Option<u64>,
}

macro_rules! counters {
    ($($name:ident: $doc:literal,)*) => {
        /// What happened since the mount.
        #[derive(Debug, Default)]
        pub struct Counters { $(#[doc = $doc] pub $name: AtomicU64,)* }
        impl Counters {
            /// Every counter by name.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

// A macro, so that no counter can be declared and left out of the listing.
counters! {
    fsyncs: "Syncs of files, O_SYNC writes included.",
    directory_fsyncs: "Syncs of directories.",
    reads: "Reads that reached the file system (the kernel answers others from its cache).",
    read_bytes: "Bytes of those reads.",
    writes: "Write requests.",
    write_bytes: "Bytes of those.",
    creates: "New files, directories, links.",
    renames: "Renames.",
    unlinks: "Removed names.",
    truncates: "Changes of size.",
    fallocates: "Preallocations and punched holes.",
    errors_injected: "Operations that a rule made fail, ENOSPC included.",
}

impl Counters {
    /// Counts `amount` more.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// The faults that are on.
#[derive(Debug, Default)]
pub struct Faults {
    /// Guards the rules; taken last, nothing is locked under it.
    rules: Mutex<Vec<Rule>>,
    any: AtomicBool,
}

impl Faults {
    /// Switches a rule on.
    pub fn add(&self, rule: Rule) {
        let mut rules = self.rules.lock().expect("no holder panics");
        rules.push(rule);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Switches all rules off.
    pub fn clear(&self) {
        self.rules.lock().expect("no holder panics").clear();
        self.any.store(false, Ordering::SeqCst);
    }

    /// True if any rule is on, so that paths need to be looked up.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// How long the operation has to wait, and whether it then fails. Uses up one stroke per rule.
    pub fn strike(&self, op: Op, paths: &[impl AsRef<Path>]) -> (Duration, Result<(), Errno>) {
        let mut delay = Duration::ZERO;
        let mut outcome = Ok(());
        let mut rules = self.rules.lock().expect("no holder panics");
        for rule in rules.iter_mut().filter(|rule| rule.op == op && rule.left != Some(0)) {
            let strikes = match paths {
                [] => matches(&rule.pattern, ""),
                paths => paths
                    .iter()
                    .any(|path| matches(&rule.pattern, &path.as_ref().to_string_lossy())),
            };
            if !strikes {
                continue;
            }
            rule.left = rule.left.map(|left| left - 1);
            match rule.effect {
                Effect::Slow(time) => delay += time,
                Effect::Eio => outcome = Err(Errno::EIO),
            }
        }
        (delay, outcome)
    }
}

/// True if the whole text fits the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    if first == '*' {
        let starts = text.char_indices().map(|(index, _)| index).chain([text.len()]);
        return starts.into_iter().any(|start| matches(rest, &text[start..]));
    }
    let Some(found) = text.chars().next() else { return false };
    (first == '?' || first == found) && matches(rest, &text[found.len_utf8()..])
}

/// The space on the disk.
#[derive(Debug, Default)]
pub struct Space {
    used: AtomicU64,
    /// `u64::MAX` is no limit.
    capacity: AtomicU64,
}

impl Space {
    /// No limit, nothing used.
    pub fn new() -> Self {
        Self { used: AtomicU64::new(0), capacity: AtomicU64::new(u64::MAX) }
    }

    /// Bytes used by files that have a name or are open.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::SeqCst)
    }

    /// Bytes left, `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        let capacity = self.capacity.load(Ordering::SeqCst);
        (capacity != u64::MAX).then(|| capacity.saturating_sub(self.used()))
    }

    /// From now on only `more` bytes fit; `None` lifts the limit.
    pub fn limit(&self, more: Option<u64>) {
        let capacity = more.map_or(u64::MAX, |more| self.used().saturating_add(more));
        self.capacity.store(capacity, Ordering::SeqCst);
    }

    /// Takes up to `wanted` bytes and says how many there were.
    pub fn take(&self, wanted: u64) -> u64 {
        let capacity = self.capacity.load(Ordering::SeqCst);
        let mut got = 0;
        let grab = |used: u64| {
            got = wanted.min(capacity.saturating_sub(used));
            Some(used + got)
        };
        // The closure never refuses, so neither does the update.
        let _ = self.used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, grab);
        got
    }

    /// Gives bytes back.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_paths() {
        for (pattern, text) in [("*", ""), ("*.log", "a/b.log"), ("a?c", "abc"), ("*x*y", "xaxby")]
        {
            assert!(matches(pattern, text), "{pattern} should fit {text:?}");
        }
        for (pattern, text) in [("", "a"), ("*.log", "b.logs"), ("a?c", "ac"), ("b", "a/b")] {
            assert!(!matches(pattern, text), "{pattern} should not fit {text:?}");
        }
    }

    #[test]
    fn a_rule_strikes_as_often_as_it_says() {
        let faults = Faults::default();
        let pattern = "*.log".to_owned();
        faults.add(Rule { op: Op::Fsync, effect: Effect::Eio, pattern, left: Some(1) });
        assert_eq!(faults.strike(Op::Fsync, &["a.sst"]).1, Ok(()));
        assert_eq!(faults.strike(Op::Write, &["a.log"]).1, Ok(()));
        assert_eq!(faults.strike(Op::Fsync, &["a.log"]).1, Err(Errno::EIO));
        assert_eq!(faults.strike(Op::Fsync, &["a.log"]).1, Ok(()));
    }

    #[test]
    fn space_runs_out_and_comes_back() {
        let space = Space::new();
        assert_eq!((space.take(100), space.left()), (100, None));
        space.limit(Some(10));
        assert_eq!((space.take(7), space.take(7), space.take(1)), (7, 3, 0));
        space.give_back(50);
        assert_eq!(space.left(), Some(50));
    }
}
