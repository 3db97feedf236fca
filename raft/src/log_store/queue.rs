//! A queue to a thread that takes all there is at once. Waking a thread up takes as long as several steps of raft, so a sender may have its own
//! thread do what is ready first.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// When the receiver hears of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hears {
    /// At once.
    Now,
    /// When the tasks that are ready on the sender's runtime have had their turn.
    Soon,
}

/// Both ends of a new queue.
pub(super) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared { contents: Mutex::new(Contents { waiting: Vec::new(), is_closed: false }), news: Condvar::new() });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared })
}

struct Shared<T> {
    contents: Mutex<Contents<T>>,
    news: Condvar,
}

struct Contents<T> {
    waiting: Vec<T>,
    /// One end has gone.
    is_closed: bool,
}

impl<T> Shared<T> {
    fn close(&self) {
        self.contents.lock().is_closed = true;
        self.news.notify_one();
    }
}

/// Where things are put into it.
pub(super) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Sender<T> {
    /// Adds something; whether there is somebody to take it. [`Hears::Soon`] needs a runtime.
    pub(super) fn send(&self, item: T, hears: Hears) -> bool {
        {
            let mut contents = self.shared.contents.lock();
            if contents.is_closed {
                return false;
            }
            contents.waiting.push(item);
        }
        match hears {
            Hears::Now => _ = self.shared.news.notify_one(),
            Hears::Soon => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    tokio::task::yield_now().await;
                    shared.news.notify_one();
                });
            }
        }
        true
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Where they are taken out.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits until there is something, and takes all of it, in order; `None` when nothing comes any more.
    pub(super) fn receive(&self) -> Option<Vec<T>> {
        let mut contents = self.shared.contents.lock();
        self.shared.news.wait_while(&mut contents, |contents| contents.waiting.is_empty() && !contents.is_closed);
        let taken = std::mem::take(&mut contents.waiting);
        (!taken.is_empty()).then_some(taken)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        // whoever waits for what becomes of them learns that nothing will
        let left = std::mem::take(&mut self.shared.contents.lock().waiting);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_is_taken_in_order_and_then_nothing() {
        let (sender, receiver) = queue();
        assert!(sender.send(1, Hears::Now) && sender.send(2, Hears::Now));
        assert_eq!(receiver.receive(), Some(vec![1, 2]));
        assert!(sender.send(3, Hears::Now));
        drop(sender);
        assert_eq!(receiver.receive(), Some(vec![3]));
        assert_eq!(receiver.receive(), None);
    }

    #[test]
    fn a_thread_that_has_ended_takes_nothing_and_lets_go_of_what_it_had() {
        let (sender, receiver) = queue();
        let item = Arc::new(());
        assert!(sender.send(Arc::clone(&item), Hears::Now));
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(!sender.send(item, Hears::Now));
    }

    #[tokio::test]
    async fn a_thread_that_waits_hears_sooner_or_later() {
        let (sender, receiver) = queue();
        let taking = tokio::task::spawn_blocking(move || {
            let taken = std::iter::from_fn(|| receiver.receive()).flatten();
            taken.take(200).collect::<Vec<_>>()
        });
        for number in 0..200 {
            assert!(sender.send(number, if number % 2 == 0 { Hears::Soon } else { Hears::Now }));
            tokio::task::yield_now().await;
        }
        assert_eq!(taking.await.unwrap(), (0..200).collect::<Vec<_>>());
    }
}
