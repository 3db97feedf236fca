//! Kernel settings below `/proc/sys/net`, which belong to the network namespace of the thread that writes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A setting that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("set {path} to {value}")]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    source: io::Error,
}

/// Writes `value` unless it is there already, so that a read-only `/proc/sys` with the right values does no harm.
///
/// # Errors
/// The setting does not exist or may not be written.
pub(crate) fn set(name: &str, value: &str) -> Result<(), SysctlError> {
    let path = Path::new("/proc/sys").join(name);
    if fs::read_to_string(&path).is_ok_and(|present| present.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SysctlError { path, value: value.to_owned(), source })
}

/// As [`set`], but a kernel without the setting is fine (for example one without IPv6).
pub(crate) fn set_if_known(name: &str, value: &str) -> Result<(), SysctlError> {
    match set(name, value) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
