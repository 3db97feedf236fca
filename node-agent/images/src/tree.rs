//! A directory tree that is written without ever leaving it: every path is resolved by the kernel with the tree's root as `/`.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat, futimens, makedev, mkdirat, mknodat, mode_t,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, mkfifoat, symlinkat, unlinkat};
use trierarch_runtime::resolve::open_below;
use xattr::FileExt;

/// The attribute that makes a directory hide what is below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// A path below the root: cleaned, without `.` and `..`; empty for the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TreePath {
    parts: Vec<OsString>,
}

/// Owner, mode, times and extended attributes of an entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, i64),
    pub(crate) xattrs: Vec<(OsString, Vec<u8>)>,
}

/// An open tree.
pub(crate) struct Tree {
    root: OwnedFd,
    /// The directory most recently written to: archives list siblings together.
    recent: Option<(TreePath, OwnedFd)>,
    /// Lower layers, top first: where directories that the archive does not list get their attributes from.
    lower: Vec<PathBuf>,
}

impl TreePath {
    /// The path that this text names from the root; `None` if it would climb above it.
    pub(crate) fn clean(text: &[u8]) -> Option<Self> {
        let mut parts: Vec<OsString> = Vec::new();
        for part in text.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop()?;
                }
                _ => parts.push(OsString::from_vec(part.to_vec())),
            }
        }
        Some(Self { parts })
    }

    /// As `clean`, but `..` at the root stays there, as in a chroot.
    pub(crate) fn clamp(text: &[u8]) -> Self {
        let mut parts: Vec<OsString> = Vec::new();
        for part in text.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                _ => parts.push(OsString::from_vec(part.to_vec())),
            }
        }
        Self { parts }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.parts.is_empty()
    }

    pub(crate) fn name(&self) -> Option<&OsStr> {
        self.parts.last().map(OsString::as_os_str)
    }

    pub(crate) fn parent(&self) -> Self {
        Self { parts: self.parts[..self.parts.len().saturating_sub(1)].to_vec() }
    }

    pub(crate) fn join(&self, name: &OsStr) -> Self {
        let mut parts = self.parts.clone();
        parts.push(name.to_owned());
        Self { parts }
    }

    /// All directories above it, from the top, without the root.
    fn ancestors(&self) -> impl Iterator<Item = Self> + '_ {
        (1..self.parts.len()).map(|count| Self { parts: self.parts[..count].to_vec() })
    }

    /// Relative, never empty: `.` for the root.
    pub(crate) fn to_path(&self) -> PathBuf {
        if self.parts.is_empty() { PathBuf::from(".") } else { self.parts.iter().collect() }
    }
}

