//! Damage and wrong directories: RocksDB must say so, never answer with wrong rows.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_engine::{
    Batch, Engine, EngineErrorKind, EngineOptions, Lookup, OpenMode, RocksEngine, Tier,
};
use tempfile::TempDir;

const ROWS: u32 = 2000;

fn open(dir: &Path, mode: OpenMode) -> Result<RocksEngine, holdfast_engine::EngineError> {
    let options = EngineOptions { block_cache_bytes: 8 << 20, ..Default::default() };
    RocksEngine::open(dir, mode, &options)
}

fn value(index: u32) -> Vec<u8> {
    index.wrapping_mul(0x9e37_79b9).to_be_bytes().repeat(10)
}

fn filled(dir: &Path) {
    let engine = open(dir, OpenMode::Create).expect("engine opens");
    let mut batch = Batch::new();
    for index in 0..ROWS {
        batch.put(&index.to_be_bytes(), &value(index));
    }
    engine.write(&batch).expect("write");
    engine.flush().expect("flush");
}

fn tables(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("the folder can be read");
    let paths = entries.map(|entry| entry.expect("entry").path());
    paths.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect()
}

/// Opens the damaged engine: nothing wrong may be served, and someone must notice.
fn check_noticed(dir: &Path, offset: usize) {
    let engine = match open(dir, OpenMode::Existing) {
        Ok(engine) => engine,
        Err(error) => {
            assert_eq!(error.kind, EngineErrorKind::Corrupt, "byte {offset}: {error}");
            assert!(error.message.contains(".sst"), "byte {offset}: {error}");
            return;
        }
    };
    for index in 0..ROWS {
        match engine.get(&index.to_be_bytes(), Tier::Any) {
            Ok(lookup) => assert_eq!(lookup, Lookup::Found(value(index)), "byte {offset}"),
            Err(error) => assert_eq!(error.kind, EngineErrorKind::Corrupt, "byte {offset}"),
        }
    }
    let report = engine.verify().expect("verify");
    assert!(!report.damage.is_empty(), "verify did not notice byte {offset}");
    assert!(report.damage.iter().any(|text| text.contains(".sst")), "{:?}", report.damage);
}

#[test]
fn a_flipped_byte_anywhere_in_a_table_is_noticed_and_never_served() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    let clean = open(dir.path(), OpenMode::Existing).expect("opens").verify().expect("verify");
    assert!(clean.damage.is_empty() && clean.files == 1, "{clean:?}");

    let table = tables(dir.path()).pop().expect("one table");
    let good = fs::read(&table).expect("the table can be read");
    let mut offsets: Vec<usize> = (0..good.len()).step_by(good.len() / 40).collect();
    // The end holds indexes, filter, properties and footer.
    offsets.extend((good.len().saturating_sub(1500)..good.len()).step_by(37));
    for offset in offsets {
        let mut bad = good.clone();
        bad[offset] ^= 0x20;
        fs::write(&table, &bad).expect("the table can be written");
        check_noticed(dir.path(), offset);
    }
    fs::write(&table, &good).expect("the table can be written");
    let report = open(dir.path(), OpenMode::Existing).expect("opens").verify().expect("verify");
    assert!(report.damage.is_empty(), "{report:?}");
}

/// RocksDB would read the second record over and over.
#[test]
fn a_record_of_a_kind_that_no_manifest_has_is_refused() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    let current = fs::read_to_string(dir.path().join("CURRENT")).expect("CURRENT can be read");
    let path = dir.path().join(current.trim_end());
    let mut manifest = fs::read(&path).expect("the manifest can be read");
    let first = usize::from(u16::from_le_bytes([manifest[4], manifest[5]]));
    let kind = 7 + first + 6;
    assert_eq!(manifest[kind], 1, "the second record is a whole one");
    manifest[kind] = 5;
    fs::write(&path, &manifest).expect("the manifest can be written");
    let error = open(dir.path(), OpenMode::Existing).err().expect("it is refused");
    assert_eq!(error.kind, EngineErrorKind::Corrupt);
    assert!(error.message.contains("MANIFEST"), "{error}");
}

#[test]
fn properties_out_of_order_are_told_with_the_name_of_their_table() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    let table = tables(dir.path()).pop().expect("one table");
    let mut content = fs::read(&table).expect("the table can be read");
    let property = b"rocksdb.deleted.keys";
    let at = content.windows(property.len()).position(|bytes| bytes == property);
    // The properties' keys are whole at restart points alone; some key's own bytes are there.
    let at = at.or_else(|| content.windows(9).position(|bytes| bytes == b"eted.keys"));
    content[at.expect("a property's key")] ^= 0x04;
    fs::write(&table, &content).expect("the table can be written");
    let error = open(dir.path(), OpenMode::Existing).err().expect("it is refused");
    assert_eq!(error.kind, EngineErrorKind::Corrupt);
    assert!(error.message.contains(".sst"), "{error}");
}

#[test]
fn a_directory_in_use_is_busy() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    let first = open(dir.path(), OpenMode::Create).expect("engine opens");
    let error = open(dir.path(), OpenMode::Create).err().expect("the second is refused");
    assert_eq!(error.kind, EngineErrorKind::Busy);
    assert!(error.message.contains("in use"), "{error}");
    let snapshot = first.snapshot().expect("snapshot");
    drop(first);
    assert!(open(dir.path(), OpenMode::Existing).is_err(), "the snapshot keeps it open");
    drop(snapshot);
    open(dir.path(), OpenMode::Existing).expect("free again");
}

#[test]
fn an_absent_engine_is_missing_and_nothing_is_created() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    for path in [dir.path().to_path_buf(), dir.path().join("absent")] {
        let error = open(&path, OpenMode::Existing).err().expect("refused");
        assert_eq!(error.kind, EngineErrorKind::Missing);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
}

#[test]
fn tables_without_a_current_file_are_corrupt_and_kept() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    fs::remove_file(dir.path().join("CURRENT")).expect("removed");
    let error = open(dir.path(), OpenMode::Create).err().expect("refused");
    assert_eq!(error.kind, EngineErrorKind::Corrupt);
    let error = open(dir.path(), OpenMode::Existing).err().expect("refused");
    assert_eq!(error.kind, EngineErrorKind::Missing);
    assert_eq!(tables(dir.path()).len(), 1);
}

#[test]
fn a_lost_table_is_noticed() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    fs::remove_file(tables(dir.path()).pop().expect("one table")).expect("removed");
    let error = open(dir.path(), OpenMode::Existing).err().expect("refused");
    assert_eq!(error.kind, EngineErrorKind::Corrupt, "{error}");
}

#[test]
fn rows_on_disk_only_are_incomplete_for_the_cached_tier_until_they_are_read() {
    let dir = TempDir::new().expect("a temporary folder can be made");
    filled(dir.path());
    let engine = open(dir.path(), OpenMode::Existing).expect("engine opens");
    let key = 77u32.to_be_bytes();
    let get = |tier| engine.get(&key, tier).expect("get");
    assert_eq!(get(Tier::Cached), Lookup::Incomplete);
    assert_eq!(get(Tier::Any), Lookup::Found(value(77)));
    assert_eq!(get(Tier::Cached), Lookup::Found(value(77)));
    let stats = engine.stats();
    assert!(stats.block_cache_hits > 0 && stats.block_cache_misses > 0, "{stats:?}");
}
