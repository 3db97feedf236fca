//! Turns reports into Event objects; a repeated report raises the count of its Event instead of making another.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_api::ObjectKey;

use crate::action::Report;
use crate::clock::Clock;
use crate::cluster::{Cluster, PatchKind};
use crate::resources::EVENTS;

/// Reports wait here while the API is busy; more are dropped, as Events are best effort.
const WAITING_MAX: usize = 4096;
const REMEMBERED_MAX: usize = 4096;

/// Where one controller leaves its reports.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<(&'static str, Report)>,
}

impl Recorder {
    /// Leaves a report; never waits.
    pub fn record(&self, report: Report) {
        if self.queue.try_send((self.component, report)).is_err() {
            tracing::debug!(controller = self.component, "Dropped an event");
        }
    }
}

/// Makes recorders, and writes what they are given until [`Recorders::stop`].
pub struct Recorders {
    queue: mpsc::Sender<(&'static str, Report)>,
    writer: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Recorders {
    /// Starts the writer on the current runtime.
    pub fn start(cluster: Arc<dyn Cluster>, clock: Clock) -> Self {
        let (queue, reports) = mpsc::channel(WAITING_MAX);
        let writer = tokio::spawn(write_all(cluster, clock, reports));
        Self { queue, writer: Mutex::new(Some(writer)) }
    }

    /// A recorder for a component.
    pub fn recorder(&self, component: &'static str) -> Recorder {
        Recorder { component, queue: self.queue.clone() }
    }

    /// Ends the writer; what still waits is dropped.
    pub fn stop(&self) {
        if let Some(writer) = self.writer.lock().take() {
            writer.abort();
        }
    }
}

struct Remembered {
    key: ObjectKey,
    count: u64,
}

async fn write_all(cluster: Arc<dyn Cluster>, clock: Clock, mut reports: mpsc::Receiver<(&'static str, Report)>) {
    let mut seen: HashMap<(&'static str, String, &'static str, String), Remembered> = HashMap::new();
    let mut serial: u64 = 0;
    while let Some((component, report)) = reports.recv().await {
        let now = clock();
        let uid = report.about["uid"].as_str().unwrap_or_default().to_owned();
        let identity = (component, uid, report.reason, report.message.clone());
        if let Some(before) = seen.get_mut(&identity) {
            before.count += 1;
            let patch = json!({"count": before.count, "lastTimestamp": seconds(now)});
            if cluster.patch(&before.key, PatchKind::Merge, patch, None).await.is_ok() {
                continue;
            }
        }
        serial += 1;
        let event = event(component, &report, now, serial);
        let namespace = event["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        match cluster.create(&EVENTS, &namespace, event).await {
            Ok(created) => {
                if seen.len() >= REMEMBERED_MAX {
                    seen.clear();
                }
                seen.insert(identity, Remembered { key: created.key(), count: 1 });
            }
            Err(error) => tracing::debug!(controller = component, error = %error, "Failed to write an event"),
        }
    }
}

/// The Event of a report.
fn event(component: &str, report: &Report, now: Timestamp, serial: u64) -> Value {
    let about = &report.about;
    let namespace = about["namespace"].as_str().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let unique = now.as_nanosecond().wrapping_add(i128::from(serial));
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{}.{unique:x}", about["name"].as_str().unwrap_or_default()), "namespace": namespace},
        "involvedObject": about, "reason": report.reason, "message": report.message,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": seconds(now), "lastTimestamp": seconds(now), "count": 1,
        "type": if report.warning { "Warning" } else { "Normal" },
    })
}

/// A `metav1.Time`: whole seconds.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
