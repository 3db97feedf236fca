//! The disk as a directory: requests of the kernel become operations of the model.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use parking_lot::{Mutex, MutexGuard};

use crate::disk::Disk;
use crate::tree::{BLOCK, Inode, Kind, Node};

/// The kernel must not remember anything: a power cut and a failing disk change files behind its back.
const REMEMBERED_FOR: Duration = Duration::ZERO;
/// Requests that are answered at the same time: a slow sync holds up nobody else.
const THREADS: usize = 8;
/// `Spec:` fallocate(2), linux/falloc.h.
const FALLOC_FL_KEEP_SIZE: i32 = 1;
/// `Spec:` fallocate(2), linux/falloc.h.
const FALLOC_FL_PUNCH_HOLE: i32 = 2;

/// A mounted disk. Dropping it detaches the directory, and the disk is gone.
pub struct FaultFs {
    disk: Arc<Mutex<Disk>>,
    mounted: PathBuf,
    _session: BackgroundSession,
}

impl FaultFs {
    /// Mounts an empty disk of so many bytes on a directory. Needs root and `/dev/fuse`.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn mount(directory: &Path, capacity_bytes: u64) -> io::Result<Self> {
        let disk = Arc::new(Mutex::new(Disk::new(capacity_bytes)));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultfs".to_owned()), MountOption::DefaultPermissions];
        config.n_threads = Some(THREADS);
        let served = Served { disk: Arc::clone(&disk), listings: Mutex::default() };
        let session = fuser::spawn_mount(served, directory, &config)?;
        Ok(Self { disk, mounted: directory.to_owned(), _session: session })
    }

    /// The disk. While it is held, every request waits.
    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock()
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        // somebody may still have a file open: they get an error when the session ends
        let _not_mounted = umount2(&self.mounted, MntFlags::MNT_DETACH);
    }
}

/// What the threads of the session share.
struct Served {
    disk: Arc<Mutex<Disk>>,
    /// Open directories, as they were when they were opened.
    listings: Mutex<Listings>,
}

#[derive(Default)]
struct Listings {
    next: u64,
    open: HashMap<u64, Vec<(OsString, Inode, Kind)>>,
}

fn attributes(inode: Inode, node: &Node) -> FileAttr {
    let (kind, links) = match node.kind() {
        Kind::File => (FileType::RegularFile, node.links),
        Kind::Directory => (FileType::Directory, 2),
    };
    FileAttr {
        ino: INodeNo(inode),
        size: node.size(),
        blocks: node.room() / 512,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: node.mode,
        nlink: links,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn code(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error as i32)
}

fn done(reply: ReplyEmpty, outcome: Result<(), Errno>) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(error)),
    }
}

/// The permission bits of a mode.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

impl Served {
    fn attributes(&self, inode: Inode) -> Result<FileAttr, Errno> {
        self.disk.lock().node(inode).map(|node| attributes(inode, node))
    }

    fn entry(&self, reply: ReplyEntry, found: Result<Inode, Errno>) {
        match found.and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => reply.entry(&REMEMBERED_FOR, &attributes, Generation(0)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn sync(&self, inode: Inode) -> Result<(), Errno> {
        let delay = self.disk.lock().sync_delay();
        if !delay.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "a slow disk is what is wanted")]
            std::thread::sleep(delay);
        }
        self.disk.lock().sync(inode)
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk.lock().find(parent.0, name);
        self.entry(reply, found);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode.0) {
            Ok(attributes) => reply.attr(&REMEMBERED_FOR, &attributes),
            Err(error) => reply.error(code(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = {
            let mut disk = self.disk.lock();
            let mode = mode.map_or(Ok(()), |mode| disk.set_mode(inode.0, permissions(mode)));
            mode.and_then(|()| size.map_or(Ok(()), |size| disk.resize(inode.0, size)))
        };
        match changed.and_then(|()| self.attributes(inode.0)) {
            Ok(attributes) => reply.attr(&REMEMBERED_FOR, &attributes),
            Err(error) => reply.error(code(error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.disk.lock().make(parent.0, name, Kind::Directory, permissions(mode & !umask));
        self.entry(reply, made);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.disk.lock().remove(parent.0, name, Kind::File));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.disk.lock().remove(parent.0, name, Kind::Directory));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk.lock();
        let refused = if flags == RenameFlags::RENAME_NOREPLACE {
            disk.find(new_parent.0, new_name).is_ok().then_some(Errno::EEXIST)
        } else {
            (!flags.is_empty()).then_some(Errno::EINVAL)
        };
        done(reply, refused.map_or_else(|| disk.move_to(parent.0, name, new_parent.0, new_name), Err));
    }

    fn link(&self, _: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.disk.lock().link(inode.0, parent.0, name).map(|()| inode.0);
        self.entry(reply, linked);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let made = {
            let mut disk = self.disk.lock();
            disk.make(parent.0, name, Kind::File, permissions(mode & !umask)).inspect(|inode| disk.opened(*inode))
        };
        match made.and_then(|inode| self.attributes(inode)) {
            Ok(attributes) => reply.created(&REMEMBERED_FOR, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(code(error)),
        }
    }

    fn open(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut disk = self.disk.lock();
        match disk.node(inode.0).map(|_| ()) {
            Ok(()) => {
                disk.opened(inode.0);
                reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn release(&self, _: &Request, inode: INodeNo, _: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        self.disk.lock().closed(inode.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk.lock().read(inode.0, offset, size) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(code(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk.lock().write(inode.0, offset, bytes) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(code(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(inode.0));
    }

    fn fsyncdir(&self, _: &Request, inode: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(inode.0));
    }

    fn fallocate(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let mut disk = self.disk.lock();
        let end = offset + length;
        let outcome = match mode {
            0 => disk.node(inode.0).map(Node::size).and_then(|size| if end > size { disk.resize(inode.0, end) } else { Ok(()) }),
            FALLOC_FL_KEEP_SIZE => disk.reserve(inode.0, end),
            mode if mode == FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE => disk.punch(inode.0, offset, end),
            _ => Err(Errno::EOPNOTSUPP),
        };
        done(reply, outcome);
    }

    fn opendir(&self, _: &Request, inode: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.disk.lock().list(inode.0) {
            Ok(names) => {
                let mut listings = self.listings.lock();
                listings.next += 1;
                let handle = listings.next;
                listings.open.insert(handle, names);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(code(error)),
        }
    }

    fn readdir(&self, _: &Request, inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listings = self.listings.lock();
        let names = listings.open.get(&handle.0).map(Vec::as_slice).unwrap_or_default();
        // nobody looks at the number of the directory above
        let dots = [OsStr::new("."), OsStr::new("..")].map(|name| (name, inode.0, Kind::Directory));
        let all = dots.into_iter().chain(names.iter().map(|(name, inode, kind)| (name.as_os_str(), *inode, *kind)));
        for (place, (name, inode, kind)) in (1_u64..).zip(all).filter(|(place, _)| *place > offset) {
            let kind = match kind {
                Kind::File => FileType::RegularFile,
                Kind::Directory => FileType::Directory,
            };
            if reply.add(INodeNo(inode), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.listings.lock().open.remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (capacity, free) = self.disk.lock().capacity_and_free();
        let (blocks, free, size) = (capacity / BLOCK, free / BLOCK, u32::try_from(BLOCK).unwrap_or(u32::MAX));
        reply.statfs(blocks, free, free, u64::from(u32::MAX), u64::from(u32::MAX), size, 255, size);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
