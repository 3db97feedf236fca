//! Volumes that are paths of the node: what their type demands.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks `path` against the type of a hostPath volume and makes what the type allows to be made.
///
/// # Errors
/// The text of the `FailedMount` event, worded as Kubernetes does.
pub fn prepare(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("hostPath type check failed: {error}")),
    };
    let wrong = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    match (kind, found) {
        ("", None) => fs::create_dir_all(path).map_err(|e| format!("cannot create {shown}: {e}")),
        ("", Some(_)) => Ok(()),
        ("DirectoryOrCreate", None) => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|e| format!("cannot create {shown}: {e}")),
        ("FileOrCreate", None) => fs::File::create_new(path)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|e| format!("cannot create {shown}: {e}")),
        ("DirectoryOrCreate" | "Directory", Some(meta)) if meta.is_dir() => Ok(()),
        ("FileOrCreate" | "File", Some(meta)) if meta.is_file() => Ok(()),
        ("Socket", Some(meta)) if meta.file_type().is_socket() => Ok(()),
        ("CharDevice", Some(meta)) if meta.file_type().is_char_device() => Ok(()),
        ("BlockDevice", Some(meta)) if meta.file_type().is_block_device() => Ok(()),
        ("DirectoryOrCreate" | "Directory", _) => wrong("a directory"),
        ("FileOrCreate" | "File", _) => wrong("a file"),
        ("Socket", _) => wrong("a socket file"),
        ("CharDevice", _) => wrong("a character device"),
        ("BlockDevice", _) => wrong("a block device"),
        (other, _) => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert!(prepare(&at("x"), "Directory").unwrap_err().ends_with("is not a directory"));
        prepare(&at("x/y"), "DirectoryOrCreate").unwrap();
        prepare(&at("f"), "FileOrCreate").unwrap();
        prepare(&at("f"), "File").unwrap();
        prepare(&at("new"), "").unwrap();
        assert!(at("new").is_dir());
        assert!(prepare(&at("f"), "Directory").is_err() && prepare(&at("f"), "Socket").unwrap_err().ends_with("is not a socket file"));
        prepare(Path::new("/dev/null"), "CharDevice").unwrap();
    }
}
