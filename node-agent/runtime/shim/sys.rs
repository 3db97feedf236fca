//! System calls of the shim. The only file of it with `unsafe`; it has the C library's functions by name and the younger calls by number.
//!
//! The shim has one thread, so a cloned child may run ordinary code before it executes the container's program.

use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::fs::File;
use std::io::{self, Error, Result};
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn mount(source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn sethostname(name: *const c_char, len: usize) -> c_int;
    fn setdomainname(name: *const c_char, len: usize) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn setrlimit(resource: c_uint, limit: *const [u64; 2]) -> c_int;
    fn getrlimit(resource: c_uint, limit: *mut [u64; 2]) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn signalfd(fd: c_int, mask: *const [u64; 16], flags: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const [u64; 16], old: *mut [u64; 16]) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn socketpair(domain: c_int, kind: c_int, protocol: c_int, fds: *mut [c_int; 2]) -> c_int;
    fn pipe2(fds: *mut [c_int; 2], flags: c_int) -> c_int;
    fn accept4(fd: c_int, address: *mut c_void, len: *mut c_uint, flags: c_int) -> c_int;
    fn sendmsg(fd: c_int, message: *const MsgHdr, flags: c_int) -> isize;
    fn recvmsg(fd: c_int, message: *mut MsgHdr, flags: c_int) -> isize;
    fn read(fd: c_int, buffer: *mut c_void, len: usize) -> isize;
    fn write(fd: c_int, buffer: *const c_void, len: usize) -> isize;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn setsid() -> c_int;
    fn umask(mask: c_uint) -> c_uint;
    fn mknodat(dir: c_int, path: *const c_char, mode: c_uint, device: u64) -> c_int;
    fn mkdirat(dir: c_int, path: *const c_char, mode: c_uint) -> c_int;
    fn symlinkat(target: *const c_char, dir: c_int, path: *const c_char) -> c_int;
    fn fchownat(dir: c_int, path: *const c_char, uid: c_uint, gid: c_uint, flags: c_int) -> c_int;
    fn fchmodat(dir: c_int, path: *const c_char, mode: c_uint, flags: c_int) -> c_int;
    fn fchdir(fd: c_int) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn execve(path: *const c_char, args: *const *const c_char, env: *const *const c_char) -> c_int;
    fn _exit(code: c_int) -> !;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn access(path: *const c_char, mode: c_int) -> c_int;
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: c_uint) -> c_int;
}

pub(crate) const CLONE_NEWNS: u64 = 0x0002_0000;
pub(crate) const CLONE_NEWCGROUP: u64 = 0x0200_0000;
pub(crate) const CLONE_NEWUTS: u64 = 0x0400_0000;
pub(crate) const CLONE_NEWIPC: u64 = 0x0800_0000;
pub(crate) const CLONE_NEWUSER: u64 = 0x1000_0000;
pub(crate) const CLONE_NEWPID: u64 = 0x2000_0000;
pub(crate) const CLONE_NEWNET: u64 = 0x4000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

pub(crate) const MS_REC: u64 = 0x4000;
pub(crate) const MS_PRIVATE: u64 = 1 << 18;
pub(crate) const MS_SLAVE: u64 = 1 << 19;
pub(crate) const MS_SHARED: u64 = 1 << 20;
pub(crate) const MS_MOVE: u64 = 8192;
pub(crate) const MS_BIND: u64 = 4096;
pub(crate) const MNT_DETACH: c_int = 2;

pub(crate) const POLLIN: i16 = 1;
pub(crate) const POLLOUT: i16 = 4;

