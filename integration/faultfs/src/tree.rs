//! Names and contents: what a disk holds, or what its users see.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Number of a file or directory; never used again.
pub(crate) type Inode = u64;
/// The directory that is always there.
pub(crate) const ROOT: Inode = 1;

/// What a name leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mode: u16,
    /// How many names lead here; the root has one that nobody sees.
    pub(crate) links: u32,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Bytes, and how many are set aside for more of them.
    File {
        bytes: Vec<u8>,
        reserved: u64,
    },
    Directory(BTreeMap<OsString, Inode>),
}

impl Node {
    fn new(kind: Kind, mode: u16) -> Self {
        let content = match kind {
            Kind::File => Content::File { bytes: Vec::new(), reserved: 0 },
            Kind::Directory => Content::Directory(BTreeMap::new()),
        };
        Self { mode, links: 1, content }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.content {
            Content::File { .. } => Kind::File,
            Content::Directory(_) => Kind::Directory,
        }
    }

    /// Bytes in it; none in a directory.
    pub(crate) fn size(&self) -> u64 {
        match &self.content {
            Content::File { bytes, .. } => bytes.len() as u64,
            Content::Directory(_) => 0,
        }
    }

    /// Room that it takes, in bytes.
    pub(crate) fn room(&self) -> u64 {
        match &self.content {
            Content::File { bytes, reserved } => room(*reserved.max(&(bytes.len() as u64))),
            Content::Directory(_) => BLOCK,
        }
    }
}

/// Room is given out in blocks of so many bytes.
pub(crate) const BLOCK: u64 = 4096;

