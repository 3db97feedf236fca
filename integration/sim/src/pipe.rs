//! One end of a simulated connection: a byte stream for the member, whole frames for the network.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trierarch_raft::NodeId;

use crate::network::{Direction, Network};

/// `Spec:` the peers' frames: four bytes of length, eight of id, then the body.
const HEADER_BYTES: usize = 12;

/// What has arrived at one end.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<Arrived>,
}

#[derive(Default)]
struct Arrived {
    bytes: VecDeque<u8>,
    ended: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// Bytes arrive.
    pub fn deliver(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        if !state.ended {
            state.bytes.extend(bytes);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Nothing will arrive any more.
    pub fn end(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// One end of a connection.
pub struct End {
    network: Network,
    /// What this end sends.
    direction: Direction,
    inbox: Arc<Inbox>,
    /// The beginning of a frame that is not complete.
    unsent: Vec<u8>,
}

impl End {
    /// The end at `direction.from`.
    pub fn new(network: Network, direction: Direction, inbox: Arc<Inbox>) -> Self {
        Self { network, direction, inbox, unsent: Vec::new() }
    }

    /// Where it is.
    pub fn member(&self) -> NodeId {
        self.direction.from
    }
}

/// The length of the first frame, if it is complete.
fn first_frame(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk::<4>()?);
    let total = HEADER_BYTES + usize::try_from(length).unwrap_or(usize::MAX - HEADER_BYTES);
    (bytes.len() >= total).then_some(total)
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.inbox.state.lock();
        if state.bytes.is_empty() {
            if state.ended {
                return Poll::Ready(Ok(()));
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = state.bytes.len().min(buffer.remaining());
        let taken: Vec<u8> = state.bytes.drain(..count).collect();
        buffer.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, _context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.inbox.state.lock().ended {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        self.unsent.extend_from_slice(bytes);
        while let Some(length) = first_frame(&self.unsent) {
            let rest = self.unsent.split_off(length);
            let frame = std::mem::replace(&mut self.unsent, rest);
            let this = &mut *self;
            this.network.send(&mut this.direction, frame);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.network.finish(&mut this.direction);
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.network.finish(&mut self.direction);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_when_they_are_complete() {
        let frame = [&3_u32.to_be_bytes()[..], &7_u64.to_be_bytes(), b"abc"].concat();
        assert_eq!(first_frame(&frame), Some(15));
        assert_eq!(first_frame(&[&frame[..], b"x"].concat()), Some(15));
        for length in 0..frame.len() {
            assert_eq!(first_frame(&frame[..length]), None, "{length} bytes");
        }
    }
}
