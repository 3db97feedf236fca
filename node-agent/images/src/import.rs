//! Bringing images in from an archive: what `docker save`, skopeo, buildah, ctr and our own `export` write.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use oci_spec::image::ImageIndex;
use serde::Deserialize;
use tar::EntryType;

use crate::compression::{Compression, decompress};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::image::descriptor_digest;
use crate::lease::Lease;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::store::Store;
use crate::tree::TreePath;

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// For archives that carry no name, or only a tag.
    pub name: Option<Reference>,
    /// The archive's size, for progress; 0 if unknown.
    pub bytes_total: u64,
    /// Leave the layers packed; the first `prepare` extracts them.
    pub no_unpack: bool,
}

/// One image that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its manifest or index.
    pub target: Digest,
    /// Under these names.
    pub names: Vec<Reference>,
}

/// Why an import failed. Nothing is named then, and what was stored goes at the next collection.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive breaks off or is no archive.
    #[error("read archive")]
    Archive(#[source] io::Error),
    /// Neither `index.json` nor `manifest.json`.
    #[error("archive holds no image: neither index.json nor manifest.json is in it")]
    NoImage,
    /// Layers that the image lists are not in the archive.
    #[error("image {image} is incomplete: the archive lacks {}", .missing.join(", "))]
    Missing {
        /// Its name, or its digest.
        image: String,
        /// What is missing, as the archive names it.
        missing: Vec<String>,
    },
    /// No name in the archive and none given.
    #[error("the archive gives image {0} no name; pass one")]
    NoName(Digest),
    /// A name in the archive is not valid.
    #[error("the archive holds the name {name:?}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: crate::reference::ReferenceError,
    },
    /// JSON in the archive is not valid.
    #[error("read {file} in the archive")]
    Json {
        /// Which file.
        file: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The store refused.
    #[error("import")]
    Store(#[from] StoreError),
}

/// Reads an archive (plain, gzip or zstd) to its end and stores every image in it that can run here, under all names it carries.
///
/// # Errors
/// See the variants.
pub fn import(store: &Store, archive: impl Read, options: &ImportOptions, progress: &Progress) -> Result<Vec<Imported>, ImportError> {
    let lease = store.lease()?;
    let counted = Counting { inner: archive, bytes: 0, reported: 0, total: options.bytes_total, progress };
    let mut contents = Contents { store, lease: &lease, files: BTreeMap::new(), links: BTreeMap::new(), kept_bytes: 0 };
    contents.read(decompress(counted).map_err(ImportError::Archive)?)?;
    let found = contents.images(options)?;
    if found.is_empty() {
        return Err(ImportError::NoImage);
    }
    for image in &found {
        if !options.no_unpack {
            store.unpack(&*store.parse(&image.target)?, progress)?;
        }
    }
    for image in &found {
        for name in &image.names {
            store.set_name(name, &image.target, &lease)?;
        }
        let names = image.names.iter().map(Reference::to_string).collect();
        progress.report(Event::Done { digest: image.target.clone(), names });
    }
    Ok(found)
}

/// Small files stay in memory until something refers to them: old archives hold many that nothing does.
const KEPT_FILE_BYTES_MAX: u64 = 1 << 20;
const KEPT_BYTES_MAX: u64 = 64 << 20;
const REPORT_EVERY_BYTES: u64 = 4 << 20;

/// What an archive holds, by path.
struct Contents<'a> {
    store: &'a Store,
    lease: &'a Lease,
    files: BTreeMap<String, Content>,
    /// Links, which older tools write for layers that several images share.
    links: BTreeMap<String, String>,
    kept_bytes: u64,
}

#[derive(Clone)]
enum Content {
    Kept(Vec<u8>),
    Blob { digest: Digest, size: u64, compression: Compression },
}

