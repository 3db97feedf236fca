//! Pushing an image to a registry.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt, stream};
use oci_client::errors::OciDistributionError;
use oci_spec::image::{ImageIndex, ImageManifest};

use crate::digest::Digest;
use crate::error::{StoreError, chain};
use crate::image::{Image, descriptor_digest, is_index, media_type_of};
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::remote::{Endpoint, Failure, RegistryOptions, Remote, backoff, classify, endpoints};
use crate::store::Store;

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry refused or could not be reached.
    #[error("failed to push image \"{name}\" to {registry}: {reason}")]
    Refused {
        /// The full name.
        name: String,
        /// Whom we asked.
        registry: String,
        /// Its answer.
        reason: String,
    },
    /// The image is not complete here.
    #[error("failed to push image \"{name}\"")]
    Store {
        /// The full name.
        name: String,
        /// Why.
        source: StoreError,
    },
}

const PARALLEL_BLOBS: usize = 3;
const ATTEMPTS_MAX: u32 = 3;
const PIECE_BYTES: usize = 256 << 10;
const REPORT_EVERY_BYTES: u64 = 1 << 20;

/// Sends an image to `destination`: to the first mirror if there is one, else to the host in the name. Blobs that are there already are not
/// sent. Returns the digest that the name has there: the index's if all its images are here, else this platform's manifest's.
///
/// # Errors
/// See the variants.
pub async fn push(
    store: &Store,
    image: &Image,
    destination: &Reference,
    options: &RegistryOptions,
    progress: Progress,
) -> Result<Digest, PushError> {
    let plan = plan(store, image).map_err(|source| PushError::Store { name: destination.to_string(), source })?;
    let mut refusal = None;
    for endpoint in endpoints(destination, options) {
        if endpoint.is_other_registry(&refusal) {
            break;
        }
        progress.report(Event::Resolving { source: endpoint.label.clone() });
        let refused = |reason| PushError::Refused { name: destination.to_string(), registry: endpoint.label.clone(), reason };
        let remote = match endpoint.connect(destination).await {
            Ok(remote) => remote,
            Err(reason) => {
                refusal = Some((endpoint.label.clone(), refused(reason)));
                continue;
            }
        };
        let work = Push { store, remote: &remote, progress: &progress };
        match work.send(&plan).await {
            Ok(digest) => {
                progress.report(Event::Done { digest: digest.clone(), names: vec![destination.to_string()] });
                return Ok(digest);
            }
            Err(error) => refusal = Some((endpoint.label.clone(), refused(chain(&error)))),
        }
    }
    let nobody = || PushError::Refused {
        name: destination.to_string(),
        registry: "nobody".to_owned(),
        reason: "there is no registry to ask".into(),
    };
    Err(refusal.map_or_else(nobody, |(_, error)| error))
}

impl Endpoint {
    /// A push goes to one registry; only other ways to the same one are tried after a failure.
    fn is_other_registry(&self, refusal: &Option<(String, PushError)>) -> bool {
        refusal.as_ref().is_some_and(|(label, _)| *label != self.label)
    }
}

/// What is sent, in this order: blobs, manifests, at last what the name points at.
struct Plan {
    blobs: Vec<(Digest, u64)>,
    manifests: Vec<(Digest, String)>,
    target: (Digest, String),
}

struct Push<'a> {
    store: &'a Store,
    remote: &'a Remote,
    progress: &'a Progress,
}

