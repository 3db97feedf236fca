//! Decoding without copying large values: a value that is most of what was received is a share of it.
//!
//! A share keeps all of the bytes alive, so small values, and those that arrived with much else, are copied as serde does.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use serde::Deserializer;
use serde::de::{Error, Visitor};

/// Below this a copy costs less than what a share may keep alive.
const SHARED_BYTES_MIN: usize = 4096;

thread_local! {
    /// The bytes that are being decoded on this thread.
    static SOURCE: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Has `decode`, which decodes `source`, share large values with it.
pub(crate) fn out_of<T>(source: &Bytes, decode: impl FnOnce() -> T) -> T {
    if source.len() < SHARED_BYTES_MIN {
        return decode();
    }
    let outer = SOURCE.replace(Some(source.clone()));
    let decoded = decode();
    SOURCE.replace(outer);
    decoded
}

/// For `#[serde(deserialize_with)]` of a field that may be large.
///
/// # Errors
/// Of the deserializer.
pub(crate) fn large_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    deserializer.deserialize_bytes(LargeValue)
}

struct LargeValue;

impl<'de> Visitor<'de> for LargeValue {
    type Value = Bytes;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bytes")
    }

    fn visit_borrowed_bytes<E: Error>(self, value: &'de [u8]) -> Result<Bytes, E> {
        let share = SOURCE.with_borrow(|source| source.as_ref().and_then(|source| share(source, value)));
        Ok(share.unwrap_or_else(|| Bytes::copy_from_slice(value)))
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(value))
    }

    fn visit_byte_buf<E: Error>(self, value: Vec<u8>) -> Result<Bytes, E> {
        Ok(value.into())
    }
}

/// The share of `source` that `value` is, if it is one and large enough.
fn share(source: &Bytes, value: &[u8]) -> Option<Bytes> {
    let is_within = source.as_ptr_range().start <= value.as_ptr() && value.as_ptr_range().end <= source.as_ptr_range().end;
    (is_within && value.len() >= SHARED_BYTES_MIN && value.len() >= source.len() / 2).then(|| source.slice_ref(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::command::{Cause, Command, Durability, Op, Txn, TxnId};
    use crate::records;

    use super::*;

    fn put(value: Bytes) -> Op {
        Op::Put { key: Bytes::from_static(b"key"), value, split: 0, terms: Vec::new() }
    }

    fn command(values: Vec<Vec<u8>>) -> Command {
        let ops = values.into_iter().map(|value| put(value.into())).collect();
        let txn = Txn { id: TxnId(7), guards: Vec::new(), ops, cause: Cause::default() };
        Command::new(txn, Durability::Disk, 1, 2)
    }

    /// Which values of the decoded command are shares of what it was decoded from.
    fn shared(command: &Command) -> Vec<bool> {
        let encoded = Bytes::from(records::encode(command));
        let decoded: Command = records::decode_shared(&encoded).unwrap();
        assert_eq!(&decoded, command);
        let Command::Txn { txn, .. } = decoded else { panic!("{decoded:?}") };
        let is_share = |op: &Op| matches!(op, Op::Put { value, .. } if encoded.as_ptr_range().contains(&value.as_ptr()));
        txn.ops.iter().map(is_share).collect()
    }

    #[test]
    fn only_what_is_large_and_most_of_it_is_shared() {
        assert_eq!(shared(&command(vec![vec![1; 16 << 10]])), [true]);
        assert_eq!(shared(&command(vec![vec![1; 256]])), [false]);
        assert_eq!(shared(&command(vec![vec![1; 16 << 10], vec![2; 8 << 10]])), [true, false]);
        assert_eq!(shared(&command(vec![vec![1; 8 << 10], vec![2; 8 << 10], vec![3; 8 << 10]])), [false; 3]);
    }

    #[test]
    fn what_is_decoded_afterwards_is_no_share() {
        let encoded = Bytes::from(records::encode(&command(vec![vec![1; 16 << 10]])));
        let _decoded: Command = records::decode_shared(&encoded).unwrap();
        let Command::Txn { txn, .. } = records::decode(&encoded).unwrap() else { panic!() };
        assert!(matches!(&txn.ops[0], Op::Put { value, .. } if !encoded.as_ptr_range().contains(&value.as_ptr())));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_as_ever(bytes: Vec<u8>) {
            let plain = records::decode::<Command>(&bytes).map_err(|error| error.to_string());
            prop_assert_eq!(records::decode_shared::<Command>(&bytes.into()).map_err(|error| error.to_string()), plain);
        }
    }
}
