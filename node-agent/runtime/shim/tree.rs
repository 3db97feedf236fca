//! A container's file tree: its root, and the plan's steps done one by one inside it. Runs in the cloned child.
//!
//! Every path of the container is resolved by the kernel inside the root (`openat2`, `RESOLVE_IN_ROOT`), and mounts are attached to the
//! descriptor found, so that a link in an image can not point a mount at the host.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::protocol::{Failure, Root, Step, attr, bind};
use crate::sys;

/// What steps give back on failure.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Names the step, the kernel's answer and the message for users.
pub(crate) fn failure(step: &str, what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| {
        let errno = error.raw_os_error().unwrap_or(0);
        Failure { step: step.to_owned(), errno, message: format!("{what}: {}", describe(&error)) }
    }
}

/// The C library's words in lower case and without the number, as Go prints them.
pub(crate) fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

const NOT_FOUND: i32 = 2;
const EXISTS: i32 = 17;
const NOT_PERMITTED: i32 = 1;
/// Dangling links followed for one path.
const LINKS_MAX: u32 = 8;

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Mounts that must be copied while the process still is in the host's mount namespace, by step index.
pub(crate) struct HostTrees {
    binds: BTreeMap<usize, OwnedFd>,
    root: Option<OwnedFd>,
    null: OwnedFd,
}

/// Copies the mounts that the plan shows from the host. With a user namespace their owners are shown as it maps them, where the file
/// system can do that.
pub(crate) fn open_host_trees(root: &Root, steps: &[Step], user: Option<BorrowedFd<'_>>, warnings: &mut Vec<String>) -> Outcome<HostTrees> {
    let mut binds = BTreeMap::new();
    for (index, step) in steps.iter().enumerate() {
        let Step::Bind { source, subpath, dest, recursive, read_only, propagation, attrs } = step else { continue };
        let says = || format!("error mounting {:?} to rootfs at {:?}: {:?}", source.display(), dest.display(), source.display());
        let tree = match subpath {
            None => sys::open_tree(None, source, *recursive),
            Some(path) => sys::openat2(None, source, sys::O_PATH, 0, 0)
                .and_then(|base| sys::openat2(Some(base.as_fd()), path, sys::O_PATH, 0, sys::RESOLVE_BENEATH | sys::RESOLVE_NO_MAGICLINKS))
                .and_then(|found| sys::open_tree(Some(found.as_fd()), Path::new(""), *recursive)),
        }
        .map_err(failure("mount", says()))?;
        let way = match *propagation {
            bind::SHARED => sys::MS_SHARED,
            bind::SLAVE => sys::MS_SLAVE,
            _ => sys::MS_PRIVATE,
        };
        sys::mount_setattr(tree.as_fd(), true, 0, way, None).map_err(failure("mount", says()))?;
        if *read_only != bind::WRITABLE || *attrs != 0 {
            let read = if *read_only == bind::WRITABLE { 0 } else { attr::RDONLY };
            sys::mount_setattr(tree.as_fd(), *read_only == bind::READ_ONLY_RECURSIVE, attrs | read, 0, None)
                .map_err(failure("mount", says()))?;
        }
        map_owners(tree.as_fd(), *recursive, user, source, warnings);
        binds.insert(index, tree);
    }
    let root = match root {
        Root::Directory { path } => {
            let tree = sys::open_tree(None, path, true).map_err(failure("rootfs", format!("rootfs {:?}", path.display())))?;
            sys::mount_setattr(tree.as_fd(), true, 0, sys::MS_PRIVATE, None).map_err(failure("rootfs", "making rootfs private"))?;
            map_owners(tree.as_fd(), true, user, path, warnings);
            Some(tree)
        }
        Root::Overlay { .. } => None,
    };
    let null = sys::open_tree(None, Path::new("/dev/null"), false).map_err(failure("mount", "/dev/null"))?;
    Ok(HostTrees { binds, root, null })
}

/// Shows the owners of a detached mount as the user namespace maps them.
fn map_owners(tree: BorrowedFd<'_>, recursive: bool, user: Option<BorrowedFd<'_>>, source: &Path, warnings: &mut Vec<String>) {
    if let Some(user) = user
        && let Err(error) = sys::mount_setattr(tree, recursive, 0, 0, Some(user))
    {
        warnings.push(format!("owners are not mapped in {}: {}", source.display(), describe(&error)));
    }
}

