//! What the node says about itself: the Node object, its status and its Lease.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use trierarch_client::{Error, PatchKind};

use crate::clock;
use crate::config::AgentConfig;
use crate::kubelet::context::Context;
use crate::kubelet::quantity::ResourceList;

/// Below this much free memory the node is under pressure.
const MEMORY_PRESSURE_BYTES: i64 = 100 << 20;
/// Below this share of free disk the node is under pressure.
const DISK_PRESSURE_PERCENT: u64 = 10;
/// As many images a Node lists.
const IMAGES_MAX: usize = 50;

/// What the machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors, in thousandths.
    pub cpu_millis: i64,
    /// Memory.
    pub memory_bytes: i64,
    /// The file system of the agent's data.
    pub disk_bytes: i64,
    /// Free on it.
    pub disk_free_bytes: i64,
    /// `MemAvailable`.
    pub memory_available_bytes: i64,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// `/sys/class/dmi/id/product_uuid`.
    pub system_uuid: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME`.
    pub os_image: String,
}

/// Reads the machine's facts.
pub fn read_machine(data_dir: &std::path::Path) -> Machine {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let meminfo = text("/proc/meminfo");
    let kib = |name: &str| -> i64 {
        meminfo
            .lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<i64>().ok())
            .unwrap_or(0)
            * 1024
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let disk = nix::sys::statvfs::statvfs(data_dir).ok();
    let bytes = |blocks: u64, size: u64| i64::try_from(blocks.saturating_mul(size)).unwrap_or(i64::MAX);
    let os = text("/etc/os-release");
    let os_image = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    Machine {
        cpu_millis: i64::try_from(cpus).unwrap_or(1) * 1000,
        memory_bytes: kib("MemTotal:"),
        memory_available_bytes: kib("MemAvailable:"),
        disk_bytes: disk.as_ref().map_or(0, |d| bytes(d.blocks(), d.fragment_size())),
        disk_free_bytes: disk.as_ref().map_or(0, |d| bytes(d.blocks_available(), d.fragment_size())),
        machine_id: text("/etc/machine-id"),
        system_uuid: text("/sys/class/dmi/id/product_uuid"),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image,
    }
}

/// What the node offers: its share of the machine.
pub fn capacity(config: &AgentConfig, machine: &Machine) -> ResourceList {
    let cpu = config.cpu_millis.unwrap_or(machine.cpu_millis);
    let cpu = if cpu % 1000 == 0 { (cpu / 1000).to_string() } else { format!("{cpu}m") };
    let memory = config.memory_bytes.unwrap_or(machine.memory_bytes);
    let disk = config.ephemeral_storage_bytes.unwrap_or(machine.disk_bytes);
    BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpu)),
        ("memory".to_owned(), Quantity(format!("{}Ki", memory / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk / 1024))),
        ("pods".to_owned(), Quantity(config.pods_max.to_string())),
        ("hugepages-2Mi".to_owned(), Quantity("0".to_owned())),
        ("hugepages-1Gi".to_owned(), Quantity("0".to_owned())),
    ])
}

/// Facts that decide the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The pod network is up.
    pub network_ready: bool,
    /// Too little memory.
    pub memory_pressure: bool,
    /// Too little disk.
    pub disk_pressure: bool,
}

/// Whether the machine is short of something.
pub fn health(machine: &Machine, network_ready: bool) -> Health {
    let percent =
        u64::try_from(machine.disk_free_bytes).unwrap_or(0).saturating_mul(100) / u64::try_from(machine.disk_bytes.max(1)).unwrap_or(1);
    Health {
        network_ready,
        memory_pressure: machine.memory_available_bytes < MEMORY_PRESSURE_BYTES,
        disk_pressure: machine.disk_bytes > 0 && percent < DISK_PRESSURE_PERCENT,
    }
}

/// The conditions of a Node; times of those that do not change come from `old`.
pub fn conditions(health: Health, old: &Value, now: Timestamp) -> Vec<Value> {
    let (ready, reason, message) = if health.network_ready {
        (true, "KubeletReady", "kubelet is posting ready status")
    } else {
        (false, "KubeletNotReady", "container runtime network not ready: the node has no pod CIDR yet")
    };
    let pressure = |bad: bool, kind: &'static str, name: &str| {
        let (reason, text) = match (kind, bad) {
            ("MemoryPressure", false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ("MemoryPressure", true) => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("DiskPressure", false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ("DiskPressure", true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (_, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            (_, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        };
        let _ = name;
        (kind, bad, reason, text)
    };
    let all = [
        pressure(health.memory_pressure, "MemoryPressure", "memory"),
        pressure(health.disk_pressure, "DiskPressure", "disk"),
        pressure(false, "PIDPressure", "pid"),
        ("Ready", ready, reason, message),
    ];
    let beat = second(now);
    all.into_iter()
        .map(|(kind, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let before = old["conditions"].as_array().and_then(|list| list.iter().find(|c| c["type"] == kind && c["status"] == status));
            let since = before.map_or_else(|| json!(beat), |c| c["lastTransitionTime"].clone());
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": beat, "lastTransitionTime": since})
        })
        .collect()
}

fn second(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The Node as it is registered.
pub fn node_object(config: &AgentConfig) -> Value {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch().to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch().to_owned()),
    ]);
    labels.extend(config.labels.clone());
    let mut spec = serde_json::Map::new();
    if !config.taints.is_empty() {
        spec.insert("taints".to_owned(), serde_json::to_value(&config.taints).unwrap_or_default());
    }
    if let Some(id) = &config.provider_id {
        spec.insert("providerID".to_owned(), json!(id));
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": config.node_name, "labels": labels}, "spec": spec})
}

/// The whole status of the Node.
pub fn status(config: &AgentConfig, machine: &Machine, health: Health, images: Vec<Value>, old: &Value, now: Timestamp) -> Value {
    let capacity = capacity(config, machine);
    json!({
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": config.node_ip.to_string()}, {"type": "Hostname", "address": config.node_name}],
        "conditions": conditions(health, old, now),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.streaming_address.port()}},
        "images": images,
        "nodeInfo": {
            "architecture": arch(), "operatingSystem": "linux", "bootID": machine.boot_id, "machineID": machine.machine_id,
            "systemUUID": if machine.system_uuid.is_empty() { &machine.machine_id } else { &machine.system_uuid },
            "kernelVersion": machine.kernel, "osImage": machine.os_image, "containerRuntimeVersion": AgentConfig::runtime_version(),
            "kubeletVersion": config.version, "kubeProxyVersion": config.version,
        },
    })
}

/// Registers the node and returns it as stored. Tries until a master answers.
pub async fn register(config: &AgentConfig) -> Value {
    let mut pause = std::time::Duration::from_millis(100);
    loop {
        let created: Result<Value, Error> = match config.client.get(&format!("/api/v1/nodes/{}", config.node_name)).await {
            Err(error) if error.is_not_found() => config.client.create("/api/v1/nodes", &node_object(config)).await,
            other => other,
        };
        match created {
            Ok(node) => return node,
            Err(error) => tracing::warn!(node = config.node_name, %error, "Could not register the node yet"),
        }
        // Nothing announces that a master answers again; asking is the condition.
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(std::time::Duration::from_secs(2));
    }
}

/// Whether the Node as it is stored says that it is ready, or not; a master that has not heard of it for a while writes neither.
fn shown_ready(node: &Node) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    match conditions.iter().find(|condition| condition.type_ == "Ready")?.status.as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// Writes the status at once, then whenever something changes here or somebody else has changed it, and every 5 minutes.
pub async fn keep_status(context: Arc<Context>) {
    let mut shown = context.nodes.changes();
    let mut network = context.network.clone();
    let mut ticks = tokio::time::interval(std::time::Duration::from_secs(10));
    let mut written: Option<(Value, Timestamp)> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = shown.changed() => {}
            changed = network.changed() => {
                if changed.is_err() {
                    ticks.tick().await;
                }
            }
        }
        let now = clock::now();
        let ready = network.borrow_and_update().is_some();
        let config = &context.config;
        let overruled = context.nodes.get("", &config.node_name).is_some_and(|node| shown_ready(&node) != Some(ready));
        let data_dir = config.data_dir.clone();
        let store = context.images.store().clone();
        let facts = tokio::task::spawn_blocking(move || (read_machine(&data_dir), images(&store))).await;
        let Ok((machine, images)) = facts else { continue };
        let health = health(&machine, ready);
        let fingerprint = json!([format!("{health:?}"), images, capacity(config, &machine).get("cpu"), config.version]);
        let due = overruled || written.as_ref().is_none_or(|(old, at)| *old != fingerprint || now.duration_since(*at).as_secs() >= 300);
        if !due {
            continue;
        }
        let path = format!("/api/v1/nodes/{}", config.node_name);
        let old: Value = match config.client.get(&path).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => register(config).await,
            Err(error) => {
                tracing::debug!(%error, "Could not read the node");
                continue;
            }
        };
        let body = json!({"status": status(config, &machine, health, images, &old["status"], now)});
        match config.client.patch::<Value>(&format!("{path}/status"), PatchKind::Strategic, &body).await {
            Ok(_) => written = Some((fingerprint, now)),
            Err(error) => tracing::warn!(node = config.node_name, %error, "Could not write the node's status"),
        }
    }
}

fn images(store: &trierarch_images::Store) -> Vec<Value> {
    let mut list: Vec<_> = store.list().unwrap_or_default();
    list.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    list.iter().take(IMAGES_MAX).map(|image| json!({"names": image.all_names(), "sizeBytes": image.size_bytes})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_comes_from_what_is_left() {
        let machine = Machine { disk_bytes: 100, disk_free_bytes: 5, memory_available_bytes: 1 << 30, ..Machine::default() };
        assert_eq!(health(&machine, true), Health { network_ready: true, memory_pressure: false, disk_pressure: true });
    }

    #[test]
    fn a_node_that_a_master_gave_up_does_not_say_what_it_is() {
        let check = |status: &str, expected| {
            let node = json!({"metadata": {}, "status": {"conditions": [{"type": "DiskPressure", "status": "False"}, {"type": "Ready", "status": status}]}});
            assert_eq!(shown_ready(&serde_json::from_value(node).unwrap()), expected, "{status}");
        };
        check("True", Some(true));
        check("False", Some(false));
        check("Unknown", None);
        assert_eq!(shown_ready(&Node::default()), None, "it was registered just now");
    }

    #[test]
    fn conditions_keep_their_transition_times() {
        let now = Timestamp::from_second(5_000).unwrap();
        let healthy = Health { network_ready: true, memory_pressure: false, disk_pressure: false };
        let old = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            {"type": "DiskPressure", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
        let found = conditions(healthy, &old, now);
        assert_eq!(
            found.iter().map(|c| c["type"].as_str().unwrap()).collect::<Vec<_>>(),
            ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        );
        assert_eq!(
            (&found[3]["lastTransitionTime"], &found[1]["lastTransitionTime"]),
            (&json!("2020-01-01T00:00:00Z"), &json!("1970-01-01T01:23:20Z"))
        );
        let unready = conditions(Health { network_ready: false, ..healthy }, &old, now);
        assert_eq!((&unready[3]["status"], &unready[3]["reason"]), (&json!("False"), &json!("KubeletNotReady")));
    }
}