impl Push<'_> {
    async fn send(&self, plan: &Plan) -> Result<Digest, OciDistributionError> {
        let bytes_total = plan.blobs.iter().map(|(_, size)| size).sum();
        self.progress.report(Event::Started { layers: plan.blobs.len(), bytes_total });
        stream::iter(plan.blobs.iter().map(Ok)).try_for_each_concurrent(PARALLEL_BLOBS, |(digest, size)| self.blob(digest, *size)).await?;
        for (digest, media_type) in &plan.manifests {
            let image = self.remote.image.clone_with_digest(digest.to_string());
            self.manifest(&image, digest, media_type).await?;
        }
        let (digest, media_type) = &plan.target;
        self.manifest(&self.remote.image, digest, media_type).await?;
        Ok(digest.clone())
    }

    async fn manifest(&self, image: &oci_client::Reference, digest: &Digest, media_type: &str) -> Result<(), OciDistributionError> {
        let bytes = self.store.read_blob(digest).map_err(std::io::Error::other)?;
        let content_type = media_type.parse().map_err(std::io::Error::other)?;
        self.remote.client.push_manifest_raw(image, bytes, content_type).await.map(drop)
    }

    async fn blob(&self, digest: &Digest, size: u64) -> Result<(), OciDistributionError> {
        let mut attempt = 1;
        loop {
            match self.try_blob(digest, size).await {
                Err(error) if attempt < ATTEMPTS_MAX && classify(&error) == Failure::Transient => {
                    self.progress.report(Event::Retrying { attempt, error: chain(&error) });
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_blob(&self, digest: &Digest, size: u64) -> Result<(), OciDistributionError> {
        if self.remote.client.blob_exists(&self.remote.image, digest.as_str()).await? {
            self.progress.report(Event::BlobPresent { digest: digest.clone(), bytes: size });
            return Ok(());
        }
        let file = tokio::fs::File::from_std(self.store.open_blob(digest).map_err(std::io::Error::other)?);
        let done = Arc::new(AtomicU64::new(0));
        let (progress, name) = (self.progress.clone(), digest.clone());
        let body = tokio_util::io::ReaderStream::with_capacity(file, PIECE_BYTES).map(move |piece| {
            let piece = piece?;
            let count = piece.len() as u64;
            let before = done.fetch_add(count, Ordering::Relaxed);
            if before / REPORT_EVERY_BYTES != (before + count) / REPORT_EVERY_BYTES {
                progress.report(Event::Blob { digest: name.clone(), bytes_done: before + count, bytes_total: size });
            }
            Ok(piece)
        });
        self.remote.client.push_blob_stream(&self.remote.image, body, digest.as_str(), Some(size)).await?;
        self.progress.report(Event::Blob { digest: digest.clone(), bytes_done: size, bytes_total: size });
        Ok(())
    }
}

/// Reads what has to be sent.
fn plan(store: &Store, image: &Image) -> Result<Plan, StoreError> {
    let bytes = store.read_blob(&image.target)?;
    let media_type = media_type_of(&bytes, &image.target)?;
    let mut manifests = vec![image.manifest.clone()];
    let mut whole = !is_index(&media_type);
    if !whole {
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(|source| StoreError::Invalid {
            what: "image index",
            digest: image.target.clone(),
            source,
        })?;
        let all = index.manifests().iter().map(descriptor_digest).collect::<Result<Vec<_>, _>>()?;
        if all.iter().all(|manifest| is_complete(store, manifest)) {
            (manifests, whole) = (all, true);
        }
    }
    let mut plan = Plan { blobs: Vec::new(), manifests: Vec::new(), target: (image.target.clone(), media_type) };
    let mut seen = HashSet::new();
    for digest in manifests {
        let (manifest, _) = store.manifest(&digest)?;
        for (blob, size) in blobs_of(&manifest)? {
            if !store.has_blob(&blob, None) {
                return Err(StoreError::MissingBlob { digest: blob });
            }
            if seen.insert(blob.clone()) {
                plan.blobs.push((blob, size));
            }
        }
        let media_type = media_type_of(&store.read_blob(&digest)?, &digest)?;
        plan.manifests.push((digest, media_type));
    }
    if !whole {
        plan.target = plan.manifests.pop().unwrap_or(plan.target);
    } else if plan.manifests.len() == 1 && plan.manifests[0].0 == plan.target.0 {
        plan.manifests.clear();
    }
    Ok(plan)
}

fn is_complete(store: &Store, manifest: &Digest) -> bool {
    let blobs = store.manifest(manifest).and_then(|(manifest, _)| blobs_of(&manifest));
    blobs.is_ok_and(|blobs| blobs.iter().all(|(blob, size)| store.has_blob(blob, Some(*size))))
}

fn blobs_of(manifest: &ImageManifest) -> Result<Vec<(Digest, u64)>, StoreError> {
    std::iter::once(manifest.config())
        .chain(manifest.layers())
        .map(|descriptor| Ok((descriptor_digest(descriptor)?, descriptor.size())))
        .collect()
}
