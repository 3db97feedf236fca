//! As much of HTTP/2 as a client of unary and streaming gRPC calls needs: frames, flow control in both directions, pings and settings. Headers
//! of answers are not read: an answer without a message is a failure. `Spec:` RFC 9113.

use std::collections::{HashMap, VecDeque};
use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// The largest window there is.
const WINDOW_MAX: u32 = 0x7fff_ffff;
const WINDOW_DEFAULT: u32 = 65_535;
/// When so many bytes have arrived the peer is told that it may send as many again.
const CREDIT_BYTES: u32 = 1 << 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

/// What arrived on a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A whole gRPC message.
    Message(u32, Bytes),
    /// The peer has finished the stream.
    End(u32),
    /// The peer has given the stream up, with this error code.
    Reset(u32, u32),
}

/// One connection's state.
pub struct Connection {
    next_stream: u32,
    /// What may be sent on the whole connection.
    window: i64,
    /// What may be sent on a new stream.
    stream_window: i64,
    frame_bytes_max: usize,
    /// Calls that wait for the window, in the order of their streams: the frames, and how many bytes of them are data.
    waiting: VecDeque<(Vec<u8>, i64)>,
    /// Beginnings of messages, by stream.
    partial: HashMap<u32, BytesMut>,
    /// Data that arrived since the last credit.
    arrived: u32,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            next_stream: 1,
            window: i64::from(WINDOW_DEFAULT),
            stream_window: i64::from(WINDOW_DEFAULT),
            frame_bytes_max: 16_384,
            waiting: VecDeque::new(),
            partial: HashMap::new(),
            arrived: 0,
        }
    }
}

impl Connection {
    /// What a client sends first.
    pub fn hello(out: &mut Vec<u8>) {
        out.put_slice(PREFACE);
        let settings = [(HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_MAX)];
        frame_header(out, 6 * settings.len(), SETTINGS, 0, 0);
        for (name, value) in settings {
            out.put_u16(name);
            out.put_u32(value);
        }
        window_update(out, WINDOW_MAX - WINDOW_DEFAULT);
    }

    /// The block of headers of a gRPC call to `path`: literals without indexing, so that neither side keeps a table.
    pub fn header_block(authority: &str, path: &str) -> Vec<u8> {
        // indices of the static table: POST, https, then names with literal values
        let mut block = vec![0x80 | 3, 0x80 | 7];
        literal(&mut block, 4, path);
        literal(&mut block, 1, authority);
        // content-type is name 31: the index needs more than four bits
        block.extend_from_slice(&[0x0f, 31 - 15]);
        text(&mut block, "application/grpc");
        block.push(0);
        text(&mut block, "te");
        text(&mut block, "trailers");
        block
    }

    /// Begins a stream with one message; `ends` when it is the only one. Returns the stream's number.
    pub fn start(&mut self, header_block: &[u8], message: &impl prost::Message, ends: bool, out: &mut Vec<u8>) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let message_bytes = message.encoded_len();
        let data_bytes = i64::try_from(5 + message_bytes).unwrap_or(i64::MAX);
        assert!(data_bytes <= self.stream_window, "a message larger than the peer's window of a stream");
        let mut data = Vec::with_capacity(5 + message_bytes);
        data.push(0);
        data.put_u32(u32::try_from(message_bytes).expect("a message is small"));
        message.encode(&mut data).expect("there is room");
        let frames = |out: &mut Vec<u8>| {
            frame_header(out, header_block.len(), HEADERS, END_HEADERS, stream);
            out.put_slice(header_block);
            let mut parts = data.chunks(self.frame_bytes_max).peekable();
            while let Some(part) = parts.next() {
                let flags = if ends && parts.peek().is_none() { END_STREAM } else { 0 };
                frame_header(out, part.len(), DATA, flags, stream);
                out.put_slice(part);
            }
        };
        if self.waiting.is_empty() && data_bytes <= self.window {
            self.window -= data_bytes;
            frames(out);
        } else {
            let mut held = Vec::new();
            frames(&mut held);
            self.waiting.push_back((held, data_bytes));
        }
        stream
    }

    /// Takes complete frames from `input`; appends what must be answered to `out` and what arrived to `arrivals`.
    ///
    /// # Errors
    /// The peer closes the connection.
    pub fn take(&mut self, input: &mut BytesMut, out: &mut Vec<u8>, arrivals: &mut Vec<Arrival>) -> io::Result<()> {
        while let Some(header) = input.first_chunk::<FRAME_HEADER_BYTES>() {
            let [high, middle, low, kind, flags, stream @ ..] = *header;
            let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            let stream = u32::from_be_bytes(stream) & WINDOW_MAX;
            if input.len() < FRAME_HEADER_BYTES + length {
                input.reserve(FRAME_HEADER_BYTES + length - input.len());
                break;
            }
            input.advance(FRAME_HEADER_BYTES);
            let body = input.split_to(length);
            self.frame(kind, flags, stream, body, out, arrivals)?;
        }
        if self.arrived >= CREDIT_BYTES {
            window_update(out, self.arrived);
            self.arrived = 0;
        }
        Ok(())
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        mut body: BytesMut,
        out: &mut Vec<u8>,
        arrivals: &mut Vec<Arrival>,
    ) -> io::Result<()> {
        match kind {
            DATA => {
                self.arrived += u32::try_from(body.len()).unwrap_or(u32::MAX);
                if flags & PADDED != 0 {
                    let padding = usize::from(body.get_u8());
                    body.truncate(body.len().saturating_sub(padding));
                }
                self.data(stream, body, arrivals);
            }
            HEADERS => {}
            RST_STREAM => {
                self.partial.remove(&stream);
                arrivals.push(Arrival::Reset(stream, body.try_get_u32().unwrap_or(0)));
                return Ok(());
            }
            SETTINGS if flags & ACK == 0 => {
                self.settings(body);
                frame_header(out, 0, SETTINGS, ACK, 0);
            }
            PING if flags & ACK == 0 => {
                frame_header(out, body.len(), PING, ACK, 0);
                out.put_slice(&body);
            }
            GOAWAY => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the peer sends everybody away")),
            WINDOW_UPDATE if stream == 0 => {
                self.window += i64::from(body.try_get_u32().unwrap_or(0) & WINDOW_MAX);
                while let Some((frames, data_bytes)) = self.waiting.pop_front_if(|(_, data_bytes)| *data_bytes <= self.window) {
                    self.window -= data_bytes;
                    out.put_slice(&frames);
                }
            }
            // priorities, credit for single streams (one message fits at the start), and whatever else may be ignored
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.partial.remove(&stream);
            arrivals.push(Arrival::End(stream));
        }
        Ok(())
    }

    fn settings(&mut self, mut body: BytesMut) {
        while let (Ok(name), Ok(value)) = (body.try_get_u16(), body.try_get_u32()) {
            match name {
                INITIAL_WINDOW_SIZE => self.stream_window = i64::from(value),
                MAX_FRAME_SIZE => self.frame_bytes_max = usize::try_from(value).unwrap_or(self.frame_bytes_max),
                _ => {}
            }
        }
    }

    fn data(&mut self, stream: u32, body: BytesMut, arrivals: &mut Vec<Arrival>) {
        let mut bytes = match self.partial.remove(&stream) {
            Some(mut earlier) => {
                earlier.unsplit(body);
                earlier
            }
            None => body,
        };
        while let Some(length) = bytes.get(1..5).and_then(|length| length.first_chunk::<4>()) {
            let end = 5 + usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX - 5);
            if bytes.len() < end {
                break;
            }
            let mut message = bytes.split_to(end);
            message.advance(5);
            arrivals.push(Arrival::Message(stream, message.freeze()));
        }
        if !bytes.is_empty() {
            self.partial.insert(stream, bytes);
        }
    }
}

