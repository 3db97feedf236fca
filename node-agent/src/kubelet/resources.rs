//! Cgroup limits of pods and containers.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use trierarch_runtime::spec::Resources;

use super::qos::{self, QosClass};
use super::quantity::{get_millis, get_units};
use super::restart::is_sidecar;

const PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// `cpu.shares` for an amount of cpu.
pub fn shares(millis: i64) -> u64 {
    let shares = if millis <= 0 { MIN_SHARES } else { (millis * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) };
    u64::try_from(shares).unwrap_or(2)
}

/// CFS quota per 100 ms for an amount of cpu; `None` when there is no limit.
pub fn quota_us(millis: i64) -> Option<i64> {
    (millis > 0).then(|| (millis * PERIOD_US / 1000).max(MIN_QUOTA_US))
}

/// The limits of one container. A limit without a request counts as both.
pub fn of_container(resources: Option<&ResourceRequirements>) -> Resources {
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let cpu_limit = get_millis(limits, "cpu");
    let cpu_request = get_millis(requests, "cpu").or(cpu_limit).unwrap_or(0);
    let memory = get_units(limits, "memory").filter(|m| *m > 0);
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: Some(cpu_limit.and_then(quota_us).unwrap_or(-1)),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(memory.unwrap_or(-1)),
        swap_limit_bytes: memory.map(|_| 0),
        memory_oom_group: true,
        ..Resources::default()
    }
}

/// The limits of a pod as a whole: the sum of its containers', or the larger need of its initialisation; unlimited if one container is.
pub fn of_pod(pod: &Pod, pids_limit: i64) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let cpu_request = total(spec, |c| amount(c, "cpu", false).unwrap_or(0)).max(pod_level(spec, "cpu", false).unwrap_or(0));
    let cpu_limit = pod_level(spec, "cpu", true).or_else(|| all_limited(spec, "cpu"));
    let memory_limit = pod_level(spec, "memory", true).or_else(|| all_limited(spec, "memory"));
    Resources {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota_us: cpu_limit.and_then(quota_us),
        cpu_period_us: cpu_limit.map(|_| 100_000),
        memory_limit_bytes: memory_limit.filter(|m| *m > 0).map(|millis| millis / 1000),
        pids_limit: Some(pids_limit),
        ..Resources::default()
    }
}

/// The memory limit of the pod as a whole.
pub fn pod_memory_limit(pod: &Pod) -> Option<i64> {
    of_pod(pod, -1).memory_limit_bytes
}

/// What a pod asks for as a whole, in thousandths: its containers or the larger need of its initialisation, and what its sandbox takes.
pub fn request_millis(spec: &PodSpec, name: &str) -> i64 {
    let containers = total(spec, |container| amount(container, name, false).unwrap_or(0));
    pod_level(spec, name, false).unwrap_or(containers).saturating_add(get_millis(spec.overhead.as_ref(), name).unwrap_or(0))
}

fn pod_level(spec: &PodSpec, name: &str, limit: bool) -> Option<i64> {
    let resources = spec.resources.as_ref()?;
    get_millis(if limit { resources.limits.as_ref() } else { resources.requests.as_ref() }, name)
}

fn amount(container: &Container, name: &str, limit: bool) -> Option<i64> {
    let resources = container.resources.as_ref()?;
    let limits = get_millis(resources.limits.as_ref(), name);
    if limit { limits } else { get_millis(resources.requests.as_ref(), name).or(limits) }
}

fn all_limited(spec: &PodSpec, name: &str) -> Option<i64> {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all().all(|c| amount(c, name, true).is_some_and(|v| v > 0)).then(|| total(spec, |c| amount(c, name, true).unwrap_or(0)))
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> i64) -> i64 {
    let mut sidecars = 0;
    let mut peak = 0;
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    peak.max(sidecars + spec.containers.iter().map(of).sum::<i64>())
}

/// Where a pod's cgroup is, below the node's.
pub fn cgroup_path(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos::of_pod(pod) {
        QosClass::Guaranteed => format!("kubepods/pod{uid}"),
        QosClass::Burstable => format!("kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cpu_amounts() {
        assert_eq!((shares(0), shares(1), shares(100), shares(1000)), (2, 2, 102, 1024));
        assert_eq!((quota_us(0), quota_us(1), quota_us(500)), (None, Some(1000), Some(50_000)));
    }

    #[test]
    fn a_pod_is_limited_if_all_its_containers_are() {
        let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": spec})).unwrap() };
        let limits = |cpu: &str| json!({"limits": {"cpu": cpu, "memory": "64Mi"}});
        let both = pod(json!({"containers": [{"name": "a", "resources": limits("1")}, {"name": "b", "resources": limits("500m")}],
            "initContainers": [{"name": "i", "resources": limits("4")}]}));
        let resources = of_pod(&both, 10);
        assert_eq!(
            (resources.cpu_quota_us, resources.memory_limit_bytes, resources.cpu_shares),
            (Some(400_000), Some(128 << 20), Some(4096))
        );
        let one = pod(json!({"containers": [{"name": "a", "resources": limits("1")}, {"name": "b"}]}));
        assert_eq!((of_pod(&one, 10).cpu_quota_us, pod_memory_limit(&one)), (None, None));
        assert_eq!(cgroup_path(&one), "kubepods/burstable/podu");
    }
}
