//! Extracting a layer's archive into a directory that becomes a lower directory of an overlay.
//!
//! Spec: OCI image-spec, layer.md. Whiteouts (`.wh.NAME`) become overlayfs's own: a character device 0:0, and for `.wh..wh..opq` an
//! attribute of the directory.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::SFlag;
use tar::{Archive, Entry, EntryType};

use crate::error::ExtractError;
use crate::tree::{Attributes, Tree, TreePath, finish_file};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// How whiteouts in the archive are to be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    /// The archive is a layer over others.
    Overlay,
    /// Nothing lies below, so there is nothing to hide.
    Skip,
    /// The archive is no layer: names that look like whiteouts are ordinary (`ADD file.tar`).
    Literal,
}

/// Extracts a layer into an empty directory; `lower` are the layers below it, top first. Returns the bytes of its files.
pub(crate) fn unpack(archive: &mut dyn Read, root: &Path, lower: &[PathBuf]) -> Result<u64, ExtractError> {
    let whiteouts = if lower.is_empty() { Whiteouts::Skip } else { Whiteouts::Overlay };
    extract_archive(archive, root, lower, &TreePath::default(), whiteouts, None)
}

/// Extracts an archive below `prefix`; `owner` replaces the archive's owners.
pub(crate) fn extract_archive(
    archive: &mut dyn Read,
    root: &Path,
    lower: &[PathBuf],
    prefix: &TreePath,
    whiteouts: Whiteouts,
    owner: Option<(u32, u32)>,
) -> Result<u64, ExtractError> {
    let tree = Tree::open(root, lower).map_err(|source| ExtractError::Io { action: "open", name: root.display().to_string(), source })?;
    let mut extraction =
        Extraction { tree, prefix, whiteouts, owner, directory_times: BTreeMap::new(), bytes: 0, buffer: vec![0; 1 << 17] };
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(ExtractError::Archive)? {
        extraction.entry(entry.map_err(ExtractError::Archive)?)?;
    }
    extraction.finish()
}

