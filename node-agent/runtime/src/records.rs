//! What is kept on disk, one directory per sandbox below the runtime's root:
//!
//! ```text
//! <sandbox>/sandbox.json            specification and time of creation
//! <sandbox>/ready                   the shim's process id, once the namespaces exist
//! <sandbox>/stopped                 exists once the sandbox was stopped
//! <sandbox>/shim.sock shim.log      the shim's socket and last words
//! <sandbox>/scratch/                mount point used while namespaces are made
//! <sandbox>/c/<id>/container.json   specification and time of creation
//! <sandbox>/c/<id>/rootfs/          mount point, used in the container's own mount namespace only
//! <sandbox>/c/<id>/started          by the shim: process id and time
//! <sandbox>/c/<id>/exit             by the shim: code, signal, OOM flag, time; by the runtime when starting failed
//! ```

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::shim::{exit_status, nanoseconds};
use crate::status::ExitStatus;

/// A specification with the time it was accepted.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stored<T> {
    pub(crate) created_at_ns: u64,
    pub(crate) spec: T,
}

/// Replaces a file in one step. Not synced: state means nothing after the machine restarts.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, bytes).map_err(Error::io("writing", &temporary))?;
    std::fs::rename(&temporary, path).map_err(Error::io("renaming to", path))
}

pub(crate) fn store<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::InvalidSpec { field: "specification", reason: error.to_string() })?;
    write(path, &bytes)
}

/// `None` when it is missing or not ours.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn numbers(path: &Path) -> Option<Vec<u64>> {
    std::fs::read_to_string(path).ok()?.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Process id and time of the start.
pub(crate) fn started(dir: &Path) -> Option<(u32, u64)> {
    match numbers(&dir.join("started"))?.as_slice() {
        [pid, at, ..] => Some((u32::try_from(*pid).ok()?, *at)),
        _ => None,
    }
}

/// How the container ended.
pub(crate) fn exit(dir: &Path) -> Option<ExitStatus> {
    match numbers(&dir.join("exit"))?.as_slice() {
        [code, signal, oom, at, rest @ ..] => {
            let number = |value: u64| i32::try_from(value).ok();
            let exit = crate::protocol::Exit { code: number(*code)?, signal: number(*signal)?, oom_killed: *oom != 0, finished_at_ns: *at };
            Some(ExitStatus { lost: rest.first() == Some(&1), ..exit_status(&exit) })
        }
        _ => None,
    }
}

pub(crate) fn write_exit(dir: &Path, exit: &ExitStatus) -> Result<()> {
    let line = format!(
        "{} {} {} {} {}\n",
        exit.code,
        exit.signal.unwrap_or(0),
        u8::from(exit.oom_killed),
        nanoseconds(exit.finished_at),
        u8::from(exit.lost)
    );
    write(&dir.join("exit"), line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_survive_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(exit(dir.path()), None);
        let status = ExitStatus {
            code: 137,
            signal: Some(9),
            oom_killed: true,
            finished_at: crate::shim::time(1_700_000_000_000_000_001),
            lost: true,
        };
        write_exit(dir.path(), &status).unwrap();
        assert_eq!(exit(dir.path()), Some(status));
        std::fs::write(dir.path().join("exit"), "143 15 0 5\n").unwrap();
        assert_eq!(exit(dir.path()).map(|exit| (exit.code, exit.signal, exit.lost)), Some((143, Some(15), false)));
    }
}
