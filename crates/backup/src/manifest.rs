//! The manifest: what a backup is. Layout: docs/formats.md, "Backups".
//!
//! One line with the format's version and a SHA-256 of the rest, then JSON. It is written last, so
//! a backup without one does not exist. Decoding trusts nothing: names that could leave a folder,
//! sizes that do not fit and unknown formats are refused.

use std::fmt;

use holdfast_base::{Epoch, Error, Hlc, Incarnation, Lsn};
use holdfast_io::ObjectStore;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{corrupt, invalid, moment::show_time, store_error};

/// Folder of the manifests.
const FOLDER: &str = "backups";
/// Names of manifests end so.
const SUFFIX: &str = ".manifest";
/// The manifest's first word, with the version behind it.
const MAGIC: &str = "holdfast-backup 1 ";
/// Largest manifest read: about 100,000 files of 150 bytes, four times over.
const BYTES_MAX: usize = 64 << 20;

/// Names a backup: its time, its position and eight digits of its incarnation. Sorts by time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BackupId(String);

impl BackupId {
    /// The name of a backup taken now, of this state.
    pub fn new(taken_at_ms: u64, lsn: Lsn, incarnation: Incarnation) -> BackupId {
        let time: String = show_time(taken_at_ms)
            .chars()
            .filter(|c| c.is_ascii_digit() || *c == 'T' || *c == 'Z')
            .collect();
        BackupId(format!("{time}-{lsn}-{:08x}", incarnation.0 & 0xffff_ffff))
    }

    /// Takes a name that a person or a store gave.
    pub fn parse(text: &str) -> Result<BackupId, Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
            return Err(invalid(format!("{text:?} is not the name of a backup")));
        }
        Ok(BackupId(text.to_owned()))
    }

    /// Where its manifest is.
    pub(crate) fn object(&self) -> String {
        format!("{FOLDER}/{}{SUFFIX}", self.0)
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One file of the engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its name in the engine's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, 64 hexadecimal digits: the name that it is stored under.
    pub sha256: String,
    /// CRC-32C of its last 4 KiB: with name and length it tells that a file is unchanged.
    pub tail: u32,
}

/// What a backup holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Its name.
    pub id: BackupId,
    /// When it was taken, by the node's wall clock.
    pub taken_at_ms: u64,
    /// Name of the node.
    pub node: String,
    /// Life of the log.
    pub incarnation: Incarnation,
    /// The last record that is in it.
    pub lsn: Lsn,
    /// That record's epoch.
    pub epoch: Epoch,
    /// Its place within the epoch.
    pub n: u64,
    /// That record's shard time.
    pub time: Hlc,
    /// Chained checksum after that record.
    pub chain: u32,
    /// The engine's files.
    pub files: Vec<BackupFile>,
}

/// The JSON of a manifest. Numbers of 64 bits without meaning as numbers are hexadecimal text.
#[derive(Serialize, Deserialize)]
struct Body {
    id: String,
    taken_at_ms: u64,
    node: String,
    incarnation: String,
    lsn: u64,
    epoch: u64,
    n: u64,
    time: String,
    chain: u32,
    files: Vec<BackupFile>,
}

/// SHA-256 as 64 hexadecimal digits.
pub(crate) fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Manifest {
    /// The stored form.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let body = Body {
            id: self.id.to_string(),
            taken_at_ms: self.taken_at_ms,
            node: self.node.clone(),
            incarnation: format!("{:016x}", self.incarnation.0),
            lsn: self.lsn.0,
            epoch: self.epoch.0,
            n: self.n,
            time: format!("{:016x}", self.time.0),
            chain: self.chain,
            files: self.files.clone(),
        };
        let json = serde_json::to_vec_pretty(&body)
            .map_err(|error| invalid(format!("the manifest cannot be written: {error}")))?;
        let mut out = format!("{MAGIC}{}\n", hex(Sha256::digest(&json))).into_bytes();
        out.extend_from_slice(&json);
        Ok(out)
    }

    /// Reads and verifies the stored form.
    pub fn decode(stored: &[u8]) -> Result<Manifest, Error> {
        let line = stored.iter().position(|byte| *byte == b'\n');
        let (head, json) = line.and_then(|at| stored.split_at_checked(at + 1)).unwrap_or_default();
        let head = std::str::from_utf8(head).unwrap_or_default();
        let Some(checksum) = head.strip_prefix(MAGIC) else {
            if head.starts_with("holdfast-backup ") {
                return Err(corrupt("the manifest was written by a later version of the program"));
            }
            return Err(corrupt("this is no manifest, or a damaged one"));
        };
        if checksum.trim_end_matches('\n') != hex(Sha256::digest(json)) {
            return Err(corrupt("the manifest is damaged: its checksum does not match"));
        }
        let body: Body = serde_json::from_slice(json)
            .map_err(|error| corrupt(format!("the manifest does not decode: {error}")))?;
        let number = |text: &str| {
            u64::from_str_radix(text, 16).map_err(|_| corrupt("a number of the manifest is none"))
        };
        body.files.iter().try_for_each(check_file)?;
        Ok(Manifest {
            id: BackupId::parse(&body.id)?,
            taken_at_ms: body.taken_at_ms,
            node: body.node,
            incarnation: Incarnation(number(&body.incarnation)?),
            lsn: Lsn(body.lsn),
            epoch: Epoch(body.epoch),
            n: body.n,
            time: Hlc(number(&body.time)?),
            chain: body.chain,
            files: body.files,
        })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }

    /// Writes it; from then on the backup exists.
    pub(crate) fn store(&self, store: &dyn ObjectStore) -> Result<(), Error> {
        store.put(&self.id.object(), &self.encode()?).map_err(store_error("writing the manifest"))
    }
}

