//! What readers see: the current records in memory as a persistent map, so that a snapshot of everything costs O(1).

use std::any::Any;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

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

/// An immutable snapshot of all records at one revision. Cheap to clone.
#[derive(Clone)]
pub struct View {}

impl View {
    /// The revision this snapshot shows.
    pub fn revision(&self) -> Revision {
        unimplemented!()
    }

    /// The record under `key`.
    pub fn get(&self, _key: &[u8]) -> Option<Arc<Record>> {
        unimplemented!()
    }

    /// The records whose keys start with `prefix`, in key order, from the first key greater than `after` if given.
    pub fn range<'a>(&'a self, _prefix: &'a [u8], _after: Option<&[u8]>) -> Box<dyn Iterator<Item = &'a Arc<Record>> + 'a> {
        unimplemented!()
    }

    /// How many keys start with `prefix`.
    pub fn count(&self, _prefix: &[u8]) -> usize {
        unimplemented!()
    }

    /// The records written with this index term whose keys start with `prefix`, in key order.
    pub fn by_term<'a>(&'a self, _term: &'a [u8], _prefix: &'a [u8]) -> Box<dyn Iterator<Item = &'a Arc<Record>> + 'a> {
        unimplemented!()
    }
}
