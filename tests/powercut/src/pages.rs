//! The un-synced content of one file: the object on the backing folder holds what the program sees,
//! and for every page changed since the last sync this holds what the page was before.
//! Invariant: a page that is not in `old` is the same now and durably (zeros beyond the durable size).
//! A failed sync leaves its pages lost, as Linux does: clean in the cache, not on the disk, and a later
//! successful sync does not bring them back; only writing them again does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::rng::Rng;

/// What the disk writes out independently of the rest.
pub const PAGE: u64 = 4096;
/// What the disk writes without tearing.
pub const SECTOR: usize = 512;

/// What becomes of the un-synced content of one file in a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing survives.
    Drop,
    /// Everything survives: the disk had written it out.
    Keep,
    /// A random subset of pages survives.
    Subset,
    /// As `Subset`, and one page is half old, half new, by sectors.
    Torn,
}

impl Fate {
    /// A random fate; dropping is the most frequent.
    pub fn random(rng: &mut Rng) -> Self {
        match rng.below(10) {
            0..=3 => Self::Drop,
            4..=6 => Self::Subset,
            7..=8 => Self::Torn,
            _ => Self::Keep,
        }
    }
}

/// How many pages a cut kept, dropped and tore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survived {
    /// Un-synced pages that survived.
    pub kept: u64,
    /// Un-synced pages that went back to what they were.
    pub dropped: u64,
    /// Pages that are part old, part new.
    pub torn: u64,
}

#[derive(Debug)]
struct Old {
    /// `None` is zeros: the page lay beyond the durable content.
    bytes: Option<Box<[u8; PAGE as usize]>>,
    lost: bool,
}

/// The un-synced content of one file.
#[derive(Debug, Default)]
pub struct Pages {
    size: u64,
    durable_size: u64,
    /// The smallest size below the durable one that the file had since the last sync.
    shrunk_to: Option<u64>,
    old: BTreeMap<u64, Old>,
}

impl Pages {
    /// A file whose content is durable.
    pub fn durable(size: u64) -> Self {
        Self { size, durable_size: size, ..Self::default() }
    }

    /// The size that the program sees.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Un-synced pages.
    pub fn unsynced(&self) -> u64 {
        self.old.len() as u64
    }

    /// True if a cut now could change nothing.
    pub fn is_durable(&self) -> bool {
        self.old.is_empty() && self.size == self.durable_size && self.shrunk_to.is_none()
    }

    /// Remembers what `offset..offset + length` was; call it before the object changes there.
    pub fn before_change(&mut self, object: &File, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        for page in offset / PAGE..(offset + length).div_ceil(PAGE) {
            if let Some(known) = self.old.get_mut(&page) {
                known.lost = false;
                continue;
            }
            let bytes = match page * PAGE < self.durable_size {
                true => Some(read_page(object, page)?),
                false => None,
            };
            self.old.insert(page, Old { bytes, lost: false });
        }
        Ok(())
    }

    /// The file now reaches at least to `end`.
    pub fn grown_to(&mut self, end: u64) {
        self.size = self.size.max(end);
    }

    /// Remembers what a change of size cuts off; call it before the object's size changes.
    pub fn before_resize(&mut self, object: &File, size: u64) -> io::Result<()> {
        let reach = self.size.min(self.durable_size);
        if size < reach {
            for page in size / PAGE..reach.div_ceil(PAGE) {
                if let Entry::Vacant(unknown) = self.old.entry(page) {
                    let bytes = Some(read_page(object, page)?);
                    unknown.insert(Old { bytes, lost: false });
                }
            }
        }
        if size < self.durable_size {
            self.shrunk_to = Some(self.shrunk_to.map_or(size, |least| least.min(size)));
        }
        self.size = size;
        Ok(())
    }

    /// The content and size are durable now, but for pages lost before.
    pub fn synced(&mut self) {
        let size = self.size;
        self.old.retain(|page, old| old.lost && page * PAGE < size);
        self.durable_size = size;
        self.shrunk_to = None;
    }