struct Extraction<'a> {
    tree: Tree,
    prefix: &'a TreePath,
    whiteouts: Whiteouts,
    owner: Option<(u32, u32)>,
    /// Set at the end, since every new entry changes its directory's time.
    directory_times: BTreeMap<TreePath, (i64, i64)>,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Extraction<'_> {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), ExtractError> {
        let name = entry.path_bytes().into_owned();
        let text = || String::from_utf8_lossy(&name).into_owned();
        let io = |action: &'static str| {
            let name = text();
            move |source| ExtractError::Io { action, name, source }
        };
        let path = self.place(&name)?;
        let kind = entry.header().entry_type();
        if self.whiteout(&path).map_err(io("hide"))? {
            return Ok(());
        }
        let mut attributes = attributes(&mut entry).map_err(ExtractError::Archive)?;
        if let Some((uid, gid)) = self.owner {
            (attributes.uid, attributes.gid) = (uid, gid);
        }
        match kind {
            EntryType::Directory => {
                self.tree.directory(&path, &attributes).map_err(io("create"))?;
                self.directory_times.insert(path, attributes.mtime);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&mut entry, &path, &attributes)?,
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let target_text = String::from_utf8_lossy(&target).into_owned();
                let target = self.place(&target)?;
                let linked = self.tree.hard_link(&path, &target).map_err(io("link"))?;
                if !linked {
                    return Err(ExtractError::LinkTarget { name: text(), target: target_text });
                }
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.tree.symlink(&path, &target, &attributes).map_err(io("link"))?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                // A pipe's numbers are left blank by some tools.
                let device = |number: io::Result<Option<u32>>| match number {
                    _ if kind == EntryType::Fifo => Ok(0),
                    number => number.map(|number| u64::from(number.unwrap_or(0))).map_err(ExtractError::Archive),
                };
                let numbers = (device(entry.header().device_major())?, device(entry.header().device_minor())?);
                let flag = match kind {
                    EntryType::Char => SFlag::S_IFCHR,
                    EntryType::Block => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                self.tree.special(&path, flag, numbers, &attributes).map_err(io("create"))?;
            }
            EntryType::XGlobalHeader => {}
            other => return Err(ExtractError::Kind { name: text(), kind: char::from(other.as_byte()) }),
        }
        Ok(())
    }

    fn file(&mut self, entry: &mut Entry<'_, impl Read>, path: &TreePath, attributes: &Attributes) -> Result<(), ExtractError> {
        let name = path.to_path().display().to_string();
        let io = |action: &'static str| {
            let name = name.clone();
            move |source| ExtractError::Io { action, name, source }
        };
        let mut file = self.tree.create_file(path).map_err(io("create"))?;
        loop {
            let count = match entry.read(&mut self.buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ExtractError::Archive(error)),
            };
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count]).map_err(io("write"))?;
            self.bytes += count as u64;
        }
        finish_file(&file, attributes).map_err(io("set attributes of"))
    }

    /// Whether the name was a whiteout, so that nothing remains to be done.
    fn whiteout(&mut self, path: &TreePath) -> io::Result<bool> {
        let Some(name) = path.name().map(OsStrExt::as_bytes).filter(|_| self.whiteouts != Whiteouts::Literal) else { return Ok(false) };
        if !name.starts_with(WHITEOUT_PREFIX) {
            return Ok(false);
        }
        let hidden = name[WHITEOUT_PREFIX.len()..].to_vec();
        if self.whiteouts == Whiteouts::Overlay {
            if name == OPAQUE_MARKER {
                self.tree.opaque(&path.parent())?;
            } else if !name.starts_with(AUFS_PREFIX) && !matches!(hidden.as_slice(), b"" | b"." | b"..") {
                self.tree.whiteout(&path.parent().join(&OsString::from_vec(hidden)))?;
            }
        }
        Ok(true)
    }

    /// Where a name of the archive belongs.
    fn place(&self, name: &[u8]) -> Result<TreePath, ExtractError> {
        let path = TreePath::clean(name).ok_or_else(|| ExtractError::Escape(String::from_utf8_lossy(name).into_owned()))?;
        if self.prefix.is_root() {
            return Ok(path);
        }
        let mut text = self.prefix.to_path().into_os_string().into_vec();
        text.push(b'/');
        text.extend_from_slice(path.to_path().as_os_str().as_bytes());
        Ok(TreePath::clamp(&text))
    }

    fn finish(self) -> Result<u64, ExtractError> {
        for (path, mtime) in self.directory_times.iter().rev() {
            self.tree.set_directory_time(path, *mtime).map_err(|source| ExtractError::Io {
                action: "set the time of",
                name: path.to_path().display().to_string(),
                source,
            })?;
        }
        Ok(self.bytes)
    }
}

/// The header's attributes, with what PAX records add or replace.
fn attributes(entry: &mut Entry<'_, impl Read>) -> io::Result<Attributes> {
    let header = entry.header();
    let fields = header.as_old();
    let id = |number: u64| u32::try_from(number).unwrap_or(u32::MAX - 1);
    let mut attributes = Attributes {
        mode: u32::try_from(blank_is_zero(&fields.mode, header.mode().map(u64::from))? & 0o7777).unwrap_or(0),
        uid: id(blank_is_zero(&fields.uid, header.uid())?),
        gid: id(blank_is_zero(&fields.gid, header.gid())?),
        mtime: (i64::try_from(blank_is_zero(&fields.mtime, header.mtime())?).unwrap_or(0), 0),
        xattrs: Vec::new(),
    };
    let Some(records) = entry.pax_extensions()? else { return Ok(attributes) };
    for record in records {
        let record = record?;
        let value = record.value_bytes();
        match record.key_bytes() {
            b"uid" => attributes.uid = number(value).unwrap_or(attributes.uid),
            b"gid" => attributes.gid = number(value).unwrap_or(attributes.gid),
            b"mtime" => attributes.mtime = pax_time(value).unwrap_or(attributes.mtime),
            key if key.starts_with(XATTR_PREFIX) => {
                let name = &key[XATTR_PREFIX.len()..];
                // overlayfs's own attributes would redirect lookups; no layer may bring them.
                if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                    attributes.xattrs.push((OsString::from_vec(name.to_vec()), value.to_vec()));
                }
            }
            _ => {}
        }
    }
    Ok(attributes)
}

/// Some tools leave fields blank where they mean 0.
fn blank_is_zero(field: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parsed }
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction, maybe negative.
fn pax_time(text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    match (text.starts_with('-'), nanoseconds) {
        (true, 1..) => Some((seconds - 1, 1_000_000_000 - nanoseconds)),
        _ => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests;
