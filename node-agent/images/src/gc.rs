//! Garbage collection: what no name, pin or lease leads to is removed.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::image::{chain_digests, is_index, media_type_of};
use crate::lease::{Guard, file_names};
use crate::store::Store;

/// What a collection freed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs removed.
    pub blobs: usize,
    /// Layer directories removed.
    pub layers: usize,
    /// Bytes freed: blobs, and the files of layers.
    pub freed_bytes: u64,
}

/// How long blobs that came through the registry wait for a manifest, and how long an upload or download may rest before it is given up.
pub const UPLOAD_GRACE: Duration = Duration::from_secs(3600);

/// What is reachable.
#[derive(Default)]
struct Live {
    blobs: HashSet<String>,
    chains: HashSet<String>,
}

impl Store {
    /// Removes everything that nothing refers to.
    ///
    /// # Errors
    /// The file system refused; what was removed before stays removed and the store is consistent.
    pub fn gc(&self, now: SystemTime) -> Result<Collected, StoreError> {
        let base = self.path("ingest/trash");
        fs::create_dir_all(&base).during("create", &base)?;
        let mut collected = Collected::default();
        let trash = {
            let guard = self.lock_exclusive()?;
            self.collect_remains(now)?;
            let trash = tempfile::Builder::new().prefix("gc-").tempdir_in(&base).during("create a directory in", &base)?;
            let leased = self.leased(&guard)?;
            let live = self.live(&guard, &leased, now)?;
            self.collect_blobs(&live, &mut collected)?;
            self.collect_layers(&live, &leased, trash.path(), &mut collected)?;
            self.inner.parsed.lock().retain(|target, _| live.blobs.contains(target.hex()));
            trash
        };
        // Outside the lock: a layer may have many thousand files.
        trash.close().during("remove", &base)?;
        Ok(collected)
    }

    fn live(&self, _exclusive: &Guard, leased: &BTreeSet<String>, now: SystemTime) -> Result<Live, StoreError> {
        let mut live = Live::default();
        let mut roots: Vec<Digest> = self.names()?.into_iter().map(|record| record.digest).collect();
        roots.extend(self.pins()?.into_iter().map(|pin| pin.manifest));
        roots.extend(leased.iter().filter_map(|name| name.parse().ok()));
        roots.extend(self.fresh_uploads(now)?);
        let (cached_blobs, cached_chains) = self.cached_steps(now)?;
        roots.extend(cached_blobs);
        live.chains.extend(cached_chains);
        while let Some(root) = roots.pop() {
            if !live.blobs.contains(root.hex()) {
                self.mark(&root, &mut live);
                roots.extend(self.referrers(&root)?);
            }
        }
        Ok(live)
    }

    /// Marks a blob and, if it is a manifest or an index, all that it leads to.
    fn mark(&self, digest: &Digest, live: &mut Live) {
        if !live.blobs.insert(digest.hex().to_owned()) {
            return;
        }
        let path = self.blob_path(digest);
        // Layers are large and never JSON; a manifest is limited to 4 MiB by the specification.
        if fs::metadata(&path).map_or(0, |meta| meta.len()) > crate::MANIFEST_BYTES_MAX {
            return;
        }
        let Ok(bytes) = fs::read(&path) else { return };
        if bytes.first() != Some(&b'{') {
            return;
        }
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return };
        for child in child_digests(&value) {
            self.mark(&child, live);
        }
        if media_type_of(&bytes, digest).is_ok_and(|media_type| !is_index(&media_type))
            && let Some(config) =
                value.pointer("/config/digest").and_then(|text| text.as_str()).and_then(|text| text.parse::<Digest>().ok())
            && let Ok(config) = fs::read(self.blob_path(&config))
        {
            live.chains.extend(chain_digests(&config).iter().map(|chain| chain.hex().to_owned()));
        }
    }

    fn collect_blobs(&self, live: &Live, collected: &mut Collected) -> Result<(), StoreError> {
        let directory = self.path("blobs/sha256");
        for name in file_names(&directory)? {
            if live.blobs.contains(&name) {
                continue;
            }
            let path = directory.join(&name);
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            fs::remove_file(&path).during("remove", &path)?;
            collected.blobs += 1;
            collected.freed_bytes += size;
        }
        Ok(())
    }

    fn collect_layers(&self, live: &Live, leased: &BTreeSet<String>, trash: &Path, collected: &mut Collected) -> Result<(), StoreError> {
        let chains = self.path("chains");
        let mut keep: HashSet<String> = HashSet::from(["empty".to_owned()]);
        keep.extend(leased.iter().filter_map(|name| name.strip_prefix("layer:")).map(str::to_owned));
        for name in file_names(&chains)? {
            let Ok(chain) = Digest::from_hex(&name) else { continue };
            let Some(record) = self.chain(&chain)? else { continue };
            if live.chains.contains(&name) || keep.contains(&record.id) {
                keep.insert(record.id);
            } else {
                let path = chains.join(&name);
                fs::remove_file(&path).during("remove", &path)?;
                collected.freed_bytes += record.size;
            }
        }
        let layers = self.path("layers");
        for name in file_names(&layers)? {
            if !keep.contains(&name) {
                let path = layers.join(&name);
                fs::rename(&path, trash.join(&name)).during("move away", &path)?;
                collected.layers += 1;
            }
        }
        Ok(())
    }

    /// What interrupted operations left. Files of running ones are young, because they are written to.
    fn collect_remains(&self, now: SystemTime) -> Result<(), StoreError> {
        for directory in [self.path("ingest"), self.path("ingest/trash"), self.path("uploads")] {
            for name in file_names(&directory)? {
                let path = directory.join(&name);
                let Ok(meta) = fs::metadata(&path) else { continue };
                let rested = meta.modified().ok().and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default();
                if rested <= UPLOAD_GRACE {
                    continue;
                }
                if meta.is_file() {
                    fs::remove_file(&path).during("remove", &path)?;
                } else if name.starts_with("gc-") {
                    fs::remove_dir_all(&path).during("remove", &path)?;
                }
            }
        }
        let used = self.path("used");
        for name in file_names(&used)? {
            if !self.path("blobs/sha256").join(&name).exists() {
                let path = used.join(&name);
                fs::remove_file(&path).during("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Blobs that were uploaded lately and may be waiting for their manifest.
    fn fresh_uploads(&self, now: SystemTime) -> Result<Vec<Digest>, StoreError> {
        let directory = self.path("uploads/fresh");
        fs::create_dir_all(&directory).during("create", &directory)?;
        let mut fresh = Vec::new();
        for name in file_names(&directory)? {
            let path = directory.join(&name);
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|modified| now.duration_since(modified).ok());
            if age.unwrap_or_default() > UPLOAD_GRACE {
                fs::remove_file(&path).during("remove", &path)?;
            } else if let Ok(digest) = Digest::from_hex(&name) {
                fresh.push(digest);
            }
        }
        Ok(fresh)
    }
}

/// What a manifest or index names: configuration, layers, manifests, blobs.
fn child_digests(value: &serde_json::Value) -> Vec<Digest> {
    let mut children = Vec::new();
    let mut add = |descriptor: &serde_json::Value| {
        if let Some(digest) = descriptor.get("digest").and_then(|text| text.as_str()).and_then(|text| text.parse().ok()) {
            children.push(digest);
        }
    };
    if let Some(config) = value.get("config") {
        add(config);
    }
    for list in ["layers", "manifests", "blobs"] {
        value.get(list).and_then(|list| list.as_array()).into_iter().flatten().for_each(&mut add);
    }
    children
}