impl Tree {
    pub(crate) fn open(root: &Path, lower: &[PathBuf]) -> io::Result<Self> {
        let root = open(root, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, recent: None, lower: lower.to_vec() })
    }

    /// What is there; symbolic links are not followed in the last part.
    pub(crate) fn stat(&self, path: &TreePath) -> io::Result<Option<FileStat>> {
        let result = match path.name() {
            None => fstat(&self.root),
            Some(name) => self.resolve(&path.parent()).and_then(|parent| fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)),
        };
        match result {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether a path leads to a directory, by links inside the tree, too.
    pub(crate) fn leads_to_directory(&self, path: &TreePath) -> bool {
        self.resolve(path).is_ok()
    }

    /// Makes a directory, or changes the attributes of the one that is there. Times are set with `set_directory_time` when it is full.
    pub(crate) fn directory(&mut self, path: &TreePath, attributes: &Attributes) -> io::Result<()> {
        let Some(name) = path.name() else {
            let root = self.root.try_clone()?;
            return apply_directory(File::from(root), attributes);
        };
        let parent = self.parent(path)?;
        match fstatat(&parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if kind(&stat) == SFlag::S_IFDIR => {}
            Ok(stat) => {
                unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir)?;
                mkdirat(&parent, name, Mode::S_IRWXU)?;
                if is_whiteout(&stat) {
                    open_directory(&parent, name)?.set_xattr(OPAQUE, b"y")?;
                }
            }
            Err(Errno::ENOENT) => mkdirat(&parent, name, Mode::S_IRWXU)?,
            Err(errno) => return Err(errno.into()),
        }
        apply_directory(open_directory(&parent, name)?, attributes)
    }

    /// Makes an empty regular file, in place of whatever was there, and hands it over for writing; then call `finish_file`.
    pub(crate) fn create_file(&mut self, path: &TreePath) -> io::Result<File> {
        let (parent, name) = self.make_room(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&parent, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Makes a symbolic link, in place of whatever was there. Its target is any text.
    pub(crate) fn symlink(&mut self, path: &TreePath, target: &[u8], attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.make_room(path)?;
        symlinkat(OsStr::from_bytes(target), &parent, name.as_os_str())?;
        chown_at(&parent, &name, attributes)?;
        Ok(utimes_at(&parent, &name, attributes)?)
    }

    /// Makes a hard link to another entry of this tree. `false` if that does not exist.
    pub(crate) fn hard_link(&mut self, path: &TreePath, target: &TreePath) -> io::Result<bool> {
        let Some(target_name) = target.name() else { return Ok(false) };
        let from = match self.resolve(&target.parent()) {
            Ok(from) => from,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        if path == target {
            return Ok(self.stat(path)?.is_some());
        }
        if let Err(Errno::ENOENT) = fstatat(&from, target_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            return Ok(false);
        }
        let (parent, name) = self.make_room(path)?;
        linkat(&from, target_name, &parent, name.as_os_str(), AtFlags::empty())?;
        Ok(true)
    }

    /// Makes a device or a pipe.
    pub(crate) fn special(&mut self, path: &TreePath, kind: SFlag, device: (u64, u64), attributes: &Attributes) -> io::Result<()> {
        let (parent, name) = self.make_room(path)?;
        if kind == SFlag::S_IFIFO {
            mkfifoat(&parent, name.as_os_str(), Mode::S_IRUSR)?;
        } else {
            mknodat(&parent, name.as_os_str(), kind, Mode::S_IRUSR, makedev(device.0, device.1))?;
        }
        chown_at(&parent, &name, attributes)?;
        fchmodat(&parent, name.as_os_str(), mode(attributes.mode), FchmodatFlags::FollowSymlink)?;
        Ok(utimes_at(&parent, &name, attributes)?)
    }

    /// Hides what the layers below have under this name; an entry of this layer stays.
    pub(crate) fn whiteout(&mut self, path: &TreePath) -> io::Result<()> {
        let Some(name) = path.name() else { return Ok(()) };
        let parent = self.parent(path)?;
        match mknodat(&parent, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hides everything that the layers below have in this directory.
    pub(crate) fn opaque(&mut self, path: &TreePath) -> io::Result<()> {
        let directory = self.parent(&path.join(OsStr::new("x")))?;
        open_directory(&directory, OsStr::new("."))?.set_xattr(OPAQUE, b"y")
    }

    /// Sets a directory's time; it may have been replaced by something else, which is fine.
    pub(crate) fn set_directory_time(&self, path: &TreePath, mtime: (i64, i64)) -> io::Result<()> {
        match open_below(
            &self.root,
            &path.to_path(),
            how(OFlag::O_RDONLY | OFlag::O_DIRECTORY).resolve(IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS),
        ) {
            Ok(directory) => Ok(futimens(&directory, &timespec(mtime), &timespec(mtime))?),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes whatever is there, with all below it.
    pub(crate) fn remove(&mut self, path: &TreePath) -> io::Result<()> {
        let Some(name) = path.name() else { return Ok(()) };
        let parent = match self.resolve(&path.parent()) {
            Ok(parent) => parent,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        self.recent = None;
        match unlinkat(&parent, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR) => fs::remove_dir_all(descriptor_path(&parent).join(name)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The parent directory, and the name with nothing under it.
    fn make_room(&mut self, path: &TreePath) -> io::Result<(OwnedFd, OsString)> {
        let name = path.name().ok_or_else(|| io::Error::from(Errno::EISDIR))?.to_owned();
        let parent = self.parent(path)?;
        if fstatat(&parent, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            self.remove(path)?;
        }
        Ok((parent, name))
    }

    /// The directory that holds the path, made with everything above it if it is missing.
    fn parent(&mut self, path: &TreePath) -> io::Result<OwnedFd> {
        let parent = path.parent();
        if let Some((recent, descriptor)) = &self.recent
            && *recent == parent
        {
            return descriptor.try_clone();
        }
        let descriptor = match self.resolve(&parent) {
            Ok(descriptor) => descriptor,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                for ancestor in path.ancestors() {
                    self.make_missing(&ancestor)?;
                }
                self.resolve(&parent)?
            }
            Err(errno) => return Err(errno.into()),
        };
        self.recent = Some((parent, descriptor.try_clone()?));
        Ok(descriptor)
    }

    fn make_missing(&mut self, path: &TreePath) -> io::Result<()> {
        match self.resolve(path) {
            Ok(_) => Ok(()),
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                if self.stat(path)?.is_some_and(|stat| !is_whiteout(&stat)) {
                    return Err(Errno::ENOTDIR.into());
                }
                self.directory(path, &self.attributes_below(path))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// What the topmost lower layer that has this directory says of it.
    fn attributes_below(&self, path: &TreePath) -> Attributes {
        for lower in &self.lower {
            let found = open(lower, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).and_then(|root| {
                open_below(
                    &root,
                    &path.to_path(),
                    how(OFlag::O_PATH | OFlag::O_DIRECTORY).resolve(IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS),
                )
            });
            if let Ok(stat) = found.and_then(|directory| fstat(&directory)) {
                let mtime = (stat.st_mtime, stat.st_mtime_nsec);
                return Attributes { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid, mtime, xattrs: Vec::new() };
            }
        }
        Attributes { mode: 0o755, ..Attributes::default() }
    }

    fn resolve(&self, directory: &TreePath) -> nix::Result<OwnedFd> {
        open_below(&self.root, &directory.to_path(), how(OFlag::O_PATH | OFlag::O_DIRECTORY))
    }
}

/// Gives a written file its attributes: owner first, because that clears set-ID bits and capabilities.
pub(crate) fn finish_file(file: &File, attributes: &Attributes) -> io::Result<()> {
    fchown(file, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    fchmod(file, mode(attributes.mode))?;
    set_xattrs(file, attributes)?;
    Ok(futimens(file, &timespec(attributes.mtime), &timespec(attributes.mtime))?)
}

/// Whether this is how overlayfs marks a removed entry.
pub(crate) fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

pub(crate) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

const IN_ROOT: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(IN_ROOT)
}

fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate(mode_t::from(bits & 0o7777))
}

fn timespec(time: (i64, i64)) -> TimeSpec {
    TimeSpec::new(time.0, time.1)
}

fn open_directory(parent: &impl AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::empty())?))
}

fn apply_directory(directory: File, attributes: &Attributes) -> io::Result<()> {
    finish_file(&directory, attributes)
}

fn chown_at(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> nix::Result<()> {
    fchownat(parent, name, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)), AtFlags::AT_SYMLINK_NOFOLLOW)
}

fn utimes_at(parent: &OwnedFd, name: &OsStr, attributes: &Attributes) -> nix::Result<()> {
    let time = timespec(attributes.mtime);
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

/// Attributes that the file system or the kernel does not know (`security.selinux` on ext4 without SELinux) are left out.
fn set_xattrs(file: &File, attributes: &Attributes) -> io::Result<()> {
    for (name, value) in &attributes.xattrs {
        match file.set_xattr(name, value) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOTSUP as i32) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// A path to an open directory, for calls that take no descriptor.
pub(crate) fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
