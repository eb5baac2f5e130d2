//! The durable tree on the backing folder. While the disk is off, `disk/` is an ordinary folder that
//! anyone may read or fill; while it is on, `objects/<number>` hold the content of files and `disk/` is gone.
//! A folder with `objects/` was in use by a process that died: it is refused, not guessed at.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::inode::{Attributes, Inode, Kind};
use crate::names::{Ino, Names, ROOT};

/// Where the content of a file is while the disk is on.
pub fn object(backing: &Path, ino: Ino) -> PathBuf {
    backing.join("objects").join(ino.to_string())
}

/// Takes the tree over: every name durable, every file an object.
pub fn load(backing: &Path) -> io::Result<(Names, Vec<Inode>)> {
    let disk = backing.join("disk");
    let objects = backing.join("objects");
    if objects.exists() {
        let what = format!("{} is there: the disk was not switched off", objects.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    fs::create_dir_all(&disk)?;
    fs::create_dir(&objects)?;
    let mut loading =
        Loading { backing, names: Names::new(), inodes: Vec::new(), seen: HashMap::new() };
    loading.inodes.push(inode(ROOT, Kind::Directory, &fs::metadata(&disk)?));
    loading.directory(&disk, ROOT)?;
    let Loading { mut names, inodes, .. } = loading;
    names.sync_all();
    fs::remove_dir_all(&disk)?;
    Ok((names, inodes))
}

struct Loading<'a> {
    backing: &'a Path,
    names: Names,
    inodes: Vec<Inode>,
    /// Files by their number on the backing folder: hard links are found again.
    seen: HashMap<u64, Ino>,
}

impl Loading<'_> {
    fn directory(&mut self, path: &Path, directory: Ino) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            let known = self.seen.get(&meta.ino()).copied().filter(|_| meta.is_file());
            let ino = known.unwrap_or(self.inodes.len() as Ino + ROOT);
            if meta.is_dir() {
                self.names.add_directory(ino);
            }
            self.names.set(directory, &entry.file_name(), Some(ino));
            if known.is_some() {
                continue;
            }
            let kind = if meta.is_dir() {
                Kind::Directory
            } else if meta.is_symlink() {
                Kind::Symlink(fs::read_link(entry.path())?)
            } else if meta.is_file() {
                fs::hard_link(entry.path(), object(self.backing, ino))?;
                self.seen.insert(meta.ino(), ino);
                Kind::File
            } else {
                let what = format!("{} is no file, folder or link", entry.path().display());
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            };
            self.inodes.push(inode(ino, kind, &meta));
            if meta.is_dir() {
                self.directory(&entry.path(), ino)?;
            }
        }
        Ok(())
    }
}

fn inode(ino: Ino, kind: Kind, meta: &fs::Metadata) -> Inode {
    let attributes = Attributes {
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        atime: meta.accessed().unwrap_or(SystemTime::UNIX_EPOCH),
        mtime: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        ctime: SystemTime::UNIX_EPOCH + Duration::from_secs(meta.ctime().unsigned_abs()),
    };
    let (size, charged_to) = match kind {
        Kind::File => (meta.len(), meta.len().max(meta.blocks() * 512)),
        _ => (0, 0),
    };
    Inode::new(ino, kind, attributes, size, charged_to)
}

/// Lays the durable tree out as `disk/` and removes the objects.
pub fn save(backing: &Path, names: &Names, inodes: &BTreeMap<Ino, &Inode>) -> io::Result<()> {
    let new = backing.join("disk.new");
    fs::create_dir(&new)?;
    save_directory(backing, &new, ROOT, names, inodes)?;
    fs::rename(&new, backing.join("disk"))?;
    fs::remove_dir_all(backing.join("objects"))
}

fn save_directory(
    backing: &Path,
    path: &Path,
    directory: Ino,
    names: &Names,
    inodes: &BTreeMap<Ino, &Inode>,
) -> io::Result<()> {
    for (name, ino) in names.durable_entries(directory).into_iter().flatten() {
        let lost = || io::Error::other(format!("inode {ino} has a durable name and is gone"));
        let path = path.join(name);
        let found = inodes.get(ino).ok_or_else(lost)?;
        match &found.kind {
            Kind::File => fs::hard_link(object(backing, *ino), &path)?,
            Kind::Symlink(target) => std::os::unix::fs::symlink(target, &path)?,
            Kind::Directory => {
                fs::create_dir(&path)?;
                save_directory(backing, &path, *ino, names, inodes)?;
            }
        }
        save_attributes(&path, found)?;
    }
    match inodes.get(&directory) {
        Some(root) if directory == ROOT => save_attributes(path, root),
        _ => Ok(()),
    }
}

fn save_attributes(path: &Path, inode: &Inode) -> io::Result<()> {
    let attributes = inode.body().durable_attributes;
    let now = fs::symlink_metadata(path)?;
    if (now.uid(), now.gid()) != (attributes.uid, attributes.gid) {
        std::os::unix::fs::lchown(path, Some(attributes.uid), Some(attributes.gid))?;
    }
    if let Kind::Symlink(_) = inode.kind {
        return Ok(());
    }
    let times = fs::FileTimes::new().set_accessed(attributes.atime).set_modified(attributes.mtime);
    fs::File::open(path)?.set_times(times)?;
    fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode))
}
