//! The layout of keys on disk: numbers are big-endian, so that RocksDB's bytewise order is their order.

use crate::command::{NodeId, Revision};

/// `LogColumn::Meta`: the vote.
pub(crate) const LOG_VOTE: &[u8] = b"vote";
/// `LogColumn::Meta` in format 1: the last committed log id known here.
pub(crate) const LOG_COMMITTED: &[u8] = b"committed";
/// `LogColumn::Meta` in format 1: the last purged log id.
pub(crate) const LOG_PURGED: &[u8] = b"purged";
/// `LogColumn::Meta`: whose log this is.
pub(crate) const LOG_OWNER: &[u8] = b"owner";
/// `LogColumn::Meta`: the run that is under way, absent after an orderly stop.
pub(crate) const LOG_RUN: &[u8] = b"run";
/// `LogColumn::Meta`: the number that names this log.
pub(crate) const LOG_IDENTITY: &[u8] = b"identity";
/// `LogColumn::Meta`: the entries are in the journal.
pub(crate) const LOG_JOURNAL: &[u8] = b"journal";
/// `LogColumn::Meta`: what a founding adds to the journal, until it has.
pub(crate) const LOG_FOUNDING: &[u8] = b"founding";
/// `StateColumn::Meta`: the ids of members that were removed.
pub(crate) const STATE_REMOVED: &[u8] = b"removed members";
/// `StateColumn::Meta`: the revisions that were left out.
pub(crate) const STATE_GAPS: &[u8] = b"gaps";
/// `StateColumn::Meta`: the position of everything else.
pub(crate) const STATE_META: &[u8] = b"state";

/// `LogColumn::Meta`: the number that names a peer's log.
pub(crate) fn log_peer(peer: NodeId) -> Vec<u8> {
    [b"peer/", peer.to_be_bytes().as_slice()].concat()
}

/// A log index.
pub(crate) const fn index(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The log index in a key made by [`index`].
pub(crate) fn parse_index(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}

/// A change in the history: revision, then the changed key, so that a transaction's changes are neighbours in key order.
pub(crate) fn history(revision: Revision, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + key.len());
    bytes.extend_from_slice(&revision.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// Revision and key in a key made by [`history`].
pub(crate) fn parse_history(bytes: &[u8]) -> Option<(Revision, &[u8])> {
    let (revision, key) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*revision), key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn index_round_trips_and_keeps_order(a: u64, b: u64) {
            prop_assert_eq!(parse_index(&index(a)), Some(a));
            prop_assert_eq!(index(a).cmp(&index(b)), a.cmp(&b));
        }

        #[test]
        fn history_round_trips_and_keeps_order(a: u64, b: u64, x: Vec<u8>, y: Vec<u8>) {
            let key = history(a, &x);
            prop_assert_eq!(parse_history(&key), Some((a, x.as_slice())));
            prop_assert_eq!(history(a, &x).cmp(&history(b, &y)), (a, x).cmp(&(b, y)));
        }
    }
}
