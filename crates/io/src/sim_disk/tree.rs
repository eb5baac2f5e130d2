//! The tree of a simulated disk: nodes by number, names in directories, space in bytes.
//! Guarantees: a node lives for as long as a name in memory, a name that a power cut could bring
//! back, or an open handle leads to it; everything iterates in a fixed order.
//! Knows neither handles' rights nor injected faults.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::io::{self, ErrorKind};

use super::content::{Bytes, FileChange, NameChange, Names, NodeId, cut_directory, cut_file};
use super::journal::Journaled;
use crate::disk::parent;
use crate::random::Random;

const ROOT: NodeId = NodeId(0);

#[derive(Debug, Hash)]
enum Content {
    File(Journaled<Bytes>),
    Directory(Journaled<Names>),
}

#[derive(Debug)]
struct Node {
    content: Content,
    /// Handles that are open on it.
    handles: u32,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: NodeId,
    /// The sum of all file lengths may not grow past this.
    capacity: u64,
}

impl Tree {
    pub(super) fn new(capacity: u64) -> Self {
        let root = Content::Directory(Journaled::new(Names::default()));
        let nodes = BTreeMap::from([(ROOT, Node { content: root, handles: 0 })]);
        Self { nodes, next: NodeId(1), capacity }
    }

    pub(super) fn find(&self, path: &str) -> io::Result<Option<NodeId>> {
        let mut node = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            match self.names(node)?.live().0.get(name) {
                Some(child) => node = *child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    pub(super) fn find_existing(&self, path: &str) -> io::Result<NodeId> {
        self.find(path)?.ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn file(&self, id: NodeId) -> io::Result<&Journaled<Bytes>> {
        match self.nodes.get(&id).map(|node| &node.content) {
            Some(Content::File(file)) => Ok(file),
            Some(Content::Directory(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file_mut(&mut self, id: NodeId) -> io::Result<&mut Journaled<Bytes>> {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::File(file)) => Ok(file),
            Some(Content::Directory(_)) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn names(&self, id: NodeId) -> io::Result<&Journaled<Names>> {
        match self.nodes.get(&id).map(|node| &node.content) {
            Some(Content::Directory(names)) => Ok(names),
            Some(Content::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn names_mut(&mut self, id: NodeId) -> io::Result<&mut Journaled<Names>> {
        match self.nodes.get_mut(&id).map(|node| &mut node.content) {
            Some(Content::Directory(names)) => Ok(names),
            Some(Content::File(_)) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create_file(&mut self, path: &str) -> io::Result<NodeId> {
        self.add(path, Content::File(Journaled::new(Bytes::default())))
    }

    pub(super) fn create_dir(&mut self, dir: &str) -> io::Result<()> {
        if dir.is_empty() {
            return Ok(());
        }
        self.create_dir(parent(dir))?;
        match self.find(dir)? {
            Some(existing) => self.names(existing).map(|_| ()),
            None => {
                let empty = Content::Directory(Journaled::new(Names::default()));
                self.add(dir, empty).map(|_| ())
            }
        }
    }

    fn add(&mut self, path: &str, content: Content) -> io::Result<NodeId> {
        let directory = self.find_existing(parent(path))?;
        if self.find(path)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let node = self.next;
        self.names_mut(directory)?.change(NameChange::Add { name: name(path), node });
        self.nodes.insert(node, Node { content, handles: 0 });
        self.next = NodeId(node.0 + 1);
        Ok(node)
    }

    /// `from` and `to` are in the same directory.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let node = self.find_existing(from)?;
        match self.find(to)? {
            Some(replaced) if replaced == node => return Ok(()),
            Some(replaced) => self.check_replace(node, replaced)?,
            None => {}
        }
        let directory = self.find_existing(parent(from))?;
        let change = NameChange::Rename { from: name(from), to: name(to), node };
        self.names_mut(directory)?.change(change);
        self.collect();
        Ok(())
    }

    fn check_replace(&self, node: NodeId, replaced: NodeId) -> io::Result<()> {
        match (self.names(node).is_ok(), self.names(replaced)) {
            (false, Err(_)) => Ok(()),
            (false, Ok(_)) => Err(ErrorKind::IsADirectory.into()),
            (true, Err(_)) => Err(ErrorKind::NotADirectory.into()),
            (true, Ok(names)) if names.live().0.is_empty() => Ok(()),
            (true, Ok(_)) => Err(ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        let node = self.find_existing(path)?;
        if self.names(node).is_ok_and(|names| !names.live().0.is_empty()) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let directory = self.find_existing(parent(path))?;
        self.names_mut(directory)?.change(NameChange::Remove { name: name(path) });
        self.collect();
        Ok(())
    }

    /// A directory's sync, with the outcome that it is to have.
    pub(super) fn sync_dir(&mut self, id: NodeId, succeeds: bool) -> io::Result<()> {
        let names = self.names_mut(id)?;
        if succeeds {
            names.sync()
        } else {
            names.fail_sync()
        }
        self.collect();
        Ok(())
    }

    /// Writes what fits; the error says that not everything did.
    pub(super) fn write(&mut self, id: NodeId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64).ok_or(ErrorKind::InvalidInput)?;
        let fits = self.len_max(id, end)?.min(end).saturating_sub(offset);
        // At most the length of `bytes`, and both ends below a capacity held in memory.
        let written = &bytes[..fits as usize];
        if !written.is_empty() {
            let change = FileChange::Write { offset: offset as usize, bytes: written.to_vec() };
            self.file_mut(id)?.change(change);
        }
        if written.len() < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    pub(super) fn resize(&mut self, id: NodeId, len: u64) -> io::Result<()> {
        if self.len_max(id, len)? < len {
            return Err(ErrorKind::StorageFull.into());
        }
        self.file_mut(id)?.change(FileChange::Resize { len: len as usize });
        Ok(())
    }

    /// The length that the file can have, as far as `wanted` is concerned.
    fn len_max(&self, id: NodeId, wanted: u64) -> io::Result<u64> {
        let len = self.file(id)?.live().0.len() as u64;
        // Overwriting is the common case and needs no walk over the tree.
        Ok(if wanted <= len { len } else { len.saturating_add(self.free_bytes()) })
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity.saturating_sub(self.used_bytes())
    }

    pub(super) fn set_free_bytes(&mut self, bytes: u64) {
        self.capacity = self.used_bytes().saturating_add(bytes);
    }

    /// The bytes of the files that have a name in memory or an open handle.
    fn used_bytes(&self) -> u64 {
        let held = self.reachable(|names, reached| reached.extend(names.live().0.values()));
        let lens = held.iter().filter_map(|id| self.file(*id).ok());
        lens.map(|file| file.live().0.len() as u64).sum()
    }

    pub(super) fn add_handle(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handles += 1;
        }
    }

    pub(super) fn drop_handle(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.handles = node.handles.saturating_sub(1);
        }
        self.collect();
    }

    /// Forgets all handles, as when the process ends.
    pub(super) fn drop_all_handles(&mut self) {
        for node in self.nodes.values_mut() {
            node.handles = 0;
        }
        self.collect();
    }

    /// Cuts the power: every node, in order of its number, keeps what is certain and part of
    /// what is not.
    pub(super) fn cut(&mut self, random: &mut dyn Random) {
        for node in self.nodes.values_mut() {
            match &mut node.content {
                Content::File(file) => cut_file(file, random),
                Content::Directory(names) => cut_directory(names, random),
            }
        }
        self.drop_all_handles();
    }

    /// Drops the nodes that nothing can lead to any more.
    fn collect(&mut self) {
        let kept = self.reachable(|names, reached| {
            reached.extend(names.live().0.values());
            reached.extend(names.durable().0.values());
            reached.extend(names.changes().filter_map(NameChange::names));
        });
        self.nodes.retain(|id, _| kept.contains(id));
    }

    /// The nodes with a handle and those that `children` leads to from the root.
    fn reachable(
        &self,
        children: impl Fn(&Journaled<Names>, &mut Vec<NodeId>),
    ) -> BTreeSet<NodeId> {
        let open = self.nodes.iter().filter(|(_, node)| node.handles > 0);
        let mut queue: Vec<NodeId> = open.map(|(id, _)| *id).collect();
        queue.push(ROOT);
        let mut reached = BTreeSet::new();
        while let Some(id) = queue.pop() {
            if reached.insert(id)
                && let Ok(names) = self.names(id)
            {
                children(names, &mut queue);
            }
        }
        reached
    }
}

/// What the tree holds, in memory and on the medium; not who has it open.
impl Hash for Tree {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for (id, node) in &self.nodes {
            (id, &node.content).hash(state);
        }
    }
}

fn name(path: &str) -> String {
    path.rsplit_once('/').map_or(path, |(_, name)| name).to_owned()
}
