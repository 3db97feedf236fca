//! Looks at what pods use of the node, and asks the kubelet to end those that [`super::eviction`] names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::Recipient;
use k8s_openapi::api::core::v1::Pod;
use trierarch_client::Reflector;
use trierarch_runtime::ContainerStatus;

use super::context::Context;
use super::eviction::{PodUse, Shortage, to_evict};
use super::messages::EvictPod;
use super::observed::PodFailure;
use super::quantity;
use super::runs;
use crate::node_status::{Health, health, read_machine};

/// As often the node is looked at (`Spec:` Kubernetes "Node-pressure Eviction", housekeeping interval).
const PERIOD: Duration = Duration::from_secs(10);

/// Watches for ever.
pub async fn watch(context: Arc<Context>, pods: Reflector<Pod>, kubelet: Recipient<EvictPod>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (context, objects) = (Arc::clone(&context), pods.objects());
        let pods: Vec<Arc<Pod>> = objects.values().filter(|pod| lives(pod)).cloned().collect();
        let Ok(found) = tokio::task::spawn_blocking(move || look(&context, &pods)).await else { continue };
        for (uid, failure) in found {
            tracing::warn!(uid, reason = failure.message, "Evicted a pod");
            if kubelet.send(EvictPod { uid, failure }).await.is_err() {
                return;
            }
        }
    }
}

fn lives(pod: &Pod) -> bool {
    let over = matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    !over && pod.metadata.deletion_timestamp.is_none()
}

fn shortage(health: Health) -> Option<Shortage> {
    match health {
        Health { memory_pressure: true, .. } => Some(Shortage::Memory),
        Health { disk_pressure: true, .. } => Some(Shortage::Disk),
        _ => None,
    }
}

/// What the pod keeps on disk has a limit, so it has to be measured.
fn has_disk_limit(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = spec.volumes.iter().flatten().filter_map(|v| v.empty_dir.as_ref()).any(|e| e.size_limit.is_some());
    let limits = spec.containers.iter().filter_map(|c| c.resources.as_ref()?.limits.as_ref()).any(|l| l.contains_key("ephemeral-storage"));
    volumes || limits
}

fn look(context: &Context, pods: &[Arc<Pod>]) -> Vec<(String, PodFailure)> {
    let shortage = shortage(health(&read_machine(&context.config.data_dir), true));
    if shortage.is_none() && !pods.iter().any(|pod| has_disk_limit(pod)) {
        return Vec::new();
    }
    let containers = context.runtime.list_containers();
    let sandboxes = context.runtime.list_sandboxes();
    let uses: Vec<PodUse<'_>> = pods
        .iter()
        .map(|pod| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let sandbox = sandboxes.iter().find(|s| s.spec.labels.get(runs::POD_UID).is_some_and(|own| own == uid));
            let stats = sandbox.and_then(|s| context.runtime.sandbox_stats(&s.id).ok()).unwrap_or_default();
            let measured = if shortage == Some(Shortage::Disk) || has_disk_limit(pod) {
                disk(context, pod, uid, &containers)
            } else {
                DiskUse::default()
            };
            PodUse {
                pod,
                memory_bytes: i64::try_from(stats.memory_working_set_bytes).unwrap_or(i64::MAX),
                disk_bytes: measured.bytes,
                over_limit: measured.over_limit,
            }
        })
        .collect();
    to_evict(&uses, shortage)
}

#[derive(Default)]
struct DiskUse {
    bytes: i64,
    over_limit: Vec<(String, String)>,
}

/// Writable layers, logs and emptyDirs of a pod.
fn disk(context: &Context, pod: &Pod, uid: &str, containers: &[ContainerStatus]) -> DiskUse {
    let own = containers.iter().filter(|c| c.spec.labels.get(runs::POD_UID).is_some_and(|of| of == uid));
    let layers = own.map(|c| context.config.data_dir.join("containers").join(&c.id));
    let mut bytes: i64 = layers.chain([context.log_dir(pod)]).map(|path| used_bytes(&path)).sum();
    let dirs = context.volume_dirs(uid);
    let volumes: Vec<(String, PathBuf, Option<String>)> = pod
        .spec
        .iter()
        .flat_map(|s| s.volumes.iter().flatten())
        .filter_map(|v| {
            let empty = v.empty_dir.as_ref()?;
            let limit = empty.size_limit.as_ref().filter(|limit| quantity::units(limit) > 0).map(|limit| limit.0.clone());
            // The kernel itself keeps those in memory within their limits.
            (empty.medium.as_deref() != Some("Memory")).then(|| (v.name.clone(), dirs.path(v), limit))
        })
        .collect();
    let mut over_limit = Vec::new();
    for (name, path, limit) in volumes {
        let used = used_bytes(&path);
        bytes = bytes.saturating_add(used);
        if let Some(limit) =
            limit.filter(|limit| used > quantity::units(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(limit.clone())))
        {
            over_limit.push((name, limit));
        }
    }
    DiskUse { bytes, over_limit }
}

/// What a directory's files take on its file system; other file systems mounted inside do not count, and what vanishes meanwhile neither.
fn used_bytes(path: &Path) -> i64 {
    let Ok(top) = fs::symlink_metadata(path) else { return 0 };
    let mut total: u64 = 0;
    let mut left = vec![path.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.dev() != top.dev() {
                continue;
            }
            total = total.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    i64::try_from(total).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_count_by_what_they_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let before = used_bytes(dir.path());
        fs::write(dir.path().join("d/f"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
        let grown = used_bytes(dir.path()) - before;
        assert!((1 << 20..1 << 21).contains(&grown), "{grown}");
        assert_eq!(used_bytes(&dir.path().join("none")), 0);
    }

    #[test]
    fn only_pods_with_limits_are_measured() {
        let pod = |spec: serde_json::Value| -> Pod { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        assert!(!has_disk_limit(&pod(json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {}}]}))));
        assert!(has_disk_limit(&pod(json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}))));
        assert!(has_disk_limit(&pod(json!({"containers": [{"name": "a", "resources": {"limits": {"ephemeral-storage": "1Gi"}}}]}))));
    }

    #[test]
    fn memory_matters_before_disk() {
        let health = |memory_pressure, disk_pressure| Health { network_ready: true, memory_pressure, disk_pressure };
        assert_eq!(shortage(health(true, true)), Some(Shortage::Memory));
        assert_eq!((shortage(health(false, true)), shortage(health(false, false))), (Some(Shortage::Disk), None));
    }

    #[test]
    fn pods_that_have_ended_or_end_are_left_alone() {
        let pod = |value: serde_json::Value| -> Pod { serde_json::from_value(value).unwrap() };
        assert!(lives(&pod(json!({"status": {"phase": "Running"}}))) && !lives(&pod(json!({"status": {"phase": "Failed"}}))));
        assert!(!lives(&pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}))));
    }
}
