//! The engine's files in the store, each under the SHA-256 of its bytes.
//!
//! What is stored once is never stored again, whatever backup names it, and a digest that does not
//! match on the way back is damage. Memory is one piece; every piece is told to the watch.

use std::io;

use holdfast_base::Error;
use holdfast_io::{Disk, File, ObjectStore};
use sha2::{Digest, Sha256};

use crate::{BackupFile, Step, Watch, corrupt, manifest::hex, store_error};

/// Folder of the files in the store.
pub(crate) const FOLDER: &str = "files";
/// Read, sent and written at once.
const PIECE_BYTES: usize = 1 << 20;
/// The end of a table holds its own identity: properties, index and footer.
const TAIL_BYTES: u64 = 4096;

/// Where a file's bytes are in the store.
pub(crate) fn object(file: &BackupFile) -> String {
    format!("{FOLDER}/{}", file.sha256)
}

/// CRC-32C of a file's last bytes.
pub(crate) fn tail_checksum(file: &dyn File) -> io::Result<u32> {
    let bytes = file.len()?;
    let from = bytes.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; (bytes - from) as usize];
    file.read_exact_at(&mut tail, from)?;
    Ok(crc32c::crc32c(&tail))
}

/// Shows a file piece by piece.
fn each_piece(
    file: &dyn File,
    mut show: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at).map_err(store_error("reading the checkpoint"))?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        show(bytes)?;
        at += read as u64;
    }
}

/// Reads a file whole and says what it is.
pub(crate) fn describe(
    name: &str,
    file: &dyn File,
    watch: &mut Watch<'_>,
) -> Result<BackupFile, Error> {
    let (mut digest, mut bytes) = (Sha256::new(), 0);
    each_piece(file, |piece| {
        digest.update(piece);
        bytes += piece.len() as u64;
        watch(Step::Moved(piece.len() as u64))
    })?;
    let tail = tail_checksum(file).map_err(store_error(name))?;
    Ok(BackupFile { name: name.to_owned(), bytes, sha256: hex(digest.finalize()), tail })
}

/// Sends a file that was described before; it must not have changed since.
pub(crate) fn upload(
    store: &dyn ObjectStore,
    what: &BackupFile,
    file: &dyn File,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let failed = || store_error(format!("storing {}", what.name));
    let mut writer = store.begin(&object(what)).map_err(failed())?;
    let mut digest = Sha256::new();
    each_piece(file, |piece| {
        digest.update(piece);
        writer.write(piece).map_err(failed())?;
        watch(Step::Moved(piece.len() as u64))
    })?;
    if hex(digest.finalize()) != what.sha256 {
        return Err(corrupt(format!("{} reads differently the second time", what.name)));
    }
    writer.finish().map_err(failed())
}

/// Brings a file back to `path`, durable but for its name, and verified.
pub(crate) fn download(
    store: &dyn ObjectStore,
    what: &BackupFile,
    disk: &dyn Disk,
    path: &str,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let name = object(what);
    let damaged = |why: &str| {
        corrupt(format!("the backup is damaged: {} (stored as {name}) {why}", what.name))
    };
    let file = disk.create(path).map_err(store_error("restoring"))?;
    let (mut digest, mut at) = (Sha256::new(), 0);
    // One byte beyond the end, so that a longer object is seen.
    while at <= what.bytes {
        let wanted = usize::try_from(what.bytes + 1 - at).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let piece = store.read(&name, at, wanted).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged("is missing"),
            _ => store_error(name.clone())(error),
        })?;
        if piece.is_empty() {
            break;
        }
        digest.update(&piece);
        file.write_at(&piece, at).map_err(store_error("restoring"))?;
        at += piece.len() as u64;
        watch(Step::Moved(piece.len() as u64))?;
    }
    if at != what.bytes {
        return Err(damaged(&format!("has not the {} bytes that it should have", what.bytes)));
    }
    if hex(digest.finalize()) != what.sha256 {
        return Err(damaged("does not match its checksum"));
    }
    file.sync_all().map_err(store_error("restoring"))
}
