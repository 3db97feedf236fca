//! A pod's quality of service, and what the kernel's out-of-memory killer should think of its containers.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use super::quantity::{get_millis, get_units};

/// `Spec:` core/v1 PodStatus `qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container's limits equal its requests, for cpu and memory.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// The API's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod: what the API server recorded, else computed from the spec.
pub fn of_pod(pod: &Pod) -> QosClass {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => QosClass::Guaranteed,
        Some("Burstable") => QosClass::Burstable,
        Some("BestEffort") => QosClass::BestEffort,
        _ => pod.spec.as_ref().map_or(QosClass::BestEffort, of_spec),
    }
}

/// The class a spec has by itself. Only cpu and memory count; pod-level resources, when given, decide alone.
pub fn of_spec(spec: &PodSpec) -> QosClass {
    let lists: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) if resources.limits.is_some() || resources.requests.is_some() => vec![Some(resources)],
        _ => spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| c.resources.as_ref()).collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in lists {
        for name in ["cpu", "memory"] {
            let limit = resources.and_then(|r| get_millis(r.limits.as_ref(), name)).filter(|v| *v > 0);
            let request = resources.and_then(|r| get_millis(r.requests.as_ref(), name)).filter(|v| *v > 0).or(limit);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && limit == request;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// `oom_score_adj` of a container: guaranteed pods die last, best-effort ones first, the others by the share of memory they asked for.
pub fn oom_score_adj(class: QosClass, container: &Container, node_memory_bytes: i64, node_critical: bool) -> i32 {
    if node_critical {
        return -997;
    }
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request =
                container.resources.as_ref().and_then(|r| get_units(r.requests.as_ref().or(r.limits.as_ref()), "memory")).unwrap_or(0);
            let adj = 1000 - i128::from(request) * 1000 / i128::from(node_memory_bytes.max(1));
            i32::try_from(adj.clamp(3, 999)).unwrap_or(999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(containers: serde_json::Value, expected: QosClass) {
        let spec: PodSpec = serde_json::from_value(json!({ "containers": containers })).unwrap();
        assert_eq!(of_spec(&spec), expected);
    }

    #[test]
    fn classes() {
        check(json!([{"name": "a"}]), QosClass::BestEffort);
        check(json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]), QosClass::Guaranteed);
        check(
            json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}}]),
            QosClass::Burstable,
        );
        check(json!([{"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}, {"name": "b"}]), QosClass::Burstable);
        check(json!([{"name": "a", "resources": {"requests": {"nvidia.com/gpu": "1"}}}]), QosClass::BestEffort);
        check(
            json!([{"name": "a", "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1024Mi"}}}]),
            QosClass::Guaranteed,
        );
    }

    #[test]
    fn a_greedy_burstable_container_is_killed_later() {
        let container = |memory: &str| -> Container {
            serde_json::from_value(json!({"name": "a", "resources": {"requests": {"memory": memory}}})).unwrap()
        };
        assert_eq!(oom_score_adj(QosClass::Burstable, &container("512Mi"), 1 << 30, false), 500);
        assert_eq!(oom_score_adj(QosClass::Burstable, &container("1"), 1 << 30, false), 999);
        assert_eq!(oom_score_adj(QosClass::BestEffort, &container("1"), 1 << 30, false), 1000);
        assert_eq!(oom_score_adj(QosClass::Guaranteed, &container("1"), 1 << 30, false), -997);
    }
}
