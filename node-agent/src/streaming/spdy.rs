//! SPDY/3.1 frames, as kubectl up to 1.30 and the port-forward tunnel speak them. Pure: bytes in, frames out.
//!
//! `Spec:` SPDY Protocol Draft 3.1, sections 2.2 and 2.6. Flow control windows are read and not enforced, as the Go library does.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The text both sides prime their header compression with (section 2.6.10.1).
const DICTIONARY: &[u8] = include_bytes!("spdy_dictionary.bin");
/// Largest header block; ours and the clients' are a few hundred bytes.
const HEADERS_MAX: usize = 64 * 1024;
/// Largest frame we accept.
const FRAME_MAX: usize = 16 * 1024 * 1024 - 1;
/// The sender is done with the stream.
pub const FLAG_FIN: u8 = 1;

/// Names (lower case) and values.
pub type Headers = Vec<(String, String)>;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd from the client.
        id: u32,
        /// No data will come.
        fin: bool,
        /// What the stream is.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// No data will come.
        fin: bool,
        /// Usually none.
        headers: Headers,
    },
    /// Ends a stream at once.
    RstStream {
        /// The stream.
        id: u32,
        /// Why; 5 is "cancel".
        status: u32,
    },
    /// Ignored.
    Settings,
    /// To be sent back.
    Ping {
        /// Odd from the client.
        id: u32,
    },
    /// No new streams.
    GoAway {
        /// Last accepted stream.
        last: u32,
    },
    /// More headers.
    Headers {
        /// The stream.
        id: u32,
        /// They are the last.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// Ignored.
    WindowUpdate {
        /// The stream.
        id: u32,
        /// How much more may be sent.
        delta: u32,
    },
    /// Bytes of a stream.
    Data {
        /// The stream.
        id: u32,
        /// The last ones.
        fin: bool,
        /// The bytes.
        data: Vec<u8>,
    },
}

/// Turns bytes into frames.
pub struct Decoder {
    buffer: Vec<u8>,
    inflate: Decompress,
}

/// Turns frames into bytes.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: Vec::new(), inflate: Decompress::new(true) }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        // The first call always succeeds: the stream is fresh.
        let _ = deflate.set_dictionary(DICTIONARY);
        Self { deflate }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let part: [u8; 4] = bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(|| broken("a frame is too short"))?;
    Ok(u32::from_be_bytes(part))
}

const ID: u32 = 0x7fff_ffff;

impl Decoder {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete frame; `None` until more bytes are there.
    ///
    /// # Errors
    /// The peer does not speak SPDY/3.1; the connection is useless then.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if self.buffer.len() < 8 {
                return Ok(None);
            }
            let (first, second) = (u32_at(&self.buffer, 0)?, u32_at(&self.buffer, 4)?);
            let flags = self.buffer[4];
            let length = usize::try_from(second & 0x00ff_ffff).map_err(|_cause| broken("a frame is too long"))?;
            if length > FRAME_MAX || self.buffer.len() < 8 + length {
                return Ok(None);
            }
            let payload: Vec<u8> = self.buffer[8..8 + length].to_vec();
            self.buffer.drain(..8 + length);
            let fin = flags & FLAG_FIN != 0;
            if first & 0x8000_0000 == 0 {
                return Ok(Some(Frame::Data { id: first & ID, fin, data: payload }));
            }
            if (first >> 16) & 0x7fff != 3 {
                return Err(broken("not SPDY version 3"));
            }
            let id = || u32_at(&payload, 0).map(|id| id & ID);
            let frame = match first & 0xffff {
                1 => Frame::SynStream {
                    id: id()?,
                    fin,
                    headers: self.headers(payload.get(10..).ok_or_else(|| broken("SYN_STREAM is too short"))?)?,
                },
                2 => Frame::SynReply { id: id()?, fin, headers: self.headers(payload.get(4..).unwrap_or_default())? },
                3 => Frame::RstStream { id: id()?, status: u32_at(&payload, 4)? },
                4 => Frame::Settings,
                6 => Frame::Ping { id: u32_at(&payload, 0)? },
                7 => Frame::GoAway { last: id()? },
                8 => Frame::Headers { id: id()?, fin, headers: self.headers(payload.get(4..).unwrap_or_default())? },
                9 => Frame::WindowUpdate { id: id()?, delta: u32_at(&payload, 4)? & ID },
                // Unknown control frames are skipped, as the specification asks.
                _ => continue,
            };
            return Ok(Some(frame));
        }
    }

    fn headers(&mut self, block: &[u8]) -> io::Result<Headers> {
        let plain = self.decompress(block)?;
        let text = |at: &mut usize| -> io::Result<String> {
            let length = usize::try_from(u32_at(&plain, *at)?).map_err(|_cause| broken("a header is too long"))?;
            let bytes = plain.get(*at + 4..(*at + 4).saturating_add(length)).ok_or_else(|| broken("a header is cut off"))?;
            *at += 4 + length;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let count = u32_at(&plain, 0)?;
        let mut at = 4;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = text(&mut at)?;
            headers.push((name, text(&mut at)?));
        }
        Ok(headers)
    }

    fn decompress(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![0; HEADERS_MAX];
        let (start_in, start_out) = (self.inflate.total_in(), self.inflate.total_out());
        let moved = |now: u64, then: u64| usize::try_from(now - then).unwrap_or(usize::MAX);
        loop {
            let (read, written) = (moved(self.inflate.total_in(), start_in), moved(self.inflate.total_out(), start_out));
            if read >= block.len() || written >= out.len() {
                break;
            }
            match self.inflate.decompress(&block[read..], &mut out[written..], FlushDecompress::Sync) {
                Ok(Status::Ok | Status::StreamEnd) => {
                    let again = (moved(self.inflate.total_in(), start_in), moved(self.inflate.total_out(), start_out));
                    if again == (read, written) {
                        break;
                    }
                }
                Ok(Status::BufError) => break,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(DICTIONARY).map_err(|_cause| broken("headers use another dictionary"))?;
                }
                Err(_) => return Err(broken("headers are not compressed as SPDY/3 does")),
            }
        }
        let written = moved(self.inflate.total_out(), start_out);
        out.truncate(written);
        Ok(out)
    }
}

