//! Counters of requests, in Prometheus' text form under upstream's names.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::apiserver::ApiServer;
use crate::clock;
use crate::dispatch::Answer;
use crate::request::RequestInfo;

const BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    resource: String,
    subresource: String,
    code: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VerbLabels {
    verb: String,
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter<u64, AtomicU64>>,
    durations: Family<VerbLabels, Histogram>,
    inflight: Gauge<i64, AtomicI64>,
    revision: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::<VerbLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let (inflight, revision) = (Gauge::default(), Gauge::default());
        registry.register("apiserver_request", "Requests by verb, resource and answer", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time until the answer's head was ready", durations.clone());
        registry.register("apiserver_current_inflight_requests", "Requests being answered", inflight.clone());
        registry.register("apiserver_store_revision", "Revision of this master's view", revision.clone());
        Self { registry, requests, durations, inflight, revision }
    }
}

/// One request's measurement.
pub struct Timer<'a> {
    metrics: &'a Metrics,
    labels: RequestLabels,
    since: Instant,
}

impl Metrics {
    /// Begins to measure.
    pub fn start(&self, info: &RequestInfo) -> Timer<'_> {
        self.inflight.inc();
        let text = |text: &str| if info.is_resource { text.to_owned() } else { String::new() };
        Timer {
            metrics: self,
            labels: RequestLabels {
                verb: info.verb.to_uppercase(),
                group: text(&info.group),
                resource: text(&info.resource),
                subresource: text(&info.subresource),
                code: 0,
            },
            since: clock::monotonic(),
        }
    }

    /// `/metrics`
    pub fn answer(&self, server: &ApiServer) -> Answer {
        self.revision.set(i64::try_from(server.store.view().revision()).unwrap_or(i64::MAX));
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => Answer::full(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(error) => Answer::text(500, error.to_string()),
        }
    }
}

impl Timer<'_> {
    /// Counts the answer. An unknown resource counts under none, so that clients cannot make labels up.
    pub fn finish(mut self, code: u16) {
        if code == 404 {
            for label in [&mut self.labels.group, &mut self.labels.resource, &mut self.labels.subresource] {
                label.clear();
            }
        }
        self.labels.code = code;
        let verb = VerbLabels { verb: self.labels.verb.clone() };
        self.metrics.durations.get_or_create(&verb).observe(clock::monotonic().duration_since(self.since).as_secs_f64());
        self.metrics.requests.get_or_create(&self.labels).inc();
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.metrics.inflight.dec();
    }
}
