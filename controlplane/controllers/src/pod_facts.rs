//! What controllers ask of a pod's JSON.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use trierarch_api::Object;

/// `status.phase`, empty before it is set.
pub(crate) fn phase(pod: &Value) -> &str {
    pod["status"]["phase"].as_str().unwrap_or_default()
}

/// Whether the pod still has work to do: neither finished nor being deleted.
pub(crate) fn is_active(pod: &Object) -> bool {
    pod.deletion_timestamp.is_none() && !is_finished(&pod.value())
}

/// Whether all its containers have ended for good.
pub(crate) fn is_finished(pod: &Value) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// `spec.nodeName`, empty before it is placed.
pub(crate) fn node(pod: &Value) -> &str {
    pod["spec"]["nodeName"].as_str().unwrap_or_default()
}

/// A condition of any object with `status.conditions`.
pub(crate) fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == name)
}

/// Whether a condition is `True`.
pub(crate) fn is_true(object: &Value, name: &str) -> bool {
    condition(object, name).is_some_and(|condition| condition["status"] == "True")
}

/// A time in an object.
pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Whether the pod's condition `Ready` is `True`.
pub(crate) fn is_ready(pod: &Value) -> bool {
    is_true(pod, "Ready")
}

/// Since when the pod has been ready; `None` when it is not.
pub(crate) fn ready_since(pod: &Value) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|ready| ready["status"] == "True").and_then(|ready| time(&ready["lastTransitionTime"]))
}

/// How available a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Ready for long enough.
    Available,
    /// Ready, but not for `minReadySeconds` yet: look again after this time.
    In(Duration),
    /// Not ready.
    NotReady,
}

/// Whether a pod has been ready for `minReadySeconds`.
pub(crate) fn availability(pod: &Value, min_ready_seconds: i64, now: Timestamp) -> Availability {
    if !is_ready(pod) {
        return Availability::NotReady;
    }
    if min_ready_seconds == 0 {
        return Availability::Available;
    }
    let Some(since) = ready_since(pod) else { return Availability::NotReady };
    let available_at = since.saturating_add(jiff::SignedDuration::from_secs(min_ready_seconds)).unwrap_or(since);
    match Duration::try_from(available_at.duration_since(now)) {
        Ok(left) if !left.is_zero() => Availability::In(left),
        _ => Availability::Available,
    }
}

/// The value as a number, 0 when it is none.
pub(crate) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Whether every wanted label is there.
pub(crate) fn has_labels(labels: &std::collections::BTreeMap<String, String>, wanted: &Value) -> bool {
    wanted.as_object().is_none_or(|wanted| wanted.iter().all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str()))
}