/// `manifest.json` of a docker archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Contents<'_> {
    fn read(&mut self, stream: impl Read) -> Result<(), ImportError> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries().map_err(ImportError::Archive)? {
            let mut entry = entry.map_err(ImportError::Archive)?;
            let Some(path) = clean(&entry.path_bytes()) else { continue };
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    let size = entry.size();
                    let content = self.read_file(&path, size, &mut entry)?;
                    self.files.insert(path, content);
                }
                EntryType::Symlink => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    let above = path.rsplit_once('/').map_or("", |(above, _)| above);
                    if let Some(target) = clean(&[above.as_bytes(), b"/", &target].concat()) {
                        self.links.insert(path, target);
                    }
                }
                EntryType::Link => {
                    if let Some(target) = clean(&entry.link_name_bytes().unwrap_or_default()) {
                        self.links.insert(path, target);
                    }
                }
                _ => {}
            }
        }
        // The digest of a compressed archive is checked by its own trailer; reading to the end makes sure it was seen.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(ImportError::Archive)?;
        Ok(())
    }

    fn read_file(&mut self, path: &str, size: u64, entry: &mut impl Read) -> Result<Content, ImportError> {
        if size <= KEPT_FILE_BYTES_MAX && self.kept_bytes + size <= KEPT_BYTES_MAX {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(ImportError::Archive)?;
            self.kept_bytes += size;
            return Ok(Content::Kept(bytes));
        }
        let mut head = Vec::with_capacity(4);
        entry.by_ref().take(4).read_to_end(&mut head).map_err(ImportError::Archive)?;
        let compression = Compression::sniff(&head);
        // Names are digests in all layouts of today; a blob that is here need not be written again. Its reader checks it.
        if let Some(digest) = digest_in_name(path) {
            self.lease.protect(&digest)?;
            if self.store.has_blob(&digest, Some(size)) {
                return Ok(Content::Blob { digest, size, compression });
            }
        }
        let mut ingest = self.store.ingest()?;
        let write = |source| StoreError::Io { action: "write", path: self.store.path("ingest"), source };
        ingest.write_all(&head).map_err(write)?;
        let mut buffer = vec![0; 1 << 17];
        loop {
            let count = entry.read(&mut buffer).map_err(ImportError::Archive)?;
            if count == 0 {
                break;
            }
            ingest.write_all(&buffer[..count]).map_err(write)?;
        }
        let (digest, size) = ingest.commit(None, self.lease)?;
        Ok(Content::Blob { digest, size, compression })
    }

    fn images(&self, options: &ImportOptions) -> Result<Vec<Imported>, ImportError> {
        let docker: Vec<DockerEntry> = match self.bytes("manifest.json")? {
            Some(bytes) => parse("manifest.json", &bytes)?,
            None => Vec::new(),
        };
        match self.bytes("index.json")? {
            Some(bytes) => self.oci_images(&parse("index.json", &bytes)?, &docker, options),
            None => docker.iter().map(|entry| self.docker_image(entry, options)).collect(),
        }
    }

    /// An OCI layout; `docker` is there too in archives that `docker save` writes today, and carries names.
    fn oci_images(&self, index: &ImageIndex, docker: &[DockerEntry], options: &ImportOptions) -> Result<Vec<Imported>, ImportError> {
        let platform = Platform::of_this_machine();
        let mut found: Vec<Imported> = Vec::new();
        for descriptor in index.manifests() {
            let target = descriptor_digest(descriptor)?;
            let foreign = descriptor
                .platform()
                .as_ref()
                .is_some_and(|of| of.os().to_string() != platform.os || of.architecture().to_string() != platform.architecture);
            if foreign && index.manifests().len() > 1 {
                continue;
            }
            let Some(config) = self.complete(&target)? else { continue };
            let mut names = names_in(descriptor.annotations().as_ref(), options)?;
            for entry in docker.iter().filter(|entry| digest_in_name(&entry.config).as_ref() == Some(&config)) {
                for name in entry.repo_tags.iter().flatten() {
                    names.push(parse_name(name)?);
                }
            }
            names.sort();
            names.dedup();
            match found.iter_mut().find(|image| image.target == target) {
                Some(known) => known.names.extend(names),
                None => found.push(Imported { target, names }),
            }
        }
        let unnamed = found.iter().filter(|image| image.names.is_empty()).count();
        for image in found.iter_mut().filter(|image| image.names.is_empty()) {
            match &options.name {
                Some(name) if unnamed == 1 => image.names.push(name.clone()),
                _ => return Err(ImportError::NoName(image.target.clone())),
            }
        }
        Ok(found)
    }

    /// Stores a manifest or index with all it leads to on this platform; returns the configuration's digest. `None` if it is no image.
    fn complete(&self, target: &Digest) -> Result<Option<Digest>, ImportError> {
        let mut missing = Vec::new();
        if !self.store_blob(target, &mut missing)? {
            return Err(ImportError::Missing { image: target.to_string(), missing });
        }
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(&self.store.read_blob(target)?) {
            // Images of other platforms are kept if they are there, and may be absent.
            for descriptor in index.manifests() {
                self.store_blob(&descriptor_digest(descriptor)?, &mut Vec::new())?;
            }
        }
        let manifest_digest = self.store.platform_manifest(target)?;
        if !self.store_blob(&manifest_digest, &mut missing)? {
            return Err(ImportError::Missing { image: target.to_string(), missing });
        }
        let Ok((manifest, _)) = self.store.manifest(&manifest_digest) else { return Ok(None) };
        let config = descriptor_digest(manifest.config())?;
        self.store_blob(&config, &mut missing)?;
        for layer in manifest.layers() {
            self.store_blob(&descriptor_digest(layer)?, &mut missing)?;
        }
        if missing.is_empty() { Ok(Some(config)) } else { Err(ImportError::Missing { image: target.to_string(), missing }) }
    }

    /// Makes sure that a blob of the archive's `blobs/` is in the store. It may also be there already.
    fn store_blob(&self, digest: &Digest, missing: &mut Vec<String>) -> Result<bool, ImportError> {
        let path = format!("blobs/sha256/{}", digest.hex());
        match self.resolve(&path) {
            Some(Content::Kept(bytes)) => {
                let found = self.store.write_blob(bytes, self.lease)?;
                if found != *digest {
                    return Err(StoreError::Corrupt { expected: digest.clone(), found }.into());
                }
            }
            Some(Content::Blob { digest: found, .. }) => {
                if found != digest {
                    return Err(StoreError::Corrupt { expected: digest.clone(), found: found.clone() }.into());
                }
            }
            None => {
                self.lease.protect(digest)?;
                if !self.store.has_blob(digest, None) {
                    missing.push(digest.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A docker archive names layers by path and has no manifest in the registry's sense: one is made, always the same for equal content.
    fn docker_image(&self, entry: &DockerEntry, options: &ImportOptions) -> Result<Imported, ImportError> {
        let mut names = Vec::new();
        for name in entry.repo_tags.iter().flatten() {
            names.push(parse_name(name)?);
        }
        let image = names.first().map_or_else(|| entry.config.clone(), Reference::to_string);
        let mut missing = Vec::new();
        let mut descriptors = Vec::new();
        for (number, path) in std::iter::once(&entry.config).chain(entry.layers.iter().flatten()).enumerate() {
            let Some(content) = clean(path.as_bytes()).and_then(|path| self.resolve(&path)) else {
                missing.push(path.clone());
                continue;
            };
            let (digest, size, compression) = match content {
                Content::Kept(bytes) => (self.store.write_blob(bytes, self.lease)?, bytes.len() as u64, Compression::sniff(bytes)),
                Content::Blob { digest, size, compression } => (digest.clone(), *size, *compression),
            };
            let media_type = if number == 0 { "application/vnd.oci.image.config.v1+json" } else { compression.oci_media_type() };
            descriptors.push(serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size }));
        }
        if !missing.is_empty() {
            return Err(ImportError::Missing { image, missing });
        }
        let config = descriptors.remove(0);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors,
        });
        let bytes = serde_json::to_vec(&manifest).expect("a manifest has only string keys");
        let target = self.store.write_blob(&bytes, self.lease)?;
        if names.is_empty() {
            names.push(options.name.clone().ok_or_else(|| ImportError::NoName(target.clone()))?);
        }
        Ok(Imported { target, names })
    }

    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, ImportError> {
        match self.resolve(path) {
            Some(Content::Kept(bytes)) => Ok(Some(bytes.clone())),
            Some(Content::Blob { digest, .. }) => Ok(Some(self.store.read_blob(digest)?)),
            None => Ok(None),
        }
    }

    /// What is at a path, through at most a few links.
    fn resolve(&self, path: &str) -> Option<&Content> {
        let mut path = path;
        for _ in 0..16 {
            if let Some(content) = self.files.get(path) {
                return Some(content);
            }
            path = self.links.get(path)?;
        }
        None
    }
}