/// Mounts the root and gives a descriptor of it.
pub(crate) fn mount_root(
    root: &Root,
    mountpoint: &Path,
    trees: &HostTrees,
    user: Option<(BorrowedFd<'_>, (u32, u32))>,
    warnings: &mut Vec<String>,
) -> Outcome<OwnedFd> {
    let point = sys::openat2(None, mountpoint, sys::O_PATH | sys::O_DIRECTORY, 0, 0)
        .map_err(failure("rootfs", format!("rootfs mount point {:?}", mountpoint.display())))?;
    match (root, &trees.root) {
        (Root::Overlay { lower, upper, work }, _) => match user {
            None => mount_overlay(lower, upper, work, mountpoint)?,
            Some(user) => return mount_mapped_overlay(lower, (upper, work), mountpoint, user, warnings),
        },
        (Root::Directory { path }, Some(tree)) => {
            sys::move_mount(tree.as_fd(), point.as_fd()).map_err(failure("rootfs", format!("mounting rootfs {:?}", path.display())))?;
        }
        (Root::Directory { .. }, None) => {}
    }
    sys::openat2(None, mountpoint, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(failure("rootfs", "opening rootfs"))
}

fn escape(path: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        if matches!(byte, b'\\' | b',' | b':') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out
}

fn mount_overlay(lower: &[PathBuf], upper: &Path, work: &Path, mountpoint: &Path) -> Outcome<()> {
    let says = || format!("mounting overlay of {} layers", lower.len());
    let options = |names: &[Vec<u8>]| {
        let mut data = b"lowerdir=".to_vec();
        data.extend(names.join(&b':'));
        data.extend(b",upperdir=");
        data.extend(escape(upper));
        data.extend(b",workdir=");
        data.extend(escape(work));
        data
    };
    let names: Vec<Vec<u8>> = lower.iter().map(|path| escape(path)).collect();
    let mut data = options(&names);
    let mut held = Vec::new();
    // The kernel reads one page of options: many layers are named by descriptor.
    if data.len() > 4000 {
        for path in lower {
            held.push(sys::openat2(None, path, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(failure("rootfs", path.display()))?);
        }
        let names: Vec<Vec<u8>> = held.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()).collect();
        data = options(&names);
    }
    // A crash of the machine loses container layers anyway; `volatile` saves the sync at every unmount, where the kernel knows it.
    let mut quick = data.clone();
    quick.extend(b",volatile");
    let _ = std::fs::remove_dir_all(work.join("work/incompat"));
    sys::mount_classic("overlay", mountpoint, "overlay", 0, &quick)
        .or_else(|_| sys::mount_classic("overlay", mountpoint, "overlay", 0, &data))
        .map_err(failure("rootfs", says()))
}

/// An overlay of id-mapped layers: copies of their mounts, attached below a tmpfs at the mount point that nobody else sees. The writable
/// layer is not mapped: it belongs to one container and holds the ids that the host sees.
fn mount_mapped_overlay(
    lower: &[PathBuf],
    (upper, work): (&Path, &Path),
    mountpoint: &Path,
    (user, owner): (BorrowedFd<'_>, (u32, u32)),
    warnings: &mut Vec<String>,
) -> Outcome<OwnedFd> {
    let says = || failure("rootfs", "mapping the owners of layers");
    let point = sys::openat2(None, mountpoint, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(says())?;
    let base = sys::new_filesystem("tmpfs", &[("mode".to_owned(), "0755".to_owned())], 0).map_err(says())?;
    sys::move_mount(base.as_fd(), point.as_fd()).map_err(says())?;
    let base = sys::openat2(None, mountpoint, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(says())?;
    let mut show = |source: &Path, name: String| -> Outcome<PathBuf> {
        let tree = sys::open_tree(None, source, false).map_err(failure("rootfs", source.display()))?;
        map_owners(tree.as_fd(), false, Some(user), source, warnings);
        sys::make_dir(base.as_fd(), OsStr::new(&name), 0o755).map_err(says())?;
        let place = sys::openat2(Some(base.as_fd()), Path::new(&name), sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(says())?;
        sys::move_mount(tree.as_fd(), place.as_fd()).map_err(says())?;
        Ok(mountpoint.join(name))
    };
    let layers = lower.iter().enumerate().map(|(index, path)| show(path, format!("l{index}"))).collect::<Outcome<Vec<_>>>()?;
    // Where new files go: theirs is what the overlay's own root belongs to.
    sys::change_owner_of(upper, owner.0, owner.1).map_err(says())?;
    sys::make_dir(base.as_fd(), OsStr::new("root"), 0o755).map_err(says())?;
    let target = mountpoint.join("root");
    mount_overlay(&layers, upper, work, &target)?;
    sys::openat2(None, &target, sys::O_PATH | sys::O_DIRECTORY, 0, 0).map_err(failure("rootfs", "opening rootfs"))
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn resolve(root: BorrowedFd<'_>, path: &Path, flags: u64) -> io::Result<OwnedFd> {
    let path = relative(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    sys::openat2(Some(root), path, flags, 0, sys::RESOLVE_IN_ROOT)
}

/// The directory at `path` inside the root, made with its parents when missing.
pub(crate) fn ensure_dir(root: BorrowedFd<'_>, path: &Path, mode: u32) -> io::Result<OwnedFd> {
    ensure_dir_through(root, path, mode, 0)
}

/// `links` counts the links followed that point at nothing yet (`/var/run -> /run` of an image without `/run`).
fn ensure_dir_through(root: BorrowedFd<'_>, path: &Path, mode: u32, links: u32) -> io::Result<OwnedFd> {
    match resolve(root, path, sys::O_PATH | sys::O_DIRECTORY) {
        Err(error) if errno(&error) == NOT_FOUND => {}
        other => return other,
    }
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::Error::from_raw_os_error(NOT_FOUND)) };
    let parent = ensure_dir_through(root, above, 0o755, links)?;
    match sys::make_dir(parent.as_fd(), name, mode) {
        Err(error) if errno(&error) != EXISTS => return Err(error),
        _ => {}
    }
    match resolve(root, path, sys::O_PATH | sys::O_DIRECTORY) {
        Err(error) if errno(&error) == NOT_FOUND && links < LINKS_MAX => {
            let target = std::fs::read_link(Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name))?;
            ensure_dir_through(root, &above.join(target), mode, links + 1)
        }
        other => other,
    }
}

fn parent_of<'p>(root: BorrowedFd<'_>, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::Error::from_raw_os_error(22)) };
    Ok((ensure_dir(root, parent, 0o755)?, name))
}

/// The file at `path` inside the root, made empty when missing.
fn ensure_file(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    match resolve(root, path, sys::O_PATH) {
        Err(error) if errno(&error) == NOT_FOUND => {}
        other => return other,
    }
    let (parent, name) = parent_of(root, path)?;
    match sys::make_node(parent.as_fd(), name, 0o100_644, 0, 0) {
        Err(error) if errno(&error) != EXISTS => return Err(error),
        _ => {}
    }
    resolve(root, path, sys::O_PATH)
}

fn is_dir(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match sys::openat2(Some(fd), Path::new("."), sys::O_PATH, 0, 0) {
        Ok(_) => Ok(true),
        Err(error) if errno(&error) == 20 => Ok(false),
        Err(error) => Err(error),
    }
}

fn attach(root: BorrowedFd<'_>, tree: BorrowedFd<'_>, dest: &Path) -> io::Result<()> {
    let target = if is_dir(tree)? { ensure_dir(root, dest, 0o755)? } else { ensure_file(root, dest)? };
    sys::move_mount(tree, target.as_fd())
}

/// Does all steps. `shm` is a copy of the pod's `/dev/shm`.
pub(crate) fn run_steps(
    root: BorrowedFd<'_>,
    steps: &[Step],
    trees: &HostTrees,
    mut shm: Option<OwnedFd>,
    warnings: &mut Vec<String>,
) -> Outcome<()> {
    for (index, step) in steps.iter().enumerate() {
        match step {
            Step::Bind { source, dest, .. } => {
                let Some(tree) = trees.binds.get(&index) else { continue };
                attach(root, tree.as_fd(), dest)
                    .map_err(failure("mount", format!("error mounting {:?} to rootfs at {:?}", source.display(), dest.display())))?;
            }
            Step::Filesystem { kind, dest, options, attrs, optional } => {
                let done = sys::new_filesystem(kind, options, *attrs).and_then(|tree| attach(root, tree.as_fd(), dest));
                match done {
                    Err(error) if *optional => warnings.push(format!("{kind} was not mounted at {}: {}", dest.display(), describe(&error))),
                    other => {
                        other.map_err(failure("mount", format!("error mounting {kind:?} to rootfs at {:?}", dest.display())))?;
                    }
                }
            }
            Step::SandboxShm { dest } => {
                if let Some(tree) = shm.take() {
                    attach(root, tree.as_fd(), dest).map_err(failure("mount", "error mounting the pod's /dev/shm"))?;
                }
            }
            Step::Symlink { target, path } => {
                let made = parent_of(root, path).and_then(|(parent, name)| sys::make_symlink(target, parent.as_fd(), name));
                match made {
                    Err(error) if errno(&error) == EXISTS => {}
                    other => other.map_err(failure("mount", format!("linking {:?}", path.display())))?,
                }
            }
            Step::Directory { path, mode } => {
                ensure_dir(root, path, *mode).map_err(failure("mount", format!("mkdir {:?}", path.display())))?;
            }
            Step::Device { .. } => {
                make_device(root, step).map_err(|(path, error)| failure("device", format!("device {:?}", path.display()))(error))?
            }
            Step::Mask { path } => {
                mask(root, path, trees.null.as_fd()).map_err(failure("mount", format!("masking {:?}", path.display())))?
            }
            Step::ReadOnly { path } => {
                make_read_only(root, path).map_err(failure("mount", format!("making {:?} read-only", path.display())))?;
            }
        }
    }
    Ok(())
}

fn make_device<'s>(root: BorrowedFd<'_>, step: &'s Step) -> Result<(), (&'s Path, io::Error)> {
    let Step::Device { path, kind, major, minor, mode, uid, gid, host } = step else { return Ok(()) };
    let make = || {
        let (parent, name) = parent_of(root, path)?;
        let kind = match kind {
            b'b' => 0o060_000,
            b'p' => 0o010_000,
            _ => 0o020_000,
        };
        match sys::make_node(parent.as_fd(), name, kind | mode, *major, *minor) {
            Err(error) if errno(&error) == NOT_PERMITTED => {
                let tree = sys::open_tree(None, host, false)?;
                return attach(root, tree.as_fd(), path);
            }
            Err(error) if errno(&error) == EXISTS => {}
            other => other?,
        }
        sys::change_mode(parent.as_fd(), name, *mode)?;
        sys::change_owner(parent.as_fd(), name, *uid, *gid)
    };
    make().map_err(|error| (path.as_path(), error))
}

fn mask(root: BorrowedFd<'_>, path: &Path, null: BorrowedFd<'_>) -> io::Result<()> {
    let target = match resolve(root, path, sys::O_PATH) {
        Err(error) if matches!(errno(&error), NOT_FOUND | 20) => return Ok(()),
        other => other?,
    };
    if is_dir(target.as_fd())? {
        let empty =
            sys::new_filesystem("tmpfs", &[("size".to_owned(), "0k".to_owned()), ("mode".to_owned(), "0755".to_owned())], attr::RDONLY)?;
        sys::move_mount(empty.as_fd(), target.as_fd())
    } else {
        let copy = sys::open_tree(Some(null), Path::new(""), false).or_else(|_| sys::open_tree(None, Path::new("/dev/null"), false))?;
        sys::move_mount(copy.as_fd(), target.as_fd())
    }
}

fn make_read_only(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let target = match resolve(root, path, sys::O_PATH) {
        Err(error) if matches!(errno(&error), NOT_FOUND | 20) => return Ok(()),
        other => other?,
    };
    let tree = sys::open_tree(Some(target.as_fd()), Path::new(""), true)?;
    sys::mount_setattr(tree.as_fd(), false, attr::RDONLY, 0, None)?;
    sys::move_mount(tree.as_fd(), target.as_fd())
}

/// Makes the tree at `root` the only one.
pub(crate) fn enter_root(root: BorrowedFd<'_>, read_only: bool) -> Outcome<()> {
    if read_only {
        sys::mount_setattr(root, false, attr::RDONLY, 0, None).map_err(failure("rootfs", "making rootfs read-only"))?;
    }
    sys::change_dir(root).map_err(failure("rootfs", "entering rootfs"))?;
    match sys::pivot_root(c".", c".") {
        Ok(()) => sys::unmount(c".", sys::MNT_DETACH).map_err(failure("rootfs", "leaving the host's root"))?,
        // The initial ramfs can't be pivoted away from.
        Err(error) if errno(&error) == 22 => {
            sys::mount_classic(".", Path::new("/"), "", sys::MS_MOVE, b"").map_err(failure("rootfs", "moving rootfs"))?;
            sys::change_root(c".").map_err(failure("rootfs", "chroot"))?;
        }
        Err(error) => return Err(failure("rootfs", "pivot_root")(error)),
    }
    std::env::set_current_dir("/").map_err(failure("rootfs", "chdir to /"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlay_names_are_escaped() {
        assert_eq!(escape(Path::new("/a:b,c\\d")), b"/a\\:b\\,c\\\\d");
    }
}
