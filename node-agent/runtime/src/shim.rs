//! The agent's side of the shim.
use std::os::fd::OwnedFd;
use crate::status::ExitStatus;
/// A connection to a shim.
#[derive(Debug)]
pub(crate) struct Connection { pub(crate) socket: OwnedFd }
pub(crate) fn lost_exit() -> ExitStatus { ExitStatus { code: 255, signal: None, oom_killed: false, finished_at: std::time::UNIX_EPOCH, lost: true } }
