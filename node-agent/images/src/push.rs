//! Pushing an image to a registry.

use crate::digest::Digest;
use crate::image::Image;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::remote::RegistryOptions;
use crate::store::Store;

/// Why a push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry refused.
    #[error("failed to push image \"{name}\": {reason}")]
    Refused {
        /// The full name.
        name: String,
        /// Its answer.
        reason: String,
    },
}

/// Sends an image to `destination`: to the first mirror if there is one, else to the host in the name. Returns the manifest's digest.
///
/// # Errors
/// See the variants.
pub async fn push(
    _store: &Store,
    _image: &Image,
    _destination: &Reference,
    _options: &RegistryOptions,
    _progress: Progress,
) -> Result<Digest, PushError> {
    unimplemented!("in work")
}
