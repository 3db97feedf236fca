//! Container logs in the CRI format (`<RFC 3339 time> stdout|stderr F|P <text>`), rotated by size.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A longer line is written in parts marked `P`.
const LINE_MAX: usize = 16 * 1024;

/// One container's log file.
pub(crate) struct Log {
    path: PathBuf,
    file: Option<File>,
    size_bytes: u64,
    size_max_bytes: u64,
    files_max: u32,
    out: Vec<u8>,
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64)
}

/// (year, month, day, hour, minute, second) of seconds since 1970.
fn civil(seconds: u64) -> (u64, u64, u64, u64, u64, u64) {
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// RFC 3339 in UTC with nine digits of a second.
pub(crate) fn rfc3339(ns: u64) -> String {
    let (year, month, day, hour, minute, second) = civil(ns / 1_000_000_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", ns % 1_000_000_000)
}

/// `20260131-235959`, as kubelet names rotated logs.
fn compact(ns: u64) -> String {
    let (year, month, day, hour, minute, second) = civil(ns / 1_000_000_000);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

impl Log {
    pub(crate) fn open(path: &Path, size_max_bytes: u64, files_max: u32) -> std::io::Result<Log> {
        let mut log = Log { path: path.to_path_buf(), file: None, size_bytes: 0, size_max_bytes, files_max, out: Vec::new() };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        log.reopen()?;
        Ok(log)
    }

    /// Opens the path again, e.g. after somebody moved the file away.
    pub(crate) fn reopen(&mut self) -> std::io::Result<()> {
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        self.size_bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Adds output of a stream; `partial` keeps what is not yet a line. At the end of the stream the rest is written as it is.
    pub(crate) fn write(&mut self, stream: &str, partial: &mut Vec<u8>, bytes: &[u8], end: bool) {
        let stamp = rfc3339(now_ns());
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, tail) = rest.split_at(at);
            rest = &tail[1..];
            if partial.is_empty() {
                self.line(&stamp, stream, line, true);
            } else {
                partial.extend_from_slice(line);
                let whole = std::mem::take(partial);
                self.line(&stamp, stream, &whole, true);
            }
        }
        partial.extend_from_slice(rest);
        while partial.len() >= LINE_MAX {
            let tail = partial.split_off(LINE_MAX);
            let head = std::mem::replace(partial, tail);
            self.line(&stamp, stream, &head, false);
        }
        if end && !partial.is_empty() {
            let whole = std::mem::take(partial);
            self.line(&stamp, stream, &whole, false);
        }
        self.flush();
    }

    fn line(&mut self, stamp: &str, stream: &str, mut text: &[u8], full: bool) {
        while text.len() > LINE_MAX {
            let (head, tail) = text.split_at(LINE_MAX);
            self.entry(stamp, stream, head, b" P ");
            text = tail;
        }
        self.entry(stamp, stream, text, if full { b" F " } else { b" P " });
        if self.out.len() > 64 * 1024 {
            self.flush();
        }
    }

    fn entry(&mut self, stamp: &str, stream: &str, text: &[u8], tag: &[u8]) {
        for part in [stamp.as_bytes(), b" ", stream.as_bytes(), tag, text, b"\n"] {
            self.out.extend_from_slice(part);
        }
    }

    fn flush(&mut self) {
        if self.out.is_empty() {
            return;
        }
        // A full disk loses lines, not containers.
        if let Some(file) = &mut self.file {
            let _ = file.write_all(&self.out);
        }
        self.size_bytes += self.out.len() as u64;
        self.out.clear();
        self.out.shrink_to(16 * 1024);
        if self.size_max_bytes > 0 && self.size_bytes >= self.size_max_bytes {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        let base = format!("{}.{}", self.path.display(), compact(now_ns()));
        let free = std::iter::once(base.clone()).chain((1..).map(|n| format!("{base}.{n}"))).find(|name| !Path::new(name).exists());
        let moved = free.is_some_and(|name| std::fs::rename(&self.path, name).is_ok());
        if moved && self.reopen().is_ok() {
            self.remove_old();
        }
    }

    /// Keeps `files_max` files, the current one included.
    fn remove_old(&self) {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let prefix = format!("{}.", name.to_string_lossy());
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        let mut old: Vec<(Option<SystemTime>, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| (entry.metadata().and_then(|meta| meta.modified()).ok(), entry.path()))
            .collect();
        old.sort();
        let keep = (self.files_max.max(1) - 1) as usize;
        for (_, path) in old.iter().take(old.len().saturating_sub(keep)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(rfc3339(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(compact(1_798_761_599_000_000_000), "20261231-235959");
    }
}
