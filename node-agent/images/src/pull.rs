//! Pulling an image from a registry.

use crate::image::Image;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::remote::RegistryOptions;
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
}

/// Fetches an image and extracts it. Blobs that are here already are not fetched; an interrupted pull goes on where it stopped.
///
/// # Errors
/// See the variants.
pub async fn pull(_store: &Store, _reference: &Reference, _options: &RegistryOptions, _progress: Progress) -> Result<Image, PullError> {
    unimplemented!("in work")
}
