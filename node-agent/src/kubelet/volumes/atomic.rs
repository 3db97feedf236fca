//! Replaces a directory's files all at once: readers see the old set or the new one, never a mixture.
//!
//! Layout: `..TIMESTAMP.RANDOM/` holds the files, `..data` links to it, and each visible name links through `..data`. Changing a set means
//! renaming one link.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `dir` show exactly `payload`; `version` names the new set and must not have been used before. Returns whether anything changed.
///
/// # Errors
/// The file system refused; the old set is still shown then.
pub fn write(dir: &Path, payload: &Payload, version: &str, group: Option<u32>) -> io::Result<bool> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && shows(&dir.join(current), payload)?
    {
        return Ok(false);
    }
    let name = format!("..{version}");
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(if group.is_some() { 0o2775 } else { 0o755 }))?;
    chown(&fresh, None, group)?;
    for (path, file) in payload {
        let target = fresh.join(path);
        if let Some(parent) = target.parent()
            && parent != fresh
        {
            fs::create_dir_all(parent)?;
            let mut above = parent;
            while above != fresh {
                fs::set_permissions(above, fs::Permissions::from_mode(if group.is_some() { 0o2775 } else { 0o755 }))?;
                chown(above, None, group)?;
                above = above.parent().unwrap_or(&fresh);
            }
        }
        fs::write(&target, &file.data)?;
        chown(&target, file.uid, group)?;
        // The group that owns the volume may read it; a volume of this kind is never writable.
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    let _ = fs::remove_file(dir.join(DATA_NEW));
    symlink(&name, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    let visible: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !visible.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = current {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

/// Whether the set in `dir` is the payload, by content and permission bits of the owner.
fn shows(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    collect(dir, "", &mut found)?;
    if found.len() != payload.len() {
        return Ok(false);
    }
    for (path, file) in payload {
        if !found.contains(path) || fs::read(dir.join(path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), into)?;
        } else {
            into.insert(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, uid: None })).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn sets_replace_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        assert!(write(path, &payload(&[("a", "1"), ("d/e", "2")]), "v1", None).unwrap());
        assert_eq!(fs::read_to_string(path.join("d/e")).unwrap(), "2");
        assert_eq!(fs::metadata(path.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(path, &payload(&[("a", "1"), ("d/e", "2")]), "v2", None).unwrap());
        assert!(write(path, &payload(&[("a", "3"), ("f", "4")]), "v3", None).unwrap());
        assert_eq!(names(path), ["..data", "..v3", "a", "f"]);
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
        assert!(write(path, &Payload::new(), "v4", None).unwrap());
        assert_eq!(names(path), ["..data", "..v4"]);
    }

    #[test]
    fn a_reader_that_holds_the_old_set_keeps_it_until_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1"), ("b", "1")]), "v1", None).unwrap();
        let held = fs::read_link(dir.path().join("..data")).unwrap();
        assert_eq!(held, Path::new("..v1"));
        write(dir.path(), &payload(&[("a", "2"), ("b", "2")]), "v2", None).unwrap();
        assert_eq!(fs::read_link(dir.path().join("..data")).unwrap(), Path::new("..v2"));
    }
}
