//! An overlay's upper directory as a layer: sorted, with whiteouts in the image format's form. Spec: OCI image-spec, layer.md.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use crate::compression::{Compression, Compressor};
use crate::digest::Hashing;
use crate::error::{IoContext, StoreError};
use crate::image::Layer;
use crate::lease::Lease;
use crate::store::Store;
use crate::tree::OPAQUE;

/// How a layer is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LayerOptions {
    pub(crate) compression: Compression,
    /// No entry is younger (seconds since 1970).
    pub(crate) mtime_max: Option<i64>,
}

/// Stores the changes as a layer; `None` if there are none. `lower` are the layers below, top first.
pub(crate) fn commit_upper(
    store: &Store,
    upper: &Path,
    lower: &[PathBuf],
    options: LayerOptions,
    lease: &Lease,
) -> Result<Option<Layer>, StoreError> {
    if fs::read_dir(upper).during("list", upper)?.next().is_none() {
        return Ok(None);
    }
    let packed = Compressor::new(store.ingest()?, options.compression).during("start compression for", upper)?;
    let mut writer = Writer { archive: tar::Builder::new(Hashing::new(packed)), lower, links: HashMap::new(), options };
    writer.directory(upper, Path::new("")).during("read the changes in", upper)?;
    let (diff_id, _, packed) = writer.archive.into_inner().during("write a layer of", upper)?.finish();
    let (digest, size) = packed.finish().during("write a layer of", upper)?.commit(None, lease)?;
    Ok(Some(Layer { digest, media_type: options.compression.oci_media_type().to_owned(), size, diff_id }))
}

struct Writer<'a, W: Write> {
    archive: tar::Builder<W>,
    lower: &'a [PathBuf],
    /// Where a file with several names was written first.
    links: HashMap<(u64, u64), PathBuf>,
    options: LayerOptions,
}

