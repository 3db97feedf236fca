//! A backup: one file that holds the state of a cluster at one moment, taken from any member while it serves.
//!
//! Shape: [`MAGIC`], the length of the header (4 bytes, big-endian), the header as a record, the files of a checkpoint of `state/` one after
//! the other, and the SHA-256 of all that. Nothing of the log is in it: neither votes nor entries that are not applied.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use crate::command::{NodeId, Revision, Term};
use crate::records;
use crate::snapshot::SnapshotFiles;
use crate::state_db::StateDb;

/// How every backup begins.
const MAGIC: &[u8; 16] = b"trierarch backup";
/// A header is shorter than this; a longer one is damage.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// Bytes that are read and handed out at once.
const CHUNK_BYTES: usize = 256 << 10;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// Of which cluster.
    pub cluster_id: String,
    /// The member that it was taken from.
    pub node_id: NodeId,
    /// Term of the last entry in it.
    pub term: Term,
    /// Index of the last entry in it.
    pub index: u64,
    /// Its revision.
    pub revision: Revision,
    /// When it was taken.
    pub time_unix_ms: i64,
    /// It holds everything that was acknowledged anywhere before it was taken. Without a quorum nobody can know that.
    pub complete: bool,
    /// What the caller wants to find beside the state, as opaque bytes.
    pub attachment: Bytes,
    /// Names and sizes of the files that follow.
    pub files: Vec<(String, u64)>,
}

/// Why a backup is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or directory could not be used.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It begins as no backup does.
    #[error("{0} is no backup of this program")]
    Foreign(PathBuf),
    /// It was made by a newer program.
    #[error("{path}: {reason}")]
    TooNew {
        /// Which.
        path: PathBuf,
        /// What is needed.
        reason: String,
    },
    /// It is not as it was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something is there already that a restore must not replace.
    #[error("{0} holds a store already: restore into a new directory")]
    Occupied(PathBuf),
}

/// What to write into the header.
pub(crate) struct About {
    pub(crate) cluster_id: String,
    pub(crate) node_id: NodeId,
    pub(crate) time_unix_ms: i64,
    pub(crate) complete: bool,
    pub(crate) attachment: Bytes,
}

/// A backup that is being written: an iterator over its bytes, which blocks while it reads the disk.
pub struct Backup {
    header: BackupHeader,
    /// Magic, length and header, until they are handed out.
    head: Option<Vec<u8>>,
    waiting: VecDeque<(String, u64)>,
    current: Option<(File, u64)>,
    /// `None` once the checksum was handed out, or reading has failed.
    digest: Option<Context>,
    files: SnapshotFiles,
}

impl Backup {
    /// Takes a checkpoint; costs little, as most of it is hard links.
    ///
    /// # Errors
    /// Of the file system and of RocksDB; `NotFound` for a member that has applied nothing.
    pub(crate) fn take(db: &StateDb, snapshots_dir: &Path, about: About) -> io::Result<Self> {
        let (files, meta) = SnapshotFiles::checkpoint(db, snapshots_dir)?;
        let nothing = "this member has no state yet: take the backup from one that has joined its cluster";
        let applied = meta.applied.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, nothing))?;
        let header = BackupHeader {
            cluster_id: about.cluster_id,
            node_id: about.node_id,
            term: applied.term,
            index: applied.index,
            revision: meta.revision,
            time_unix_ms: about.time_unix_ms,
            complete: about.complete,
            attachment: about.attachment,
            files: files.list()?,
        };
        let record = records::encode(&header);
        let length = u32::try_from(record.len()).ok().filter(|length| *length < HEADER_BYTES_MAX);
        let length = length.ok_or_else(|| io::Error::other("the attachment of a backup is too large"))?;
        let head = [MAGIC.as_slice(), &length.to_be_bytes(), &record].concat();
        Ok(Self {
            waiting: header.files.clone().into(),
            header,
            head: Some(head),
            current: None,
            digest: Some(Context::new(&SHA256)),
            files,
        })
    }

    /// What it says of itself.
    pub fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// How many bytes it has in all. Only before the first of them is taken.
    pub fn total_bytes(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.len() as u64) + self.header.content_bytes() + SHA256_OUTPUT_LEN as u64
    }

    fn read(&mut self) -> io::Result<Option<Bytes>> {
        let Some(digest) = &mut self.digest else { return Ok(None) };
        if let Some(head) = self.head.take() {
            digest.update(&head);
            return Ok(Some(head.into()));
        }
        loop {
            let Some((file, left)) = &mut self.current else {
                let Some((name, size)) = self.waiting.pop_front() else {
                    let sum = self.digest.take().map(Context::finish);
                    return Ok(sum.map(|sum| Bytes::copy_from_slice(sum.as_ref())));
                };
                self.current = Some((File::open(self.files.path().join(name))?, size));
                continue;
            };
            if *left == 0 {
                self.current = None;
                continue;
            }
            let mut chunk = vec![0; usize::try_from(*left).unwrap_or(usize::MAX).min(CHUNK_BYTES)];
            file.read_exact(&mut chunk)?;
            *left -= chunk.len() as u64;
            digest.update(&chunk);
            return Ok(Some(chunk.into()));
        }
    }
}

