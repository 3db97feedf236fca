//! Images and their names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, FileTimes};
use std::sync::Arc;
use std::time::SystemTime;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::lease::{Lease, file_names};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Store;

/// An image that can run on this machine, as the store holds it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration's digest: the "image ID" of the container runtime interface and of `docker images`.
    pub id: Digest,
    /// What the names point at: an index or the manifest itself.
    pub target: Digest,
    /// The manifest for this platform.
    pub manifest: Digest,
    /// Names with a tag, sorted: `docker.io/library/busybox:1.36`.
    pub names: Vec<Reference>,
    /// Names with a digest, sorted: `docker.io/library/busybox@sha256:...`.
    pub digests: Vec<Reference>,
    /// Bytes of manifest, configuration and layers as stored.
    pub size_bytes: u64,
    /// Bottom first.
    pub layers: Vec<Layer>,
    /// Entry point, environment, user and so on.
    pub config: Arc<ImageConfiguration>,
    /// When a name was last set to it.
    pub tagged: Option<SystemTime>,
    /// When a container last started from it.
    pub last_used: Option<SystemTime>,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// Its media type, which tells the compression.
    pub media_type: String,
    /// The blob's size.
    pub size: u64,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
}

/// A name and what it points at, whether that can run here or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameRecord {
    /// With a tag, or with a digest.
    pub name: Reference,
    /// The manifest or index.
    pub digest: Digest,
    /// Of the manifest or index.
    pub media_type: String,
    /// Its size.
    pub size: u64,
}

/// What `remove` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Targets that no name points at any more; `gc` frees their blobs unless something else uses them.
    pub deleted: Vec<Digest>,
    /// Containers still use these; their content stays until they end.
    pub in_use: Vec<Digest>,
}

impl Image {
    /// What the API reports as `imageID`: a name with a digest if there is one, else the ID.
    pub fn image_id(&self) -> String {
        self.digests.first().map_or_else(|| self.id.to_string(), Reference::to_string)
    }

    /// All names as `node.status.images` lists them: with digests first, then with tags.
    pub fn all_names(&self) -> Vec<String> {
        self.digests.iter().chain(&self.names).map(Reference::to_string).collect()
    }

    /// The configured user, empty if none.
    pub fn user(&self) -> &str {
        self.config.config().as_ref().and_then(|config| config.user().as_deref()).unwrap_or("")
    }
}

impl Store {
    /// All images that can run here, sorted by name. Broken ones are logged and left out.
    ///
    /// # Errors
    /// The file system refused.
    pub fn list(&self) -> Result<Vec<Image>, StoreError> {
        let mut by_target: BTreeMap<Digest, Vec<NameRecord>> = BTreeMap::new();
        for record in self.names()? {
            by_target.entry(record.digest.clone()).or_default().push(record);
        }
        let mut images = Vec::new();
        for (target, records) in by_target {
            match self.image_of(&target, &records) {
                Ok(image) => images.push(image),
                Err(StoreError::NoPlatform { .. } | StoreError::Unusable { .. }) => {}
                Err(error) => tracing::warn!(image = %target, error = crate::error::chain(&error), "Left a broken image out"),
            }
        }
        images.sort_by_cached_key(|image| (image.all_names().pop(), image.target.clone()));
        Ok(images)
    }

    /// The image of this name, if it is here. A name with a digest finds the image under any name of the same repository, by its index or by its
    /// platform's manifest.
    ///
    /// # Errors
    /// What is stored is broken: pulling it again mends that.
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>, StoreError> {
        let Some(digest) = reference.digest() else {
            return match self.name(reference)? {
                Some(record) => self.with_all_names(&record.digest).map(Some),
                None => Ok(None),
            };
        };
        let repository = reference.repository();
        for record in self.names()?.iter().filter(|record| record.name.repository() == repository) {
            let fits = record.digest == *digest || self.parse(&record.digest).is_ok_and(|image| image.manifest == *digest);
            if fits {
                return self.with_all_names(&record.digest).map(Some);
            }
        }
        Ok(None)
    }

