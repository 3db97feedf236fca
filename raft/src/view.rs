//! What readers see: the current records in memory as a persistent map, so that a snapshot of everything costs O(1).

use std::any::Any;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use imbl::OrdMap;

use crate::command::{Key, Revision};

/// The current (or, in an event, the former) version of a key. Shared through `Arc`, never changed.
pub struct Record {
    /// Its key.
    pub key: Key,
    /// The writer's bytes.
    pub value: Bytes,
    /// The writer's offset (see [`crate::Op::Put`]).
    pub split: u32,
    /// The writer's index terms.
    pub terms: Vec<Bytes>,
    /// Revision of the transaction that wrote this version.
    pub revision: Revision,
    /// Revision of the transaction that created the key.
    pub create_revision: Revision,
    /// Whatever a reader parsed out of `value`, at most once per process.
    pub parsed: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("key", &self.key)
            .field("revision", &self.revision)
            .field("create_revision", &self.create_revision)
            .field("value_bytes", &self.value.len())
            .finish_non_exhaustive()
    }
}

/// An immutable snapshot of all records at one revision. Cheap to clone.
#[derive(Clone, Default)]
pub struct View {
    revision: Revision,
    records: OrdMap<Key, Arc<Record>>,
    by_term: OrdMap<(Bytes, Key), Arc<Record>>,
}

impl View {
    /// The revision this snapshot shows.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The record under `key`.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        self.records.get(key).cloned()
    }

    /// The records whose keys start with `prefix`, in key order, from the first key greater than `after` if given.
    pub fn range<'a>(&'a self, prefix: &'a [u8], after: Option<&[u8]>) -> Box<dyn Iterator<Item = &'a Arc<Record>> + 'a> {
        let start: Bound<&[u8]> = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let records = self.records.range::<(Bound<&[u8]>, Bound<&[u8]>), [u8]>((start, Bound::Unbounded));
        Box::new(records.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, record)| record))
    }

    /// How many keys start with `prefix`.
    pub fn count(&self, prefix: &[u8]) -> usize {
        if prefix.is_empty() { self.records.len() } else { self.range(prefix, None).count() }
    }

    /// The records written with this index term whose keys start with `prefix`, in key order.
    pub fn by_term<'a>(&'a self, term: &'a [u8], prefix: &'a [u8]) -> Box<dyn Iterator<Item = &'a Arc<Record>> + 'a> {
        let start = (Bytes::copy_from_slice(term), Bytes::copy_from_slice(prefix));
        let records = self.by_term.range(start..);
        Box::new(records.take_while(move |((found, key), _)| found.as_ref() == term && key.starts_with(prefix)).map(|(_, record)| record))
    }

    /// Puts a record in, in place of any earlier one under its key.
    pub(crate) fn insert(&mut self, record: Arc<Record>) {
        let before = self.records.insert(record.key.clone(), Arc::clone(&record));
        self.forget_terms(before.as_deref());
        for term in &record.terms {
            self.by_term.insert((term.clone(), record.key.clone()), Arc::clone(&record));
        }
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        let before = self.records.remove(key);
        self.forget_terms(before.as_deref());
    }

    /// Says which revision this is.
    pub(crate) fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    fn forget_terms(&mut self, record: Option<&Record>) {
        for term in record.into_iter().flat_map(|record| &record.terms) {
            // the key's own bytes: `record.key` equals the key under which it was found
            if let Some(record) = record {
                self.by_term.remove(&(term.clone(), record.key.clone()));
            }
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("revision", &self.revision).field("records", &self.records.len()).finish_non_exhaustive()
    }
}
