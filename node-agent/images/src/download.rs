//! One blob from a registry into the store, resumed where an earlier attempt broke off, fetched once however many want it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;

use crate::digest::Digest;
use crate::error::{IoContext, StoreError};
use crate::lease::Lease;
use crate::progress::{Event, Progress};
use crate::remote::{Failure, Remote, classify};
use crate::store::Store;

const REPORT_EVERY_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error(transparent)]
    Registry(#[from] OciDistributionError),
    #[error("the connection broke after {bytes_done} of {bytes_total} bytes")]
    Broken { bytes_done: u64, bytes_total: u64, source: io::Error },
    #[error("the registry sent content with digest {found}")]
    WrongContent { found: Digest },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the download was cancelled")]
    Cancelled(#[from] tokio::task::JoinError),
}

impl DownloadError {
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => classify(error) == Failure::Transient,
            Self::Broken { .. } | Self::WrongContent { .. } => true,
            Self::Store(_) | Self::Cancelled(_) => false,
        }
    }
}

/// What is there of a blob, locked.
struct Partial {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    bytes: u64,
}

/// Fetches a blob; nothing to do if another process finishes it first.
pub(crate) async fn download(
    store: &Store,
    lease: &Lease,
    remote: &Remote,
    digest: &Digest,
    size: u64,
    progress: &Progress,
) -> Result<(), DownloadError> {
    let (owner, wanted) = (store.clone(), digest.clone());
    let partial = tokio::task::spawn_blocking(move || open_partial(&owner, &wanted, size)).await??;
    let Some(partial) = partial else {
        progress.report(Event::BlobPresent { digest: digest.clone(), bytes: size });
        return Ok(());
    };
    let Partial { file, path, mut hasher, mut bytes } = partial;
    let mut file = tokio::fs::File::from_std(file);
    if bytes < size || size == 0 {
        let mut body = match remote.client.pull_blob_stream_partial(&remote.image, digest.as_str(), bytes, None).await? {
            BlobResponse::Partial(body) if bytes > 0 => body.stream,
            BlobResponse::Full(body) | BlobResponse::Partial(body) => {
                file.set_len(0).await.during("truncate", &path)?;
                file.seek_to_start().await.during("seek", &path)?;
                (hasher, bytes) = (Sha256::new(), 0);
                body.stream
            }
        };
        let mut reported = bytes;
        while let Some(piece) = body.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(source) => {
                    // What has arrived is kept for the next attempt.
                    file.flush().await.during("write", &path)?;
                    return Err(DownloadError::Broken { bytes_done: bytes, bytes_total: size, source });
                }
            };
            file.write_all(&piece).await.during("write", &path)?;
            hasher.update(&piece);
            bytes += piece.len() as u64;
            if bytes - reported >= REPORT_EVERY_BYTES {
                reported = bytes;
                progress.report(Event::Blob { digest: digest.clone(), bytes_done: bytes, bytes_total: size });
            }
        }
        file.flush().await.during("write", &path)?;
    }
    let found = Digest::from_hasher(hasher);
    let file = file.into_std().await;
    if found != *digest {
        file.set_len(0).during("truncate", &path)?;
        return Err(DownloadError::WrongContent { found });
    }
    let synced = path.clone();
    tokio::task::spawn_blocking(move || file.sync_all().during("sync", &synced).map(|()| file)).await??;
    store.adopt(&path, digest, lease)?;
    progress.report(Event::Blob { digest: digest.clone(), bytes_done: bytes, bytes_total: size });
    Ok(())
}

/// Opens and locks the unfinished file, waiting for another holder. `None` if the blob is complete then.
fn open_partial(store: &Store, digest: &Digest, size: u64) -> Result<Option<Partial>, StoreError> {
    let path = store.path("ingest").join(format!("{}.partial", digest.hex()));
    loop {
        let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).during("create", &path)?;
        file.lock().during("lock", &path)?;
        if store.has_blob(digest, None) {
            return Ok(None);
        }
        // The holder before us may have moved the file away.
        if !still_there(&file, &path) {
            continue;
        }
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut bytes = 0;
        loop {
            let count = file.read(&mut buffer).during("read", &path)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            bytes += count as u64;
        }
        if bytes > size {
            file.set_len(0).during("truncate", &path)?;
            file.seek(SeekFrom::Start(0)).during("seek", &path)?;
            (hasher, bytes) = (Sha256::new(), 0);
        }
        return Ok(Some(Partial { file, path, hasher, bytes }));
    }
}

fn still_there(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

trait SeekToStart {
    async fn seek_to_start(&mut self) -> io::Result<()>;
}

impl SeekToStart for tokio::fs::File {
    async fn seek_to_start(&mut self) -> io::Result<()> {
        tokio::io::AsyncSeekExt::seek(self, SeekFrom::Start(0)).await.map(drop)
    }
}
