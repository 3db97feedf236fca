//! Where etcd's keys live in the store, and what a range of them covers.
//!
//! A client's key is found below `k/`, a lease's record below `m/leases/`; `m/` holds what the facade notes for itself.

use std::ops::Bound;

use bytes::{BufMut as _, Bytes, BytesMut};

/// Below this are the clients' keys.
pub const CLIENT: &[u8] = b"k/";
/// Below this are the leases. Of two segments, so that the store wakes their watchers for nothing else.
pub const LEASES: &[u8] = b"m/leases/";
/// There when the group is complete: the store's first revision, as etcd's.
pub const FORMED: &[u8] = b"m/formed";
/// Holds the revision up to which a client asked to forget.
pub const COMPACTED: &[u8] = b"m/compacted";

/// Where a client's key is stored.
pub fn stored(key: &[u8]) -> Bytes {
    [CLIENT, key].concat().into()
}

/// The client's key of a stored one.
pub fn client(stored: &Bytes) -> Bytes {
    if stored.starts_with(CLIENT) { stored.slice(CLIENT.len()..) } else { Bytes::new() }
}

/// Where a lease's record is stored.
pub fn lease(id: i64) -> Bytes {
    let mut key = BytesMut::from(LEASES);
    key.put_i64(id);
    key.freeze()
}

/// The lease of a stored record's key.
pub fn lease_id(stored: &[u8]) -> Option<i64> {
    let id = stored.strip_prefix(LEASES)?;
    Some(i64::from_be_bytes(id.try_into().ok()?))
}

/// The keys that a request covers. `Spec:` etcd API v3, `RangeRequest.range_end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Only this one.
    One(Bytes),
    /// From this one (included) to that one (excluded), or to the end.
    Many { from: Bytes, to: Option<Bytes> },
}

impl Span {
    /// What `key` and `range_end` mean together.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key.clone()),
            [0] => Self::Many { from: key.clone(), to: None },
            _ => Self::Many { from: key.clone(), to: Some(range_end.clone()) },
        }
    }

    /// Whether a client's key is covered.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Many { from, to } => from.as_ref() <= key && to.as_ref().is_none_or(|to| key < to.as_ref()),
        }
    }

    /// Whether a client's key and all after it are beyond the span.
    pub fn ends_before(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key > one.as_ref(),
            Self::Many { to, .. } => to.as_ref().is_some_and(|to| key >= to.as_ref()),
        }
    }

    /// The first key that may be covered.
    pub fn from(&self) -> &Bytes {
        match self {
            Self::One(key) | Self::Many { from: key, .. } => key,
        }
    }

    /// What all covered keys begin with in the store.
    pub fn stored_prefix(&self) -> Vec<u8> {
        let common = match self {
            Self::One(key) => key.as_ref(),
            Self::Many { to: None, .. } => &[],
            Self::Many { from, to: Some(to) } => {
                let length = from.iter().zip(to.iter()).take_while(|(left, right)| left == right).count();
                from.get(..length).unwrap_or_default()
            }
        };
        [CLIENT, common].concat()
    }

    /// The span as bounds of a map of client keys.
    pub fn bounds(&self) -> (Bound<Bytes>, Bound<Bytes>) {
        match self {
            Self::One(key) => (Bound::Included(key.clone()), Bound::Included(key.clone())),
            Self::Many { from, to } => (Bound::Included(from.clone()), to.clone().map_or(Bound::Unbounded, Bound::Excluded)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(key: &'static str, end: &'static [u8]) -> Span {
        Span::new(&Bytes::from_static(key.as_bytes()), &Bytes::from_static(end))
    }

    #[test]
    fn spans_cover_what_etcd_says() {
        for (span, inside, outside) in [
            (span("a", b""), vec!["a"], vec!["", "aa", "b"]),
            (span("a/", b"a0"), vec!["a/", "a/x", "a/\u{7f}"], vec!["a", "a0", "b"]),
            (span("b", b"\0"), vec!["b", "c", "zz"], vec!["a"]),
        ] {
            assert!(inside.iter().all(|key| span.covers(key.as_bytes())), "{span:?}");
            assert!(!outside.iter().any(|key| span.covers(key.as_bytes())), "{span:?}");
            let prefix = span.stored_prefix();
            assert!(inside.iter().all(|key| stored(key.as_bytes()).starts_with(&prefix)), "{span:?}");
        }
        assert_eq!(span("/registry/pods/", b"/registry/pods0").stored_prefix(), b"k//registry/pods");
    }

    #[test]
    fn leases_and_keys_do_not_meet() {
        assert_eq!(lease_id(&lease(-7)), Some(-7));
        assert_eq!(lease_id(&stored(b"m/leases/12345678")), None);
        assert_eq!(client(&stored(b"x")), Bytes::from_static(b"x"));
    }
}
