//! Names of users and groups, resolved in a container's own files.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use crate::error::{Error, Result};
use crate::resolve::open_below;
use crate::spec::{RootfsSource, RootfsSpec, User};

/// Larger files are not read.
const FILE_MAX: u64 = 4 << 20;

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

/// The identity that `user` (`name`, `uid`, `name:group`, `uid:gid`; empty is root) has in the root file system, with the
/// supplementary groups its `/etc/group` lists, and the home directory of the user if known.
///
/// # Errors
/// A name that is not in the files (worded as OCI runtimes do: `unable to find user foo: no matching entries in passwd file`).
pub fn resolve(rootfs: &RootfsSpec, user: &str) -> Result<ResolvedUser> {
    let read = |path| read_file(rootfs, Path::new(path)).unwrap_or_default();
    parse(&read("etc/passwd"), &read("etc/group"), user)
}

/// A file of a root file system that is not mounted: the topmost layer that has it decides. Links do not lead out of their layer.
pub fn read_file(rootfs: &RootfsSpec, path: &Path) -> Option<String> {
    let layers: Vec<&Path> = match &rootfs.source {
        RootfsSource::Directory(dir) => vec![dir],
        RootfsSource::Overlay { lower, upper, .. } => std::iter::once(upper.as_path()).chain(lower.iter().map(AsRef::as_ref)).collect(),
    };
    for layer in layers {
        let Ok(root) = File::open(layer) else { continue };
        let how = OpenHow::new().flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        if let Ok(fd) = open_below(&root, path, how) {
            let file = File::from(fd);
            let mut text = Vec::new();
            if file.metadata().is_ok_and(|meta| meta.is_file()) {
                file.take(FILE_MAX).read_to_end(&mut text).ok()?;
            }
            return Some(String::from_utf8_lossy(&text).into_owned());
        }
        // A whiteout in this layer hides the file of the layers below.
        if std::fs::symlink_metadata(layer.join(path)).is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0) {
            return None;
        }
    }
    None
}

struct Entry<'t> {
    name: &'t str,
    id: u32,
    /// Users: primary group.
    gid: u32,
    /// Users: home. Groups: members.
    rest: &'t str,
}

fn entries(text: &str, is_passwd: bool) -> Vec<Entry<'_>> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let id = fields.get(2)?.trim().parse().ok()?;
            let gid = if is_passwd { fields.get(3)?.trim().parse().ok()? } else { id };
            let rest = fields.get(if is_passwd { 5 } else { 3 }).copied().unwrap_or_default().trim();
            Some(Entry { name: fields[0], id, gid, rest })
        })
        .collect()
}

fn parse(passwd: &str, group: &str, user: &str) -> Result<ResolvedUser> {
    let invalid = |reason: String| Error::InvalidSpec { field: "user", reason };
    let (user_part, group_part) = user.split_once(':').map_or((user, None), |(user, group)| (user, Some(group)));
    let (users, groups) = (entries(passwd, true), entries(group, false));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let found = users.iter().find(|entry| entry.name == user_part);
    let number: Option<u32> = user_part.parse().ok();
    let found = found.or_else(|| users.iter().find(|entry| Some(entry.id) == number));
    let uid = match (found, number) {
        (Some(entry), _) => entry.id,
        (None, Some(number)) if i32::try_from(number).is_ok() => number,
        (None, Some(_)) => return Err(invalid(format!("uids and gids must be in range 0-{}", i32::MAX))),
        (None, None) => return Err(invalid(format!("unable to find user {user_part}: no matching entries in passwd file"))),
    };
    let mut resolved = ResolvedUser {
        user: User { uid, gid: found.map_or(0, |entry| entry.gid), additional_gids: Vec::new() },
        name: found.map(|entry| entry.name.to_owned()),
        home: found.map(|entry| entry.rest.to_owned()).filter(|home| !home.is_empty()),
    };
    match group_part.filter(|group| !group.is_empty()) {
        Some(name) => {
            let found = groups.iter().find(|entry| entry.name == name).map(|entry| entry.id);
            resolved.user.gid = found
                .or_else(|| name.parse().ok())
                .ok_or_else(|| invalid(format!("unable to find group {name}: no matching entries in group file")))?;
        }
        // A group that is spelled out replaces those of the files.
        None => {
            if let Some(name) = &resolved.name {
                let member = |entry: &&Entry<'_>| entry.rest.split(',').any(|other| other.trim() == name);
                resolved.user.additional_gids = groups.iter().filter(member).map(|entry| entry.id).collect();
            }
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:101:102:Web:/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:7:root,web\nextra:x:8:web\n";

    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: Option<&str>) {
        let resolved = parse(PASSWD, GROUP, user).unwrap();
        assert_eq!(
            (resolved.user.uid, resolved.user.gid, resolved.user.additional_gids, resolved.home.as_deref()),
            (uid, gid, groups.to_vec(), home)
        );
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        check("", 0, 0, &[7], Some("/root"));
        check("web", 101, 102, &[7, 8], Some("/srv"));
        check("101", 101, 102, &[7, 8], Some("/srv"));
        check("web:logs", 101, 7, &[], Some("/srv"));
        check("4000", 4000, 0, &[], None);
        check("4000:9", 4000, 9, &[], None);
    }

    #[test]
    fn unknown_names_are_refused_in_the_usual_words() {
        let text = |user| parse(PASSWD, GROUP, user).unwrap_err().to_string();
        assert!(text("nobody").ends_with("unable to find user nobody: no matching entries in passwd file"));
        assert!(text("web:none").ends_with("unable to find group none: no matching entries in group file"));
    }

    #[test]
    fn whiteouts_hide_lower_layers() {
        let dir = tempfile::tempdir().unwrap();
        let lower = dir.path().join("lower");
        std::fs::create_dir_all(lower.join("etc")).unwrap();
        std::fs::write(lower.join("etc/passwd"), PASSWD).unwrap();
        std::fs::create_dir_all(dir.path().join("upper")).unwrap();
        let rootfs = RootfsSpec::overlay(vec![lower], dir.path().join("upper"), dir.path().join("work"));
        assert_eq!(resolve(&rootfs, "web").unwrap().user.uid, 101);
    }
}
