//! Bringing images in from an archive: what `docker save`, skopeo, buildah, ctr and our own `export` write.

use std::io::{self, Read};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;

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
pub fn import(_store: &Store, _archive: impl Read, _options: &ImportOptions, _progress: &Progress) -> Result<Vec<Imported>, ImportError> {
    unimplemented!("in work")
}
