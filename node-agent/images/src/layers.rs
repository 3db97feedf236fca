//! Extracted layers: one directory per layer chain, shared by all images that begin with the same layers.
//!
//! A chain's ID covers the layer and everything below it (Spec: OCI image-spec, config.md, "Layer ChainID"), because extraction may look at
//! the layers below. The directory has a short random name; the chain's record, written after everything is on disk, names it. A directory
//! without a record is the remains of an interrupted extraction.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hashing};
use crate::error::{IoContext, StoreError};
use crate::image::{Image, Layer};
use crate::lease::Lease;
use crate::progress::{Event, Progress};
use crate::store::{Store, sync_parent};
use crate::{compression, unpack};

/// The lower directories of an overlay, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsLayers {
    /// Their common parent. A mount made with this as working directory can use `ids`, which keeps the option short: 127 layers need
    /// 1.2 kB of the page that `mount(2)` reads.
    pub base: PathBuf,
    /// Names below `base`, top layer first, never empty.
    pub ids: Vec<String>,
}

/// What is known of an extracted chain.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ChainRecord {
    /// The directory below `layers/`.
    pub(crate) id: String,
    /// Bytes of its files.
    pub(crate) size: u64,
}

impl RootfsLayers {
    /// Absolute paths, top layer first, as the option `lowerdir` wants them.
    pub fn lowerdirs(&self) -> Vec<PathBuf> {
        self.ids.iter().map(|id| self.base.join(id)).collect()
    }
}

impl Store {
    /// The image's layers as directories; those that are not extracted yet are. Quick when they are. Take a pin or a lease on the image's
    /// manifest first, so that they stay.
    ///
    /// # Errors
    /// A blob is missing or corrupt (pulling the image again mends that), or the file system refused.
    pub fn prepare(&self, image: &Image) -> Result<RootfsLayers, StoreError> {
        self.unpack(image, &Progress::none())
    }

    /// As `prepare`, with reports.
    ///
    /// # Errors
    /// As `prepare`.
    pub fn unpack(&self, image: &Image, progress: &Progress) -> Result<RootfsLayers, StoreError> {
        self.unpack_layers(&image.layers, progress)
    }

    pub(crate) fn unpack_layers(&self, layers: &[Layer], progress: &Progress) -> Result<RootfsLayers, StoreError> {
        let base = self.path("layers");
        let mut ids: Vec<String> = Vec::with_capacity(layers.len());
        let mut lease = None;
        let mut parent: Option<Digest> = None;
        for layer in layers {
            let chain = chain_id(parent.as_ref(), &layer.diff_id);
            let id = match self.chain(&chain)? {
                Some(record) => record.id,
                None => {
                    let lease = match &lease {
                        Some(lease) => lease,
                        None => lease.insert(self.lease()?),
                    };
                    self.extract(layer, &chain, &ids, lease, progress)?.id
                }
            };
            ids.push(id);
            parent = Some(chain);
        }
        if ids.is_empty() {
            ids.push("empty".to_owned());
        }
        ids.reverse();
        Ok(RootfsLayers { base, ids })
    }