const AT_FDCWD: c_int = -100;
const AT_EMPTY_PATH: c_uint = 0x1000;
const AT_RECURSIVE: c_uint = 0x8000;
const O_CLOEXEC: u64 = 0o2_000_000;
pub(crate) const O_PATH: u64 = 0o10_000_000;
pub(crate) const O_DIRECTORY: u64 = if cfg!(target_arch = "aarch64") { 0o40_000 } else { 0o200_000 };
pub(crate) const O_NOFOLLOW: u64 = if cfg!(target_arch = "aarch64") { 0o100_000 } else { 0o400_000 };
pub(crate) const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
pub(crate) const RESOLVE_BENEATH: u64 = 0x08;
pub(crate) const RESOLVE_IN_ROOT: u64 = 0x10;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const PIVOT_ROOT: i64 = 155;
    pub(super) const CAPSET: i64 = 126;
    pub(super) const SETRESUID: i64 = 117;
    pub(super) const SETRESGID: i64 = 119;
    pub(super) const SETGROUPS: i64 = 116;
    pub(super) const EXECVEAT: i64 = 322;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const PIVOT_ROOT: i64 = 41;
    pub(super) const CAPSET: i64 = 91;
    pub(super) const SETRESUID: i64 = 147;
    pub(super) const SETRESGID: i64 = 149;
    pub(super) const SETGROUPS: i64 = 159;
    pub(super) const EXECVEAT: i64 = 281;
}
const NR_OPEN_TREE: c_long = 428;
const NR_MOVE_MOUNT: c_long = 429;
const NR_FSOPEN: c_long = 430;
const NR_FSCONFIG: c_long = 431;
const NR_FSMOUNT: c_long = 432;
const NR_PIDFD_OPEN: c_long = 434;
const NR_CLONE3: c_long = 435;
const NR_CLOSE_RANGE: c_long = 436;
const NR_OPENAT2: c_long = 437;
const NR_MOUNT_SETATTR: c_long = 442;

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct PollFd {
    pub(crate) fd: RawFd,
    pub(crate) events: i16,
    pub(crate) revents: i16,
}

#[repr(C)]
struct IoVec {
    base: *mut c_void,
    len: usize,
}

/// A machine that mounts without end must not keep a container from an error for ever.
const OPENAT2_AGAIN_MAX: u32 = 10_000;

#[repr(C)]
struct MsgHdr {
    name: *mut c_void,
    name_len: c_uint,
    iov: *mut IoVec,
    iov_len: usize,
    control: *mut c_void,
    control_len: usize,
    flags: c_int,
}

/// Room for four descriptors: `struct cmsghdr` (16 bytes) and the numbers.
#[repr(C, align(8))]
struct Control([u8; 32]);

fn check(result: c_int) -> Result<c_int> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn check_long(result: c_long) -> Result<c_long> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: c_long) -> Result<OwnedFd> {
    let fd = check_long(result)?;
    // SAFETY: the kernel has just made this descriptor for us, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A path as a C string; a NUL inside is an invalid argument.
pub(crate) fn c_path(path: impl AsRef<OsStr>) -> Result<CString> {
    CString::new(path.as_ref().as_bytes()).map_err(|_| Error::from_raw_os_error(22))
}

/// Forks into new namespaces and, with `cgroup`, into a v2 cgroup. Zero in the child.
pub(crate) fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    let mut arguments = [0_u64; 11];
    arguments[0] = flags;
    arguments[4] = 17; // SIGCHLD
    if let Some(cgroup) = cgroup {
        arguments[0] |= CLONE_INTO_CGROUP;
        arguments[10] = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `arguments` has the layout of `struct clone_args` and lives over the call; without CLONE_VM the child has its own memory,
    // and this process has one thread, so no lock can be held by another.
    let pid = unsafe { syscall(NR_CLONE3, arguments.as_ptr(), size_of_val(&arguments)) };
    Ok(check_long(pid)? as i32)
}

pub(crate) fn enter_namespace(fd: BorrowedFd<'_>, kinds: u64) -> Result<()> {
    // SAFETY: plain numbers; the descriptor is borrowed, hence open.
    check(unsafe { setns(fd.as_raw_fd(), kinds as c_int) }).map(drop)
}

pub(crate) fn leave_namespaces(kinds: u64) -> Result<()> {
    // SAFETY: plain numbers; one thread, so nothing else shares what is unshared.
    check(unsafe { unshare(kinds as c_int) }).map(drop)
}

pub(crate) fn mount_classic(source: &str, target: &Path, kind: &str, flags: u64, data: &[u8]) -> Result<()> {
    let (source, target, kind) = (c_path(source)?, c_path(target)?, c_path(kind)?);
    let data = CString::new(data).map_err(|_| Error::from_raw_os_error(22))?;
    // SAFETY: four NUL-terminated strings that live over the call.
    check(unsafe { mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) }).map(drop)
}

