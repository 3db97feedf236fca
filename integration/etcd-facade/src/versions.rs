//! A stored record as etcd shows it. What etcd keeps beside a value fits into what the store keeps for its writer: `split` is the version,
//! the only index term is the lease. So values are stored as they come.

use bytes::Bytes;
use trierarch_raft::{Op, Record, View};

use crate::keys;
use crate::messages::kv::KeyValue;

/// The index term of keys that end with a lease.
pub fn lease_term(lease: i64) -> Bytes {
    Bytes::copy_from_slice(&lease.to_be_bytes())
}

/// As etcd shows it.
pub fn key_value(record: &Record) -> KeyValue {
    let lease = record.terms.first().and_then(|term| term.as_ref().try_into().ok()).map_or(0, i64::from_be_bytes);
    KeyValue {
        key: keys::client(&record.key),
        create_revision: signed(record.create_revision),
        mod_revision: signed(record.revision),
        version: i64::from(record.split),
        value: record.value.clone(),
        lease,
    }
}

/// What makes the store hold it.
pub fn put(version: &KeyValue) -> Op {
    Op::Put {
        key: keys::stored(&version.key),
        value: version.value.clone(),
        split: u32::try_from(version.version).unwrap_or(u32::MAX),
        terms: if version.lease == 0 { Vec::new() } else { vec![lease_term(version.lease)] },
    }
}

/// The current keys that end with a lease.
pub fn attached(view: &View, lease: i64) -> Vec<KeyValue> {
    view.by_term(&lease_term(lease), keys::CLIENT).map(|record| key_value(record)).collect()
}

/// A revision as the protocol writes it.
pub fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A revision as the store counts it.
pub fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}
