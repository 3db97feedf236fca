//! The real system calls. The only file of this crate with `unsafe` (the shim has its own).

#![expect(unsafe_code, reason = "descriptors that arrive in messages and terminal ioctls have no safe interface")]

use std::fs::File;
use std::io::{Error, IoSlice, IoSliceMut, Result, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recvmsg,
    sendmsg, socket,
};

/// A pointer as the kernel takes it inside structures.
fn address_of(pointer: *const u8) -> u64 {
    u64::try_from(pointer.addr()).unwrap_or(0)
}

/// The running kernel.
pub(super) struct Linux;

fn timeout_of(timeout: Option<Duration>) -> PollTimeout {
    match timeout {
        None => PollTimeout::NONE,
        Some(duration) => PollTimeout::try_from(duration + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX),
    }
}

/// A unix socket address below a directory whose path may be longer than such addresses.
fn address(dir: &File) -> Result<UnixAddr> {
    Ok(UnixAddr::new(format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd()).as_str())?)
}

impl super::Sys for Linux {
    #[expect(clippy::disallowed_methods, reason = "this is the clock of the crate")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn shim_program(&self, bytes: &[u8]) -> Result<File> {
        let fd = memfd_create(c"trierarch-shim", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(file)
    }

    fn listen(&self, dir: &Path) -> Result<OwnedFd> {
        let dir = File::open(dir)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(fd.as_raw_fd(), &address(&dir)?)?;
        listen(&fd, Backlog::new(64)?)?;
        Ok(fd)
    }

    fn connect(&self, dir: &Path) -> Result<OwnedFd> {
        let dir = File::open(dir)?;
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &address(&dir)?)?;
        Ok(fd)
    }

    fn spawn_shim(&self, program: &File, id: &str, listener: OwnedFd, log: File) -> Result<Child> {
        // Without anything to run between fork and exec, the standard library uses posix_spawn.
        Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg(id)
            .env_clear()
            .stdin(Stdio::from(listener))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
    }

    fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let mut sent = 0;
        while sent < bytes.len() {
            let control: &[ControlMessage<'_>] = if sent == 0 && !fds.is_empty() { &rights } else { &[] };
            match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes[sent..])], control, MsgFlags::MSG_NOSIGNAL, None) {
                Ok(count) => sent += count,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>, timeout: Option<Duration>) -> Result<usize> {
        if timeout.is_some() && self.readable(&[socket], timeout)?.is_empty() {
            return Err(Error::from(std::io::ErrorKind::WouldBlock));
        }
        loop {
            let mut space = nix::cmsg_space!([i32; 4]);
            let mut iov = [IoSliceMut::new(buffer)];
            let message = match recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                Ok(message) => message,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(numbers) = control {
                    for number in numbers {
                        // SAFETY: the kernel made this descriptor for us in the `recvmsg` above; no safe wrapper gives owned ones.
                        fds.push(unsafe { OwnedFd::from_raw_fd(number) });
                    }
                }
            }
            return Ok(message.bytes);
        }
    }

    fn pipe(&self) -> Result<(OwnedFd, OwnedFd)> {
        Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
    }

    fn resize_terminal(&self, terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one `winsize`, which `size` is and which lives over the call; there is no safe wrapper.
        let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    fn readable(&self, fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<Vec<usize>> {
        let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut polled, timeout_of(timeout)) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        Ok((0..polled.len()).filter(|&index| polled[index].any().unwrap_or(true)).collect())
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::create_dir(path)
    }

    fn attach_device_filter(&self, cgroup: &Path, program: &[u64]) -> Result<()> {
        /// `union bpf_attr` for BPF_PROG_LOAD, as far as it is used.
        #[repr(C)]
        struct Load {
            kind: u32,
            count: u32,
            program: u64,
            license: u64,
            rest: [u64; 13],
        }
        /// `union bpf_attr` for BPF_PROG_ATTACH.
        #[repr(C)]
        struct Attach {
            target: i32,
            program: i32,
            kind: u32,
            flags: u32,
            rest: [u64; 14],
        }
        const PROG_LOAD: i64 = 5;
        const PROG_ATTACH: i64 = 8;
        const CGROUP_DEVICE_PROGRAM: u32 = 15;
        const CGROUP_DEVICE: u32 = 6;
        const ALLOW_MULTI: u32 = 2;
        let dir = File::open(cgroup)?;
        let count = u32::try_from(program.len()).map_err(|_too_long| Error::from_raw_os_error(libc::E2BIG))?;
        let license = address_of(c"Apache-2.0".as_ptr().cast());
        let load = Load { kind: CGROUP_DEVICE_PROGRAM, count, program: address_of(program.as_ptr().cast()), license, rest: [0; 13] };
        // SAFETY: `load` has the layout of `union bpf_attr`; the program and the licence it points to live over the call, and the kernel only
        // reads them. No library in use offers this call.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(Error::last_os_error)?;
        // SAFETY: the kernel has just made this descriptor for us.
        let filter = unsafe { OwnedFd::from_raw_fd(fd) };
        let attach =
            Attach { target: dir.as_raw_fd(), program: filter.as_raw_fd(), kind: CGROUP_DEVICE, flags: ALLOW_MULTI, rest: [0; 14] };
        // SAFETY: `attach` has the layout of `union bpf_attr` and lives over the call; both descriptors in it are open.
        let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
        if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    fn write_cgroup(&self, path: &Path, value: &str) -> Result<()> {
        std::fs::write(path, value)
    }
}
