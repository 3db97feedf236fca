//! How many requests may be on the way at once: a few, so that whatever comes meanwhile shares the next one. While none of them is answered, one
//! more now and then: what it brings must not wait for those before it, which wait for a slow disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::sync::Notify;

/// Requests on the way as long as answers come.
const USUAL: usize = 16;
/// Requests on the way at most. Whoever receives them must have room for as many.
pub(crate) const MAX: usize = 64;
/// Without an answer for so long, there is room for one more. Those beyond the usual ones last for a second.
const PATIENCE: Duration = Duration::from_millis(20);

/// The requests that are on the way.
#[derive(Debug, Default)]
pub(crate) struct Window {
    unanswered: AtomicUsize,
    room: Notify,
}

impl Window {
    /// Waits for room, and takes it.
    async fn enter(&self) {
        while self.unanswered.load(Ordering::Relaxed) >= USUAL {
            tokio::select! {
                // the same order in every run of a simulation
                biased;
                () = self.room.notified() => {}
                () = tokio::time::sleep(PATIENCE) => break,
            }
        }
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives room back: one was answered.
    pub(crate) fn leave(&self) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.room.notify_one();
    }
}

/// What `requests` yields, each asked for when there is room. Whoever takes them limits them to [`MAX`] by itself.
pub(crate) fn within<T>(requests: impl Stream<Item = T> + Unpin, window: Arc<Window>) -> impl Stream<Item = T> {
    futures::stream::unfold((requests, window), |(mut requests, window)| async move {
        window.enter().await;
        let request = requests.next().await?;
        Some((request, (requests, window)))
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// After how long each of so many requests leaves that are there at once, when each is answered so long after that.
    async fn left_after(requests: usize, answered: Duration) -> Vec<Duration> {
        let begun = Instant::now();
        let window = Arc::<Window>::default();
        within(futures::stream::iter(0..requests), Arc::clone(&window))
            .map(|_| {
                let (left, window) = (begun.elapsed(), Arc::clone(&window));
                async move {
                    tokio::time::sleep(answered).await;
                    window.leave();
                    left
                }
            })
            .buffered(MAX)
            .collect()
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn while_answers_come_a_few_are_on_the_way() {
        let round = Duration::from_millis(5);
        let left = left_after(USUAL * 3, round).await;
        let expected: Vec<Duration> = [Duration::ZERO, round, round * 2].into_iter().flat_map(|at| [at; USUAL]).collect();
        assert_eq!(left, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn without_answers_one_more_leaves_now_and_then() {
        let round = Duration::from_secs(9);
        let left = left_after(MAX + 1, round).await;
        assert_eq!(left[..USUAL], [Duration::ZERO; USUAL]);
        assert!(left[USUAL - 1..MAX].windows(2).all(|pair| pair[1] - pair[0] == PATIENCE), "{left:?}");
        // the first answers leave more on the way than usual
        assert_eq!(left[MAX], round + PATIENCE);
    }
}