/// The room that so many bytes take.
pub(crate) fn room(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// A change of names.
#[derive(Clone, Debug)]
pub(crate) enum NameChange {
    Make { parent: Inode, name: OsString, inode: Inode, kind: Kind, mode: u16 },
    Link { inode: Inode, parent: Inode, name: OsString },
    Remove { parent: Inode, name: OsString, kind: Kind },
    Rename { parent: Inode, name: OsString, new_parent: Inode, new_name: OsString },
}

/// A change of one file's bytes.
#[derive(Clone, Debug)]
pub(crate) enum ByteChange {
    Write { offset: u64, bytes: Vec<u8> },
    Resize(u64),
}

impl ByteChange {
    /// How much of it can be kept: its bytes, or all of it.
    pub(crate) fn units(&self) -> u64 {
        match self {
            Self::Write { bytes, .. } => bytes.len() as u64,
            Self::Resize(_) => 1,
        }
    }
}

/// All files and directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    nodes: BTreeMap<Inode, Node>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::new(Kind::Directory, 0o755))]) }
    }

    pub(crate) fn node(&self, inode: Inode) -> Result<&Node, Errno> {
        self.nodes.get(&inode).ok_or(Errno::ENOENT)
    }

    pub(crate) fn node_mut(&mut self, inode: Inode) -> Result<&mut Node, Errno> {
        self.nodes.get_mut(&inode).ok_or(Errno::ENOENT)
    }

    pub(crate) fn bytes(&self, inode: Inode) -> Result<&[u8], Errno> {
        match &self.node(inode)?.content {
            Content::File { bytes, .. } => Ok(bytes),
            Content::Directory(_) => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn names(&self, inode: Inode) -> Result<&BTreeMap<OsString, Inode>, Errno> {
        match &self.node(inode)?.content {
            Content::Directory(names) => Ok(names),
            Content::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    fn names_mut(&mut self, inode: Inode) -> Result<&mut BTreeMap<OsString, Inode>, Errno> {
        match &mut self.node_mut(inode)?.content {
            Content::Directory(names) => Ok(names),
            Content::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    pub(crate) fn find(&self, parent: Inode, name: &OsStr) -> Result<Inode, Errno> {
        self.names(parent)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    /// What a path from the root leads to.
    pub(crate) fn walk(&self, path: &Path) -> Result<Inode, Errno> {
        path.iter().try_fold(ROOT, |parent, name| self.find(parent, name))
    }

    /// Every file with its path from the root, in the order of paths.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Inode)> {
        let mut found = Vec::new();
        let mut ahead = vec![(PathBuf::new(), ROOT)];
        while let Some((path, inode)) = ahead.pop() {
            match self.nodes.get(&inode).map(|node| &node.content) {
                Some(Content::Directory(names)) => ahead.extend(names.iter().map(|(name, inode)| (path.join(name), *inode))),
                Some(Content::File { .. }) => found.push((path, inode)),
                None => {}
            }
        }
        found.sort();
        found
    }

    /// Room that everything takes, in bytes.
    pub(crate) fn room(&self) -> u64 {
        self.nodes.values().map(Node::room).sum()
    }

    /// Changes names. Returns what has lost a name; it stays until [`Tree::forget`].
    ///
    /// # Errors
    /// As the system call's. Nothing is changed then. That no directory is moved below itself is checked by the kernel.
    pub(crate) fn rename(&mut self, change: &NameChange) -> Result<Option<Inode>, Errno> {
        match change {
            NameChange::Make { parent, name, inode, kind, mode } => {
                self.add(*parent, name, *inode)?;
                self.nodes.insert(*inode, Node::new(*kind, *mode));
                Ok(None)
            }
            NameChange::Link { inode, parent, name } => {
                if self.node(*inode)?.kind() == Kind::Directory {
                    return Err(Errno::EPERM);
                }
                self.add(*parent, name, *inode)?;
                self.node_mut(*inode)?.links += 1;
                Ok(None)
            }
            NameChange::Remove { parent, name, kind } => {
                let inode = self.find(*parent, name)?;
                self.check_removal(inode, *kind)?;
                self.names_mut(*parent)?.remove(name);
                self.node_mut(inode)?.links -= 1;
                Ok(Some(inode))
            }
            NameChange::Rename { parent, name, new_parent, new_name } => {
                let inode = self.find(*parent, name)?;
                let replaced = self.names(*new_parent)?.get(new_name).copied();
                if replaced == Some(inode) {
                    return Ok(None);
                }
                if let Some(replaced) = replaced {
                    self.check_removal(replaced, self.node(inode)?.kind())?;
                    self.node_mut(replaced)?.links -= 1;
                }
                self.names_mut(*parent)?.remove(name);
                self.names_mut(*new_parent)?.insert(new_name.clone(), inode);
                Ok(replaced)
            }
        }
    }

    fn add(&mut self, parent: Inode, name: &OsStr, inode: Inode) -> Result<(), Errno> {
        let names = self.names_mut(parent)?;
        if names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        names.insert(name.to_owned(), inode);
        Ok(())
    }

    fn check_removal(&self, inode: Inode, expected: Kind) -> Result<(), Errno> {
        match (&self.node(inode)?.content, expected) {
            (Content::Directory(names), Kind::Directory) if names.is_empty() => Ok(()),
            (Content::Directory(_), Kind::Directory) => Err(Errno::ENOTEMPTY),
            (Content::Directory(_), Kind::File) => Err(Errno::EISDIR),
            (Content::File { .. }, Kind::Directory) => Err(Errno::ENOTDIR),
            (Content::File { .. }, Kind::File) => Ok(()),
        }
    }

    /// Removes what no name leads to.
    pub(crate) fn forget(&mut self, inode: Inode) {
        if self.nodes.get(&inode).is_some_and(|node| node.links == 0) {
            self.nodes.remove(&inode);
        }
    }

    /// Changes a file's bytes, the first `units` of the change.
    ///
    /// # Errors
    /// It is no file.
    pub(crate) fn change(&mut self, inode: Inode, change: &ByteChange, units: u64) -> Result<(), Errno> {
        let Content::File { bytes, reserved } = &mut self.node_mut(inode)?.content else { return Err(Errno::EISDIR) };
        match change {
            ByteChange::Write { offset, bytes: new } => {
                let new = &new[..new.len().min(length(units)?)];
                if new.is_empty() {
                    return Ok(());
                }
                let (start, end) = (length(*offset)?, length(*offset + new.len() as u64)?);
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(new);
            }
            ByteChange::Resize(size) if units > 0 => {
                bytes.resize(length(*size)?, 0);
                *reserved = 0;
            }
            ByteChange::Resize(_) => {}
        }
        Ok(())
    }
}

fn length(bytes: u64) -> Result<usize, Errno> {
    usize::try_from(bytes).map_err(|_too_large| Errno::EFBIG)
}
