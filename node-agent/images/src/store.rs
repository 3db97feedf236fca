//! The content store: a directory that any number of processes on one machine share without a daemon.
//!
//! ```text
//! blobs/sha256/HEX     a blob, complete and synced: written as ingest/*, then renamed
//! ingest/              blobs on their way in; HEX.partial can be resumed
//! names/HEX            one record per image name; HEX is the sha256 of the name
//! chains/HEX           one record per extracted layer chain, naming its directory; HEX is the chain's ID
//! layers/ID            extracted layers, lower directories of overlays; ID is short, so that many fit into mount options
//! pins/OWNER/ID        the manifest a container uses; survives restarts
//! leases/              what running operations have touched; each file is locked by its holder
//! used/HEX             its time is when the manifest was last used
//! uploads/             the registry's unfinished uploads
//! build/               the build cache
//! lock                 held shared for a moment to add a reference, exclusively to collect garbage
//! ```
//!
//! Every file appears whole, by rename, after its bytes are synced. Whoever needs something takes a lease first, names it in the lease,
//! and only then looks whether it exists: garbage collection, which holds `lock` exclusively, can't take it away in between.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use std::collections::HashMap;
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hashing};
use crate::error::{IoContext, StoreError};
use crate::image::Image;
use crate::lease::Lease;

/// A handle on a content store. Cheap to clone; every method blocks on the file system, so async callers use `spawn_blocking`.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    root: PathBuf,
    /// Parsed images by target digest: content never changes, so neither do they. Names and times are filled in by each lookup.
    pub(crate) parsed: Mutex<HashMap<Digest, Arc<Image>>>,
}

/// A blob on its way in: write to it, then `commit`. Dropped without that, it leaves nothing.
pub struct Ingest {
    store: Store,
    file: Hashing<NamedTempFile>,
}

const DIRECTORIES: &[&str] =
    &["blobs/sha256", "ingest", "names", "chains", "layers", "pins", "leases", "used", "uploads", "build", "referrers"];

