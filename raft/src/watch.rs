//! Changes in the order of their revisions, from a given revision on, without gaps or repeats.
//!
//! Apply hands every change to [`Hub::publish`], which puts it into the rings of those routes that somebody watches and wakes only their
//! watchers. A route is the first two or three segments of a key (`GROUP/PLURAL/`, `GROUP/PLURAL/NAMESPACE/`), or empty for everything.
//! A watcher that is behind its ring reads the history on disk until it has caught up.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::command::Revision;
use crate::state_machine::Shared;
use crate::view::Record;

/// How many changes, and bytes of values, a ring holds for watchers that are a little behind.
const RING_EVENTS_MAX: usize = 4096;
const RING_BYTES_MAX: usize = 8 << 20;
/// How many changes one call of [`Watcher::next`] returns, about.
const BATCH_EVENTS: usize = 512;

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created or replaced.
    Put,
    /// It was removed.
    Delete,
}

/// One change of one key. Shared by all watchers.
#[derive(Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// When: the revision of the transaction.
    pub revision: Revision,
    /// The new version; for a delete, the last one.
    pub record: Arc<Record>,
    /// The version before, if there was one.
    pub previous: Option<Arc<Record>>,
    /// Whatever a reader encoded out of this event, by encoding, at most once per process.
    pub encoded: Mutex<Vec<(u32, bytes::Bytes)>>,
}

/// Why a watch ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The history no longer holds the changes after the asked revision: list again.
    #[error("revision {asked} is compacted; the oldest one kept is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// What is there.
        oldest: Revision,
    },
    /// The store is closing.
    #[error("the store is shutting down")]
    Closed,
}

/// A position in the stream of changes below a key prefix.
pub struct Watcher {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    route: Arc<Route>,
    prefix: Vec<u8>,
    /// Everything up to here was returned.
    after: Revision,
}

impl Watcher {
    /// A watcher of the changes below `prefix` after `after`.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when the history does not reach back that far, [`WatchError::Closed`].
    pub(crate) fn new(shared: Arc<Shared>, runtime: tokio::runtime::Handle, prefix: &[u8], after: Revision) -> Result<Self, WatchError> {
        let route = shared.hub().join(route_of_prefix(prefix));
        let watcher = Self { shared, runtime, route, prefix: prefix.to_vec(), after };
        watcher.check_not_compacted()?;
        watcher.check_not_lost()?;
        if watcher.shared.hub().is_closed() {
            return Err(WatchError::Closed);
        }
        Ok(watcher)
    }

    /// The next changes below the prefix, all events of at least one transaction, in order; waits until there are some.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] when the watcher fell behind what the history keeps.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchError> {
        loop {
            let route = Arc::clone(&self.route);
            let woken = route.notify.notified();
            tokio::pin!(woken);
            // from here on nothing published is missed
            woken.as_mut().enable();
            if self.shared.hub().is_closed() {
                return Err(WatchError::Closed);
            }
            self.check_not_lost()?;
            let published = self.shared.hub().published();
            match self.route.read(&self.prefix, self.after, published) {
                RingRead::Events(events) => {
                    self.after = events.last().map_or(self.after, |event| event.revision);
                    return Ok(events);
                }
                RingRead::Nothing => {
                    self.after = self.after.max(published);
                    woken.await;
                }
                RingRead::Behind { floor } => {
                    let events = self.read_history(floor).await?;
                    if !events.is_empty() {
                        return Ok(events);
                    }
                }
            }
        }
    }

    /// Everything up to and including this revision has been returned by [`Watcher::next`] (grows also when other prefixes change):
    /// what a bookmark may claim.
    pub fn progress(&self) -> Revision {
        let published = self.shared.hub().published();
        match self.route.read(&self.prefix, self.after, published) {
            RingRead::Nothing if self.check_not_lost().is_ok() => self.after.max(published),
            RingRead::Nothing | RingRead::Events(_) | RingRead::Behind { .. } => self.after,
        }
    }

    async fn read_history(&mut self, floor: Revision) -> Result<Vec<Arc<Event>>, WatchError> {
        self.check_not_compacted()?;
        let (shared, prefix, after) = (Arc::clone(&self.shared), self.prefix.clone(), self.after);
        let reading = move || shared.db()?.events_after(&prefix, after, floor, BATCH_EVENTS);
        let slice = match self.shared.environment.blocking_on(&self.runtime, reading).await {
            Ok(Ok(slice)) => slice,
            Ok(Err(error)) => {
                if !self.shared.hub().is_closed() {
                    tracing::error!(%error, "Could not read the history");
                }
                return Err(WatchError::Closed);
            }
            Err(_runtime_gone) => return Err(WatchError::Closed),
        };
        // rows may have been compacted away while they were read
        self.check_not_compacted()?;
        self.after = slice.upto.max(self.after);
        Ok(slice.events)
    }

    /// Whether what this watcher has seen is still there: a power cut of a majority takes volatile changes.
    fn check_not_lost(&self) -> Result<(), WatchError> {
        let oldest = self.shared.end_of_gap(self.after);
        oldest.map_or(Ok(()), |oldest| Err(WatchError::Compacted { asked: self.after, oldest }))
    }

    fn check_not_compacted(&self) -> Result<(), WatchError> {
        let oldest = self.shared.compacted();
        if self.after < oldest { Err(WatchError::Compacted { asked: self.after, oldest }) } else { Ok(()) }
    }
}

