//! Leases and pins: what garbage collection must leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::store::Store;

/// Names blobs and layers that a running operation needs. The file is locked as long as this value lives; when a process dies, the lock
/// goes with it and the lease counts no more.
pub struct Lease {
    store: Store,
    path: PathBuf,
    file: Mutex<File>,
}

/// What a container uses: it keeps the image's blobs and layers until the owner takes it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Who made it: a node's name.
    pub owner: String,
    /// The container.
    pub id: String,
    /// The image's manifest.
    pub manifest: Digest,
}

/// Holds the store's lock.
pub(crate) struct Guard {
    _file: File,
}

impl Lease {
    pub(crate) fn take(store: &Store) -> Result<Self, StoreError> {
        let _guard = store.lock_shared()?;
        let directory = store.path("leases");
        let file = tempfile::Builder::new().prefix("lease-").tempfile_in(&directory).during("create a file in", &directory)?;
        file.as_file().lock().during("lock", file.path())?;
        let (file, path) = file.keep().map_err(|error| error.error).during("keep a file in", &directory)?;
        Ok(Self { store: store.clone(), path, file: Mutex::new(file) })
    }

    /// Keeps this blob, whether it exists already or comes later.
    ///
    /// # Errors
    /// The file system refused.
    pub fn protect(&self, digest: &Digest) -> Result<(), StoreError> {
        self.add(digest.as_str())
    }

    /// Keeps this directory of `layers/`.
    pub(crate) fn protect_layer(&self, id: &str) -> Result<(), StoreError> {
        self.add(&format!("layer:{id}"))
    }

    fn add(&self, text: &str) -> Result<(), StoreError> {
        let _guard = self.store.lock_shared()?;
        self.file.lock().write_all(format!("{text}\n").as_bytes()).during("write", &self.path)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "Could not remove a lease");
        }
    }
}

impl Store {
    /// Records that a container uses an image. Repeating it is fine.
    ///
    /// # Errors
    /// A name that cannot be a file's, or the file system refused.
    pub fn pin(&self, pin: &Pin) -> Result<(), StoreError> {
        let path = self.pin_path(&pin.owner, &pin.id)?;
        let directory = self.path("pins").join(&pin.owner);
        fs::create_dir_all(&directory).during("create", &directory)?;
        let _guard = self.lock_shared()?;
        // Not synced: the containers that need it do not survive the machine either.
        self.write_passing_file(&path, pin.manifest.as_str().as_bytes())
    }

    /// Takes a pin back. An absent one is fine.
    ///
    /// # Errors
    /// The file system refused.
    pub fn unpin(&self, owner: &str, id: &str) -> Result<(), StoreError> {
        let path = self.pin_path(owner, id)?;
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).during("remove", &path),
            _ => Ok(()),
        }
    }

    /// All pins, of every owner on this machine, sorted.
    ///
    /// # Errors
    /// The file system refused.
    pub fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let directory = self.path("pins");
        let mut pins = BTreeMap::new();
        for owner in file_names(&directory)? {
            let directory = directory.join(&owner);
            for id in file_names(&directory)? {
                let Ok(text) = fs::read_to_string(directory.join(&id)) else { continue };
                if let Ok(manifest) = text.trim().parse() {
                    pins.insert((owner.clone(), id.clone()), Pin { owner: owner.clone(), id, manifest });
                }
            }
        }
        Ok(pins.into_values().collect())
    }

    /// What all living leases name. Leases of dead processes are removed. Call it with the exclusive lock.
    pub(crate) fn leased(&self, _exclusive: &Guard) -> Result<BTreeSet<String>, StoreError> {
        let mut names = BTreeSet::new();
        let directory = self.path("leases");
        for name in file_names(&directory)? {
            let path = directory.join(name);
            let Ok(mut file) = File::open(&path) else { continue };
            match file.try_lock() {
                // its holder may be removing it at this very moment
                Ok(()) => match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).during("remove", &path),
                    _ => {}
                },
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).during("read", &path)?;
                    names.extend(text.lines().map(str::to_owned));
                }
                Err(TryLockError::Error(error)) => return Err(error).during("lock", &path),
            }
        }
        Ok(names)
    }

    /// Held while a reference is added.
    pub(crate) fn lock_shared(&self) -> Result<Guard, StoreError> {
        let (file, path) = self.open_lock()?;
        file.lock_shared().during("lock", &path)?;
        Ok(Guard { _file: file })
    }

    /// Held while garbage is collected.
    pub(crate) fn lock_exclusive(&self) -> Result<Guard, StoreError> {
        let (file, path) = self.open_lock()?;
        file.lock().during("lock", &path)?;
        Ok(Guard { _file: file })
    }

    fn open_lock(&self) -> Result<(File, PathBuf), StoreError> {
        let path = self.path("lock");
        let file = File::options().create(true).append(true).open(&path).during("open", &path)?;
        Ok((file, path))
    }

    fn pin_path(&self, owner: &str, id: &str) -> Result<PathBuf, StoreError> {
        for text in [owner, id] {
            let valid = !text.is_empty() && text.len() <= 255 && !text.starts_with('.') && !text.contains(['/', '\0']);
            if !valid {
                return Err(StoreError::PinName { text: text.to_owned() });
            }
        }
        Ok(self.path("pins").join(owner).join(id))
    }
}

/// The names in a directory, sorted; those that are not UTF-8 are not ours and left out.
pub(crate) fn file_names(directory: &std::path::Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).during("list", directory)? {
        if let Ok(name) = entry.during("list", directory)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
