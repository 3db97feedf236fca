//! A connection of which some bytes were read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The largest request or answer head that is read.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Gives back what was read, then goes on reading.
pub struct Rewound<T> {
    buffered: BytesMut,
    inner: T,
}

impl<T> Rewound<T> {
    /// `buffered` comes before what `inner` still has.
    pub fn new(buffered: BytesMut, inner: T) -> Self {
        Self { buffered, inner }
    }

    /// The connection.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.buffered.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let length = self.buffered.len().min(buf.remaining());
        buf.put_slice(&self.buffered[..length]);
        self.buffered.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Reads until a head is complete; the length of the head, and everything read. `None` when the peer closes before it says anything.
///
/// # Errors
/// The connection's, and a head that is too long or cut off.
pub async fn read_head<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<(usize, BytesMut)>> {
    let mut buffer = BytesMut::with_capacity(4096);
    loop {
        if let Some(end) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
            return Ok(Some((end + 4, buffer)));
        }
        if buffer.len() >= HEAD_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the head is too long"));
        }
        if io.read_buf(&mut buffer).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_head_is_found_and_given_back() {
        let mut source: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\nbody";
        let (length, buffer) = read_head(&mut source).await.expect("reads").expect("a head");
        assert_eq!(&buffer[length..], b"body");
        let mut all = Vec::new();
        Rewound::new(buffer, &b" and more"[..]).read_to_end(&mut all).await.expect("reads");
        assert_eq!(all, b"GET / HTTP/1.1\r\nhost: x\r\n\r\nbody and more");
    }
}
