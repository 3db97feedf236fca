//! Netlink attributes: length, type, value, padded to four bytes. For the netfilter subsystems, for which no library speaks.

/// Writes attributes one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// Set on the type of an attribute that holds attributes.
const NESTED: u16 = 0x8000;

impl Writer {
    /// An attribute of plain bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("callers split what exceeds an attribute");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A text with its closing zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// A number in network order.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A number in network order.
    pub(crate) fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds what `write` writes.
    pub(crate) fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Writer)) {
        let mut inner = Writer::default();
        write(&mut inner);
        self.nested_bytes(kind, &inner.bytes);
    }

    /// An attribute that holds attributes written before.
    pub(crate) fn nested_bytes(&mut self, kind: u16, attributes: &[u8]) {
        self.bytes(kind | NESTED, attributes);
    }

    /// What was written.
    pub(crate) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// The attributes in `bytes`: their types, without flags, and values. Stops at the first that does not fit.
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & !(NESTED | 0x4000);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of that type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    read(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = Writer::default();
        writer.text(1, "abcd");
        writer.nested(2, |w| w.be32(7, 0x0102_0304));
        let bytes = writer.finish();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 1), Some(b"abcd\0".as_slice()));
        assert_eq!(find(find(&bytes, 2).unwrap(), 7), Some([1, 2, 3, 4].as_slice()));
        assert_eq!(find(&bytes, 3), None);
        assert_eq!(read(&[9, 0, 1]).count(), 0, "half an attribute is none");
    }
}
