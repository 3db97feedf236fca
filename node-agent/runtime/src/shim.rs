//! The agent's side of the shim: connections and messages.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use crate::error::StartError;
use crate::protocol::{Exit, Failure, MESSAGE_MAX, Reply, Request, decode, encode};
use crate::status::ExitStatus;
use crate::sys::Sys;

/// The shim's program, compiled by `build.rs`.
pub(crate) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));
pub(crate) const SOCKET: &str = "shim.sock";

/// One connection to a shim. Reading is for one thread at a time; writing may happen meanwhile.
pub(crate) struct Connection {
    sys: Arc<dyn Sys>,
    socket: OwnedFd,
    /// Bytes of a message that has not come completely, with its descriptors.
    partial: Mutex<(Vec<u8>, Vec<OwnedFd>)>,
    sending: Mutex<()>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Connection({:?})", self.socket)
    }
}

impl Connection {
    pub(crate) fn open(sys: &Arc<dyn Sys>, dir: &Path) -> Result<Connection> {
        let socket = sys.connect(dir)?;
        Ok(Connection { sys: sys.clone(), socket, partial: Mutex::default(), sending: Mutex::default() })
    }

    pub(crate) fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let body = encode(request);
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MESSAGE_MAX).ok_or(ErrorKind::InvalidInput)?;
        let mut message = length.to_le_bytes().to_vec();
        message.extend(body);
        let _one_at_a_time = self.sending.lock();
        self.sys.send(self.socket.as_fd(), &message, fds)
    }

    /// The next message; `WouldBlock` when none comes within `timeout`.
    pub(crate) fn receive(&self, timeout: Option<Duration>) -> Result<(Reply, Vec<OwnedFd>)> {
        let deadline = timeout.map(|timeout| self.sys.now() + timeout);
        let mut partial = self.partial.lock();
        let (bytes, fds) = &mut *partial;
        loop {
            let wanted = match bytes.first_chunk::<4>() {
                None => 4,
                Some(length) => 4 + usize::try_from(u32::from_le_bytes(*length)).map_err(|_too_long| ErrorKind::InvalidData)?,
            };
            if wanted > MESSAGE_MAX + 4 {
                return Err(ErrorKind::InvalidData.into());
            }
            if bytes.len() >= 4 && bytes.len() == wanted {
                let reply = decode(&bytes[4..]).ok_or_else(|| Error::new(ErrorKind::InvalidData, "the shim's answer is not understood"))?;
                bytes.clear();
                return Ok((reply, std::mem::take(fds)));
            }
            let start = bytes.len();
            bytes.resize(wanted, 0);
            let left = deadline.map(|deadline| deadline.duration_since(self.sys.now()).unwrap_or_default());
            let got = self.sys.receive(self.socket.as_fd(), &mut bytes[start..], fds, left);
            bytes.truncate(start + got.as_ref().map_or(0, |count| *count));
            if got? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// One question, one answer.
    pub(crate) fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<(Reply, Vec<OwnedFd>)> {
        self.send(request, fds)?;
        self.receive(timeout)
    }
}

/// A failure in the words of `StartError`.
pub(crate) fn start_error(failure: Failure) -> StartError {
    StartError { step: failure.step, errno: failure.errno, message: failure.message }
}

/// A moment as the shim counts it.
pub(crate) fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

/// Nanoseconds since 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|age| u64::try_from(age.as_nanos()).ok()).unwrap_or(0)
}

pub(crate) fn exit_status(exit: &Exit) -> ExitStatus {
    ExitStatus {
        code: exit.code,
        signal: (exit.signal != 0).then_some(exit.signal),
        oom_killed: exit.oom_killed,
        finished_at: time(exit.finished_at_ns),
        lost: false,
    }
}

/// The exit of a process whose shim died with it.
pub(crate) fn lost_exit(now: SystemTime) -> ExitStatus {
    ExitStatus { code: 255, signal: None, oom_killed: false, finished_at: now, lost: true }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