/// Where apply hands its changes to the watchers.
#[derive(Default)]
pub(crate) struct Hub {
    routes: RwLock<HashMap<Vec<u8>, Weak<Route>>>,
    published: AtomicU64,
    closed: std::sync::atomic::AtomicBool,
}

/// The recent changes of one route.
struct Route {
    ring: Mutex<Ring>,
    notify: Notify,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Changes at or below this revision are not in the ring.
    floor: Revision,
}

enum RingRead {
    Events(Vec<Arc<Event>>),
    Nothing,
    Behind { floor: Revision },
}

impl Hub {
    /// A hub of a store at `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        Self { published: AtomicU64::new(revision), ..Self::default() }
    }

    /// Everything up to this revision has been handed to the routes.
    pub(crate) fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends all watches.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.wake_all();
    }

    /// Hands out the changes of the revisions up to `revision`.
    pub(crate) fn publish(&self, events: &[Arc<Event>], revision: Revision) {
        let mut woken: Vec<Arc<Route>> = Vec::new();
        {
            // held until `published` is set: a route made meanwhile gets a floor that covers these events
            let routes = self.routes.read();
            if !routes.is_empty() {
                for event in events {
                    #[cfg(feature = "planted")]
                    if event.revision % 16 == 7 && crate::planted::is_planted(crate::planted::Bug::LoseWatchEvent) {
                        continue;
                    }
                    for name in routes_of_key(&event.record.key) {
                        let Some(route) = routes.get(name).and_then(Weak::upgrade) else { continue };
                        route.ring.lock().push(Arc::clone(event));
                        if !woken.iter().any(|known| Arc::ptr_eq(known, &route)) {
                            woken.push(route);
                        }
                    }
                }
            }
            self.published.store(revision, Ordering::Release);
        }
        woken.iter().for_each(|route| route.notify.notify_waiters());
    }

    /// Jumps to the revision of an installed snapshot: watchers read what they missed from its history.
    pub(crate) fn jump(&self, revision: Revision) {
        let routes = self.routes.write();
        let living: Vec<Arc<Route>> = routes.values().filter_map(Weak::upgrade).collect();
        for route in &living {
            *route.ring.lock() = Ring { floor: revision, ..Ring::default() };
        }
        self.published.store(revision, Ordering::Release);
        drop(routes);
        living.iter().for_each(|route| route.notify.notify_waiters());
    }

    /// Lets all watchers look where they are.
    pub(crate) fn wake_all(&self) {
        self.routes.read().values().filter_map(Weak::upgrade).for_each(|route| route.notify.notify_waiters());
    }

    fn join(&self, name: &[u8]) -> Arc<Route> {
        if let Some(route) = self.routes.read().get(name).and_then(Weak::upgrade) {
            return route;
        }
        let mut routes = self.routes.write();
        if let Some(route) = routes.get(name).and_then(Weak::upgrade) {
            return route;
        }
        routes.retain(|_, route| route.strong_count() > 0);
        let ring = Ring { floor: self.published(), ..Ring::default() };
        let route = Arc::new(Route { ring: Mutex::new(ring), notify: Notify::new() });
        routes.insert(name.to_vec(), Arc::downgrade(&route));
        route
    }
}

impl Route {
    /// The changes below `prefix` in `(after, published]`; later ones may still lack their neighbours of the same transaction.
    fn read(&self, prefix: &[u8], after: Revision, published: Revision) -> RingRead {
        let ring = self.ring.lock();
        if after < ring.floor {
            return RingRead::Behind { floor: ring.floor };
        }
        let start = ring.events.partition_point(|event| event.revision <= after);
        let mut events: Vec<Arc<Event>> = Vec::new();
        let settled = ring.events.range(start..).take_while(|event| event.revision <= published);
        for event in settled.filter(|event| event.record.key.starts_with(prefix)) {
            if events.last().is_some_and(|last| events.len() >= BATCH_EVENTS && last.revision != event.revision) {
                break;
            }
            events.push(Arc::clone(event));
        }
        if events.is_empty() { RingRead::Nothing } else { RingRead::Events(events) }
    }
}

impl Ring {
    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.record.value.len();
        self.events.push_back(event);
        while self.events.len() > RING_EVENTS_MAX || self.bytes > RING_BYTES_MAX {
            let Some(event) = self.events.pop_front() else { break };
            self.bytes -= event.record.value.len();
            // the rest of a transaction whose first event has gone is read from the history, too
            self.floor = event.revision;
            while self.events.front().is_some_and(|next| next.revision == self.floor) {
                let Some(next) = self.events.pop_front() else { break };
                self.bytes -= next.record.value.len();
            }
        }
    }
}

/// The bytes up to and including the `count`th slash, if there are that many.
fn segments(bytes: &[u8], count: usize) -> Option<&[u8]> {
    let (end, _) = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(count.checked_sub(1)?)?;
    bytes.get(..=end)
}

/// The route on which everything below `prefix` is published.
fn route_of_prefix(prefix: &[u8]) -> &[u8] {
    segments(prefix, 3).or_else(|| segments(prefix, 2)).unwrap_or_default()
}

/// The routes on which a change of `key` is published.
fn routes_of_key(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    [Some(&[] as &[u8]), segments(key, 2), segments(key, 3)].into_iter().flatten()
}

#[cfg(test)]
mod tests;
