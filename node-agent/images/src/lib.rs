//! Images: a content store shared by every process on a machine, overlay snapshots of layers, and the ways in and out: pull and push,
//! import and export, build, and the server side of the registry protocol.
//!
//! Begin with [`Store`]: open it, look an [`Image`] up by [`Reference`], `prepare` it, mount the [`RootfsLayers`]. `pull`, `import` and
//! `build` bring images in. The store blocks; async callers use `spawn_blocking`.
//!
//! It refuses to: run a daemon, mount anything but a build's own overlays, know Kubernetes, or speak any compression but gzip and zstd.

pub mod build;
mod clock;
mod compression;
mod credentials;
mod digest;
mod download;
mod error;
mod export;
mod gc;
mod image;
mod import;
mod layers;
mod lease;
mod platform;
mod progress;
mod pull;
mod push;
mod reference;
mod referrers;
pub mod registry;
mod remote;
mod store;
#[cfg(test)]
mod testing;
pub mod to_remove;
mod tree;
mod unpack;

pub use compression::Compression;
pub use credentials::{Auth, Keychain};
pub use digest::{Digest, DigestError};
pub use error::{ExtractError, StoreError, chain};
pub use export::{ExportError, ExportFormat, export};
pub use gc::{Collected, UPLOAD_GRACE};
pub use image::{Image, Layer, NameRecord, Removed};
pub use import::{ImportError, ImportOptions, Imported, import};
pub use layers::RootfsLayers;
pub use lease::{Lease, Pin};
pub use platform::Platform;
pub use progress::{Event, Progress};
pub use pull::{PullError, pull};
pub use push::{PushError, push};
pub use reference::{DEFAULT_HOST, DEFAULT_TAG, Reference, ReferenceError};
pub use remote::{Mirror, RegistryOptions};
pub use store::{Ingest, Store};

/// The largest manifest, index or configuration anyone may send. Spec: distribution-spec, "Pushing Manifests".
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;
