//! What must hold for any bytes.

use std::io;
use std::path::Path;

use trierarch_raft::untrusted::{self, Reader};

use crate::heap;

/// Memory that a reader may take for any input: it may believe a claimed number of elements so far.
pub const BYTES_MAX: usize = 2 << 20;
/// And for each byte of input: the smallest element of a message is three bytes on the way and about a hundred in memory, and a growing list is copied.
pub const BYTES_PER_BYTE_MAX: usize = 128;

/// Something to throw bytes at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A reader of bytes.
    Reader(Reader),
    /// A backup, as a file.
    BackupFile,
}

impl Target {
    /// All of them.
    pub fn all() -> Vec<Self> {
        Reader::ALL.into_iter().map(Self::Reader).chain([Self::BackupFile]).collect()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        match self {
            Self::Reader(reader) => format!("{reader:?}"),
            Self::BackupFile => "BackupFile".to_owned(),
        }
    }

    /// Throws `bytes` at it; whether it has understood them. `directory` may be used for files.
    ///
    /// # Errors
    /// What must hold does not.
    ///
    /// # Panics
    /// The reader does: that is a finding, too.
    pub fn try_with(self, bytes: &[u8], directory: &Path) -> Result<bool, String> {
        let (understood, peak_bytes) = heap::peak_of(|| self.understands(bytes, directory));
        let allowed_bytes = BYTES_MAX + BYTES_PER_BYTE_MAX * bytes.len();
        if peak_bytes > allowed_bytes {
            return Err(format!("{} bytes took {peak_bytes} bytes of memory, {allowed_bytes} are allowed", bytes.len()));
        }
        understood
    }

    fn understands(self, bytes: &[u8], directory: &Path) -> Result<bool, String> {
        match self {
            Self::Reader(reader) => {
                let Ok(written) = reader.read(bytes) else { return Ok(false) };
                match reader.read(&written) {
                    Ok(again) if again == written => Ok(true),
                    Ok(again) => Err(format!("what was understood is written as {written:?}, and that as {again:?}")),
                    Err(error) => Err(format!("what was understood is written as {written:?}, and that is refused: {error}")),
                }
            }
            Self::BackupFile => {
                let path = directory.join("backup");
                let failed = |error: io::Error| error.to_string();
                std::fs::write(&path, bytes).map_err(failed)?;
                Ok(untrusted::backup_file(&path).is_ok())
            }
        }
    }
}
