//! A look at RocksDB's MANIFEST before RocksDB reads it, which may take it forever.
//!
//! RocksDB 11 hands a record of a recyclable kind, behind one of another kind, back unread and reads it
//! again, without end (`ReadPhysicalRecord` in its db/log_reader.cc); one flipped bit makes such a record.
//! Only the kinds of records are looked at here: all else RocksDB verifies itself.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{EngineError, EngineErrorKind};

/// Records lie in blocks of this size and do not cross them (RocksDB's db/log_format.h).
const BLOCK_BYTES: usize = 32 << 10;
/// Checksum 4, length 2, kind 1.
const HEADER_BYTES: usize = 7;
/// Whole records and first, middle and last pieces; zero is room that nothing was written to.
const KIND_MAX: u8 = 4;

/// Refuses the engine in `dir` with `Corrupt` if its MANIFEST has a record of a kind that none has.
/// A MANIFEST that cannot be found is for RocksDB to report.
pub(super) fn check(dir: &Path) -> Result<(), EngineError> {
    let Some(path) = path_in(dir) else { return Ok(()) };
    let failed = |error: io::Error| {
        EngineError::new(EngineErrorKind::Io, format!("{}: {error}", path.display()))
    };
    let mut file = File::open(&path).map_err(failed)?;
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block).map_err(failed)?;
        if block.is_empty() {
            return Ok(());
        }
        if let Some(kind) = unknown_kind(&block) {
            let text = format!("{}: a record of unknown kind {kind}", path.display());
            return Err(EngineError::new(EngineErrorKind::Corrupt, text));
        }
    }
}

fn path_in(dir: &Path) -> Option<PathBuf> {
    let name = fs::read_to_string(dir.join("CURRENT")).ok()?;
    Some(dir.join(name.strip_suffix('\n')?)).filter(|path| path.is_file())
}

/// The first kind of record in a block that a MANIFEST does not have.
fn unknown_kind(block: &[u8]) -> Option<u8> {
    let mut rest = block;
    loop {
        let (header, behind) = rest.split_first_chunk::<HEADER_BYTES>()?;
        let [.., low, high, kind] = *header;
        if kind > KIND_MAX {
            return Some(kind);
        }
        // Too long a record ends the block for RocksDB too.
        rest = behind.get(usize::from(u16::from_le_bytes([low, high]))..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let mut record = vec![0xff; 4];
        record.extend(length.to_le_bytes());
        record.push(kind);
        // What would be a kind if the walk went astray.
        record.resize(HEADER_BYTES + usize::from(length), 0xff);
        record
    }

    proptest! {
        #[test]
        fn the_first_unknown_kind_of_whole_records_is_found_and_no_other(
            records in prop::collection::vec((0..=6_u8, 0..200_u16), 0..40),
            torn in 0..200_usize,
        ) {
            let mut block: Vec<u8> = records.iter().flat_map(|(kind, length)| record(*kind, *length)).collect();
            let unknown = records.iter().map(|(kind, _)| *kind).find(|kind| *kind > KIND_MAX);
            prop_assert_eq!(unknown_kind(&block), unknown);
            // A torn end hides at most what it takes away.
            block.truncate(block.len().saturating_sub(torn));
            prop_assert!(unknown_kind(&block).is_none_or(|kind| Some(kind) == unknown));
        }

        #[test]
        fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            prop_assert!(unknown_kind(&bytes).is_none_or(|kind| kind > KIND_MAX));
        }
    }
}
