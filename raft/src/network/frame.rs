//! Frames: a length, a request id, and a record of [`crate::records`]. Whatever length a peer claims, memory grows only with what it sends.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::records;

/// The longest frame; longer ones are refused.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// The longest frame of a peer that has not introduced itself.
pub(crate) const HELLO_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 12;
/// So much of a frame has room before it arrives.
const FIRST_ROOM_BYTES: usize = 8 << 10;

/// The bytes of a frame.
pub(crate) fn encode<T: Serialize>(id: u64, message: &T) -> Vec<u8> {
    let mut frame = Vec::new();
    let size = usize::try_from(records::size_bytes(message)).unwrap_or(0);
    frame.reserve_exact(HEADER_BYTES + size);
    let length = u32::try_from(size).expect("messages are built far below 4 GiB");
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&id.to_be_bytes());
    records::encode_into(&mut frame, message);
    frame
}

/// The next frame's request id and message; `None` when the peer has closed the connection between frames.
///
/// # Errors
/// `InvalidData` for frames that are too long or malformed, `UnexpectedEof` inside a frame.
pub(crate) async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Option<(u64, T)>> {
    match read_record(stream, bytes_max).await? {
        Some((id, record)) => Ok(Some((id, records::decode_shared(&record.into())?))),
        None => Ok(None),
    }
}

/// The greeting in the next frame, whatever version its sender has; `None` when there is none.
///
/// # Errors
/// As [`read`].
pub(crate) async fn read_greeting<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    match read_record(stream, HELLO_BYTES_MAX).await? {
        Some((_, record)) => records::decode_greeting(&record).map(Some),
        None => Ok(None),
    }
}

async fn read_record(stream: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<Option<(u64, Vec<u8>)>> {
    let mut header = [0_u8; HEADER_BYTES];
    match stream.read_exact(&mut header[..1]).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    stream.read_exact(&mut header[1..]).await?;
    let (length, id) = header.split_at(4);
    let length = u32::from_be_bytes(length.try_into().map_err(io::Error::other)?);
    let id = u64::from_be_bytes(id.try_into().map_err(io::Error::other)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes, the limit is {bytes_max}")));
    }
    let (mut body, mut rest) = (Vec::new(), stream.take(length as u64));
    while body.len() < length {
        if body.len() == body.capacity() {
            body.reserve_exact(next_room(body.len(), length));
        }
        if rest.read_buf(&mut body).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a frame"));
        }
    }
    Ok(Some((id, body)))
}

/// For how much of a body of `length` bytes room is made when `arrived` of it are there: it is moved seldom, and takes little more memory than what
/// was sent.
fn next_room(arrived: usize, length: usize) -> usize {
    (length - arrived).min(FIRST_ROOM_BYTES.max(arrived * 3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn frames_round_trip(id: u64, message: Vec<u8>, second: String) {
            let bytes = [encode(id, &message), encode(id.wrapping_add(1), &second)].concat();
            block_on(async {
                let mut stream = bytes.as_slice();
                assert_eq!(read(&mut stream, FRAME_BYTES_MAX).await.unwrap(), Some((id, message)));
                assert_eq!(read(&mut stream, FRAME_BYTES_MAX).await.unwrap(), Some((id.wrapping_add(1), second)));
                assert_eq!(read::<String>(&mut stream, FRAME_BYTES_MAX).await.unwrap(), None);
            });
        }

        #[test]
        fn garbage_is_refused_not_fatal(bytes: Vec<u8>) {
            // whatever arrives: an answer or an error, never a panic
            let _ = block_on(async { read::<super::super::messages::Request>(&mut bytes.as_slice(), FRAME_BYTES_MAX).await });
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused_before_reading() {
        let mut bytes = u32::MAX.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 8]);
        let error = block_on(read::<String>(&mut bytes.as_slice(), FRAME_BYTES_MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn room_grows_with_what_arrives() {
        let rooms = |length: usize| {
            let (mut rooms, mut arrived) = (Vec::new(), 0);
            while arrived < length {
                rooms.push(next_room(arrived, length));
                arrived += rooms[rooms.len() - 1];
            }
            rooms
        };
        assert_eq!(rooms(300), [300]);
        assert_eq!(rooms(16_600), [8192, 8408]);
        assert_eq!(rooms(1 << 20), [8192, 24_576, 98_304, 393_216, 524_288]);
    }

    #[test]
    fn a_truncated_frame_is_an_error() {
        let bytes = encode(7, &"hello".to_owned());
        for length in 1..bytes.len() {
            let error = block_on(read::<String>(&mut &bytes[..length], FRAME_BYTES_MAX)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {length}");
        }
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut bytes = encode(7, &"hello".to_owned());
        bytes[HEADER_BYTES] = 9;
        let error = block_on(read::<String>(&mut bytes.as_slice(), FRAME_BYTES_MAX)).unwrap_err();
        assert!(error.to_string().contains("version 9, only 1 to 2"), "{error}");
    }
}
