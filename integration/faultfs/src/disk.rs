//! A disk, what the operating system holds back from it, and what can go wrong with it. Decides, and does no I/O.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use crate::tree::{BLOCK, ByteChange, Content, Inode, Kind, NameChange, Node, ROOT, Tree, room};

/// A disk with its cache. Operations are those of system calls, by inode, and fail as they do.
pub struct Disk {
    /// What its users see.
    shown: Tree,
    /// What is left when the power goes now.
    stored: Tree,
    /// Changes of names that are shown and not stored, in their order.
    names: VecDeque<NameChange>,
    /// The same for the bytes of each file.
    writes: BTreeMap<Inode, VecDeque<ByteChange>>,
    /// How often each file is open.
    open: BTreeMap<Inode, u64>,
    next: Inode,
    capacity_bytes: u64,
    failing: Option<FailingSyncs>,
    sync_delay: Duration,
    syncs: u64,
}

/// Syncs of some files that fail.
struct FailingSyncs {
    /// A part of their paths.
    part: String,
    /// How many will.
    left: u32,
}

impl Disk {
    /// An empty disk that holds so many bytes.
    pub fn new(capacity_bytes: u64) -> Self {
        Self {
            shown: Tree::new(),
            stored: Tree::new(),
            names: VecDeque::new(),
            writes: BTreeMap::new(),
            open: BTreeMap::new(),
            next: ROOT + 1,
            capacity_bytes,
            failing: None,
            sync_delay: Duration::ZERO,
            syncs: 0,
        }
    }

    // what goes wrong

    /// The power goes and comes back: what was not stored is lost, except for what `keep` says. It is asked once for the names and once for
    /// each file how many of so many changes of names, or bytes, had reached the disk. Nothing is open afterwards.
    pub fn cut_power(&mut self, mut keep: impl FnMut(u64) -> u64) {
        let kept = keep(self.names.len() as u64);
        let unsure = std::mem::take(&mut self.names);
        for change in unsure.into_iter().zip(0..kept).map(|(change, _)| change) {
            self.store_name(&change);
        }
        for (inode, changes) in std::mem::take(&mut self.writes) {
            let mut left = keep(changes.iter().map(ByteChange::units).sum());
            for change in changes {
                // a file whose name was lost is gone
                let _gone = self.stored.change(inode, &change, left);
                left = left.saturating_sub(change.units());
                if left == 0 {
                    break;
                }
            }
        }
        self.shown = self.stored.clone();
        self.open.clear();
    }

    /// The next `times` syncs of files whose path holds `part` fail with `EIO`.
    pub fn fail_syncs(&mut self, part: &str, times: u32) {
        self.failing = Some(FailingSyncs { part: part.to_owned(), left: times });
    }

