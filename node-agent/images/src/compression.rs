//! gzip, zstd or nothing, told by the first bytes: media types lie.

use std::io::{self, BufRead, BufReader, Read, Write};

/// How a layer's blob is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// A plain archive.
    None,
    /// gzip.
    #[default]
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// What a stream that begins so is packed with.
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as tools that index zstd layers put first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The media type of an OCI layer packed so.
    pub fn oci_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// The uncompressed content of a stream.
///
/// # Errors
/// The first bytes cannot be read, or the decoder cannot start.
pub(crate) fn decompress<'a>(stream: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut stream = BufReader::with_capacity(1 << 17, stream);
    Ok(match Compression::sniff(stream.fill_buf()?) {
        Compression::Gzip => Box::new(BufReader::with_capacity(1 << 17, flate2::bufread::MultiGzDecoder::new(stream))),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(stream)?),
        Compression::None => Box::new(stream),
    })
}

/// A writer that packs what goes through it; `finish` it to get the inner one back.
#[expect(clippy::large_enum_variant, reason = "a layer has one, and it is not moved")]
pub(crate) enum Compressor<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(inner: W, compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(inner),
            // No name and no time in the header: equal content gives equal bytes.
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(inner, flate2::Compression::fast())),
            Compression::Zstd => Self::Zstd(Box::new(zstd::stream::write::Encoder::new(inner, 3)?)),
        })
    }

    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(mut inner) => {
                inner.flush()?;
                Ok(inner)
            }
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.write(buffer),
            Self::Gzip(encoder) => encoder.write(buffer),
            Self::Zstd(encoder) => encoder.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(inner) => inner.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packing_is_recognised_and_undone() {
        let text = b"the quick brown fox ".repeat(1000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut writer = Compressor::new(Vec::new(), compression).unwrap();
            writer.write_all(&text).unwrap();
            let packed = writer.finish().unwrap();
            assert_eq!(Compression::sniff(&packed), compression);
            let mut plain = Vec::new();
            decompress(&packed[..]).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(plain, text, "{compression:?}");
        }
        let mut twice = Vec::new();
        for part in [&b"one "[..], b"two"] {
            let mut writer = Compressor::new(Vec::new(), Compression::Gzip).unwrap();
            writer.write_all(part).unwrap();
            twice.extend(writer.finish().unwrap());
        }
        let mut plain = String::new();
        decompress(&twice[..]).unwrap().read_to_string(&mut plain).unwrap();
        assert_eq!(plain, "one two", "several gzip members are one stream");
    }
}
