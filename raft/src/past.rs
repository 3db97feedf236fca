//! Reads of the past: the current view with the changes since then undone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::command::{Key, Revision};
use crate::state_machine::Shared;
use crate::store::StoreError;
use crate::view::Record;

/// The records below `prefix` as they were at `revision`.
///
/// # Errors
/// [`StoreError::Compacted`], [`StoreError::TooLarge`], [`StoreError::ReadOnly`] for a disk that cannot be read, [`StoreError::Closed`].
pub(crate) fn range_at(shared: &Shared, prefix: &[u8], revision: Revision) -> Result<Vec<Arc<Record>>, StoreError> {
    let view = shared.view();
    if revision > view.revision() {
        return Err(StoreError::TooLarge { asked: revision, current: view.revision() });
    }
    let db = shared.db().map_err(|_closed| StoreError::Closed)?;
    let undone = db.versions_at(prefix, revision, view.revision()).map_err(|error| StoreError::ReadOnly(error.to_string()))?;
    // after reading: rows may have been compacted away meanwhile
    if let Some(oldest) = shared.oldest_beyond(revision) {
        return Err(StoreError::Compacted { asked: revision, oldest });
    }
    let mut records: BTreeMap<Key, Arc<Record>> = view.range(prefix, None).map(|record| (record.key.clone(), Arc::clone(record))).collect();
    for (key, version) in undone {
        match version {
            Some(record) => records.insert(key, record),
            None => records.remove(&key),
        };
    }
    Ok(records.into_values().collect())
}
