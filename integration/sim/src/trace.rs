//! The record of a run: every event passes here, into the digest that makes two runs comparable, to the invariants, and, if asked for, to
//! the screen.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::event::Event;

/// How many of the last events a report shows.
const LAST_EVENTS: usize = 40;

/// Where all parts of the world put what happens; cheap to clone.
#[derive(Clone, Default)]
pub struct Recorder {
    events: Arc<Mutex<Vec<(u64, Event)>>>,
    now_ms: Arc<AtomicU64>,
}

impl Recorder {
    /// Adds an event.
    pub fn record(&self, event: Event) {
        self.events.lock().push((self.now_ms(), event));
    }

    /// Milliseconds since the beginning of the run.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    /// Sets the time.
    pub fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// What has happened since the last call.
    pub fn take(&self) -> Vec<(u64, Event)> {
        std::mem::take(&mut *self.events.lock())
    }
}

/// What remains of the events.
pub struct Trace {
    hasher: DefaultHasher,
    count: u64,
    last: VecDeque<String>,
    show: Option<fn(&str)>,
}

impl Trace {
    /// An empty trace; `show` gets every line.
    pub fn new(show: Option<fn(&str)>) -> Self {
        Self { hasher: DefaultHasher::new(), count: 0, last: VecDeque::new(), show }
    }

    /// Adds an event.
    pub fn add(&mut self, now_ms: u64, event: &Event) {
        let line = format!("{now_ms:>7} {event:?}");
        line.hash(&mut self.hasher);
        self.count += 1;
        if let Some(show) = self.show {
            show(&line);
        }
        self.last.push_back(line);
        if self.last.len() > LAST_EVENTS {
            self.last.pop_front();
        }
    }

    /// The same for two runs only if all their events are.
    pub fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last events, one a line.
    pub fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}
