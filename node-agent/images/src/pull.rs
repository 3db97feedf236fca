//! Pulling an image from a registry.

use std::collections::HashSet;

use futures::{TryStreamExt, stream};
use oci_client::manifest::{IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_spec::image::{ImageIndex, ImageManifest};

use crate::digest::Digest;
use crate::download::{DownloadError, download};
use crate::error::{StoreError, chain};
use crate::image::{Image, descriptor_digest, is_index, media_type_of};
use crate::lease::Lease;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::remote::{Failure, RegistryOptions, Remote, backoff, classify, endpoints};
use crate::store::Store;

/// Why a pull failed. The text is what Kubernetes' users know from containerd.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// No registry knows the name.
    #[error("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found")]
    NotFound {
        /// The full name.
        name: String,
    },
    /// Nobody may read it with the credentials at hand.
    #[error(
        "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": pull access denied, repository does not exist or \
         may require authorization: server message: {reason}"
    )]
    Denied {
        /// The full name.
        name: String,
        /// The registry's words.
        reason: String,
    },
    /// No registry could be asked, or none gave a usable answer.
    #[error("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {reason}")]
    Resolve {
        /// The full name.
        name: String,
        /// Why, with the address.
        reason: String,
    },
    /// A blob could not be fetched.
    #[error("failed to pull and unpack image \"{name}\": failed to copy {blob}: {reason}")]
    Copy {
        /// The full name.
        name: String,
        /// Which.
        blob: Digest,
        /// Why.
        reason: String,
    },
    /// The image arrived and cannot be used: for another platform, broken, or the disk is full.
    #[error("failed to pull and unpack image \"{name}\"")]
    Store {
        /// The full name.
        name: String,
        /// Why.
        source: StoreError,
    },
}

/// How many blobs are fetched at the same time.
const PARALLEL_BLOBS: usize = 3;
const ATTEMPTS_MAX: u32 = 5;
const MANIFEST_TYPES: &[&str] =
    &[OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];

/// Fetches an image and extracts it. Blobs that are here already are not fetched; an interrupted pull goes on where it stopped.
///
/// # Errors
/// See the variants. Whether to try again is the caller's choice; a connection that broke has been retried already.
pub async fn pull(store: &Store, reference: &Reference, options: &RegistryOptions, progress: Progress) -> Result<Image, PullError> {
    let work = Pull { store, reference, progress, lease: std::sync::Arc::new(blocking(store, reference, |store| store.lease()).await?) };
    let (remote, target, bytes) = work.resolve(options).await?;
    let manifest = work.manifest_for_platform(&remote, &target, bytes).await?;
    work.fetch_blobs(&remote, &manifest).await?;
    if let Err(error) = work.unpack(&target).await {
        // A blob that was here and turned out to be damaged is gone now: fetch it once more.
        if !matches!(error, PullError::Store { source: StoreError::Corrupt { .. } | StoreError::MissingBlob { .. }, .. }) {
            return Err(error);
        }
        work.fetch_blobs(&remote, &manifest).await?;
        work.unpack(&target).await?;
    }
    let (name, lease) = (reference.clone(), std::sync::Arc::clone(&work.lease));
    let image = blocking(store, reference, move |store| {
        store.set_name(&name, &target, &lease)?;
        store.get(&name)?.ok_or(StoreError::MissingBlob { digest: target })
    })
    .await?;
    work.progress.report(Event::Done { digest: image.target.clone(), names: vec![reference.to_string()] });
    Ok(image)
}

struct Pull<'a> {
    store: &'a Store,
    reference: &'a Reference,
    progress: Progress,
    lease: std::sync::Arc<Lease>,
}