pub(crate) fn unmount(target: &CStr, flags: c_int) -> Result<()> {
    // SAFETY: a NUL-terminated string that lives over the call.
    check(unsafe { umount2(target.as_ptr(), flags) }).map(drop)
}

pub(crate) fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    // SAFETY: two NUL-terminated strings that live over the call.
    check_long(unsafe { syscall(number::PIVOT_ROOT, new.as_ptr(), old.as_ptr()) }).map(drop)
}

pub(crate) fn change_root(path: &CStr) -> Result<()> {
    // SAFETY: a NUL-terminated string that lives over the call.
    check(unsafe { chroot(path.as_ptr()) }).map(drop)
}

pub(crate) fn change_dir(dir: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: plain number; the descriptor is borrowed, hence open.
    check(unsafe { fchdir(dir.as_raw_fd()) }).map(drop)
}

/// A detached copy of the mount at `path` (with the mounts below it, if `recursive`); `dir` itself when `path` is empty.
pub(crate) fn open_tree(dir: Option<BorrowedFd<'_>>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = 1 | O_CLOEXEC as c_uint | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    let dir = dir.map_or(AT_FDCWD, |dir| dir.as_raw_fd());
    // SAFETY: a NUL-terminated string that lives over the call, and numbers.
    owned(unsafe { syscall(NR_OPEN_TREE, dir, path.as_ptr(), flags) })
}

/// Attaches a detached mount on top of `target`.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    // From empty path, to empty path.
    let flags: c_uint = 0x4 | 0x40;
    // SAFETY: two empty C strings and numbers; both descriptors are borrowed, hence open.
    check_long(unsafe { syscall(NR_MOVE_MOUNT, tree.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags) }).map(drop)
}

/// Sets attributes and propagation of a mount, and of those below it if `recursive`. `userns` makes it id-mapped.
pub(crate) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    propagation: u64,
    userns: Option<BorrowedFd<'_>>,
) -> Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let attributes = [set | if userns.is_some() { IDMAP } else { 0 }, 0_u64, propagation, userns.map_or(0, |fd| fd.as_raw_fd() as u64)];
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: `attributes` has the layout of `struct mount_attr` and lives over the call.
    let result =
        unsafe { syscall(NR_MOUNT_SETATTR, mount.as_raw_fd(), c"".as_ptr(), flags, attributes.as_ptr(), size_of_val(&attributes)) };
    check_long(result).map(drop)
}

/// A new, detached mount of a file system.
pub(crate) fn new_filesystem(kind: &str, options: &[(String, String)], attrs: u64) -> Result<OwnedFd> {
    const SET_FLAG: c_uint = 0;
    const SET_STRING: c_uint = 1;
    const CREATE: c_uint = 6;
    let kind = c_path(kind)?;
    // SAFETY: a NUL-terminated string that lives over the call, and a number.
    let context = owned(unsafe { syscall(NR_FSOPEN, kind.as_ptr(), 1 as c_uint) })?;
    let fd = context.as_raw_fd();
    for (key, value) in options {
        let key = c_path(key)?;
        let text = c_path(value)?;
        let (command, value) = if value.is_empty() { (SET_FLAG, null()) } else { (SET_STRING, text.as_ptr()) };
        // SAFETY: NUL-terminated strings that live over the call; a flag has no value.
        check_long(unsafe { syscall(NR_FSCONFIG, fd, command, key.as_ptr(), value, 0 as c_int) })?;
    }
    // SAFETY: null is what this command wants for key and value.
    check_long(unsafe { syscall(NR_FSCONFIG, fd, CREATE, null::<c_char>(), null::<c_char>(), 0 as c_int) })?;
    // SAFETY: plain numbers.
    owned(unsafe { syscall(NR_FSMOUNT, fd, 1 as c_uint, attrs as c_uint) })
}