impl<W: Write> Writer<'_, W> {
    fn directory(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let mut children: Vec<OsString> =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
        children.sort();
        for child in children {
            self.entry(&path.join(&child), &name.join(&child))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let kind = meta.file_type();
        let mut header = self.header(&meta);
        if kind.is_char_device() && meta.rdev() == 0 {
            return self.whiteout(name);
        }
        if name.file_name().is_some_and(|name| name.as_bytes().starts_with(b".wh.")) {
            return Err(io::Error::other(format!("/{}: no file of an image may have a name that begins with .wh.", name.display())));
        }
        if kind.is_dir() {
            let attributes = plain_attributes(path)?;
            header.set_entry_type(EntryType::Directory);
            self.restore_time(name, &meta, &mut header);
            self.append(&mut header, name, &attributes, io::empty())?;
            if xattr::get(path, OPAQUE)?.as_deref() == Some(b"y") {
                self.marker(&name.join(".wh..wh..opq"))?;
            }
            return self.directory(path, name);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.links.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                return self.archive.append_link(&mut header, name, first.clone());
            }
            self.links.insert((meta.dev(), meta.ino()), name.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            return self.archive.append_link(&mut header, name, fs::read_link(path)?);
        }
        if kind.is_file() {
            let attributes = plain_attributes(path)?;
            header.set_size(meta.len());
            let file = fs::File::open(path)?;
            return self.append(&mut header, name, &attributes, io::BufReader::with_capacity(1 << 17, file));
        }
        header.set_entry_type(match kind {
            kind if kind.is_fifo() => EntryType::Fifo,
            kind if kind.is_block_device() => EntryType::Block,
            _ => EntryType::Char,
        });
        header.set_device_major(u32::try_from(nix::sys::stat::major(meta.rdev())).unwrap_or(0))?;
        header.set_device_minor(u32::try_from(nix::sys::stat::minor(meta.rdev())).unwrap_or(0))?;
        self.append(&mut header, name, &[], io::empty())
    }

    fn append(&mut self, header: &mut Header, name: &Path, attributes: &[(String, Vec<u8>)], data: impl io::Read) -> io::Result<()> {
        if !attributes.is_empty() {
            self.archive.append_pax_extensions(attributes.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
        }
        self.archive.append_data(header, name, data)
    }

    fn header(&self, meta: &fs::Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(u64::from(meta.uid()));
        header.set_gid(u64::from(meta.gid()));
        header.set_size(0);
        self.set_time(&mut header, meta.mtime());
        header
    }

    fn set_time(&self, header: &mut Header, mtime: i64) {
        let mtime = self.options.mtime_max.map_or(mtime, |limit| mtime.min(limit));
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
    }

    /// A directory that is here only because something in it changed keeps the time it has below: equal changes give equal layers.
    fn restore_time(&self, name: &Path, meta: &fs::Metadata, header: &mut Header) {
        let below = self.lower.iter().find_map(|layer| fs::symlink_metadata(layer.join(name)).ok());
        if let Some(below) = below.filter(fs::Metadata::is_dir)
            && (below.mode(), below.uid(), below.gid()) == (meta.mode(), meta.uid(), meta.gid())
        {
            self.set_time(header, below.mtime());
        }
    }

    fn whiteout(&mut self, name: &Path) -> io::Result<()> {
        let mut hidden = OsString::from(".wh.");
        hidden.push(name.file_name().unwrap_or_default());
        self.marker(&name.with_file_name(hidden))
    }

    fn marker(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(0);
        self.archive.append_data(&mut header, name, io::empty())
    }
}

/// Attributes that belong to the image: capabilities and users' own, not overlayfs's and not this machine's security labels.
fn plain_attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in xattr::list(path)? {
        if name.as_bytes().starts_with(b"trusted.overlay.redirect") || name.as_bytes().starts_with(b"trusted.overlay.metacopy") {
            return Err(io::Error::other(format!("{} was renamed or changed by overlayfs without its content", path.display())));
        }
        if (name == OsStr::new("security.capability") || name.as_bytes().starts_with(b"user."))
            && let Some(text) = name.to_str()
            && let Some(value) = xattr::get(path, &name)?
        {
            found.push((format!("SCHILY.xattr.{text}"), value));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::build::overlay::{Workspace, with_mounts};
    use crate::image::Image;
    use crate::progress::Progress;
    use crate::testing::{archive, dir, file, store_with};

    /// Changes made through a real overlay come out of a second extraction the same.
    #[test]
    fn changes_survive_the_way_through_a_layer() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it mounts an overlay");
        let base = archive(&[dir("d/"), file("d/gone", b"1"), file("d/kept", b"2"), dir("o/"), file("o/hidden", b"3"), file("f", b"4")]);
        let (directory, store) = store_with("base:1", &[&base]);
        let lease = store.lease().unwrap();
        let image = store.find("base:1").unwrap().unwrap();
        let lower = store.prepare(&image).unwrap();
        let workspace = directory.path().join("layers/tritest");
        fs::create_dir(&workspace).unwrap();
        let workspace = Workspace::create(&workspace).unwrap();
        with_mounts(&lower, None, &workspace, |views| {
            let at = |name: &str| views.merged.join(name);
            fs::remove_file(at("d/gone")).unwrap();
            fs::remove_dir_all(at("o")).unwrap();
            fs::create_dir(at("o")).unwrap();
            fs::write(at("o/new"), b"5").unwrap();
            fs::write(at("f"), b"changed").unwrap();
            fs::hard_link(at("f"), at("g")).unwrap();
            std::os::unix::fs::symlink("d/kept", at("link")).unwrap();
            std::os::unix::fs::chown(at("o/new"), Some(3_000_000), Some(7)).unwrap();
            fs::set_permissions(at("o/new"), fs::Permissions::from_mode(0o4711)).unwrap();
            xattr::set(at("o/new"), "user.note", b"hello").unwrap();
            fs::write(at(&"long".repeat(40)), b"6").unwrap();
        })
        .unwrap();
        let options = LayerOptions { mtime_max: Some(1_000_000), ..LayerOptions::default() };
        let layer = commit_upper(&store, &workspace.upper, &lower.lowerdirs(), options, &lease).unwrap().unwrap();
        let again = commit_upper(&store, &workspace.upper, &lower.lowerdirs(), options, &lease).unwrap().unwrap();
        assert_eq!(layer, again, "equal changes, equal layers");
        let image = Image { layers: vec![image.layers[0].clone(), layer], ..image };
        let both = store.unpack(&image, &Progress::none()).unwrap();
        let check = directory.path().join("layers/tritest2");
        fs::create_dir(&check).unwrap();
        with_mounts(&both, None, &Workspace::create(&check).unwrap(), |views| {
            let at = |name: &str| views.merged.join(name);
            let names = |name: &str| crate::lease::file_names(&at(name)).unwrap();
            assert_eq!((names("d"), names("o")), (vec!["kept".to_owned()], vec!["new".to_owned()]));
            assert_eq!((fs::read(at("f")).unwrap(), fs::read(at("g")).unwrap()), (b"changed".to_vec(), b"changed".to_vec()));
            assert_eq!(fs::metadata(at("f")).unwrap().nlink(), 2);
            let new = fs::metadata(at("o/new")).unwrap();
            assert_eq!((new.mode() & 0o7777, new.uid(), new.gid(), new.mtime()), (0o4711, 3_000_000, 7, 1_000_000));
            assert_eq!(xattr::get(at("o/new"), "user.note").unwrap().unwrap(), b"hello");
            assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("d/kept"));
            assert_eq!(fs::read(at(&"long".repeat(40))).unwrap(), b"6");
        })
        .unwrap();
        let untouched = commit_upper(&store, &check.join("upper"), &both.lowerdirs(), options, &lease).unwrap();
        assert_eq!(untouched, None, "reading changes nothing");
    }
}
