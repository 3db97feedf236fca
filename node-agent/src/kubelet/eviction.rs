//! Which pod has to go when the node runs short of memory or disk, or a pod exceeds what it may keep on disk.

use k8s_openapi::api::core::v1::Pod;

use super::observed::PodFailure;
use super::qos::{self, QosClass};
use super::quantity::get_units;

/// What is known of one pod.
#[derive(Clone, Debug)]
pub struct PodUse<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its working set.
    pub memory_bytes: i64,
    /// Its writable layers, logs and emptyDirs on disk.
    pub disk_bytes: i64,
    /// emptyDirs beyond their `sizeLimit`: name and limit as written.
    pub over_limit: Vec<(String, String)>,
}

/// What the node is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Memory.
    Memory,
    /// Disk.
    Disk,
}

/// The pods to end, with reasons: those over their own limits, and one more when the node is short of something.
pub fn to_evict(pods: &[PodUse<'_>], shortage: Option<Shortage>) -> Vec<(String, PodFailure)> {
    let mut out: Vec<(String, PodFailure)> = Vec::new();
    let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
    for used in pods {
        let limit = limit(used.pod, "ephemeral-storage");
        let message = if let Some((name, size)) = used.over_limit.first() {
            Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {size:?}. "))
        } else if limit.is_some_and(|l| used.disk_bytes > l) {
            Some(format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", limit.unwrap_or_default()))
        } else {
            None
        };
        if let Some(message) = message {
            out.push((uid(used.pod), failure(message, 0)));
        }
    }
    if let (Some(shortage), true) = (shortage, out.is_empty())
        && let Some(victim) = pods.iter().filter(|p| !critical(p.pod)).max_by_key(|p| rank(p, shortage))
    {
        let resource = match shortage {
            Shortage::Memory => "memory",
            Shortage::Disk => "ephemeral-storage",
        };
        out.push((uid(victim.pod), failure(format!("The node was low on resource: {resource}. "), 0)));
    }
    out
}

fn failure(message: String, grace_seconds: i64) -> PodFailure {
    PodFailure { reason: "Evicted".to_owned(), message, grace_seconds: Some(grace_seconds), disruption: true, rejected: false }
}

fn critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0) >= 2_000_000_000
}

/// Who goes first: pods that use more than they asked for, of low priority, by how much they exceed it.
fn rank(used: &PodUse<'_>, shortage: Shortage) -> (bool, i32, i64, String) {
    let (amount, name) = match shortage {
        Shortage::Memory => (used.memory_bytes, "memory"),
        Shortage::Disk => (used.disk_bytes, "ephemeral-storage"),
    };
    let over = amount - request(used.pod, name);
    let exceeds = over > 0 && qos::of_pod(used.pod) != QosClass::Guaranteed;
    let priority = used.pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    (exceeds, priority.saturating_neg(), over, used.pod.metadata.uid.clone().unwrap_or_default())
}

fn request(pod: &Pod, name: &str) -> i64 {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    containers.filter_map(|c| get_units(c.resources.as_ref()?.requests.as_ref(), name)).sum()
}

/// The sum of the containers' limits, if all have one.
fn limit(pod: &Pod, name: &str) -> Option<i64> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().map(|c| get_units(c.resources.as_ref()?.limits.as_ref(), name)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32, memory: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"priority": priority,
            "containers": [{"name": "a", "resources": {"requests": {"memory": memory}}}]}}))
        .unwrap()
    }

    fn used(pod: &Pod, memory_bytes: i64) -> PodUse<'_> {
        PodUse { pod, memory_bytes, disk_bytes: 0, over_limit: vec![] }
    }

    #[test]
    fn nobody_goes_without_need() {
        let a = pod("a", 0, "1");
        assert!(to_evict(&[used(&a, 5)], None).is_empty());
    }

    #[test]
    fn the_one_that_exceeds_its_request_most_goes_first_unless_it_matters_more() {
        let (a, b, c) = (pod("a", 0, "100"), pod("b", 0, "10"), pod("c", 5, "1"));
        let victims = |pods: &[PodUse<'_>]| to_evict(pods, Some(Shortage::Memory)).into_iter().map(|(uid, _)| uid).collect::<Vec<_>>();
        assert_eq!(victims(&[used(&a, 90), used(&b, 50), used(&c, 500)]), ["b"]);
        assert_eq!(victims(&[used(&a, 90), used(&c, 500)]), ["c"]);
        let critical = pod("k", 2_000_000_000, "1");
        assert!(victims(&[used(&critical, 500)]).is_empty());
    }

    #[test]
    fn a_full_empty_dir_evicts_its_pod() {
        let a = pod("a", 0, "1");
        let full = PodUse { over_limit: vec![("cache".into(), "1Mi".into())], ..used(&a, 0) };
        let found = to_evict(&[full], None);
        assert_eq!(found[0].1.message, "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". ");
    }
}