impl Pull<'_> {
    /// The first registry that knows the name, what the name points at there, and its bytes.
    async fn resolve(&self, options: &RegistryOptions) -> Result<(Remote, Digest, Vec<u8>), PullError> {
        let name = self.reference.to_string();
        let mut refusal = PullError::NotFound { name: name.clone() };
        for endpoint in endpoints(self.reference, options) {
            self.progress.report(Event::Resolving { source: endpoint.label.clone() });
            let remote = match endpoint.connect(self.reference).await {
                Ok(remote) => remote,
                Err(reason) => {
                    refusal = PullError::Resolve { name: name.clone(), reason };
                    continue;
                }
            };
            match self.manifest(&remote, &remote.image).await {
                Ok(bytes) => return Ok((remote, Digest::of(&bytes), bytes)),
                Err(error) => {
                    let reason = chain(&error);
                    tracing::debug!(image = %self.reference, source = endpoint.label, error = reason, "A registry did not resolve an image");
                    refusal = match classify(&error) {
                        Failure::NotFound => PullError::NotFound { name: name.clone() },
                        Failure::Denied => PullError::Denied { name: name.clone(), reason },
                        _ => PullError::Resolve { name: name.clone(), reason },
                    };
                }
            }
        }
        Err(refusal)
    }

    /// A manifest's or index's bytes, their digest checked if the reference has one.
    async fn manifest(&self, remote: &Remote, image: &oci_client::Reference) -> Result<Vec<u8>, oci_client::errors::OciDistributionError> {
        let mut attempt = 1;
        loop {
            match remote.client.pull_manifest_raw(image, &remote.auth, MANIFEST_TYPES).await {
                Ok((bytes, _)) => return Ok(bytes.to_vec()),
                Err(error) if attempt < ATTEMPTS_MAX && classify(&error) == Failure::Transient => {
                    self.progress.report(Event::Retrying { attempt, error: chain(&error) });
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stores what the name points at and, if that is an index, the manifest for this machine.
    async fn manifest_for_platform(&self, remote: &Remote, target: &Digest, bytes: Vec<u8>) -> Result<ImageManifest, PullError> {
        let invalid = |what: &'static str, digest: &Digest| {
            let digest = digest.clone();
            move |source| self.broken(StoreError::Invalid { what, digest, source })
        };
        let index = is_index(&media_type_of(&bytes, target).map_err(|source| self.broken(source))?);
        self.keep(bytes.clone()).await?;
        if !index {
            return serde_json::from_slice(&bytes).map_err(invalid("image manifest", target));
        }
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(invalid("image index", target))?;
        let chosen = Platform::of_this_machine().choose(target, index.manifests()).and_then(descriptor_digest);
        let chosen = chosen.map_err(|source| self.broken(source))?;
        let image = remote.image.clone_with_digest(chosen.to_string());
        let bytes = self.manifest(remote, &image).await.map_err(|error| self.not_copied(&chosen, chain(&error)))?;
        self.keep(bytes.clone()).await?;
        serde_json::from_slice(&bytes).map_err(invalid("image manifest", &chosen))
    }

    async fn fetch_blobs(&self, remote: &Remote, manifest: &ImageManifest) -> Result<(), PullError> {
        let mut wanted = Vec::new();
        let mut seen = HashSet::new();
        for descriptor in std::iter::once(manifest.config()).chain(manifest.layers()) {
            let digest = descriptor_digest(descriptor).map_err(|source| self.broken(source))?;
            if !seen.insert(digest.clone()) {
                continue;
            }
            self.lease.protect(&digest).map_err(|source| self.broken(source))?;
            if self.store.has_blob(&digest, Some(descriptor.size())) {
                self.progress.report(Event::BlobPresent { digest, bytes: descriptor.size() });
            } else {
                wanted.push((digest, descriptor.size()));
            }
        }
        let bytes_total = wanted.iter().map(|(_, size)| size).sum();
        self.progress.report(Event::Started { layers: manifest.layers().len(), bytes_total });
        stream::iter(wanted.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL_BLOBS, |(digest, size)| self.fetch_blob(remote, digest, size))
            .await
    }

    async fn fetch_blob(&self, remote: &Remote, digest: Digest, size: u64) -> Result<(), PullError> {
        let mut attempt = 1;
        loop {
            let error = match download(self.store, &self.lease, remote, &digest, size, &self.progress).await {
                Ok(()) => return Ok(()),
                Err(DownloadError::Store(source)) => return Err(self.broken(source)),
                Err(error) => error,
            };
            let reason = chain(&error);
            if attempt >= ATTEMPTS_MAX || !error.is_transient() {
                return Err(self.not_copied(&digest, reason));
            }
            self.progress.report(Event::Retrying { attempt, error: reason });
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn unpack(&self, target: &Digest) -> Result<(), PullError> {
        let (target, progress) = (target.clone(), self.progress.clone());
        blocking(self.store, self.reference, move |store| store.unpack(&*store.parse(&target)?, &progress).map(drop)).await
    }

    async fn keep(&self, bytes: Vec<u8>) -> Result<(), PullError> {
        let lease = std::sync::Arc::clone(&self.lease);
        blocking(self.store, self.reference, move |store| store.write_blob(&bytes, &lease).map(drop)).await
    }

    fn broken(&self, source: StoreError) -> PullError {
        PullError::Store { name: self.reference.to_string(), source }
    }

    fn not_copied(&self, blob: &Digest, reason: String) -> PullError {
        PullError::Copy { name: self.reference.to_string(), blob: blob.clone(), reason }
    }
}

/// Runs work on the store where it may block.
async fn blocking<T: Send + 'static>(
    store: &Store,
    reference: &Reference,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, PullError> {
    let store = store.clone();
    let outcome = tokio::task::spawn_blocking(move || work(&store)).await;
    match outcome {
        Ok(outcome) => outcome.map_err(|source| PullError::Store { name: reference.to_string(), source }),
        Err(error) => Err(PullError::Resolve { name: reference.to_string(), reason: error.to_string() }),
    }
}