/// Opens `path` below `dir` as `resolve` says. A `..` (of a link) that races with a rename or mount anywhere on the machine makes the kernel
/// give up; it is asked again then. Spec: openat2(2), EAGAIN.
pub(crate) fn openat2(dir: Option<BorrowedFd<'_>>, path: &Path, flags: u64, mode: u64, resolve: u64) -> Result<OwnedFd> {
    let path = c_path(path)?;
    let how = [flags | O_CLOEXEC, mode, resolve];
    let dir = dir.map_or(AT_FDCWD, |dir| dir.as_raw_fd());
    let mut again = OPENAT2_AGAIN_MAX;
    loop {
        // SAFETY: a NUL-terminated string and `struct open_how`, both of which live over the call.
        let opened = owned(unsafe { syscall(NR_OPENAT2, dir, path.as_ptr(), how.as_ptr(), size_of_val(&how)) });
        match opened {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && again > 0 => again -= 1,
            done => return done,
        }
    }
}

pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: plain numbers.
    owned(unsafe { syscall(NR_PIDFD_OPEN, pid, 0 as c_uint) })
}

pub(crate) fn make_node(dir: BorrowedFd<'_>, name: &OsStr, mode: u32, major: u32, minor: u32) -> Result<()> {
    let name = c_path(name)?;
    let (major, minor) = (u64::from(major), u64::from(minor));
    let device = ((major & 0xfff) << 8) | (minor & 0xff) | ((minor & !0xff) << 12) | ((major & !0xfff) << 32);
    // SAFETY: a NUL-terminated string that lives over the call, and numbers.
    check(unsafe { mknodat(dir.as_raw_fd(), name.as_ptr(), mode, device) }).map(drop)
}

