//! Requests one after the other, with a pause before the next one where nobody waits for it: whoever makes it when it is asked for then puts
//! everything into it that has come meanwhile.

use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use tokio::sync::Notify;

use crate::thrift::PAUSE;

/// What `requests` yields, each asked for [`PAUSE`] after the one before if `may_wait` says so of that one. `hurried` ends a pause, or the next
/// one.
pub(crate) fn unhurried<T>(
    requests: impl Stream<Item = T> + Unpin,
    may_wait: impl Fn(&T) -> bool + Clone,
    hurried: Arc<Notify>,
) -> impl Stream<Item = T> {
    futures::stream::unfold((requests, false), move |(mut requests, pauses)| {
        let (may_wait, hurried) = (may_wait.clone(), Arc::clone(&hurried));
        async move {
            if pauses {
                tokio::select! {
                    // the same order in every run of a simulation
                    biased;
                    () = hurried.notified() => {}
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            let request = requests.next().await?;
            let pauses = may_wait(&request);
            Some((request, (requests, pauses)))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    /// After how many milliseconds each of four requests is asked for that are there at once. The first and the third may wait.
    async fn asked_after(hurried: Arc<Notify>) -> Vec<u128> {
        let begun = Instant::now();
        let requests = futures::stream::iter([1, 2, 3, 4]).map(|number| (number, begun.elapsed().as_millis()));
        unhurried(requests, |(number, _)| number % 2 == 1, hurried).map(|(_, after)| after).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_follows_what_may_wait() {
        let pause = PAUSE.as_millis();
        assert_eq!(asked_after(Arc::default()).await, [0, pause, pause, pause * 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_hurries_ends_one_pause() {
        let hurried = Arc::<Notify>::default();
        hurried.notify_one();
        assert_eq!(asked_after(Arc::clone(&hurried)).await, [0, 0, 0, PAUSE.as_millis()]);
        let during = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            hurried.notify_one();
        };
        let (asked, ()) = tokio::join!(asked_after(Arc::clone(&hurried)), during);
        assert_eq!(asked, [0, 1, 1, 1 + PAUSE.as_millis()]);
    }
}
