//! Names of users and groups, resolved in a container's own files.

use crate::error::Result;
use crate::spec::{RootfsSpec, User};

/// The identity that `user` (`name`, `uid`, `name:group`, `uid:gid`; empty is root) has in the root file system, with the
/// supplementary groups its `/etc/group` lists, and the home directory of the user if known.
///
/// # Errors
/// A name that is not in the files (worded as OCI runtimes do: `unable to find user foo: no matching entries in passwd file`).
pub fn resolve(rootfs: &RootfsSpec, user: &str) -> Result<ResolvedUser> {
    let _ = (rootfs, user);
    Ok(ResolvedUser::default())
}

/// Outcome of [`resolve`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// The ids.
    pub user: User,
    /// Login name, if `/etc/passwd` has one for the uid.
    pub name: Option<String>,
    /// Home directory, if `/etc/passwd` has one for the uid.
    pub home: Option<String>,
}
