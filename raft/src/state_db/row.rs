//! Rows of the history as they lie in the database: what is read of them costs no copy.

use std::io;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Deserialize;

use crate::command::{Key, Revision};
use crate::keys;
use crate::records;
use crate::view::Record;

/// A row with its key, before anybody has looked into it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// The revision of the change.
    pub(super) revision: Revision,
    /// The changed key.
    pub(super) key: &'a [u8],
    bytes: &'a [u8],
}

/// As `records::HistoryRow`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Change<'a> {
    #[serde(borrow)]
    pub(super) version: Option<Version<'a>>,
    pub(super) previous: Option<Revision>,
    #[serde(borrow)]
    cause: Cause<'a>,
    pub(super) time_unix_ms: i64,
}

/// As `records::HistoryVersion`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Version<'a> {
    create_revision: Revision,
    split: u32,
    #[serde(borrow)]
    terms: Vec<&'a [u8]>,
    #[serde(borrow)]
    value: &'a [u8],
}

/// As `crate::Cause`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Cause<'a> {
    user: &'a str,
    agent: &'a str,
    verb: &'a str,
    time_unix_ms: i64,
}

impl<'a> Row<'a> {
    /// A row by what the database has under `key`.
    ///
    /// # Errors
    /// `InvalidData` for a damaged key.
    pub(super) fn new(key: &'a [u8], bytes: &'a [u8]) -> io::Result<Self> {
        let (revision, key) =
            keys::parse_history(key).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "damaged key of the history"))?;
        Ok(Self { revision, key, bytes })
    }

    /// What it says.
    ///
    /// # Errors
    /// `InvalidData` for a damaged row.
    pub(super) fn change(&self) -> io::Result<Change<'a>> {
        records::decode(self.bytes)
    }

    /// Bytes of its key and of itself, as they were written.
    pub(super) fn size_bytes(&self) -> u64 {
        (size_of::<Revision>() + self.key.len() + self.bytes.len()) as u64
    }
}

impl Version<'_> {
    /// The version in memory.
    pub(super) fn record(&self, key: Key, revision: Revision) -> Record {
        Record {
            key,
            value: Bytes::copy_from_slice(self.value),
            split: self.split,
            terms: self.terms.iter().map(|term| Bytes::copy_from_slice(term)).collect(),
            revision,
            create_revision: self.create_revision,
            parsed: OnceLock::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{HistoryChange, HistoryRow, HistoryVersion};

    fn check(version: Option<HistoryVersion>, previous: Option<Revision>) {
        let cause = crate::command::Cause { user: "u".into(), agent: "agent".into(), verb: String::new(), time_unix_ms: -5 };
        let row = HistoryRow { version: version.clone(), previous, cause, time_unix_ms: 1 << 40 };
        let (key, bytes) = (keys::history(7, b"pods/a"), records::encode(&row));
        let read = Row::new(&key, &bytes).unwrap();
        let change = read.change().unwrap();
        let size_bytes = HistoryChange { key: "pods/a".into(), revision: 7, row: row.clone() }.size_bytes();
        assert_eq!((read.revision, read.key, read.size_bytes()), (7, b"pods/a".as_slice(), size_bytes));
        assert_eq!((change.previous, change.time_unix_ms), (previous, row.time_unix_ms));
        let record = change.version.map(|version| version.record("pods/a".into(), 7));
        assert_eq!(record.as_ref().map(HistoryVersion::from), version);
    }

    #[test]
    fn a_row_reads_as_it_was_written() {
        let version = |value: &str| HistoryVersion { create_revision: 3, split: 300, terms: Vec::new(), value: value.to_owned().into() };
        check(None, Some(6));
        check(Some(version("")), None);
        check(Some(HistoryVersion { terms: vec!["owner/1".into(), "".into()], ..version(&"x".repeat(70_000)) }), Some(u64::MAX));
    }

    #[test]
    fn damage_is_noticed() {
        assert!(Row::new(b"short", b"").is_err());
        let key = keys::history(7, b"");
        for bytes in [&[][..], &[1], &[1, 1, 1], &[99, 0, 0]] {
            assert!(Row::new(&key, bytes).unwrap().change().is_err(), "{bytes:?}");
        }
    }
}
