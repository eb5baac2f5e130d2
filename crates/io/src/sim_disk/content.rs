//! What a simulated disk stores, the bytes of a file or the names of a directory, and what a
//! power cut leaves of changes that were not synced.
//! A file keeps any subset of the 512-byte sectors written; a sector is whole or untouched.
//! A directory keeps a prefix of its changes, in their order.

use std::collections::BTreeMap;

use super::SECTOR_BYTES;
use super::journal::{Content, Journaled};
use crate::random::Random;

/// A file or directory, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) u64);

/// The bytes of a file.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Bytes(pub(super) Vec<u8>);

#[derive(Debug, Clone, Hash)]
pub(super) enum FileChange {
    Write { offset: usize, bytes: Vec<u8> },
    Resize { len: usize },
    FlipBit { byte: usize, bit: u8 },
}

impl Bytes {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if end > self.0.len() {
            self.0.resize(end, 0);
        }
        self.0[offset..end].copy_from_slice(bytes);
    }
}

impl Content for Bytes {
    type Change = FileChange;

    fn apply(&mut self, change: &FileChange) {
        match change {
            FileChange::Write { offset, bytes } => self.write(*offset, bytes),
            FileChange::Resize { len } => self.0.resize(*len, 0),
            FileChange::FlipBit { byte, bit } => {
                if let Some(byte) = self.0.get_mut(*byte) {
                    *byte ^= 1 << bit;
                }
            }
        }
    }
}

/// The names in a directory.
#[derive(Debug, Clone, Default, Hash)]
pub(super) struct Names(pub(super) BTreeMap<String, NodeId>);

#[derive(Debug, Clone, Hash)]
pub(super) enum NameChange {
    Add { name: String, node: NodeId },
    Remove { name: String },
    Rename { from: String, to: String, node: NodeId },
}

impl NameChange {
    /// The node that this change gives a name to.
    pub(super) fn names(&self) -> Option<NodeId> {
        match self {
            Self::Add { node, .. } | Self::Rename { node, .. } => Some(*node),
            Self::Remove { .. } => None,
        }
    }
}

impl Content for Names {
    type Change = NameChange;

    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Add { name, node } => {
                self.0.insert(name.clone(), *node);
            }
            NameChange::Remove { name } => {
                self.0.remove(name);
            }
            NameChange::Rename { from, to, node } => {
                self.0.remove(from);
                self.0.insert(to.clone(), *node);
            }
        }
    }
}

/// Cuts a file's power: nothing uncertain remains, or everything, or something between.
pub(super) fn cut_file(file: &mut Journaled<Bytes>, random: &mut dyn Random) {
    if file.uncertain() == 0 {
        file.cut(|_, _| {});
        return;
    }
    // The share that remains, in eighths and both ends included: a fixed half would almost never
    // show the two most common outcomes of a real power cut.
    let eighths = random.below(9);
    let mut survives = || random.below(8) < eighths;
    file.cut(|durable, change| match change {
        FileChange::Write { offset, bytes } => {
            for (start, sector) in sectors(*offset, bytes) {
                if survives() {
                    durable.write(start, sector);
                }
            }
            // The length may be on the medium without the bytes: then zeros stand there.
            let end = offset + bytes.len();
            if end > durable.0.len() && survives() {
                durable.0.resize(end, 0);
            }
        }
        FileChange::Resize { .. } | FileChange::FlipBit { .. } => {
            if survives() {
                durable.apply(change);
            }
        }
    });
}

/// Cuts a directory's power: a prefix of its uncertain changes remains.
pub(super) fn cut_directory(directory: &mut Journaled<Names>, random: &mut dyn Random) {
    let uncertain = directory.uncertain() as u64;
    let mut remaining = if uncertain == 0 { 0 } else { random.below(uncertain + 1) };
    directory.cut(|durable, change| {
        if remaining > 0 {
            remaining -= 1;
            durable.apply(change);
        }
    });
}

/// Splits a write where the medium's sectors end: each piece with its offset in the file.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut start = offset;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let count = (SECTOR_BYTES - start % SECTOR_BYTES).min(rest.len());
        let (sector, behind) = rest.split_at(count);
        let piece = (start, sector);
        start += count;
        rest = behind;
        Some(piece)
    })
}