/// Counts what is read, for progress.
struct Counting<'a, R> {
    inner: R,
    bytes: u64,
    reported: u64,
    total: u64,
    progress: &'a Progress,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.bytes += count as u64;
        if self.bytes - self.reported >= REPORT_EVERY_BYTES || (count == 0 && self.bytes > self.reported) {
            self.reported = self.bytes;
            self.progress.report(Event::Archive { bytes_done: self.bytes, bytes_total: self.total });
        }
        Ok(count)
    }
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|source| ImportError::Json { file: file.to_owned(), source })
}

fn parse_name(name: &str) -> Result<Reference, ImportError> {
    Reference::parse(name).map_err(|source| ImportError::Name { name: name.to_owned(), source })
}

/// A path of the archive without `./` and leading slashes; `None` if it climbs out.
fn clean(path: &[u8]) -> Option<String> {
    let path = TreePath::clean(path)?.to_path();
    path.to_str().map(str::to_owned)
}

/// The digest in `blobs/sha256/HEX`, `HEX.tar`, `HEX.json` or `sha256:HEX`.
fn digest_in_name(path: &str) -> Option<Digest> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let name = name.strip_prefix("sha256:").unwrap_or(name);
    Digest::from_hex(name.split_once('.').map_or(name, |(stem, _)| stem)).ok()
}

/// The names that an entry of `index.json` carries. `org.opencontainers.image.ref.name` may be a whole name or only a tag.
fn names_in(annotations: Option<&HashMap<String, String>>, options: &ImportOptions) -> Result<Vec<Reference>, ImportError> {
    let Some(annotations) = annotations else { return Ok(Vec::new()) };
    if let Some(name) = annotations.get("io.containerd.image.name") {
        return Ok(vec![parse_name(name)?]);
    }
    let Some(name) = annotations.get("org.opencontainers.image.ref.name") else { return Ok(Vec::new()) };
    let tag_only = !name.contains(['/', ':']);
    match &options.name {
        Some(base) if tag_only => Ok(vec![base.with_tag(name).map_err(|source| ImportError::Name { name: name.clone(), source })?]),
        _ if tag_only && is_version(name) => Ok(Vec::new()),
        _ => Ok(vec![parse_name(name)?]),
    }
}

/// `latest`, `1.36`, `v2`: a tag, not an image's name.
fn is_version(name: &str) -> bool {
    name == "latest" || name.strip_prefix('v').unwrap_or(name).starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests;
