//! Resource use of the node's pods: `/stats/summary` and the Prometheus text of `/metrics` and `/metrics/resource`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use trierarch_client::Reflector;
use trierarch_runtime::{ContainerState, Stats};

use crate::clock;
use crate::kubelet::context::Context;
use crate::node_status::read_machine;

fn usage(stats: &Stats, now: &str) -> (Value, Value) {
    let cpu = json!({"time": now, "usageCoreNanoSeconds": stats.cpu_usage_ns});
    let memory = json!({"time": now, "usageBytes": stats.memory_usage_bytes, "workingSetBytes": stats.memory_working_set_bytes,
        "rssBytes": stats.memory_rss_bytes, "pageFaults": stats.memory_page_faults, "majorPageFaults": stats.memory_major_page_faults});
    (cpu, memory)
}

/// The kubelet's summary of resource use.
///
/// # Errors
/// The agent is stopping.
pub async fn summary(context: &Arc<Context>, pods: &Reflector<Pod>) -> Result<Value, String> {
    let (context, objects) = (Arc::clone(context), pods.objects());
    tokio::task::spawn_blocking(move || {
        let now = clock::now().to_string();
        let machine = read_machine(&context.config.data_dir);
        let containers = context.runtime.list_containers();
        let mut list = Vec::new();
        let mut total = Stats::default();
        for pod in objects.values() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let Some(sandbox) = context.runtime.list_sandboxes().into_iter().find(|s| s.id.starts_with(&format!("{uid}."))) else {
                continue;
            };
            let Ok(stats) = context.runtime.sandbox_stats(&sandbox.id) else { continue };
            total.cpu_usage_ns += stats.cpu_usage_ns;
            total.memory_working_set_bytes += stats.memory_working_set_bytes;
            total.memory_usage_bytes += stats.memory_usage_bytes;
            let (cpu, memory) = usage(&stats, &now);
            let parts: Vec<Value> = containers
                .iter()
                .filter(|c| c.sandbox_id == sandbox.id && c.state == ContainerState::Running)
                .filter_map(|c| {
                    let (cpu, memory) = usage(&context.runtime.container_stats(&c.id).ok()?, &now);
                    let started = c.started_at.map(|t| clock::timestamp(t).to_string());
                    Some(json!({"name": c.spec.name, "startTime": started, "cpu": cpu, "memory": memory}))
                })
                .collect();
            list.push(json!({"podRef": {"name": pod.metadata.name, "namespace": pod.metadata.namespace, "uid": uid},
                "startTime": clock::timestamp(sandbox.created_at).to_string(), "cpu": cpu, "memory": memory, "containers": parts}));
        }
        let (cpu, memory) = usage(&total, &now);
        json!({
            "node": {"nodeName": context.config.node_name, "startTime": now, "cpu": cpu, "memory": memory,
                "fs": {"time": now, "availableBytes": machine.disk_free_bytes, "capacityBytes": machine.disk_bytes,
                    "usedBytes": machine.disk_bytes - machine.disk_free_bytes}},
            "pods": list,
        })
    })
    .await
    .map_err(|e| e.to_string())
}

/// `/metrics/resource` from a summary.
pub fn resource_metrics(summary: &Value) -> String {
    let mut out = String::from("# TYPE node_cpu_usage_seconds_total counter\n");
    let seconds = |value: &Value| value.as_f64().unwrap_or(0.0) / 1e9;
    out.push_str(&format!("node_cpu_usage_seconds_total {}\n", seconds(&summary["node"]["cpu"]["usageCoreNanoSeconds"])));
    out.push_str(&format!(
        "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {}\n",
        summary["node"]["memory"]["workingSetBytes"]
    ));
    let (mut cpu, mut memory) = (String::new(), String::new());
    for pod in summary["pods"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for container in pod["containers"].as_array().into_iter().flatten() {
            let labels = format!(
                "container={:?},namespace={:?},pod={:?}",
                text(&container["name"]),
                text(&pod["podRef"]["namespace"]),
                text(&pod["podRef"]["name"])
            );
            cpu.push_str(&format!(
                "container_cpu_usage_seconds_total{{{labels}}} {}\n",
                seconds(&container["cpu"]["usageCoreNanoSeconds"])
            ));
            memory.push_str(&format!("container_memory_working_set_bytes{{{labels}}} {}\n", container["memory"]["workingSetBytes"]));
        }
    }
    out + "# TYPE container_cpu_usage_seconds_total counter\n" + &cpu + "# TYPE container_memory_working_set_bytes gauge\n" + &memory
}

/// `/metrics`: the agent's own figures.
pub fn metrics(context: &Context, pods: &Reflector<Pod>) -> String {
    let running = context.runtime.list_containers().iter().filter(|c| c.state == ContainerState::Running).count();
    format!(
        "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n# TYPE kubelet_running_containers gauge\nkubelet_running_containers{{container_state=\"running\"}} {running}\n# TYPE kubelet_node_name gauge\nkubelet_node_name{{node={:?}}} 1\n",
        pods.objects().len(),
        context.config.node_name
    )
}