pub(crate) fn make_dir(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<()> {
    let name = c_path(name)?;
    // SAFETY: a NUL-terminated string that lives over the call, and numbers.
    check(unsafe { mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

pub(crate) fn make_symlink(target: &Path, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let (target, name) = (c_path(target)?, c_path(name)?);
    // SAFETY: NUL-terminated strings that live over the call.
    check(unsafe { symlinkat(target.as_ptr(), dir.as_raw_fd(), name.as_ptr()) }).map(drop)
}

pub(crate) fn change_owner(dir: BorrowedFd<'_>, name: &OsStr, uid: u32, gid: u32) -> Result<()> {
    let name = c_path(name)?;
    // SAFETY: a NUL-terminated string that lives over the call, and numbers.
    check(unsafe { fchownat(dir.as_raw_fd(), name.as_ptr(), uid, gid, AT_EMPTY_PATH as c_int) }).map(drop)
}

/// The owner of a path of the host; links are followed.
pub(crate) fn change_owner_of(path: &Path, uid: u32, gid: u32) -> Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

pub(crate) fn change_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<()> {
    let name = c_path(name)?;
    // SAFETY: a NUL-terminated string that lives over the call, and numbers.
    check(unsafe { fchmodat(dir.as_raw_fd(), name.as_ptr(), mode, 0) }).map(drop)
}

pub(crate) fn set_hostname(name: &str) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    check(unsafe { sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

pub(crate) fn set_domainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    check(unsafe { setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// `prctl` with numbers only.
pub(crate) fn process_control(option: i32, a: u64, b: u64, c: u64) -> Result<i32> {
    // SAFETY: callers pass options whose arguments are numbers (see `prctl_option`).
    check(unsafe { prctl(option, a, b, c, 0_u64) })
}

/// Options of `process_control`.
pub(crate) mod prctl_option {
    pub(crate) const SET_DUMPABLE: i32 = 4;
    pub(crate) const SET_KEEPCAPS: i32 = 8;
    pub(crate) const CAPBSET_DROP: i32 = 24;
    pub(crate) const SET_CHILD_SUBREAPER: i32 = 36;
    pub(crate) const SET_NO_NEW_PRIVS: i32 = 38;
    pub(crate) const CAP_AMBIENT: i32 = 47;
}

pub(crate) fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME (15) reads a NUL-terminated string, cut at 16 bytes.
    let _ = unsafe { prctl(15, name.as_ptr(), 0_u64, 0_u64, 0_u64) };
}

pub(crate) fn install_seccomp(filter: &[u64]) -> Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const u64,
    }
    let program = Program { len: filter.len() as u16, filter: filter.as_ptr() };
    // SAFETY: PR_SET_SECCOMP (22) with mode filter (2) reads `struct sock_fprog`; each instruction is 8 bytes, hence `u64`.
    check(unsafe { prctl(22, 2_u64, &raw const program, 0_u64, 0_u64) }).map(drop)
}

pub(crate) fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [0x2008_0522_u32, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [low(effective), low(permitted), low(inheritable), high(effective), high(permitted), high(inheritable)];
    // SAFETY: version 3 header and two `struct __user_cap_data_struct`, both of which live over the call.
    check_long(unsafe { syscall(number::CAPSET, header.as_ptr(), data.as_ptr()) }).map(drop)
}

pub(crate) fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    check_long(unsafe { syscall(number::SETGROUPS, groups.len(), groups.as_ptr()) }).map(drop)
}

pub(crate) fn set_gid(gid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    check_long(unsafe { syscall(number::SETRESGID, gid, gid, gid) }).map(drop)
}

pub(crate) fn set_uid(uid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    check_long(unsafe { syscall(number::SETRESUID, uid, uid, uid) }).map(drop)
}

pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    // SAFETY: `struct rlimit` that lives over the call.
    check(unsafe { setrlimit(resource, &raw const limit) }).map(drop)
}

pub(crate) fn get_limit(resource: u32) -> Result<(u64, u64)> {
    let mut limit = [0_u64; 2];
    // SAFETY: room for one `struct rlimit`.
    check(unsafe { getrlimit(resource, &raw mut limit) })?;
    Ok((limit[0], limit[1]))
}

pub(crate) fn wait_for_events(fds: &mut [PollFd]) -> Result<()> {
    // SAFETY: pointer and length of one slice.
    match check(unsafe { poll(fds.as_mut_ptr(), fds.len() as c_ulong, -1) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        other => other.map(drop),
    }
}

const fn mask(signals: &[u32]) -> [u64; 16] {
    let mut set = [0_u64; 16];
    let mut index = 0;
    while index < signals.len() {
        set[0] |= 1 << (signals[index] - 1);
        index += 1;
    }
    set
}

/// Blocks SIGCHLD and gives a descriptor that becomes readable instead.
pub(crate) fn child_signals() -> Result<OwnedFd> {
    let set = mask(&[17]);
    // SAFETY: `sigset_t` is 128 bytes; the old one is not wanted.
    check(unsafe { sigprocmask(0, &raw const set, null_mut()) })?;
    // SAFETY: `sigset_t` that lives over the call; close-on-exec and non-blocking.
    owned(c_long::from(unsafe { signalfd(-1, &raw const set, O_CLOEXEC as c_int | 0o4000) }))
}

/// Default actions for all signals; what was ignored by whoever started this process would stay ignored in every container.
pub(crate) fn default_signals() {
    for number in 1..65 {
        // SAFETY: zero is SIG_DFL; numbers that can't be changed are refused by the kernel.
        unsafe { signal(number, 0) };
    }
}

/// Writing to somebody who left is an error, not the end.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: one is SIG_IGN.
    unsafe { signal(13, 1) };
}

/// No blocked signals and no ignored SIGPIPE, as a new program expects it. The rest was set when the shim began.
pub(crate) fn reset_signals() {
    // SAFETY: zero is SIG_DFL.
    unsafe { signal(13, 0) };
    let set = mask(&[]);
    // SAFETY: `sigset_t` that lives over the call.
    unsafe { sigprocmask(2, &raw const set, null_mut()) };
}

/// Ends on SIGTERM-like requests only by SIGKILL; reaps whatever becomes its child. For the pause process.
pub(crate) fn reap_forever() -> ! {
    extern "C" fn nothing(_: c_int) {}
    // SAFETY: the handler touches nothing.
    unsafe { signal(17, nothing as *const () as usize) };
    loop {
        let mut status = 0;
        // SAFETY: room for one number.
        let pid = unsafe { waitpid(-1, &raw mut status, 0) };
        if pid < 0 {
            let set = mask(&[17]);
            let mut old = [0_u64; 16];
            // SAFETY: two `sigset_t` that live over the call.
            unsafe { sigprocmask(0, &raw const set, &raw mut old) };
            // SAFETY: room for one number. With SIGCHLD blocked, a child that came in between is seen here and not slept over.
            let pid = unsafe { waitpid(-1, &raw mut status, 1) };
            // SAFETY: as above; waits with SIGCHLD open for the time of the call only.
            if pid < 0 {
                unsafe { syscall(if cfg!(target_arch = "x86_64") { 130 } else { 133 }, old.as_ptr(), 8_usize) };
            }
            // SAFETY: `sigset_t` that lives over the call.
            unsafe { sigprocmask(2, &raw const old, null_mut()) };
        }
    }
}

/// An ended child as (pid, exit code or 128 + signal, signal or zero); `None` when there is none at the moment.
pub(crate) fn reap() -> Option<(i32, i32, i32)> {
    let mut status = 0;
    // SAFETY: room for one number.
    let pid = unsafe { waitpid(-1, &raw mut status, 1) };
    if pid <= 0 {
        return None;
    }
    let signal = status & 0x7f;
    let code = if signal == 0 { (status >> 8) & 0xff } else { 128 + signal };
    Some((pid, code, signal))
}

/// Waits for one child and gives its exit code.
pub(crate) fn wait_for(pid: i32) -> Result<i32> {
    let mut status = 0;
    // SAFETY: room for one number.
    check(unsafe { waitpid(pid, &raw mut status, 0) })?;
    Ok(if status & 0x7f == 0 { (status >> 8) & 0xff } else { 128 + (status & 0x7f) })
}

pub(crate) fn send_signal(pid: i32, number: i32) -> Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { kill(pid, number) }).map(drop)
}

/// Two connected sequenced-packet sockets.
pub(crate) fn packet_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two numbers; unix (1), sequenced packets (5), close-on-exec.
    check(unsafe { socketpair(1, 5 | O_CLOEXEC as c_int, 0, &raw mut fds) })?;
    // SAFETY: made just now by the kernel for us.
    let first = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: made just now by the kernel for us.
    Ok((first, unsafe { OwnedFd::from_raw_fd(fds[1]) }))
}

