//! One file, directory or symbolic link: its attributes and, for a file, its un-synced content.
//! The content that the program sees is an ordinary file, the object, on the backing folder.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use fuser::FileType;

use crate::names::Ino;
use crate::pages::Pages;

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and where it points.
    Symlink(PathBuf),
}

impl Kind {
    /// The word of FUSE for it.
    pub fn file_type(&self) -> FileType {
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
        }
    }
}

/// Attributes other than the size; the names are those of stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
}

/// What changes in an inode.
#[derive(Debug)]
pub struct Body {
    /// Attributes as the program sees them.
    pub attributes: Attributes,
    /// Attributes at the last sync, or at creation.
    pub durable_attributes: Attributes,
    /// The un-synced content of a file.
    pub pages: Pages,
    /// The object, while anyone has the file open.
    pub object: Option<Arc<File>>,
    /// Open handles.
    pub opens: u64,
    /// Space is charged up to here.
    pub charged_to: u64,
}

/// One inode.
#[derive(Debug)]
pub struct Inode {
    /// Its number, which is also the name of its object.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Lock order: power, space of names, body, fault rules. Held over I/O on the object, so that
    /// what a page was is read and the page changed in one step.
    body: Mutex<Body>,
}

impl Inode {
    /// An inode whose attributes and content are durable as soon as it has a durable name.
    pub fn new(ino: Ino, kind: Kind, attributes: Attributes, size: u64, charged_to: u64) -> Self {
        let body = Body {
            attributes,
            durable_attributes: attributes,
            pages: Pages::durable(size),
            object: None,
            opens: 0,
            charged_to,
        };
        Self { ino, kind, body: Mutex::new(body) }
    }

    /// Locks what changes.
    pub fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().expect("no holder panics")
    }
}