/// A restored file may only land in the engine's folder, and is found by its digest alone.
fn check_file(file: &BackupFile) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name_fits = !file.name.starts_with('.')
        && (1..=128).contains(&file.name.len())
        && file.name.chars().all(plain);
    // Larger than any file system holds, and small enough to count with.
    let bytes_fit = file.bytes < 1 << 62;
    if !name_fits || !bytes_fit || !is_digest(&file.sha256) {
        return Err(corrupt(format!("the manifest names an impossible file: {:?}", file.name)));
    }
    Ok(())
}

/// Whether this is a SHA-256 as files are named by it: 64 lower-case hexadecimal digits.
pub(crate) fn is_digest(name: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.len() == 64 && name.bytes().all(is_digit)
}

/// Reads a whole object of at most so many bytes.
pub(crate) fn read_whole(
    store: &dyn ObjectStore,
    name: &str,
    bytes_max: usize,
) -> Result<Vec<u8>, Error> {
    let bytes = store.read(name, 0, bytes_max + 1).map_err(store_error(name))?;
    if bytes.len() > bytes_max {
        return Err(corrupt(format!("{name} is longer than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Reads the manifest of one backup.
pub fn read_manifest(store: &dyn ObjectStore, id: &BackupId) -> Result<Manifest, Error> {
    let manifest = Manifest::decode(&read_whole(store, &id.object(), BYTES_MAX)?)
        .map_err(|error| error.context(format!("backup {id}")))?;
    if manifest.id != *id {
        return Err(corrupt(format!("backup {id}: its manifest is that of {}", manifest.id)));
    }
    Ok(manifest)
}

/// The names of all backups, oldest first.
pub fn list_backups(store: &dyn ObjectStore) -> Result<Vec<BackupId>, Error> {
    let entries = store.list(FOLDER).map_err(store_error("listing the backups"))?;
    let names = entries.iter().filter_map(|entry| entry.name.strip_suffix(SUFFIX));
    let mut ids: Vec<_> = names.filter_map(|name| BackupId::parse(name).ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let (lsn, incarnation) = (Lsn(77), Incarnation(0xdead_beef_0123_4567));
        Manifest {
            id: BackupId::new(1_764_110_701_234, lsn, incarnation),
            taken_at_ms: 1_764_110_701_234,
            node: "node".into(),
            incarnation,
            lsn,
            epoch: Epoch(3),
            n: 4,
            time: Hlc(u64::MAX - 5),
            chain: 9,
            files: vec![BackupFile {
                name: "000012.sst".into(),
                bytes: 5,
                sha256: hex(Sha256::digest(b"hello")),
                tail: 7,
            }],
        }
    }

    #[test]
    fn a_manifest_reads_back_and_its_name_tells_time_and_position() -> Result<(), Error> {
        let manifest = sample();
        assert_eq!(Manifest::decode(&manifest.encode()?)?, manifest);
        assert_eq!(manifest.id.to_string(), "20251125T224501234Z-77-01234567");
        Ok(())
    }

    #[test]
    fn every_flipped_bit_is_refused() -> Result<(), Error> {
        let stored = sample().encode()?;
        for bit in 0..stored.len() * 8 {
            let mut damaged = stored.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            Manifest::decode(&damaged).expect_err("a flipped bit");
        }
        for len in 0..stored.len() {
            Manifest::decode(&stored[..len]).expect_err("cut off");
        }
        Ok(())
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() -> Result<(), Error> {
        for name in ["../log", "/etc/passwd", "", ".", "..", ".hidden", "a/b", "a\0b"] {
            let mut manifest = sample();
            manifest.files[0].name = name.into();
            let error = Manifest::decode(&manifest.encode()?).expect_err(name);
            assert!(error.text().contains("impossible"), "{error}");
        }
        let mut manifest = sample();
        manifest.files[0].sha256 = "../../x".into();
        Manifest::decode(&manifest.encode()?).expect_err("a digest that is none");
        Ok(())
    }

    #[test]
    fn a_later_version_says_so() {
        let error = Manifest::decode(b"holdfast-backup 2 aa\n{}").expect_err("version 2");
        assert!(error.text().contains("later version"), "{error}");
    }
}