    /// The image that a person or the kubelet means: a name, an image ID (with or without `sha256:`) or at least 4 digits of one, or the digest
    /// of a manifest.
    ///
    /// # Errors
    /// The digits fit several images, or what is stored is broken.
    pub fn find(&self, text: &str) -> Result<Option<Image>, StoreError> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        if digits.len() >= 4 && digits.len() <= 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let mut fitting = self.list()?;
            fitting.retain(|image| [&image.id, &image.target, &image.manifest].iter().any(|digest| digest.hex().starts_with(digits)));
            match fitting.len() {
                0 if digits.len() == 64 => return Ok(None),
                0 => {}
                1 => return Ok(fitting.pop()),
                count if fitting.iter().any(|image| image.id != fitting[0].id) => {
                    return Err(StoreError::AmbiguousId { prefix: digits.to_owned(), count });
                }
                _ => return Ok(fitting.pop()),
            }
        }
        match Reference::parse(text) {
            Ok(reference) => self.get(&reference),
            Err(source) => Err(StoreError::Reference { name: text.to_owned(), source }),
        }
    }

    /// All names with what they point at, sorted by name.
    ///
    /// # Errors
    /// The file system refused.
    pub fn names(&self) -> Result<Vec<NameRecord>, StoreError> {
        let directory = self.path("names");
        let mut records = Vec::new();
        for name in file_names(&directory)? {
            if let Some(record) = self.read_name(&directory.join(name)) {
                records.push(record);
            }
        }
        records.sort_by(|a: &NameRecord, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// What this exact name points at.
    ///
    /// # Errors
    /// The file system refused.
    pub fn name(&self, name: &Reference) -> Result<Option<NameRecord>, StoreError> {
        Ok(self.read_name(&self.name_path(name)))
    }

    /// Makes a name point at a stored manifest or index. A name with tag and digest becomes two names.
    ///
    /// # Errors
    /// The target is not here, or the file system refused.
    pub fn set_name(&self, name: &Reference, target: &Digest, lease: &Lease) -> Result<NameRecord, StoreError> {
        lease.protect(target)?;
        let bytes = self.read_blob(target)?;
        let media_type = media_type_of(&bytes, target)?;
        let mut record = NameRecord { name: name.clone(), digest: target.clone(), media_type, size: bytes.len() as u64 };
        for single in single_names(name) {
            record.name = single;
            self.write_file(&self.name_path(&record.name), &serde_json::to_vec(&record).expect("a record has only string keys"))?;
        }
        Ok(record)
    }

    /// Gives an image one more name.
    ///
    /// # Errors
    /// The file system refused.
    pub fn tag(&self, image: &Image, name: &Reference) -> Result<(), StoreError> {
        let lease = self.lease()?;
        self.set_name(name, &image.target, &lease).map(drop)
    }

    /// Takes one name away. The content goes with the last name, at the next `gc`.
    ///
    /// # Errors
    /// The file system refused.
    pub fn untag(&self, name: &Reference) -> Result<bool, StoreError> {
        let mut found = false;
        for single in single_names(name) {
            let path = self.name_path(&single);
            match fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).during("remove", &path),
            }
        }
        Ok(found)
    }

    /// Takes names away: that one if `text` is a name with others beside it, all of the image's if it is an ID or the only name. `None` if
    /// there is no such image. Call `gc` afterwards to free the space.
    ///
    /// # Errors
    /// As `find`; or the file system refused.
    pub fn remove(&self, text: &str) -> Result<Option<Removed>, StoreError> {
        let Some(image) = self.find(text)? else { return Ok(None) };
        let named = Reference::parse(text).ok().filter(|name| image.names.contains(name));
        let doomed: Vec<Reference> = match named {
            Some(name) if image.names.len() > 1 => vec![name],
            _ => image.names.iter().chain(&image.digests).cloned().collect(),
        };
        let whole = doomed.len() > 1 || image.names.len() + image.digests.len() == doomed.len();
        let mut removed = Removed::default();
        for name in doomed {
            if self.untag(&name)? {
                removed.untagged.push(name.to_string());
            }
        }
        if whole {
            let used = self.pins()?.iter().any(|pin| pin.manifest == image.manifest);
            if used { removed.in_use.push(image.target) } else { removed.deleted.push(image.target) }
        }
        Ok(Some(removed))
    }

    /// Notes that a container starts from the image now.
    ///
    /// # Errors
    /// The file system refused.
    pub fn mark_used(&self, image: &Image, now: SystemTime) -> Result<(), StoreError> {
        let path = self.path("used").join(image.manifest.hex());
        let file = File::options().create(true).append(true).open(&path).during("create", &path)?;
        file.set_times(FileTimes::new().set_modified(now)).during("set the time of", &path)
    }

    /// Reads a target's manifest and configuration; names and times are left empty.
    pub(crate) fn parse(&self, target: &Digest) -> Result<Arc<Image>, StoreError> {
        if let Some(image) = self.inner.parsed.lock().get(target)
            && self.has_blob(&image.manifest, None)
        {
            return Ok(Arc::clone(image));
        }
        let image = Arc::new(self.parse_uncached(target)?);
        let mut parsed = self.inner.parsed.lock();
        parsed.insert(target.clone(), Arc::clone(&image));
        Ok(image)
    }

    fn parse_uncached(&self, target: &Digest) -> Result<Image, StoreError> {
        let manifest_digest = self.platform_manifest(target)?;
        let (manifest, manifest_bytes) = self.manifest(&manifest_digest)?;
        let id = descriptor_digest(manifest.config())?;
        let config_bytes = self.read_blob(&id)?;
        let config: ImageConfiguration = serde_json::from_slice(&config_bytes).map_err(|source| StoreError::Invalid {
            what: "image configuration",
            digest: id.clone(),
            source,
        })?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != manifest.layers().len() {
            let problem = format!("it has {} layers, its configuration {}", manifest.layers().len(), diff_ids.len());
            return Err(StoreError::Unusable { what: "image manifest", digest: manifest_digest, problem });
        }
        let mut layers = Vec::with_capacity(diff_ids.len());
        for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
            let diff_id = parse_digest(diff_id)?;
            let media_type = descriptor.media_type().to_string();
            layers.push(Layer { digest: descriptor_digest(descriptor)?, media_type, size: descriptor.size(), diff_id });
        }
        let size_bytes = manifest_bytes + config_bytes.len() as u64 + layers.iter().map(|layer| layer.size).sum::<u64>();
        Ok(Image {
            id,
            target: target.clone(),
            manifest: manifest_digest,
            names: Vec::new(),
            digests: Vec::new(),
            size_bytes,
            layers,
            config: Arc::new(config),
            tagged: None,
            last_used: None,
        })
    }

    /// The manifest for this platform that a target leads to.
    pub(crate) fn platform_manifest(&self, target: &Digest) -> Result<Digest, StoreError> {
        let bytes = self.read_blob(target)?;
        if !is_index(&media_type_of(&bytes, target)?) {
            return Ok(target.clone());
        }
        let index: ImageIndex =
            serde_json::from_slice(&bytes).map_err(|source| StoreError::Invalid { what: "image index", digest: target.clone(), source })?;
        Platform::of_this_machine().choose(target, index.manifests()).and_then(descriptor_digest)
    }

    pub(crate) fn manifest(&self, digest: &Digest) -> Result<(ImageManifest, u64), StoreError> {
        let bytes = self.read_blob(digest)?;
        let manifest = serde_json::from_slice(&bytes).map_err(|source| StoreError::Invalid {
            what: "image manifest",
            digest: digest.clone(),
            source,
        })?;
        Ok((manifest, bytes.len() as u64))
    }

    fn with_all_names(&self, target: &Digest) -> Result<Image, StoreError> {
        let records: Vec<NameRecord> = self.names()?.into_iter().filter(|record| record.digest == *target).collect();
        self.image_of(target, &records)
    }

    fn image_of(&self, target: &Digest, records: &[NameRecord]) -> Result<Image, StoreError> {
        let mut image = Image::clone(&*self.parse(target)?);
        let mut digests = BTreeSet::new();
        for record in records {
            digests.insert(record.name.with_digest(target.clone()));
            if record.name.tag().is_some() {
                image.names.push(record.name.clone());
            }
            let tagged = fs::metadata(self.name_path(&record.name)).and_then(|meta| meta.modified()).ok();
            image.tagged = image.tagged.max(tagged);
        }
        image.digests = digests.into_iter().collect();
        image.last_used = fs::metadata(self.path("used").join(image.manifest.hex())).and_then(|meta| meta.modified()).ok();
        Ok(image)
    }

    fn read_name(&self, path: &std::path::Path) -> Option<NameRecord> {
        let bytes = fs::read(path).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "Left an unreadable image name out"))
            .ok()
    }

    fn name_path(&self, name: &Reference) -> std::path::PathBuf {
        self.path("names").join(Digest::of(name.to_string().as_bytes()).hex())
    }
}

