//! The one unsafe file of the engine: what the safe RocksDB wrapper cannot express.
//!
//! A snapshot that keeps its database alive by itself (the wrapper's borrows the database), whole
//! file checksums, and the verification of all files. Guarantees that no pointer outlives what it
//! points to. Everything here is a few lines around one C call; nothing else belongs here.

#![expect(unsafe_code, reason = "a snapshot that owns its database, and C calls the wrapper lacks")]

use std::ffi::{CStr, c_char, c_void};
use std::ptr;
use std::sync::Arc;

use rocksdb::{AsRawPtr, DB, Options};

use crate::error::classify;
use crate::{EngineError, EngineErrorKind};

// Signatures as in `rocksdb/c.h` of the linked version; every pointed-to type is opaque there.
unsafe extern "C" {
    fn rocksdb_verify_checksum(db: *mut c_void, error: *mut *mut c_char);
    fn rocksdb_verify_file_checksums(db: *mut c_void, error: *mut *mut c_char);
    fn rocksdb_free(memory: *mut c_void);
    fn rocksdb_file_checksum_gen_crc32c_factory_create() -> *mut c_void;
    fn rocksdb_file_checksum_gen_factory_destroy(factory: *mut c_void);
    fn rocksdb_options_set_file_checksum_gen_factory(options: *mut c_void, factory: *mut c_void);
}

/// A RocksDB snapshot together with the database that it belongs to.
pub(super) struct OwnedSnapshot {
    // Declared, and so dropped, before `db`.
    snapshot: rocksdb::Snapshot<'static>,
    db: Arc<DB>,
}

impl OwnedSnapshot {
    pub(super) fn new(db: Arc<DB>) -> Self {
        // SAFETY: the reference points into the allocation that `db` shares, which neither moves
        // nor goes while `self.db` lives, and `self.snapshot` is dropped before `self.db`. Nobody
        // has the database mutably, as it is in an `Arc`. The lifetime 'static is never handed
        // out: `snapshot()` shortens it to that of `self`.
        let unbounded: &'static DB = unsafe { &*Arc::as_ptr(&db) };
        Self { snapshot: unbounded.snapshot(), db }
    }

    pub(super) fn snapshot(&self) -> &rocksdb::Snapshot<'_> {
        &self.snapshot
    }

    pub(super) fn db(&self) -> &DB {
        &self.db
    }
}

/// Has RocksDB write a CRC32C of every whole table file into its manifest.
pub(super) fn enable_file_checksums(options: &mut Options) {
    // SAFETY: `options` is alive and exclusively ours during the calls; the setter stores its own
    // shared reference to the factory, so the handle can be destroyed at once.
    unsafe {
        let factory = rocksdb_file_checksum_gen_crc32c_factory_create();
        rocksdb_options_set_file_checksum_gen_factory(options.as_raw_ptr().cast(), factory);
        rocksdb_file_checksum_gen_factory_destroy(factory);
    }
}

/// The first live file that differs from its checksum, as an error that names it.
pub(super) fn verify_files(db: &DB) -> Result<(), EngineError> {
    checked(db, rocksdb_verify_file_checksums)
        .map_err(|message| EngineError::new(classify(&message), message))
}

/// Reads all live files twice: against the checksum of the whole file, then block by block (which
/// also covers files that came without one). Each pass stops at its first finding.
pub(super) fn verify(db: &DB) -> Result<Vec<String>, EngineError> {
    let passes: [unsafe extern "C" fn(*mut c_void, *mut *mut c_char); 2] =
        [rocksdb_verify_file_checksums, rocksdb_verify_checksum];
    let mut damage = Vec::new();
    for pass in passes {
        let Err(message) = checked(db, pass) else {
            continue;
        };
        let kind = classify(&message);
        let gone = kind == EngineErrorKind::Io && message.contains("No such file");
        if kind != EngineErrorKind::Corrupt && !gone {
            return Err(EngineError::new(kind, message));
        }
        if !damage.contains(&message) {
            damage.push(message);
        }
    }
    Ok(damage)
}

fn checked(
    db: &DB,
    call: unsafe extern "C" fn(*mut c_void, *mut *mut c_char),
) -> Result<(), String> {
    let mut error: *mut c_char = ptr::null_mut();
    // SAFETY: the database outlives the call, and `error` is a valid place for a pointer.
    unsafe { call(db.as_raw_ptr().cast(), &raw mut error) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: RocksDB left a NUL-terminated string that is now ours to read and to free, once.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        rocksdb_free(error.cast());
        message
    };
    Err(message)
}