impl Iterator for Backup {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.digest = None;
        }
        read.transpose()
    }
}

impl BackupHeader {
    fn content_bytes(&self) -> u64 {
        // a damaged header may claim anything
        self.files.iter().fold(0, |sum: u64, (_, size)| sum.saturating_add(*size))
    }
}

/// Reads a whole backup and checks it. `progress` is told bytes read and bytes in all.
///
/// # Errors
/// [`BackupError`]
pub fn verify(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<BackupHeader, BackupError> {
    read(path, None, progress)
}

/// What a backup says of itself, unchecked.
///
/// # Errors
/// [`BackupError`], unless its beginning is a backup's.
pub fn header(path: &Path) -> Result<BackupHeader, BackupError> {
    Reading::open(path)?.header()
}

/// As [`verify`], and writes the files into the directory `into`. They are of use only if this succeeds.
pub(crate) fn read(path: &Path, into: Option<&Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<BackupHeader, BackupError> {
    let unusable = |source: io::Error| BackupError::File { path: path.to_owned(), source };
    let mut reading = Reading::open(path)?;
    let total_bytes = reading.total_bytes;
    let header = reading.header()?;
    let expected = header.content_bytes().saturating_add(reading.read_bytes + SHA256_OUTPUT_LEN as u64);
    if expected != total_bytes {
        return Err(reading.damaged(format!("it has {total_bytes} bytes instead of {expected}")));
    }
    for (name, size) in &header.files {
        reading.file(name, *size, into, progress)?;
    }
    let mut sum = [0; SHA256_OUTPUT_LEN];
    reading.source.read_exact(&mut sum).map_err(unusable)?;
    progress(total_bytes, total_bytes);
    if reading.digest.clone().finish().as_ref() != sum {
        return Err(reading.damaged("its content does not match its checksum".to_owned()));
    }
    Ok(header)
}

struct Reading<'a> {
    path: &'a Path,
    source: BufReader<File>,
    digest: Context,
    read_bytes: u64,
    total_bytes: u64,
}

impl<'a> Reading<'a> {
    fn open(path: &'a Path) -> Result<Self, BackupError> {
        let unusable = |source: io::Error| BackupError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(unusable)?;
        let total_bytes = file.metadata().map_err(unusable)?.len();
        let source = BufReader::with_capacity(CHUNK_BYTES, file);
        Ok(Self { path, source, digest: Context::new(&SHA256), read_bytes: 0, total_bytes })
    }

    fn header(&mut self) -> Result<BackupHeader, BackupError> {
        let mut magic = [0; MAGIC.len()];
        if self.fill(&mut magic).is_err() || magic != *MAGIC {
            return Err(BackupError::Foreign(self.path.to_owned()));
        }
        let mut length = [0; 4];
        self.fill(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > HEADER_BYTES_MAX {
            return Err(self.damaged(format!("a header of {length} bytes")));
        }
        let mut record = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.fill(&mut record)?;
        let header: BackupHeader = records::decode(&record).map_err(|error| match error.kind() {
            io::ErrorKind::Unsupported => BackupError::TooNew { path: self.path.to_owned(), reason: error.to_string() },
            _ => self.damaged(error.to_string()),
        })?;
        match header.files.iter().find(|(name, _)| !SnapshotFiles::is_plain_name(name)) {
            Some((name, _)) => Err(self.damaged(format!("it holds no file {name:?}"))),
            None => Ok(header),
        }
    }

    fn file(&mut self, name: &str, size: u64, into: Option<&Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<(), BackupError> {
        let target = into.map(|directory| directory.join(name));
        let unusable = |source: io::Error| BackupError::File { path: target.clone().unwrap_or_default(), source };
        let mut file = target.as_ref().map(File::create_new).transpose().map_err(unusable)?;
        let (mut left, mut chunk) = (size, vec![0; CHUNK_BYTES]);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            self.fill(&mut chunk[..length])?;
            if let Some(file) = &mut file {
                file.write_all(&chunk[..length]).map_err(unusable)?;
            }
            left -= length as u64;
            progress(self.read_bytes, self.total_bytes);
        }
        file.map_or(Ok(()), |file| file.sync_all()).map_err(unusable)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), BackupError> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged(format!("it ends after {} bytes", self.total_bytes)),
            _ => BackupError::File { path: self.path.to_owned(), source: error },
        })?;
        self.digest.update(buffer);
        self.read_bytes += buffer.len() as u64;
        Ok(())
    }

    fn damaged(&self, reason: String) -> BackupError {
        BackupError::Damaged { path: self.path.to_owned(), reason }
    }
}