    /// The record of an extracted chain.
    pub(crate) fn chain(&self, chain: &Digest) -> Result<Option<ChainRecord>, StoreError> {
        let path = self.chain_path(chain);
        match fs::read(&path) {
            Ok(bytes) => {
                Ok(serde_json::from_slice::<ChainRecord>(&bytes).ok().filter(|record| self.path("layers").join(&record.id).is_dir()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).during("read", &path),
        }
    }

    /// Makes a new directory below `layers/` that the lease keeps.
    pub(crate) fn new_layer_directory(&self, lease: &Lease) -> Result<(String, PathBuf), StoreError> {
        let base = self.path("layers");
        loop {
            let id = short_id();
            let path = base.join(&id);
            lease.protect_layer(&id)?;
            match fs::create_dir(&path) {
                Ok(()) => return Ok((id, path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).during("create", &path),
            }
        }
    }

    /// Makes a complete directory known as a chain's. Its content is synced first.
    pub(crate) fn publish_chain(&self, chain: &Digest, record: &ChainRecord) -> Result<(), StoreError> {
        let directory = self.path("layers").join(&record.id);
        let handle = File::open(&directory).during("open", &directory)?;
        nix::unistd::syncfs(&handle).during("sync", &directory)?;
        sync_parent(&directory)?;
        self.write_file(&self.chain_path(chain), &serde_json::to_vec(record).expect("a record has only string keys"))
    }

    /// Held by whoever extracts the chain; others wait and then find it done.
    pub(crate) fn lock_chain(&self, chain: &Digest) -> Result<File, StoreError> {
        let path = self.path("chains").join(format!("{}.lock", chain.hex()));
        loop {
            let file = File::options().create(true).append(true).open(&path).during("create", &path)?;
            file.lock().during("lock", &path)?;
            // The holder before us may have removed the file: then this lock is on nothing that others see.
            if same_file(&file, &path) {
                return Ok(file);
            }
        }
    }

    pub(crate) fn unlock_chain(&self, chain: &Digest, lock: File) {
        let path = self.path("chains").join(format!("{}.lock", chain.hex()));
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, "Could not remove a chain's lock");
        }
        drop(lock);
    }

    fn extract(
        &self,
        layer: &Layer,
        chain: &Digest,
        below: &[String],
        lease: &Lease,
        progress: &Progress,
    ) -> Result<ChainRecord, StoreError> {
        let lock = self.lock_chain(chain)?;
        let outcome = match self.chain(chain)? {
            Some(record) => Ok(record),
            None => self.extract_locked(layer, chain, below, lease, progress),
        };
        self.unlock_chain(chain, lock);
        outcome
    }

    fn extract_locked(
        &self,
        layer: &Layer,
        chain: &Digest,
        below: &[String],
        lease: &Lease,
        progress: &Progress,
    ) -> Result<ChainRecord, StoreError> {
        progress.report(Event::Unpacking { digest: layer.digest.clone() });
        lease.protect(&layer.digest)?;
        let (id, path) = self.new_layer_directory(lease)?;
        let lower: Vec<PathBuf> = below.iter().rev().map(|id| self.path("layers").join(id)).collect();
        match self.extract_checked(layer, &path, &lower) {
            Ok(size) => {
                let record = ChainRecord { id, size };
                self.publish_chain(chain, &record)?;
                Ok(record)
            }
            Err(error) => {
                if let Err(clean_up) = fs::remove_dir_all(&path) {
                    tracing::warn!(image = %layer.digest, error = %clean_up, "Could not remove a half extracted layer");
                }
                Err(error)
            }
        }
    }

    /// Extracts while checking both digests: the blob's own and the uncompressed archive's.
    fn extract_checked(&self, layer: &Layer, path: &Path, lower: &[PathBuf]) -> Result<u64, StoreError> {
        let blob = self.open_blob(&layer.digest)?;
        let extract = |source| StoreError::Extract { layer: layer.digest.to_string(), source };
        let mut compressed = Hashing::new(io::BufReader::with_capacity(1 << 18, blob));
        let mut outcome = Ok(0);
        let mut diff_id = None;
        match compression::decompress(&mut compressed) {
            Ok(plain) => {
                let mut plain = Hashing::new(plain);
                outcome = unpack::unpack(&mut plain, path, lower).map_err(extract);
                if outcome.is_ok() {
                    // What follows the archive's end belongs to the digest.
                    if let Err(error) = io::copy(&mut plain, &mut io::sink()) {
                        outcome = Err(extract(crate::error::ExtractError::Archive(error)));
                    }
                }
                diff_id = Some(plain.finish().0);
            }
            Err(error) => outcome = outcome.and(Err(extract(crate::error::ExtractError::Archive(error)))),
        }
        io::copy(&mut compressed, &mut io::sink()).during("read", &self.blob_path(&layer.digest))?;
        let (found, _, _) = compressed.finish();
        // A damaged blob is the better explanation of a failed extraction than its symptom.
        if found != layer.digest {
            self.discard_corrupt(&layer.digest);
            return Err(StoreError::Corrupt { expected: layer.digest.clone(), found });
        }
        let size = outcome?;
        match diff_id {
            Some(found) if found != layer.diff_id => {
                Err(StoreError::WrongDiffId { layer: layer.digest.clone(), expected: layer.diff_id.clone(), found })
            }
            _ => Ok(size),
        }
    }

    fn chain_path(&self, chain: &Digest) -> PathBuf {
        self.path("chains").join(chain.hex())
    }
}

/// The ID of a chain: of the lowest layer its diff ID, then the digest of both IDs with a space between.
pub(crate) fn chain_id(parent: Option<&Digest>, diff_id: &Digest) -> Digest {
    match parent {
        None => diff_id.clone(),
        Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
    }
}

/// The chain IDs of an image, bottom first.
pub(crate) fn chain_ids(layers: &[Layer]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        chains.push(chain_id(chains.last(), &layer.diff_id));
    }
    chains
}

/// Eight letters and digits: 41 bits, enough since a taken one is simply drawn again.
fn short_id() -> String {
    use std::hash::{BuildHasher, Hasher};
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // A new RandomState is keyed with fresh randomness.
    let mut bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut id = String::with_capacity(8);
    for _ in 0..8 {
        id.push(char::from(DIGITS[usize::try_from(bits & 31).unwrap_or(0)]));
        bits >>= 5;
    }
    id
}

fn same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