fn frame_header(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    let length = u32::try_from(length).expect("a frame is below 16 MiB").to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.put_u32(stream);
}

fn window_update(out: &mut Vec<u8>, bytes: u32) {
    frame_header(out, 4, WINDOW_UPDATE, 0, 0);
    out.put_u32(bytes);
}

/// A header whose name has an index below 15 in the static table.
fn literal(block: &mut Vec<u8>, name: u8, value: &str) {
    block.push(name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, value: &str) {
    block.push(u8::try_from(value.len()).ok().filter(|length| *length < 127).expect("a header's text is short"));
    block.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use trierarch_etcd_facade::messages::kv::PutRequest;

    use super::*;

    fn put(value_bytes: usize) -> PutRequest {
        PutRequest { key: Bytes::from_static(b"k"), value: vec![7; value_bytes].into(), ..PutRequest::default() }
    }

    fn framed(kind: u8, flags: u8, stream: u32, body: &[u8]) -> BytesMut {
        let mut out = Vec::new();
        frame_header(&mut out, body.len(), kind, flags, stream);
        out.extend_from_slice(body);
        BytesMut::from(&out[..])
    }

    #[test]
    fn a_message_larger_than_a_frame_is_cut_and_a_cut_message_is_joined() {
        let (mut sender, mut out) = (Connection::default(), Vec::new());
        let stream = sender.start(&Connection::header_block("a", "/p"), &put(40_000), true, &mut out);
        let (mut receiver, mut arrivals) = (Connection::default(), Vec::new());
        let mut input = BytesMut::new();
        for byte in out {
            input.put_u8(byte);
            receiver.take(&mut input, &mut Vec::new(), &mut arrivals).unwrap();
        }
        assert_eq!(arrivals.len(), 2);
        assert!(matches!(&arrivals[0], Arrival::Message(number, message)
            if *number == stream && prost::Message::decode(message.clone()) == Ok(put(40_000))));
        assert_eq!(arrivals[1], Arrival::End(stream));
    }

    #[test]
    fn calls_beyond_the_window_wait_for_credit_in_order() {
        let (mut connection, mut out) = (Connection::default(), Vec::new());
        for _ in 0..3 {
            connection.start(&[], &put(30_000), true, &mut out);
        }
        let sent = out.len();
        assert!((60_000..62_000).contains(&sent), "two of three fit: {sent}");
        out.clear();
        connection.take(&mut framed(WINDOW_UPDATE, 0, 0, &20_000_u32.to_be_bytes()), &mut out, &mut Vec::new()).unwrap();
        assert!(out.is_empty(), "not enough yet");
        connection.take(&mut framed(WINDOW_UPDATE, 0, 0, &20_000_u32.to_be_bytes()), &mut out, &mut Vec::new()).unwrap();
        assert!(out.len() > 30_000);
    }

    #[test]
    fn pings_and_settings_are_answered_and_a_farewell_ends_it() {
        let (mut connection, mut out) = (Connection::default(), Vec::new());
        connection.take(&mut framed(PING, 0, 0, b"12345678"), &mut out, &mut Vec::new()).unwrap();
        assert_eq!(out, framed(PING, ACK, 0, b"12345678"));
        out.clear();
        connection.take(&mut framed(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x80, 0]), &mut out, &mut Vec::new()).unwrap();
        assert_eq!(out, framed(SETTINGS, ACK, 0, b""));
        assert_eq!(connection.frame_bytes_max, 0x8000);
        assert!(connection.take(&mut framed(GOAWAY, 0, 0, &[0; 8]), &mut out, &mut Vec::new()).is_err());
    }
}
