//! Why the store could not do something.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, DigestError};
use crate::reference::ReferenceError;

/// Failures of the content store. An absent image is not one: lookups answer `None`.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused. Disk full ends here; the store stays consistent and the operation can be repeated.
    #[error("{action} {path}")]
    Io {
        /// "create", "read", ...
        action: &'static str,
        /// Of which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A blob that an image needs is not there.
    #[error("blob {digest} is missing from the content store")]
    MissingBlob {
        /// Which.
        digest: Digest,
    },
    /// Bytes do not have the digest they should have. A stored blob found so is removed, so that it can be fetched again.
    #[error("content has digest {found}, expected {expected}")]
    Corrupt {
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A layer's uncompressed content is not what the image's configuration says.
    #[error("layer {layer} unpacks to {found}, but the image configuration says {expected}")]
    WrongDiffId {
        /// The layer's blob.
        layer: Digest,
        /// From the configuration.
        expected: Digest,
        /// Computed.
        found: Digest,
    },
    /// A manifest, index or configuration cannot be read.
    #[error("{what} {digest} is not valid")]
    Invalid {
        /// "image manifest", "image index", "image configuration".
        what: &'static str,
        /// Which blob.
        digest: Digest,
        /// Why.
        source: serde_json::Error,
    },
    /// The JSON is fine, the content makes no sense.
    #[error("{what} {digest}: {problem}")]
    Unusable {
        /// "image manifest", ...
        what: &'static str,
        /// Which blob.
        digest: Digest,
        /// Why.
        problem: String,
    },
    /// An index holds nothing for this machine.
    #[error("no match for platform in manifest {digest}: wanted {wanted}, it has {present}")]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// "linux/amd64".
        wanted: String,
        /// Those it has, separated by commas.
        present: String,
    },
    /// A layer's archive cannot be extracted.
    #[error("extract layer {layer}")]
    Extract {
        /// The layer's blob or a file's name.
        layer: String,
        /// Why.
        source: ExtractError,
    },
    /// Not a reference.
    #[error("{name:?}")]
    Reference {
        /// The text.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// Not a digest.
    #[error("{text:?}")]
    Digest {
        /// The text.
        text: String,
        /// Why.
        source: DigestError,
    },
    /// More than one image starts with these digits.
    #[error("image ID prefix {prefix} is ambiguous: it fits {count} images")]
    AmbiguousId {
        /// The digits.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// A container's id or an owner's name cannot be a file name.
    #[error("{text:?} cannot name a pin")]
    PinName {
        /// The text.
        text: String,
    },
}

/// Why an archive could not become a directory tree.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive or its compression is broken.
    #[error("read archive")]
    Archive(#[source] io::Error),
    /// An entry's name leaves the root directory.
    #[error("entry {0:?} leaves the root directory")]
    Escape(String),
    /// An entry of a kind that no image may hold.
    #[error("entry {name:?} has unknown type {kind:?}")]
    Kind {
        /// The entry.
        name: String,
        /// The type flag.
        kind: char,
    },
    /// A hard link's target is not in this layer.
    #[error("entry {name:?} is a hard link to {target:?}, which is not in this layer")]
    LinkTarget {
        /// The entry.
        name: String,
        /// Its target.
        target: String,
    },
    /// The file system refused.
    #[error("{action} {name:?}")]
    Io {
        /// "create", "write", "chown", ...
        action: &'static str,
        /// The entry.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Adds action and path to an I/O result.
pub(crate) trait IoContext<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for nix::Result<T> {
    fn during(self, action: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|errno| StoreError::Io { action, path: path.to_owned(), source: errno.into() })
    }
}

/// The chain of an error and its sources as one line, for messages that travel as text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}