/// A pipe as (read end, write end), both closed on exec.
pub(crate) fn new_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two numbers.
    check(unsafe { pipe2(&raw mut fds, O_CLOEXEC as c_int) })?;
    // SAFETY: made just now by the kernel for us.
    let first = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: made just now by the kernel for us.
    Ok((first, unsafe { OwnedFd::from_raw_fd(fds[1]) }))
}

pub(crate) fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: null means that the address is not wanted.
    owned(c_long::from(unsafe { accept4(listener.as_raw_fd(), null_mut(), null_mut(), O_CLOEXEC as c_int) }))
}

/// Makes reads and writes of this socket fail after so many seconds.
pub(crate) fn set_timeouts(socket: BorrowedFd<'_>, seconds: i64) -> Result<()> {
    let value = [seconds, 0_i64];
    for name in [20, 21] {
        // SAFETY: SO_RCVTIMEO and SO_SNDTIMEO read one `struct timeval`.
        check(unsafe { setsockopt(socket.as_raw_fd(), 1, name, value.as_ptr().cast(), 16) })?;
    }
    Ok(())
}

/// Sends bytes with descriptors; how many bytes went out.
pub(crate) fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut control = Control([0; 32]);
    let used = 16 + 4 * fds.len();
    control.0[..8].copy_from_slice(&used.to_ne_bytes());
    control.0[8..12].copy_from_slice(&1_i32.to_ne_bytes()); // SOL_SOCKET
    control.0[12..16].copy_from_slice(&1_i32.to_ne_bytes()); // SCM_RIGHTS
    for (index, fd) in fds.iter().enumerate().take(4) {
        control.0[16 + 4 * index..20 + 4 * index].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
    }
    let mut iov = IoVec { base: bytes.as_ptr().cast_mut().cast(), len: bytes.len() };
    // SAFETY: all-zero is a valid `struct msghdr`.
    let mut message: MsgHdr = unsafe { zeroed() };
    message.iov = &raw mut iov;
    message.iov_len = 1;
    if !fds.is_empty() {
        message.control = (&raw mut control).cast();
        message.control_len = used.next_multiple_of(8);
    }
    // SAFETY: `message` points to `iov` and `control`, which live over the call; no SIGPIPE (0x4000).
    let sent = unsafe { sendmsg(socket.as_raw_fd(), &raw const message, 0x4000) };
    if sent < 0 { Err(Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives bytes and up to four descriptors; how many bytes came.
pub(crate) fn receive_with_fds(socket: BorrowedFd<'_>, bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> Result<usize> {
    let mut control = Control([0; 32]);
    let mut iov = IoVec { base: bytes.as_mut_ptr().cast(), len: bytes.len() };
    // SAFETY: all-zero is a valid `struct msghdr`.
    let mut message: MsgHdr = unsafe { zeroed() };
    message.iov = &raw mut iov;
    message.iov_len = 1;
    message.control = (&raw mut control).cast();
    message.control_len = 32;
    // SAFETY: `message` points to `iov` and `control`, which live over the call; MSG_CMSG_CLOEXEC.
    let got = unsafe { recvmsg(socket.as_raw_fd(), &raw mut message, 0x4000_0000) };
    if got < 0 {
        return Err(Error::last_os_error());
    }
    let used = usize::from_ne_bytes(control.0[..8].try_into().unwrap_or_default());
    if message.control_len >= 16 && used > 16 {
        for chunk in control.0[16..used.min(32)].chunks_exact(4) {
            let fd = RawFd::from_ne_bytes(chunk.try_into().unwrap_or_default());
            // SAFETY: the kernel has just made this descriptor for us.
            fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok(got as usize)
}

pub(crate) fn read_some(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: pointer and length of one slice.
    let got = unsafe { read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if got < 0 { Err(Error::last_os_error()) } else { Ok(got as usize) }
}

pub(crate) fn write_some(fd: BorrowedFd<'_>, buffer: &[u8]) -> Result<usize> {
    // SAFETY: pointer and length of one slice.
    let put = unsafe { write(fd.as_raw_fd(), buffer.as_ptr().cast(), buffer.len()) };
    if put < 0 { Err(Error::last_os_error()) } else { Ok(put as usize) }
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: F_GETFL.
    let flags = check(unsafe { fcntl(fd.as_raw_fd(), 3) })?;
    // SAFETY: F_SETFL with O_NONBLOCK.
    check(unsafe { fcntl(fd.as_raw_fd(), 4, flags | 0o4000) }).map(drop)
}

/// Puts `fd` at `target`, without close-on-exec. `fd` must lie elsewhere.
pub(crate) fn place_fd(fd: BorrowedFd<'_>, target: RawFd) -> Result<()> {
    // SAFETY: replaces a standard stream of a process that is about to become another program.
    check(unsafe { dup2(fd.as_raw_fd(), target) }).map(drop)
}

/// A copy of `fd` above the standard streams.
pub(crate) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC from 3 on.
    owned(c_long::from(unsafe { fcntl(fd.as_raw_fd(), 1030, 3) }))
}

/// Makes every descriptor from 3 on close on exec.
pub(crate) fn close_others_on_exec() -> Result<()> {
    // SAFETY: plain numbers; CLOSE_RANGE_CLOEXEC closes nothing now.
    check_long(unsafe { syscall(NR_CLOSE_RANGE, 3 as c_uint, c_uint::MAX, 4 as c_uint) }).map(drop)
}

pub(crate) fn new_session() -> Result<()> {
    // SAFETY: no arguments.
    check(unsafe { setsid() }).map(drop)
}

pub(crate) fn set_umask(mask: u32) {
    // SAFETY: plain number.
    unsafe { umask(mask) };
}

/// Makes the terminal the controlling one of this session.
pub(crate) fn take_terminal(slave: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check(unsafe { ioctl(slave.as_raw_fd(), 0x540E, 0_u64) }).map(drop)
}

pub(crate) fn set_terminal_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = [rows, columns, 0, 0];
    // SAFETY: TIOCSWINSZ reads one `struct winsize`.
    check(unsafe { ioctl(fd.as_raw_fd(), 0x5414, size.as_ptr()) }).map(drop)
}

/// The slave of a terminal's master, unlocked; no path is looked up.
pub(crate) fn terminal_slave(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    let unlock = 0_i32;
    // SAFETY: TIOCSPTLCK reads one number.
    check(unsafe { ioctl(master.as_raw_fd(), 0x4004_5431, &raw const unlock) })?;
    // SAFETY: TIOCGPTPEER takes open flags: O_RDWR | O_NOCTTY | O_CLOEXEC.
    owned(c_long::from(unsafe { ioctl(master.as_raw_fd(), 0x5441, 2 | 0o400 | O_CLOEXEC) }))
}

/// The number of a terminal within its devpts.
pub(crate) fn terminal_number(master: BorrowedFd<'_>) -> Result<u32> {
    let mut number = 0_u32;
    // SAFETY: TIOCGPTN writes one number.
    check(unsafe { ioctl(master.as_raw_fd(), 0x8004_5430, &raw mut number) })?;
    Ok(number)
}

/// Sets `lo` of the current network namespace up.
pub(crate) fn raise_loopback() -> Result<()> {
    // SAFETY: an internet datagram socket, close-on-exec.
    let socket = owned(c_long::from(unsafe { socket(2, 2 | O_CLOEXEC as c_int, 0) }))?;
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&0x41_u16.to_ne_bytes()); // IFF_UP | IFF_RUNNING
    // SAFETY: SIOCSIFFLAGS reads one `struct ifreq` of 40 bytes.
    check(unsafe { ioctl(socket.as_raw_fd(), 0x8914, request.as_mut_ptr()) }).map(drop)
}

pub(crate) fn is_executable(path: &CStr) -> Result<()> {
    // SAFETY: a NUL-terminated string that lives over the call; X_OK.
    check(unsafe { access(path.as_ptr(), 1) }).map(drop)
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([null()]).collect()
}

/// Becomes another program; only returns on failure.
pub(crate) fn execute(path: &CStr, args: &[CString], env: &[CString]) -> Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: NUL-terminated strings in two null-terminated arrays, all of which live over the call.
    unsafe { execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Error::last_os_error()
}

/// The same, of a program that is open as a descriptor.
pub(crate) fn execute_fd(file: &File, args: &[CString]) -> Error {
    let (args, env) = (pointers(args), pointers(&[]));
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: as in `execute`; the empty path with AT_EMPTY_PATH means the descriptor itself.
    unsafe { syscall(number::EXECVEAT, fd, c"".as_ptr(), args.as_ptr(), env.as_ptr(), AT_EMPTY_PATH) };
    Error::last_os_error()
}

pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns, runs no handlers.
    unsafe { _exit(code) }
}
