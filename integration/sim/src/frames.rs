//! Frames that members send each other, kept as files: good bytes for `raft/fuzz`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// So many of each kind are kept.
const KEPT: u64 = 2;
/// Larger ones are of no use.
const BYTES_MAX: usize = 1024;
/// `Spec:` the peers' frames: a header of twelve bytes, the version, then the number of the message's variant.
const VARIANT_AT: usize = 13;

/// What is kept so far.
pub struct Frames {
    directory: PathBuf,
    kept: BTreeMap<(&'static str, u8), u64>,
}

impl Frames {
    /// Nothing yet.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), kept: BTreeMap::new() }
    }

    /// Keeps a frame, unless there are enough of its kind. `asks`: it comes from the side that has made the connection.
    pub fn record(&mut self, asks: bool, first: bool, bytes: &[u8]) {
        let kind = match (asks, first) {
            (true, true) => "Hello",
            (false, true) => "HelloReply",
            (true, false) => "Request",
            (false, false) => "Response",
        };
        let variant = if kind == "Hello" { 0 } else { bytes.get(VARIANT_AT).copied().unwrap_or(0) };
        let kept = self.kept.entry((kind, variant)).or_default();
        if bytes.len() <= BYTES_MAX && *kept < KEPT {
            *kept += 1;
            let path = self.directory.join(format!("{kind}-{variant:02}-{kept}.frame"));
            if let Err(error) = fs::write(&path, bytes) {
                tracing::warn!(path = %path.display(), %error, "Could not keep a frame");
            }
        }
    }
}
