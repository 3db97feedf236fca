//! Which manifests refer to which by their `subject`: signatures, attestations. Spec: distribution-spec, "Listing Referrers".

use std::fs;

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::lease::file_names;
use crate::store::Store;

impl Store {
    /// Notes that a stored manifest has this subject, which need not exist yet. The subject keeps it from garbage collection.
    pub(crate) fn add_referrer(&self, subject: &Digest, manifest: &Digest) -> Result<(), StoreError> {
        let directory = self.path("referrers").join(subject.hex());
        fs::create_dir_all(&directory).during("create", &directory)?;
        self.write_file(&directory.join(manifest.hex()), b"")
    }

    /// Manifests whose subject this is, sorted by digest.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Vec<Digest>, StoreError> {
        let directory = self.path("referrers").join(subject.hex());
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        Ok(file_names(&directory)?
            .iter()
            .filter_map(|name| Digest::from_hex(name).ok())
            .filter(|digest| self.has_blob(digest, None))
            .collect())
    }
}
