//! An object store in a folder of a [`Disk`]: real, or simulated with its power cuts.
//!
//! Every object is written beside its place, synced, renamed there, and its folder synced: a file
//! that a power cut empties must not pass for a backup. Names that end in `.tmp` are objects in the
//! making and are not listed.

use std::io;
use std::sync::Arc;

use super::{ObjectEntry, ObjectStore, ObjectWriter};
use crate::disk::{Disk, File, create_dir_durably, parent, write_file_durably};

const MAKING_SUFFIX: &str = ".tmp";

/// See the module's head.
#[derive(Clone)]
pub struct FolderStore {
    disk: Arc<dyn Disk>,
}

impl FolderStore {
    /// The store whose objects are the files below the disk's root.
    pub fn new(disk: Arc<dyn Disk>) -> FolderStore {
        FolderStore { disk }
    }

    fn make_folder(&self, name: &str) -> io::Result<()> {
        let folder = parent(name);
        if folder.is_empty() { Ok(()) } else { create_dir_durably(&*self.disk, folder) }
    }
}

impl ObjectStore for FolderStore {
    fn put(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_folder(name)?;
        write_file_durably(&*self.disk, name, bytes)
    }

    fn begin<'a>(&'a self, name: &str) -> io::Result<Box<dyn ObjectWriter + 'a>> {
        self.make_folder(name)?;
        let making = format!("{name}{MAKING_SUFFIX}");
        if self.disk.exists(&making)? {
            self.disk.remove(&making)?;
        }
        let file = self.disk.create(&making)?;
        let name = name.to_owned();
        Ok(Box::new(FolderWriter { disk: &*self.disk, file, name, making, bytes: 0 }))
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let file = self.disk.open_read(name)?;
        // Not more than there is, whatever was asked for.
        let rest = file.len()?.saturating_sub(offset);
        let mut bytes = vec![0; usize::try_from(rest).unwrap_or(usize::MAX).min(len)];
        let read = file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<ObjectEntry>> {
        if !self.disk.exists(folder)? {
            return Ok(Vec::new());
        }
        let mut entries = Vec::new();
        for name in self.disk.list(folder)? {
            if name.ends_with(MAKING_SUFFIX) {
                continue;
            }
            match self.disk.open_read(&format!("{folder}/{name}")) {
                Ok(file) => entries.push(ObjectEntry { name, bytes: file.len()? }),
                // A folder below, or removed meanwhile.
                Err(error) if is_no_object(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self.disk.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        self.disk.sync_dir(parent(name))
    }
}

fn is_no_object(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::IsADirectory | io::ErrorKind::NotFound)
}

struct FolderWriter<'a> {
    disk: &'a dyn Disk,
    file: Arc<dyn File>,
    name: String,
    making: String,
    bytes: u64,
}

impl ObjectWriter for FolderWriter<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_at(piece, self.bytes)?;
        self.bytes += piece.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        self.disk.rename(&self.making, &self.name)?;
        self.disk.sync_dir(parent(&self.name))
    }
}

impl Drop for FolderWriter<'_> {
    fn drop(&mut self) {
        // After `finish` the name is gone. A removal that fails leaves a file that no listing shows.
        let _removed = self.disk.remove(&self.making);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SeededRandom, SimDisk};

    fn names(store: &dyn ObjectStore, folder: &str) -> io::Result<Vec<(String, u64)>> {
        Ok(store.list(folder)?.into_iter().map(|entry| (entry.name, entry.bytes)).collect())
    }

    #[test]
    fn an_object_that_was_not_finished_leaves_nothing_behind() -> io::Result<()> {
        let disk = Arc::new(SimDisk::new());
        let store = FolderStore::new(disk.clone());
        let mut writer = store.begin("a/one")?;
        writer.write(b"half")?;
        drop(writer);
        assert_eq!(disk.list("a")?, Vec::<String>::new());
        store.put("a/one", b"whole")?;
        assert_eq!(disk.list("a")?, ["one"]);
        Ok(())
    }

    #[test]
    fn objects_are_listed_read_in_parts_and_removed() -> io::Result<()> {
        let store = FolderStore::new(Arc::new(SimDisk::new()));
        assert_eq!(names(&store, "a")?, []);
        store.put("a/two", b"second")?;
        let mut writer = store.begin("a/one")?;
        writer.write(b"fir")?;
        assert_eq!(names(&store, "a")?, [("two".to_owned(), 6)], "not there before it is finished");
        writer.write(b"st")?;
        writer.finish()?;
        store.put("a/below/three", b"")?;
        assert_eq!(names(&store, "a")?, [("one".to_owned(), 5), ("two".to_owned(), 6)]);
        assert_eq!(store.read("a/one", 1, 3)?, b"irs");
        assert_eq!(store.read("a/one", 4, 1 << 40)?, b"t");
        assert_eq!(store.read("a/one", 9, 3)?, b"");
        assert_eq!(store.read("a/none", 0, 1).map_err(|e| e.kind()), Err(io::ErrorKind::NotFound));
        store.remove("a/one")?;
        store.remove("a/one")?;
        assert_eq!(names(&store, "a")?, [("two".to_owned(), 6)]);
        Ok(())
    }

    #[test]
    fn what_is_finished_survives_a_power_cut_and_nothing_else_shows() -> io::Result<()> {
        for seed in 0..200 {
            let disk = SimDisk::new();
            let store = FolderStore::new(Arc::new(disk.clone()));
            store.put("a/small", &[1; 700])?;
            let mut whole = store.begin("a/whole")?;
            whole.write(&[2; 3_000])?;
            whole.finish()?;
            let mut half = store.begin("a/half")?;
            half.write(&[3; 3_000])?;
            drop(half);
            disk.crash(&mut SeededRandom::new(seed));
            let after = FolderStore::new(Arc::new(disk.clone()));
            let expected = [("small".to_owned(), 700), ("whole".to_owned(), 3_000)];
            assert_eq!(names(&after, "a")?, expected, "seed {seed}");
            assert_eq!(after.read("a/whole", 0, 4_000)?, [2; 3_000], "seed {seed}");
        }
        Ok(())
    }
}