    /// A sync failed: what waited is lost unless it is written again.
    pub fn sync_failed(&mut self) {
        self.old.values_mut().for_each(|old| old.lost = true);
    }

    /// Makes the object what survives a cut.
    pub fn cut(&mut self, object: &File, fate: Fate, rng: &mut Rng) -> io::Result<Survived> {
        let fate = match fate {
            // Old pages beyond a cut-off cannot mix with what was written after it.
            Fate::Subset | Fate::Torn if self.shrunk_to.is_some() && rng.chance(50) => Fate::Drop,
            fate => fate,
        };
        let percent = match fate {
            Fate::Drop => 0,
            Fate::Keep => 100,
            Fate::Subset | Fate::Torn => 10 + rng.below(81),
        };
        let baseline = match fate {
            Fate::Drop => self.durable_size,
            _ => self.durable_size.min(self.shrunk_to.unwrap_or(u64::MAX)),
        };
        let torn = self.pick_torn(fate, rng);
        let mut size = match fate {
            Fate::Drop => self.durable_size,
            Fate::Keep => self.size,
            // A new size can reach the disk before the pages do: its tail reads as zeros.
            Fate::Subset | Fate::Torn if rng.chance(25) => self.size.max(baseline),
            Fate::Subset | Fate::Torn => baseline,
        };
        let mut survived = Survived::default();
        for (page, old) in std::mem::take(&mut self.old) {
            let end = (page * PAGE + PAGE).min(self.size);
            if Some(page) == torn {
                tear(object, page, &old, baseline, rng)?;
                survived.torn += 1;
                size = size.max(end);
            } else if !old.lost && rng.chance(percent) {
                survived.kept += 1;
                size = size.max(end);
            } else {
                survived.dropped += 1;
                object.write_all_at(&before(&old, page, baseline), page * PAGE)?;
            }
        }
        object.set_len(size)?;
        *self = Self::durable(size);
        Ok(survived)
    }

    fn pick_torn(&self, fate: Fate, rng: &mut Rng) -> Option<u64> {
        if fate != Fate::Torn {
            return None;
        }
        let fresh: Vec<u64> =
            self.old.iter().filter(|(_, old)| !old.lost).map(|(page, _)| *page).collect();
        fresh.get(usize::try_from(rng.below(fresh.len() as u64)).ok()?).copied()
    }
}

/// What the page was, with zeros from `baseline` on.
fn before(old: &Old, page: u64, baseline: u64) -> [u8; PAGE as usize] {
    let mut bytes = old.bytes.as_deref().copied().unwrap_or([0; PAGE as usize]);
    let keep = baseline.saturating_sub(page * PAGE).min(PAGE);
    for byte in bytes.iter_mut().skip(keep as usize) {
        *byte = 0;
    }
    bytes
}

/// Leaves at least one sector new and at least one old.
fn tear(object: &File, page: u64, old: &Old, baseline: u64, rng: &mut Rng) -> io::Result<()> {
    let mut bytes = read_page(object, page)?;
    let sectors = bytes.len() / SECTOR;
    let mask = 1 + rng.below((1 << sectors) - 2);
    let before = before(old, page, baseline);
    let pairs = bytes.chunks_mut(SECTOR).zip(before.chunks(SECTOR));
    for (index, (now, then)) in pairs.enumerate() {
        if mask >> index & 1 == 1 {
            now.copy_from_slice(then);
        }
    }
    object.write_all_at(&bytes[..], page * PAGE)
}

fn read_page(object: &File, page: u64) -> io::Result<Box<[u8; PAGE as usize]>> {
    let mut bytes = Box::new([0; PAGE as usize]);
    let mut rest = &mut bytes[..];
    let mut at = page * PAGE;
    while !rest.is_empty() {
        match object.read_at(rest, at)? {
            0 => break,
            count => {
                at += count as u64;
                rest = rest.split_at_mut(count).1;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
