//! Writing images to an archive.

use std::io::{self, Write};

use crate::error::StoreError;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;

/// The archive's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// `index.json` and `blobs/`.
    #[default]
    Oci,
    /// `manifest.json`, as `docker save` writes and `docker load` reads.
    Docker,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such image.
    #[error("image {0} not found")]
    NotFound(String),
    /// The store could not deliver.
    #[error("export {name}")]
    Store {
        /// The image.
        name: String,
        /// Why.
        source: StoreError,
    },
    /// The archive cannot be written.
    #[error("write archive")]
    Write(#[from] io::Error),
}

/// Writes images with these names as one archive.
///
/// # Errors
/// See the variants.
pub fn export(
    _store: &Store,
    _names: &[Reference],
    _format: ExportFormat,
    _out: impl Write,
    _progress: &Progress,
) -> Result<(), ExportError> {
    unimplemented!("in work")
}