/// The media type a manifest or index declares, or the one its shape tells.
pub(crate) fn media_type_of(bytes: &[u8], digest: &Digest) -> Result<String, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape =
        serde_json::from_slice(bytes).map_err(|source| StoreError::Invalid { what: "image manifest", digest: digest.clone(), source })?;
    let media_type = match shape.media_type.filter(|text| !text.is_empty()) {
        Some(media_type) => media_type,
        None if shape.manifests.is_some() => "application/vnd.oci.image.index.v1+json".to_owned(),
        None if shape.config.is_some() => "application/vnd.oci.image.manifest.v1+json".to_owned(),
        None => {
            let problem = "it is neither a manifest nor an index".to_owned();
            return Err(StoreError::Unusable { what: "image manifest", digest: digest.clone(), problem });
        }
    };
    Ok(media_type)
}

/// Whether the media type is that of a list of manifests.
pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == "application/vnd.oci.image.index.v1+json" || media_type == "application/vnd.docker.distribution.manifest.list.v2+json"
}

pub(crate) fn descriptor_digest(descriptor: &Descriptor) -> Result<Digest, StoreError> {
    parse_digest(descriptor.digest().as_ref())
}

pub(crate) fn parse_digest(text: &str) -> Result<Digest, StoreError> {
    text.parse().map_err(|source| StoreError::Digest { text: text.to_owned(), source })
}

/// A name with tag and digest stands for the tag and for the digest.
fn single_names(name: &Reference) -> Vec<Reference> {
    match (name.tag(), name.digest()) {
        (Some(tag), Some(digest)) => {
            let tagged = name.with_tag(tag).expect("a parsed reference has a valid tag");
            vec![tagged, name.with_digest(digest.clone())]
        }
        _ => vec![name.clone()],
    }
}

/// The chain IDs that a configuration's layers form, bottom first; none if it is not an image's configuration.
pub(crate) fn chain_digests(config: &[u8]) -> Vec<Digest> {
    let value: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
    let diff_ids = value.pointer("/rootfs/diff_ids").and_then(|list| list.as_array()).cloned().unwrap_or_default();
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids.iter().filter_map(|text| text.as_str()).filter_map(|text| text.parse().ok()) {
        chains.push(crate::layers::chain_id(chains.last(), &diff_id));
    }
    chains
}
