//! A local copy of a collection, kept up to date by a watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch as signal;
use trierarch_api::Reason;

use crate::client::{Client, Error};
use crate::watch::WatchEvent;

/// The objects of a collection by `(namespace, name)`.
pub type Reflected<T> = BTreeMap<(String, String), Arc<T>>;

struct Shared<T> {
    objects: RwLock<Arc<Reflected<T>>>,
    // counts changes; 0 until the first list is there
    changes: signal::Sender<u64>,
    // the revision that the copy shows, never ahead of it
    version: AtomicU64,
}

impl<T> Shared<T> {
    fn shows(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.version.store(version, Ordering::Release);
        }
    }
}

/// A collection's local copy. Dropping the last clone stops the watch.
pub struct Reflector<T> {
    shared: Arc<Shared<T>>,
    _task: Arc<Abort>,
}

impl<T> Clone for Reflector<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), _task: Arc::clone(&self._task) }
    }
}

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Reflector<T> {
    /// Starts to follow the collection at `path` (which may select, as in `/api/v1/pods?fieldSelector=spec.nodeName%3Dn1`). While no master
    /// answers, the last copy stays.
    pub fn start(client: Client, path: impl Into<String>) -> Self {
        let shared = Arc::new(Shared { objects: RwLock::default(), changes: signal::Sender::new(0), version: AtomicU64::new(0) });
        let task = tokio::spawn(follow(client, path.into(), Arc::clone(&shared)));
        Self { shared, _task: Arc::new(Abort(task)) }
    }

    /// The present copy; cheap.
    pub fn objects(&self) -> Arc<Reflected<T>> {
        Arc::clone(&self.shared.objects.read())
    }

    /// One object of it.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.objects().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The revision up to which the copy shows the collection. Ask before taking the copy: it is then at least as new.
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// Wakes at each change (or burst of changes); the value is 0 until the first list is complete.
    pub fn changes(&self) -> signal::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Returns once the first list is complete.
    pub async fn ready(&self) {
        let mut changes = self.changes();
        // the sender lives as long as self
        let _ = changes.wait_for(|count| *count > 0).await;
    }
}

/// Lists and watches for ever; backs off from 50 ms to 2 s while nothing answers.
async fn follow<T: DeserializeOwned + Send + Sync>(client: Client, path: String, shared: Arc<Shared<T>>) {
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LONGEST_PAUSE: Duration = Duration::from_secs(2);
    let mut pause = FIRST_PAUSE;
    let mut version: Option<String> = None;
    loop {
        let outcome = match version.take() {
            None => list(&client, &path, &shared).await,
            Some(from) => watch(&client, &path, from, &shared, &mut pause).await,
        };
        match outcome {
            Ok(next) => {
                pause = FIRST_PAUSE;
                version = Some(next);
            }
            Err(Lost { error, resume }) => {
                tracing::debug!(path, %error, "Lost the watch");
                version = resume;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

struct Lost {
    error: Error,
    // from where to go on; `None`: list again
    resume: Option<String>,
}

async fn list<T: DeserializeOwned + Send + Sync>(client: &Client, path: &str, shared: &Shared<T>) -> Result<String, Lost> {
    let restart = |error| Lost { error, resume: None };
    let answer: Value = client.get(path).await.map_err(restart)?;
    let version = answer["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let mut objects = Reflected::new();
    if let Value::Array(items) = answer["items"].clone() {
        for item in items {
            insert(&mut objects, item);
        }
    }
    *shared.objects.write() = Arc::new(objects);
    shared.shows(&version);
    shared.changes.send_modify(|count| *count += 1);
    Ok(version)
}

async fn watch<T: DeserializeOwned + Send + Sync>(
    client: &Client,
    path: &str,
    from: String,
    shared: &Shared<T>,
    pause: &mut Duration,
) -> Result<String, Lost> {
    let separator = if path.contains('?') { '&' } else { '?' };
    let target = format!("{path}{separator}resourceVersion={from}&allowWatchBookmarks=true");
    let mut version = from;
    let mut events = match client.watch(&target).await {
        Ok(events) => events,
        Err(error) => return Err(lost(error, version)),
    };
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => return Err(lost(error, version)),
        };
        *pause = Duration::from_millis(50);
        if let Some(seen) = event.object()["metadata"]["resourceVersion"].as_str() {
            version = seen.to_owned();
        }
        let mut current = shared.objects.write();
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => insert(Arc::make_mut(&mut current), object),
            WatchEvent::Deleted(object) => {
                Arc::make_mut(&mut current).remove(&key(&object));
            }
            WatchEvent::Bookmark(_) => continue,
        }
        drop(current);
        shared.shows(&version);
        shared.changes.send_modify(|count| *count += 1);
    }
    Ok(version)
}

fn lost(error: Error, version: String) -> Lost {
    let resume = match &error {
        // too old, or the server does not know it: only a new list helps
        Error::Api(refused) if matches!(refused.reason, Reason::Expired | Reason::Timeout | Reason::BadRequest) => None,
        _ => Some(version),
    };
    Lost { error, resume }
}

fn key(object: &Value) -> (String, String) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn insert<T: DeserializeOwned>(objects: &mut Reflected<T>, object: Value) {
    let key = key(&object);
    match serde_json::from_value(object) {
        Ok(typed) => {
            objects.insert(key, Arc::new(typed));
        }
        Err(error) => tracing::warn!(namespace = key.0, name = key.1, %error, "Ignored an object of unexpected shape"),
    }
}
