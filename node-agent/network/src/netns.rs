//! Network namespaces: naming one, opening it, running code inside it, keeping one as a file.
//!
//! A namespace belongs to a thread, so code that must run inside another one gets a thread of its own that ends afterwards; the threads of
//! an executor never change theirs.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// How a caller names a network namespace.
#[derive(Debug, Clone)]
pub enum NetnsRef {
    /// A file a namespace is bound to, such as one made by [`create_netns`].
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
    /// An open namespace.
    Fd(Arc<OwnedFd>),
}

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("open network namespace {name}")]
    Open { name: String, source: io::Error },
    #[error("enter network namespace")]
    Enter(#[source] nix::Error),
    #[error("start a thread for a network namespace")]
    Thread(#[source] io::Error),
    #[error("the thread inside a network namespace panicked")]
    Panicked,
    #[error("make a network namespace")]
    Unshare(#[source] nix::Error),
    #[error("keep a network namespace at {path}")]
    Keep { path: PathBuf, source: io::Error },
    #[error("remove the network namespace at {path}")]
    Remove { path: PathBuf, source: io::Error },
}

impl NetnsRef {
    /// An open descriptor of the namespace.
    ///
    /// # Errors
    /// The file or process is gone.
    pub fn open(&self) -> Result<Arc<OwnedFd>, NetnsError> {
        let path = match self {
            NetnsRef::Fd(fd) => return Ok(Arc::clone(fd)),
            NetnsRef::Path(path) => path.clone(),
            NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        };
        let file = File::open(&path).map_err(|source| NetnsError::Open { name: path.display().to_string(), source })?;
        Ok(Arc::new(file.into()))
    }
}

/// What `work` returned; it ran on a thread of its own inside the namespace.
///
/// # Errors
/// The namespace cannot be entered, or `work` panicked.
pub fn run_in_netns<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    on_own_thread(|| {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(NetnsError::Enter)?;
        Ok(work())
    })
}

/// The calling thread's network namespace.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current() -> Result<Arc<OwnedFd>, NetnsError> {
    NetnsRef::Path(PathBuf::from("/proc/thread-self/ns/net")).open()
}

/// A new, empty network namespace that lives as long as the descriptor (or a process in it) does.
///
/// # Errors
/// The process may not make namespaces.
pub fn unnamed() -> Result<Arc<OwnedFd>, NetnsError> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(NetnsError::Unshare)?;
        current()
    })
}

/// A new network namespace bound to the file `path`, which is made with its folders. If a namespace is bound there already, that one.
///
/// # Errors
/// The process may not make namespaces, or the file cannot be made.
pub fn create_netns(path: &Path) -> Result<Arc<OwnedFd>, NetnsError> {
    if is_netns(path) {
        return NetnsRef::Path(path.to_owned()).open();
    }
    let keep = |source: io::Error| NetnsError::Keep { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(keep)?;
    }
    File::create(path).map_err(keep)?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(NetnsError::Unshare)?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|errno| keep(errno.into()))?;
        current()
    });
    if made.is_err() {
        // The file alone would look like a namespace that cannot be opened; a failure to remove it changes nothing for the caller.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Removes what [`create_netns`] made; nothing happens if it is gone already.
///
/// # Errors
/// The file cannot be unmounted or removed.
pub fn delete_netns(path: &Path) -> Result<(), NetnsError> {
    let remove = |source: io::Error| NetnsError::Remove { path: path.to_owned(), source };
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::ENOENT | nix::Error::EINVAL) => {}
        Err(errno) => return Err(remove(errno.into())),
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(remove(e)),
    }
}

/// True if a namespace is bound to the file: nsfs is not the file system of its folder.
fn is_netns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |p: &Path| std::fs::metadata(p).map(|m| m.dev()).ok();
    match (device(path), device(Path::new("/proc/self/ns/net"))) {
        (Some(file), Some(nsfs)) => file == nsfs,
        _ => false,
    }
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetnsError> + Send) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns".to_owned());
        let running = builder.spawn_scoped(scope, work).map_err(NetnsError::Thread)?;
        running.join().map_err(|_panic| NetnsError::Panicked)?
    })
}

/// The borrowed form of an open namespace.
pub fn borrow(netns: &Arc<OwnedFd>) -> BorrowedFd<'_> {
    netns.as_fd()
}
