//! Archives and images for tests.

use std::io::Write;

use crate::digest::Digest;

/// One entry of an archive.
pub(crate) struct TarEntry<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: tar::EntryType,
    pub(crate) data: &'a [u8],
    pub(crate) link: &'a str,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) pax: Vec<(&'a str, &'a [u8])>,
}

pub(crate) fn file<'a>(name: &'a str, data: &'a [u8]) -> TarEntry<'a> {
    TarEntry { name, kind: tar::EntryType::Regular, data, link: "", mode: 0o644, uid: 0, pax: Vec::new() }
}

pub(crate) fn dir(name: &str) -> TarEntry<'_> {
    TarEntry { kind: tar::EntryType::Directory, mode: 0o755, ..file(name, b"") }
}

pub(crate) fn link<'a>(kind: tar::EntryType, name: &'a str, target: &'a str) -> TarEntry<'a> {
    TarEntry { kind, link: target, mode: 0o777, ..file(name, b"") }
}

/// Names are written as they are, dangerous ones too.
pub(crate) fn archive(entries: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        if !entry.pax.is_empty() {
            builder.append_pax_extensions(entry.pax.iter().copied()).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.uid);
        header.set_mtime(1_700_000_000);
        header.set_size(entry.data.len() as u64);
        let name = entry.name.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let target = entry.link.as_bytes();
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        if matches!(entry.kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        builder.append(&header, entry.data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration for these uncompressed layers.
pub(crate) fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let platform = crate::platform::Platform::of_this_machine();
    serde_json::to_vec(&serde_json::json!({
        "architecture": platform.architecture, "os": platform.os,
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/app"], "User": "1000" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": [],
    }))
    .unwrap()
}

/// A docker archive as older tools write it: layers in directories, the manifest last.
pub(crate) fn docker_archive(names: &[&str], layers: &[&[u8]]) -> Vec<u8> {
    let config = config(layers);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let layer_names: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", Digest::of(layer).hex())).collect();
    let manifest = serde_json::to_vec(&serde_json::json!([{ "Config": config_name, "RepoTags": names, "Layers": layer_names }])).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, data).unwrap();
    };
    for (name, layer) in layer_names.iter().zip(layers) {
        add(name, layer);
    }
    add(&config_name, &config);
    add("manifest.json", &manifest);
    builder.into_inner().unwrap()
}

/// A store in a directory that goes with the returned guard.
pub(crate) fn store() -> (tempfile::TempDir, crate::store::Store) {
    let directory = tempfile::Builder::new().prefix("tritest-images-").tempdir().unwrap();
    let store = crate::store::Store::open(directory.path()).unwrap();
    (directory, store)
}

/// A store with one image of these layers under this name.
pub(crate) fn store_with(name: &str, layers: &[&[u8]]) -> (tempfile::TempDir, crate::store::Store) {
    let (directory, store) = store();
    let options = crate::import::ImportOptions { no_unpack: true, ..Default::default() };
    crate::import::import(&store, &docker_archive(&[name], layers)[..], &options, &crate::progress::Progress::none()).unwrap();
    (directory, store)
}
