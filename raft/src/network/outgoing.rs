//! Frames on their way out: those that queue up leave in one write, without being copied together, and one that nobody waits for may wait
//! for another one to leave with. Each that leaves alone wakes a machine up.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use serde::Serialize;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::frame;

/// Bytes that leave in one write, about.
const WRITE_BYTES: usize = 256 << 10;

/// One frame.
#[derive(Clone)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    /// For how long it may wait for company.
    patience: Option<Duration>,
}

impl Outgoing {
    /// A message that leaves as soon as it can.
    pub(crate) fn new<T: Serialize>(id: u64, message: &T) -> Self {
        Self { bytes: frame::encode(id, message), patience: None }
    }

    /// A message that may wait so long for another one.
    pub(crate) fn patient<T: Serialize>(id: u64, message: &T, patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::new(id, message) }
    }
}

/// Frames that leave together.
#[derive(Default)]
struct Frames {
    frames: VecDeque<Vec<u8>>,
    /// Bytes of the first frame that have left.
    gone: usize,
    left: usize,
}

impl Frames {
    fn push(&mut self, frame: Vec<u8>) {
        self.left += frame.len();
        self.frames.push_back(frame);
    }
}

impl Buf for Frames {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.frames.front().and_then(|first| first.get(self.gone..)).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = std::iter::once(self.chunk()).chain(self.frames.iter().skip(1).map(Vec::as_slice));
        slices.iter_mut().zip(chunks.filter(|chunk| !chunk.is_empty())).map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.left, "more bytes left than there are");
        self.left -= count;
        self.gone += count;
        while let Some(first) = self.frames.front().filter(|first| first.len() <= self.gone) {
            self.gone -= first.len();
            self.frames.pop_front();
        }
    }
}

/// Writes queued frames, many at a time when they queue up. `hurry` ends their patience.
pub(crate) async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut queued: mpsc::UnboundedReceiver<Outgoing>,
    hurry: Arc<Notify>,
    stop: CancellationToken,
) {
    let writing = async {
        while let Some(mut frames) = next_frames(&mut queued, &hurry).await {
            writer.write_all_buf(&mut frames).await?;
            writer.flush().await?;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        result = writing => if let Err(error) = result {
            tracing::debug!(%error, "Lost a peer connection");
        },
        () = stop.cancelled() => {}
    }
    stop.cancel();
}

/// What leaves next; `None` when nothing comes any more.
async fn next_frames(queued: &mut mpsc::UnboundedReceiver<Outgoing>, hurry: &Notify) -> Option<Frames> {
    let mut frames = Frames::default();
    let first = queued.recv().await?;
    frames.push(first.bytes);
    if let Some(patience) = first.patience {
        // what has come when the time is over is kept
        tokio::select! {
            _over = tokio::time::timeout(patience, wait_for_company(queued, &mut frames)) => {}
            () = hurry.notified() => {}
        }
    }
    while frames.left < WRITE_BYTES
        && let Ok(next) = queued.try_recv()
    {
        frames.push(next.bytes);
    }
    Some(frames)
}

/// Takes frames until one comes that does not wait.
async fn wait_for_company(queued: &mut mpsc::UnboundedReceiver<Outgoing>, frames: &mut Frames) {
    while let Some(next) = queued.recv().await {
        frames.push(next.bytes);
        if next.patience.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(2);

    /// What arrives of `sent`, and after how long.
    async fn arrivals(sent: Vec<(&'static str, bool)>, hurry: Arc<Notify>) -> (Vec<String>, Duration) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (frames, queued) = mpsc::unbounded_channel();
        let begun = tokio::time::Instant::now();
        let writer = tokio::spawn(write_frames(near, queued, hurry, CancellationToken::new()));
        let expected = sent.len();
        for (message, may_wait) in sent {
            let message = message.to_owned();
            let frame = if may_wait { Outgoing::patient(1, &message, PATIENCE) } else { Outgoing::new(1, &message) };
            assert!(frames.send(frame).is_ok());
        }
        let mut reader = tokio::io::BufReader::new(far);
        let mut seen = Vec::new();
        while seen.len() < expected {
            seen.push(frame::read::<String>(&mut reader, frame::FRAME_BYTES_MAX).await.unwrap().unwrap().1);
        }
        let waited = begun.elapsed();
        drop(frames);
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0, "the writer ends with its queue");
        writer.await.unwrap();
        (seen, waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_patient_frame_leaves_with_the_next_one_or_alone_in_time() {
        let nobody = Arc::<Notify>::default;
        assert_eq!(arrivals(vec![("a", false), ("b", false)], nobody()).await, (vec!["a".into(), "b".into()], Duration::ZERO));
        assert_eq!(arrivals(vec![("a", true), ("b", true), ("c", false)], nobody()).await.1, Duration::ZERO);
        let (seen, waited) = arrivals(vec![("a", true), ("b", true)], nobody()).await;
        assert_eq!(seen, ["a", "b"]);
        assert!(waited >= PATIENCE && waited <= PATIENCE * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_in_a_hurry_need_not_be_there_first() {
        let hurry = Arc::<Notify>::default();
        hurry.notify_one();
        assert_eq!(arrivals(vec![("a", true)], Arc::clone(&hurry)).await, (vec!["a".into()], Duration::ZERO));
        // that was the one time
        assert!(arrivals(vec![("a", true)], hurry).await.1 >= PATIENCE);
    }

    proptest! {
        #[test]
        fn frames_leave_in_order_however_little_is_taken(pieces: Vec<Vec<u8>>, takes in prop::collection::vec(1_usize..7, 1..9)) {
            let mut frames = Frames::default();
            pieces.iter().for_each(|piece| frames.push(piece.clone()));
            let (mut seen, mut takes) = (Vec::new(), takes.into_iter().cycle());
            while frames.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = frames.chunks_vectored(&mut slices);
                let offered: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = takes.next().unwrap().min(offered.len());
                prop_assert!(taken > 0);
                seen.extend_from_slice(&offered[..taken]);
                frames.advance(taken);
            }
            prop_assert_eq!(seen, pieces.concat());
        }
    }
}