    /// How many syncs are still to fail.
    pub fn failures_left(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| failing.left)
    }

    /// Every sync takes so long from now on.
    pub fn slow_syncs(&mut self, delay: Duration) {
        self.sync_delay = delay;
    }

    /// It holds so many bytes from now on; less than what is there means that it is full.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// Changes the bits `mask` of a stored byte, as a failing disk does, behind everybody's back.
    ///
    /// # Errors
    /// There is no such file, or it is shorter.
    pub fn flip(&mut self, path: &Path, offset: u64, mask: u8) -> Result<(), Errno> {
        let inode = self.stored.walk(path)?;
        for tree in [&mut self.stored, &mut self.shown] {
            let Content::File { bytes, .. } = &mut tree.node_mut(inode)?.content else { return Err(Errno::EISDIR) };
            let place = usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset)).ok_or(Errno::EINVAL)?;
            *place ^= mask;
        }
        Ok(())
    }

    // what is there

    /// Stored files with their paths and how many bytes they have before the zeros at their ends.
    pub fn stored_files(&self) -> Vec<(PathBuf, u64)> {
        let written = |inode| {
            let bytes = self.stored.bytes(inode).unwrap_or_default();
            bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
        };
        self.stored.files().into_iter().map(|(path, inode)| (path, written(inode))).collect()
    }

    /// Bytes that a power cut would take.
    pub fn unsynced_bytes(&self) -> u64 {
        self.writes.values().flatten().map(ByteChange::units).sum()
    }

    /// How many syncs were asked for.
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Bytes that it holds, and those that are free.
    pub fn capacity_and_free(&self) -> (u64, u64) {
        (self.capacity_bytes, self.capacity_bytes.saturating_sub(self.shown.room()))
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.shown.room()
    }

    // system calls

    pub(crate) fn node(&self, inode: Inode) -> Result<&Node, Errno> {
        self.shown.node(inode)
    }

    pub(crate) fn find(&self, parent: Inode, name: &OsStr) -> Result<Inode, Errno> {
        self.shown.find(parent, name)
    }

    /// Names in a directory.
    pub(crate) fn list(&self, inode: Inode) -> Result<Vec<(OsString, Inode, Kind)>, Errno> {
        let names = self.shown.names(inode)?;
        names.iter().map(|(name, inode)| Ok((name.clone(), *inode, self.shown.node(*inode)?.kind()))).collect()
    }

    pub(crate) fn set_mode(&mut self, inode: Inode, mode: u16) -> Result<(), Errno> {
        self.shown.node_mut(inode)?.mode = mode;
        Ok(())
    }

    /// Makes a file or directory.
    pub(crate) fn make(&mut self, parent: Inode, name: &OsStr, kind: Kind, mode: u16) -> Result<Inode, Errno> {
        self.check_room(BLOCK)?;
        let inode = self.next;
        self.rename(NameChange::Make { parent, name: name.to_owned(), inode, kind, mode })?;
        self.next += 1;
        Ok(inode)
    }

    pub(crate) fn link(&mut self, inode: Inode, parent: Inode, name: &OsStr) -> Result<(), Errno> {
        self.rename(NameChange::Link { inode, parent, name: name.to_owned() })
    }

    pub(crate) fn remove(&mut self, parent: Inode, name: &OsStr, kind: Kind) -> Result<(), Errno> {
        self.rename(NameChange::Remove { parent, name: name.to_owned(), kind })
    }

    pub(crate) fn move_to(&mut self, parent: Inode, name: &OsStr, new_parent: Inode, new_name: &OsStr) -> Result<(), Errno> {
        self.rename(NameChange::Rename { parent, name: name.to_owned(), new_parent, new_name: new_name.to_owned() })
    }

    pub(crate) fn opened(&mut self, inode: Inode) {
        *self.open.entry(inode).or_default() += 1;
    }

    /// It was closed once. What was opened before a power cut may be closed after it.
    pub(crate) fn closed(&mut self, inode: Inode) {
        if let Some(count) = self.open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&inode);
                self.forget(inode);
            }
        }
    }

    pub(crate) fn read(&self, inode: Inode, offset: u64, size: u32) -> Result<&[u8], Errno> {
        let bytes = self.shown.bytes(inode)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        Ok(&bytes[start..end])
    }

    pub(crate) fn write(&mut self, inode: Inode, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.check_growth(inode, offset + bytes.len() as u64)?;
        self.change(inode, ByteChange::Write { offset, bytes: bytes.to_vec() })
    }

    pub(crate) fn resize(&mut self, inode: Inode, size: u64) -> Result<(), Errno> {
        self.check_growth(inode, size)?;
        self.change(inode, ByteChange::Resize(size))
    }

    /// Sets room aside up to `end`, without a change of the size.
    pub(crate) fn reserve(&mut self, inode: Inode, end: u64) -> Result<(), Errno> {
        self.check_growth(inode, end)?;
        match &mut self.shown.node_mut(inode)?.content {
            Content::File { reserved, .. } => *reserved = end.max(*reserved),
            Content::Directory(_) => return Err(Errno::EISDIR),
        }
        Ok(())
    }

    /// Gives back the room in `[offset, end)`: what was written there is zero afterwards.
    pub(crate) fn punch(&mut self, inode: Inode, offset: u64, end: u64) -> Result<(), Errno> {
        let size = self.shown.node(inode)?.size();
        if let Content::File { reserved, .. } = &mut self.shown.node_mut(inode)?.content
            && end >= *reserved
        {
            *reserved = (*reserved).min(offset);
        }
        let zeros = end.min(size).saturating_sub(offset);
        match usize::try_from(zeros) {
            Ok(0) | Err(_) => Ok(()),
            Ok(zeros) => self.change(inode, ByteChange::Write { offset, bytes: vec![0; zeros] }),
        }
    }

    /// How long a sync takes.
    pub(crate) fn sync_delay(&self) -> Duration {
        self.sync_delay
    }

    /// Stores all names so far and what was written to this file; a directory has nothing but names.
    pub(crate) fn sync(&mut self, inode: Inode) -> Result<(), Errno> {
        self.syncs += 1;
        if self.must_fail(inode) {
            // they look clean to the system, and are not written again
            self.writes.remove(&inode);
            return Err(Errno::EIO);
        }
        for change in std::mem::take(&mut self.names) {
            self.store_name(&change);
        }
        for change in self.writes.remove(&inode).unwrap_or_default() {
            // a removed file that is still open has nothing to be stored in
            let _removed = self.stored.change(inode, &change, u64::MAX);
        }
        Ok(())
    }

    fn must_fail(&mut self, inode: Inode) -> bool {
        let Some(failing) = self.failing.as_mut().filter(|failing| failing.left > 0) else { return false };
        let named = |(path, of): &(PathBuf, Inode)| *of == inode && path.to_string_lossy().contains(&failing.part);
        let fails = self.shown.files().iter().any(named);
        failing.left -= u32::from(fails);
        fails
    }

    fn rename(&mut self, change: NameChange) -> Result<(), Errno> {
        let loser = self.shown.rename(&change)?;
        self.names.push_back(change);
        if let Some(inode) = loser {
            self.forget(inode);
        }
        Ok(())
    }

    /// Forgets a file that has no name and is not open.
    fn forget(&mut self, inode: Inode) {
        if !self.open.contains_key(&inode) {
            self.shown.forget(inode);
            if self.shown.node(inode).is_err() {
                self.writes.remove(&inode);
            }
        }
    }

    /// What was shown in this order is possible in this order.
    fn store_name(&mut self, change: &NameChange) {
        if let Ok(Some(inode)) = self.stored.rename(change) {
            self.stored.forget(inode);
        }
    }

    fn change(&mut self, inode: Inode, change: ByteChange) -> Result<(), Errno> {
        self.shown.change(inode, &change, u64::MAX)?;
        self.writes.entry(inode).or_default().push_back(change);
        Ok(())
    }

    fn check_growth(&self, inode: Inode, size: u64) -> Result<(), Errno> {
        let more = room(size).saturating_sub(self.shown.node(inode)?.room());
        if more == 0 { Ok(()) } else { self.check_room(more) }
    }

    fn check_room(&self, more: u64) -> Result<(), Errno> {
        if self.shown.room() + more > self.capacity_bytes { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
