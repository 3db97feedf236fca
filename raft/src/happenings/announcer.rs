//! Who watches a member, and what waits for them. A watcher that is too slow loses the oldest and is told how many.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Event, Happening};
use crate::clock;
use crate::command::{NodeId, Term};

/// Happenings that wait for one watcher.
const WAITING_MAX: usize = 1024;

/// Tells watchers what happens on one member.
pub(crate) struct Announcer {
    node_id: NodeId,
    /// The reading of the monotonic clock, and the time of day in milliseconds, when the member was opened.
    began: (Instant, i64),
    listening: AtomicUsize,
    listeners: Mutex<Vec<Weak<Queue>>>,
}

/// What waits for one watcher.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    news: Notify,
    /// The watcher has gone.
    pub(super) gone: CancellationToken,
}

#[derive(Default)]
struct Waiting {
    happenings: VecDeque<Happening>,
    lost: u64,
    ended: bool,
}

/// What happens on a member, for one watcher.
pub struct Happenings {
    queue: Arc<Queue>,
}

impl Happenings {
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// The next happening; `None` once the member is closed and everything was told.
    pub async fn recv(&mut self) -> Option<Happening> {
        loop {
            {
                let mut waiting = self.queue.waiting.lock();
                if let Some(lost) = waiting.take_lost() {
                    return Some(lost);
                }
                if let Some(next) = waiting.happenings.pop_front() {
                    return Some(next);
                }
                if waiting.ended {
                    return None;
                }
            }
            // a permit is kept for news that came in between
            self.queue.news.notified().await;
        }
    }
}

impl Drop for Happenings {
    fn drop(&mut self) {
        self.queue.gone.cancel();
    }
}

impl Waiting {
    /// How many were lost, told as of when the oldest one that is left happened.
    fn take_lost(&mut self) -> Option<Happening> {
        let count = std::mem::take(&mut self.lost);
        let oldest = self.happenings.front().filter(|_| count > 0)?;
        Some(Happening { event: Event::Lost { count }, ..oldest.clone() })
    }
}

impl Queue {
    /// Lets a happening wait, made while nothing else can be added: their times rise.
    pub(super) fn push(&self, happening: impl FnOnce() -> Happening) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.happenings.len() >= WAITING_MAX {
                waiting.happenings.pop_front();
                waiting.lost += 1;
            }
            waiting.happenings.push_back(happening());
        }
        self.news.notify_one();
    }

    pub(super) fn end(&self) {
        self.waiting.lock().ended = true;
        self.news.notify_one();
    }
}

/// Of nobody: for a log or a network without a member.
impl Default for Announcer {
    fn default() -> Self {
        Self::new(NodeId::default(), 0)
    }
}

impl Announcer {
    /// An announcer for a member that is opened at this time of day.
    pub(crate) fn new(node_id: NodeId, now_unix_ms: i64) -> Self {
        Self { node_id, began: (clock::now(), now_unix_ms), listening: AtomicUsize::new(0), listeners: Mutex::default() }
    }

    /// Whether anybody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.listening.load(Ordering::Relaxed) > 0
    }

    /// Tells all watchers.
    pub(crate) fn tell(&self, happening: impl Fn() -> Happening) {
        for queue in self.listeners.lock().iter().filter_map(Weak::upgrade) {
            queue.push(&happening);
        }
    }

    pub(super) fn add(&self, queue: &Arc<Queue>) {
        let mut listeners = self.listeners.lock();
        listeners.push(Arc::downgrade(queue));
        self.listening.store(listeners.len(), Ordering::Relaxed);
    }

    pub(super) fn remove(&self, queue: &Arc<Queue>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(queue)));
        self.listening.store(listeners.len(), Ordering::Relaxed);
    }

    /// Something that happens now, at this time of day.
    pub(crate) fn happening(&self, time_unix_ms: i64, term: Term, event: Event) -> Happening {
        Happening { at_ms: self.at_ms(), time_unix_ms, node_id: self.node_id, term, event }
    }

    /// See [`Happening::at_ms`].
    fn at_ms(&self) -> f64 {
        let (began, unix_ms) = self.began;
        // precise to a quarter of a microsecond for centuries
        unix_ms as f64 + clock::since(began).as_secs_f64() * 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(committed: u64) -> Happening {
        Happening { at_ms: 0.0, time_unix_ms: 0, node_id: 1, term: committed, event: Event::Commit { committed } }
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_the_oldest_and_learns_how_many() {
        let announcer = Announcer::new(1, 0);
        assert!(!announcer.is_watched());
        let queue = Arc::new(Queue::default());
        announcer.add(&queue);
        assert!(announcer.is_watched());
        let mut happenings = Happenings::new(Arc::clone(&queue));
        let total = WAITING_MAX as u64 + 7;
        for committed in 1..=total {
            announcer.tell(|| happening(committed));
        }
        assert_eq!(happenings.recv().await.map(|lost| (lost.term, lost.event)), Some((8, Event::Lost { count: 7 })));
        for committed in 8..=total {
            assert_eq!(happenings.recv().await, Some(happening(committed)));
        }
        announcer.remove(&queue);
        announcer.tell(|| happening(0));
        queue.end();
        assert_eq!(happenings.recv().await, None);
        assert!(!announcer.is_watched());
        drop(happenings);
        assert!(queue.gone.is_cancelled());
    }

    #[test]
    fn its_clock_begins_with_the_time_of_day() {
        let announcer = Announcer::new(1, 1_790_000_000_000);
        let at_ms = announcer.at_ms();
        assert!((1_790_000_000_000.0..1_790_000_060_000.0).contains(&at_ms), "{at_ms}");
        assert!(announcer.at_ms() >= at_ms);
    }
}