impl Store {
    /// The store in this directory, which is made if it is absent.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root: PathBuf = root.into();
        for name in DIRECTORIES {
            let path = root.join(name);
            fs::create_dir_all(&path).during("create", &path)?;
        }
        let root = fs::canonicalize(&root).during("resolve", &root)?;
        let empty = root.join("layers/empty");
        fs::create_dir_all(&empty).during("create", &empty)?;
        let lock = root.join("lock");
        File::options().create(true).append(true).open(&lock).during("create", &lock)?;
        Ok(Self { inner: Arc::new(Inner { root, parsed: Mutex::new(HashMap::new()) }) })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// A new lease: what it names stays until it is dropped.
    ///
    /// # Errors
    /// The lease's file cannot be made.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Lease::take(self)
    }

    /// Whether the blob is here. With a size, a file of another size counts as absent.
    pub fn has_blob(&self, digest: &Digest, size: Option<u64>) -> bool {
        fs::metadata(self.blob_path(digest)).is_ok_and(|meta| meta.is_file() && size.is_none_or(|size| meta.len() == size))
    }

    /// The blob's file, opened for reading. Its bytes are not checked; those who rely on them hash while they read.
    ///
    /// # Errors
    /// `MissingBlob`, or the file system refused.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StoreError::MissingBlob { digest: digest.clone() }),
            outcome => outcome.during("open", &path),
        }
    }

    /// The whole of a small blob (manifest, configuration), checked.
    ///
    /// # Errors
    /// `MissingBlob`, `Corrupt`, or the file system refused.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut bytes).during("read", &self.blob_path(digest))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            self.discard_corrupt(digest);
            return Err(StoreError::Corrupt { expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Stores bytes and returns their digest.
    ///
    /// # Errors
    /// The file system refused.
    pub fn write_blob(&self, bytes: &[u8], lease: &Lease) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        lease.protect(&digest)?;
        if self.has_blob(&digest, Some(bytes.len() as u64)) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).during("write", &self.inner.root.join("ingest"))?;
        ingest.commit(Some(&digest), lease).map(|(digest, _)| digest)
    }

    /// A new blob to write to.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn ingest(&self) -> Result<Ingest, StoreError> {
        let directory = self.inner.root.join("ingest");
        let file = tempfile::Builder::new().prefix("blob-").tempfile_in(&directory).during("create a file in", &directory)?;
        Ok(Ingest { store: self.clone(), file: Hashing::new(file) })
    }

    /// Reads a stored blob to its end and compares. A corrupt one is removed.
    ///
    /// # Errors
    /// `MissingBlob`, `Corrupt`, or the file system refused.
    pub fn verify_blob(&self, digest: &Digest) -> Result<u64, StoreError> {
        let mut reader = Hashing::new(self.open_blob(digest)?);
        io::copy(&mut reader, &mut io::sink()).during("read", &self.blob_path(digest))?;
        let (found, bytes, _) = reader.finish();
        if found != *digest {
            self.discard_corrupt(digest);
            return Err(StoreError::Corrupt { expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Takes a blob away whose content is wrong, so that it is fetched again.
    pub(crate) fn discard_corrupt(&self, digest: &Digest) {
        tracing::warn!(image = %digest, "Removed a corrupt blob");
        let path = self.blob_path(digest);
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(image = %digest, %error, "Could not remove a corrupt blob");
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.inner.root.join(name)
    }

    /// Writes a small file whole: temporary file, sync, rename, sync of the directory.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = self.inner.root.join("ingest");
        let mut file = tempfile::Builder::new().prefix("file-").tempfile_in(&directory).during("create a file in", &directory)?;
        file.write_all(bytes).during("write", path)?;
        file.as_file().sync_all().during("sync", path)?;
        file.persist(path).map_err(|error| error.error).during("rename to", path)?;
        sync_parent(path)
    }

    /// Writes a small file whole that means nothing after the machine restarts: temporary file, rename.
    pub(crate) fn write_passing_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = self.inner.root.join("ingest");
        let mut file = tempfile::Builder::new().prefix("file-").tempfile_in(&directory).during("create a file in", &directory)?;
        file.write_all(bytes).during("write", path)?;
        file.persist(path).map_err(|error| error.error).during("rename to", path)?;
        Ok(())
    }

    /// Moves a complete, synced file to its place as a blob.
    pub(crate) fn adopt(&self, file: &Path, digest: &Digest, lease: &Lease) -> Result<(), StoreError> {
        lease.protect(digest)?;
        let path = self.blob_path(digest);
        fs::rename(file, &path).during("rename to", &path)?;
        sync_parent(&path)
    }
}

impl Ingest {
    /// How many bytes have been written.
    pub fn rewind(&mut self) -> io::Result<()> {
        let file = self.file.get_mut().as_file_mut();
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        self.file.reset();
        Ok(())
    }

    /// Makes the blob durable and visible; returns its digest and size.
    ///
    /// # Errors
    /// `Corrupt` if the content has another digest than expected; nothing is kept then.
    pub fn commit(self, expected: Option<&Digest>, lease: &Lease) -> Result<(Digest, u64), StoreError> {
        let (found, bytes, file) = self.file.finish();
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(StoreError::Corrupt { expected: expected.clone(), found });
        }
        lease.protect(&found)?;
        let path = self.store.blob_path(&found);
        if self.store.has_blob(&found, Some(bytes)) {
            return Ok((found, bytes));
        }
        file.as_file().sync_all().during("sync", &path)?;
        file.persist(&path).map_err(|error| error.error).during("rename to", &path)?;
        sync_parent(&path)?;
        Ok((found, bytes))
    }
}

impl Write for Ingest {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a rename durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent).and_then(|directory| directory.sync_all()).during("sync", parent)
}

#[cfg(test)]
mod tests;
