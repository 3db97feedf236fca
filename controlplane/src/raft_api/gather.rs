//! Puts small messages of a stream together: HTTP/2 costs a frame for each chunk, and a client that does not get to read for a moment takes
//! many small frames for an attack and ends the connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};

/// How long messages wait for each other.
const WAIT: Duration = Duration::from_millis(10);
/// They wait no longer once they are as large as this.
const SIZE_MAX_BYTES: usize = 64 << 10;

/// The messages of `stream`, those that come within 10 ms of the first in one chunk. Each chunk holds whole messages only.
pub(super) fn gather(stream: impl Stream<Item = String>) -> impl Stream<Item = Bytes> {
    futures::stream::unfold(Box::pin(stream.fuse()), |mut stream| async move {
        let mut chunk = BytesMut::from(stream.next().await?.as_bytes());
        let mut wait = std::pin::pin!(tokio::time::sleep(WAIT));
        while chunk.len() < SIZE_MAX_BYTES {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => chunk.extend_from_slice(message.as_bytes()),
                    None => break,
                },
                () = &mut wait => break,
            }
        }
        Some((chunk.freeze(), stream))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_together_travels_together() {
        let (tell, told) = futures::channel::mpsc::unbounded::<String>();
        let mut chunks = std::pin::pin!(gather(told));
        let say = |message: &str| tell.unbounded_send(message.to_owned()).expect("somebody listens");
        say("a\n\n");
        say("b\n\n");
        assert_eq!(chunks.next().await.as_deref(), Some(&b"a\n\nb\n\n"[..]));
        say("c\n\n");
        assert_eq!(chunks.next().await.as_deref(), Some(&b"c\n\n"[..]));
        say(&"d".repeat(SIZE_MAX_BYTES));
        say("e\n\n");
        assert_eq!(chunks.next().await.map(|chunk| chunk.len()), Some(SIZE_MAX_BYTES));
        tell.close_channel();
        assert_eq!(chunks.next().await.as_deref(), Some(&b"e\n\n"[..]));
        assert_eq!(chunks.next().await, None);
    }
}
