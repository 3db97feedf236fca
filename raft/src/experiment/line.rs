//! One direction of a connection with a peer, where faults meet messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Direction;
use super::faults::{Faults, Held};
use super::table::Fate;
use crate::clock;
use crate::command::NodeId;

/// Delivers messages of type `T`.
type Deliver<T> = Arc<dyn Fn(T) + Send + Sync>;

/// Carries messages one way. While there are no faults each is delivered at once, in order.
pub(crate) struct Line<T> {
    faults: Arc<Faults>,
    peer: NodeId,
    direction: Direction,
    /// Whether a message may arrive twice.
    may_double: bool,
    deliver: Deliver<T>,
    /// Those that wait, once one had to.
    queue: Mutex<Option<Queue<T>>>,
}

struct Queue<T> {
    waiting: Arc<AtomicUsize>,
    last_due: Instant,
    messages: mpsc::UnboundedSender<(Instant, T, Held)>,
}

impl<T: Clone + Send + 'static> Line<T> {
    /// A line with `peer` that ends in `deliver`.
    pub(crate) fn new(
        faults: &Arc<Faults>,
        peer: NodeId,
        direction: Direction,
        may_double: bool,
        deliver: impl Fn(T) + Send + Sync + 'static,
    ) -> Self {
        Self { faults: Arc::clone(faults), peer, direction, may_double, deliver: Arc::new(deliver), queue: Mutex::new(None) }
    }

    /// Has a message delivered, unless it gets lost.
    pub(crate) fn send(&self, message: T) {
        if let Some(message) = self.pass(message) {
            (self.deliver)(message);
        }
    }

    /// The message, if it arrives now and the caller is to take it. Otherwise it is delivered later, or never.
    pub(crate) fn pass(&self, message: T) -> Option<T> {
        if self.faults.any() { self.pass_faults(message) } else { Some(message) }
    }

    fn pass_faults(&self, message: T) -> Option<T> {
        let Fate::Arrives { after, in_order, twice } = self.faults.fate(self.peer, self.direction) else { return None };
        let copies = if twice && self.may_double { 2 } else { 1 };
        let due = clock::now() + after;
        if !in_order {
            let (faults, deliver, held) = (Arc::clone(&self.faults), Arc::clone(&self.deliver), Held::new(&self.faults));
            tokio::spawn(async move {
                tokio::time::sleep_until(due.into()).await;
                faults.unpaused().await;
                for _ in 0..copies {
                    deliver(message.clone());
                }
                drop(held);
            });
            return None;
        }
        let mut queue = self.queue.lock();
        let others_wait = queue.as_ref().is_some_and(|queue| queue.waiting.load(Ordering::Acquire) > 0);
        if after.is_zero() && !others_wait && !self.faults.is_paused() {
            if copies > 1 {
                (self.deliver)(message.clone());
            }
            return Some(message);
        }
        let queue = queue.get_or_insert_with(|| self.open_queue());
        queue.last_due = queue.last_due.max(due);
        for _ in 0..copies {
            queue.waiting.fetch_add(1, Ordering::Release);
            // its task ends after this line only
            drop(queue.messages.send((queue.last_due, message.clone(), Held::new(&self.faults))));
        }
        None
    }

    /// Where messages wait for their time, and for the end of a pause.
    fn open_queue(&self) -> Queue<T> {
        let (messages, mut queued) = mpsc::unbounded_channel::<(Instant, T, Held)>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let (faults, deliver, left) = (Arc::clone(&self.faults), Arc::clone(&self.deliver), Arc::clone(&waiting));
        tokio::spawn(async move {
            while let Some((due, message, held)) = queued.recv().await {
                tokio::time::sleep_until(due.into()).await;
                faults.unpaused().await;
                deliver(message);
                left.fetch_sub(1, Ordering::Release);
                drop(held);
            }
        });
        Queue { waiting, last_due: clock::now(), messages }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::experiment::{Fault, FaultKind};

    /// What arrives of these messages, sent at once under `faults`, with the milliseconds after which it did.
    async fn arrivals(faults: &[Fault], messages: std::ops::Range<u32>) -> (Arc<Faults>, Vec<(u32, u128)>) {
        let shared = Arc::new(Faults::default());
        for fault in faults {
            shared.begin(fault.clone()).unwrap();
        }
        let (arrived, mut arriving) = mpsc::unbounded_channel();
        let line = Line::new(&shared, 2, Direction::Out, true, move |message: u32| _ = arrived.send(message));
        let begun = clock::now();
        messages.for_each(|message| line.send(message));
        drop(line);
        let mut seen = Vec::new();
        while let Some(message) = arriving.recv().await {
            seen.push((message, clock::since(begun).as_millis()));
        }
        (shared, seen)
    }

    fn lasts(kind: FaultKind) -> Fault {
        Fault::new(kind, Duration::from_secs(60))
    }

    #[tokio::test]
    async fn a_delay_keeps_the_order_and_jitter_too() {
        let delay = Fault { delay_ms: Some(30), jitter_ms: Some(20), ..lasts(FaultKind::Delay) };
        let (shared, seen) = arrivals(&[delay], 0..50).await;
        assert_eq!(seen.iter().map(|(message, _)| *message).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        assert!(seen.iter().all(|(_, after)| *after >= 10), "{seen:?}");
        assert!(seen[49].1 > 30, "the latest of fifty with jitter is late: {seen:?}");
        // what was held back is gone, the fault itself is still there
        assert!(shared.any() && shared.end(1).is_some() && !shared.any());
    }

    #[tokio::test]
    async fn losses_doubles_and_overtaking() {
        let (_, seen) = arrivals(&[Fault { probability: Some(0.5), ..lasts(FaultKind::Drop) }], 0..1000).await;
        assert!((400..600).contains(&seen.len()), "{} of 1,000 arrived", seen.len());
        let (_, seen) = arrivals(&[lasts(FaultKind::Duplicate)], 0..3).await;
        assert_eq!(seen.iter().map(|(message, _)| *message).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
        let (_, seen) = arrivals(&[Fault { delay_ms: Some(40), ..lasts(FaultKind::Reorder) }], 0..50).await;
        let mut order: Vec<u32> = seen.iter().map(|(message, _)| *message).collect();
        assert!(!order.is_sorted(), "{order:?}");
        order.sort_unstable();
        assert_eq!(order, (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_comes_during_a_pause_waits_and_nothing_overtakes_it() {
        let shared = Arc::new(Faults::default());
        let id = shared.begin(lasts(FaultKind::Pause)).unwrap().id.unwrap();
        let (arrived, mut arriving) = mpsc::unbounded_channel();
        let line = Line::new(&shared, 2, Direction::In, true, move |message: u32| _ = arrived.send(message));
        line.send(1);
        line.send(2);
        assert!(tokio::time::timeout(Duration::from_millis(50), arriving.recv()).await.is_err());
        shared.end(id).unwrap();
        // the fault is over, but those that wait come first
        line.send(3);
        for expected in 1..=3 {
            assert_eq!(arriving.recv().await, Some(expected));
        }
        while shared.any() {
            tokio::task::yield_now().await;
        }
        assert_eq!(line.pass(4), Some(4));
    }
}