impl Encoder {
    /// The bytes of a frame.
    ///
    /// # Errors
    /// More data than a frame can hold.
    pub fn encode(&mut self, frame: &Frame) -> io::Result<Vec<u8>> {
        let fin = |fin: &bool| if *fin { FLAG_FIN } else { 0 };
        match frame {
            Frame::Data { id, fin: last, data } => assemble(id & ID, fin(last), data),
            Frame::SynStream { id, fin: last, headers } => {
                let mut payload = (id & ID).to_be_bytes().to_vec();
                payload.extend([0; 6]);
                payload.extend(self.headers(headers)?);
                control(1, fin(last), &payload)
            }
            Frame::SynReply { id, fin: last, headers } => {
                let mut payload = (id & ID).to_be_bytes().to_vec();
                payload.extend(self.headers(headers)?);
                control(2, fin(last), &payload)
            }
            Frame::RstStream { id, status } => control(3, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat()),
            Frame::Settings => control(4, 0, &[0; 4]),
            Frame::Ping { id } => control(6, 0, &id.to_be_bytes()),
            Frame::GoAway { last } => control(7, 0, &[last.to_be_bytes(), [0; 4]].concat()),
            Frame::Headers { id, fin: last, headers } => {
                let mut payload = (id & ID).to_be_bytes().to_vec();
                payload.extend(self.headers(headers)?);
                control(8, fin(last), &payload)
            }
            Frame::WindowUpdate { id, delta } => control(9, 0, &[id.to_be_bytes(), delta.to_be_bytes()].concat()),
        }
    }

    fn headers(&mut self, headers: &Headers) -> io::Result<Vec<u8>> {
        let length = |text: &str| u32::try_from(text.len()).map(u32::to_be_bytes).map_err(|_cause| broken("a header is too long"));
        let count = u32::try_from(headers.len()).map_err(|_cause| broken("too many headers"))?;
        let mut plain = count.to_be_bytes().to_vec();
        for (name, value) in headers {
            for text in [name, value] {
                plain.extend(length(text)?);
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 128);
        let start = self.deflate.total_in();
        loop {
            let read = usize::try_from(self.deflate.total_in() - start).unwrap_or(usize::MAX);
            out.reserve(256);
            let before = out.len();
            self.deflate
                .compress_vec(&plain[read..], &mut out, FlushCompress::Sync)
                .map_err(|_cause| broken("headers can't be compressed"))?;
            let done = usize::try_from(self.deflate.total_in() - start).unwrap_or(0) == plain.len();
            if done && (out.len() < out.capacity() || out.len() == before) {
                return Ok(out);
            }
        }
    }
}

fn assemble(first: u32, flags: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok().filter(|l| *l < 1 << 24).ok_or_else(|| broken("a frame is too long"))?;
    let mut out = first.to_be_bytes().to_vec();
    out.extend((length | u32::from(flags) << 24).to_be_bytes());
    out.extend_from_slice(payload);
    Ok(out)
}

fn control(kind: u32, flags: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    assemble(0x8003_0000 | kind, flags, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn frames_survive_the_wire_however_it_cuts_them() {
        let frames = [
            Frame::SynStream { id: 1, fin: false, headers: headers(&[("streamtype", "stdin"), ("port", "80")]) },
            Frame::SynReply { id: 1, fin: false, headers: vec![] },
            Frame::SynStream { id: 3, fin: true, headers: headers(&[("streamtype", "error"), ("requestid", "7")]) },
            Frame::Data { id: 1, fin: false, data: b"hello".to_vec() },
            Frame::Data { id: 1, fin: true, data: vec![] },
            Frame::Ping { id: 9 },
            Frame::RstStream { id: 3, status: 5 },
            Frame::WindowUpdate { id: 1, delta: 65_536 },
            Frame::Settings,
            Frame::Headers { id: 1, fin: false, headers: headers(&[("a", &"b".repeat(3000))]) },
            Frame::GoAway { last: 3 },
        ];
        let mut encoder = Encoder::default();
        let wire: Vec<u8> = frames.iter().flat_map(|f| encoder.encode(f).unwrap()).collect();
        for size in [1, 7, 64, wire.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for chunk in wire.chunks(size) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    found.push(frame);
                }
            }
            assert_eq!(found, frames, "chunks of {size}");
        }
    }

    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert!(DICTIONARY.starts_with(b"\x00\x00\x00\x07options") && DICTIONARY.ends_with(b",enq=0."));
        // Its Adler-32 is what a compressed block names after the two header bytes.
        let mut encoder = Encoder::default();
        let frame = encoder.encode(&Frame::SynReply { id: 1, fin: false, headers: vec![] }).unwrap();
        assert_eq!(frame[12..18], [0x78, 0xf9, 0xe3, 0xc6, 0xa7, 0xc2]);
    }

    #[test]
    fn another_version_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        assert!(decoder.next_frame().is_err());
    }
}
