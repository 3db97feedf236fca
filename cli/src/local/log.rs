//! A container's log, read as it grows. Each line is `TIME STREAM TAG TEXT` (`Spec:` CRI logging); tag `P` means that the line goes on.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// RFC 3339.
    pub time: String,
    /// Whether it came from standard error.
    pub error: bool,
    /// Whether a line ends here.
    pub full: bool,
    /// The text, without the line's end.
    pub text: Vec<u8>,
}

impl Piece {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = String::from_utf8(fields.next()?.to_vec()).ok()?;
        let (stream, tag) = (fields.next()?, fields.next()?);
        Some(Self { time, error: stream == b"stderr", full: !tag.starts_with(b"P"), text: fields.next().unwrap_or_default().to_vec() })
    }

    /// The output as the container wrote it.
    pub fn bytes(mut self) -> Vec<u8> {
        if self.full {
            self.text.push(b'\n');
        }
        self.text
    }
}

/// Reads on from where it stopped, also over the log's rotation.
pub struct LogReader {
    path: PathBuf,
    file: Option<File>,
    rest: Vec<u8>,
}

impl LogReader {
    /// From the beginning of the log, with what was rotated away and still is there.
    pub fn open(path: &Path) -> Self {
        let mut reader = Self { path: path.to_owned(), file: None, rest: Vec::new() };
        for old in rotated(path) {
            if let Ok(text) = std::fs::read(old) {
                reader.rest.extend(text);
            }
        }
        reader
    }

    /// What came since the last call; unfinished lines wait.
    pub fn fresh(&mut self) -> Vec<Piece> {
        loop {
            if self.file.is_none() {
                // not there yet: nothing was written
                self.file = File::open(&self.path).ok();
            }
            let Some(file) = &mut self.file else { break };
            // a failed read is tried again with the next call
            let _read = file.read_to_end(&mut self.rest);
            let here = file.metadata().map(|meta| meta.ino()).ok();
            let there = std::fs::metadata(&self.path).map(|meta| meta.ino()).ok();
            if here == there || there.is_none() {
                break;
            }
            // rotated: the open file is complete, a new one is there
            let _read = file.read_to_end(&mut self.rest);
            self.file = None;
        }
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let unfinished = self.rest.split_off(end + 1);
        let complete = std::mem::replace(&mut self.rest, unfinished);
        complete[..end].split(|byte| *byte == b'\n').filter_map(Piece::parse).collect()
    }
}

/// Files that the log was rotated to, the oldest first.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The last `count` lines.
pub fn tail(pieces: Vec<Piece>, count: usize) -> Vec<Piece> {
    let mut lines = 0;
    let mut from = pieces.len();
    for (index, piece) in pieces.iter().enumerate().rev() {
        // an unfinished line at the end counts as one
        if piece.full || index + 1 == pieces.len() {
            lines += 1;
            if lines > count {
                break;
            }
        }
        from = index;
    }
    pieces.into_iter().skip(from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn texts(pieces: Vec<Piece>) -> Vec<String> {
        pieces.into_iter().map(|piece| String::from_utf8(piece.bytes()).expect("text")).collect()
    }

    #[test]
    fn a_log_is_read_as_it_grows_and_over_its_rotation() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        std::fs::write(dir.path().join("log.20260101-000000"), "t stdout F old\n").expect("written");
        let mut reader = LogReader::open(&path);
        assert_eq!(texts(reader.fresh()), ["old\n"], "what was rotated away comes first, also while there is no new file yet");
        std::fs::write(&path, "t stdout F one  two\nt stderr P thr").expect("written");
        assert_eq!(texts(reader.fresh()), ["one  two\n"]);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"ee\nt stdout F \n").expect("written");
        std::fs::rename(&path, dir.path().join("log.20260101-000001")).expect("renamed");
        std::fs::write(&path, "t stdout F new\n").expect("written");
        let fresh = reader.fresh();
        assert!(fresh[0].error && !fresh[0].full);
        assert_eq!(texts(fresh), ["three", "\n", "new\n"]);
    }

    #[test]
    fn the_tail_counts_lines_not_pieces() {
        let piece = |text: &str, full| Piece { time: "t".to_owned(), error: false, full, text: text.as_bytes().to_vec() };
        let all = vec![piece("a", true), piece("b1", false), piece("b2", true), piece("c", true)];
        assert_eq!(texts(tail(all.clone(), 2)), ["b1", "b2\n", "c\n"]);
        assert_eq!(texts(tail(all.clone(), 0)), Vec::<String>::new());
        assert_eq!(tail(all, 9).len(), 4);
    }
}
