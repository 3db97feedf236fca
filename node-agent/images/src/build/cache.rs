//! The build cache: the layer a step made, by the digest of everything that went into it.

use std::fs::{self, File, FileTimes};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::image::Layer;
use crate::lease::{Lease, file_names};
use crate::store::Store;

/// Steps unused for longer are forgotten.
const KEEP: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a step made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CachedStep {
    /// `None`: it changed nothing.
    pub(crate) layer: Option<Layer>,
    /// The chain that the layer makes with those below it.
    pub(crate) chain: Option<Digest>,
}

/// When an image was built first.
#[derive(Serialize, Deserialize)]
struct BuildTime {
    created: jiff::Timestamp,
}

impl Store {
    /// The result of a step with this key, if its layer is still here. The lease keeps it.
    pub(crate) fn cached_step(&self, key: &Digest, now: SystemTime, lease: &Lease) -> Result<Option<CachedStep>, StoreError> {
        let path = self.path("build").join(key.hex());
        let Ok(bytes) = fs::read(&path) else { return Ok(None) };
        let Ok(step) = serde_json::from_slice::<CachedStep>(&bytes) else { return Ok(None) };
        if let Some(layer) = &step.layer {
            lease.protect(&layer.digest)?;
            if !self.has_blob(&layer.digest, Some(layer.size)) {
                return Ok(None);
            }
        }
        let file = File::open(&path).during("open", &path)?;
        file.set_times(FileTimes::new().set_modified(now)).during("set the time of", &path)?;
        Ok(Some(step))
    }

    /// When the image with this configuration (but for its times) was built first: now, if it never was or is to be built anew.
    pub(crate) fn build_time(&self, configuration: &Digest, now: SystemTime, anew: bool) -> Result<jiff::Timestamp, StoreError> {
        let path = self.path("build").join(configuration.hex());
        let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<BuildTime>(&bytes).ok()).filter(|_| !anew);
        let created = known.map_or_else(|| jiff::Timestamp::try_from(now).unwrap_or_default(), |known| known.created);
        self.write_file(&path, &serde_json::to_vec(&BuildTime { created }).expect("a time has only string keys"))?;
        Ok(created)
    }

    /// Remembers a step's result.
    pub(crate) fn remember_step(&self, key: &Digest, step: &CachedStep) -> Result<(), StoreError> {
        self.write_file(&self.path("build").join(key.hex()), &serde_json::to_vec(step).expect("a step has only string keys"))
    }

    /// Forgets all cached build steps; `gc` then frees their layers. Returns how many there were.
    ///
    /// # Errors
    /// The file system refused.
    pub fn clear_build_cache(&self) -> Result<usize, StoreError> {
        let directory = self.path("build");
        let names = file_names(&directory)?;
        for name in &names {
            let path = directory.join(name);
            fs::remove_file(&path).during("remove", &path)?;
        }
        Ok(names.len())
    }

    /// Blobs and chains that the cache keeps. Old steps are forgotten.
    pub(crate) fn cached_steps(&self, now: SystemTime) -> Result<(Vec<Digest>, Vec<String>), StoreError> {
        let directory = self.path("build");
        let (mut blobs, mut chains) = (Vec::new(), Vec::new());
        for name in file_names(&directory)? {
            let path = directory.join(&name);
            let used = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            if used.and_then(|used| now.duration_since(used).ok()).unwrap_or_default() > KEEP {
                fs::remove_file(&path).during("remove", &path)?;
            } else if let Some(step) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<CachedStep>(&bytes).ok()) {
                blobs.extend(step.layer.map(|layer| layer.digest));
                chains.extend(step.chain.map(|chain| chain.hex().to_owned()));
            }
        }
        Ok((blobs, chains))
    }
}
