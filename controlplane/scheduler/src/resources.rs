//! Amounts of resources as plain numbers.

use std::collections::BTreeMap;

use serde_json::Value;
use trierarch_api::quantity::Quantity;

/// What a container without requests is counted as when nodes are scored.
const DEFAULT_CPU_MILLIS: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU.
    pub cpu_millis: i64,
    /// Memory.
    pub memory_bytes: i64,
    /// Ephemeral storage.
    pub storage_bytes: i64,
    /// Number of pods.
    pub pods: i64,
    /// Huge pages and extended resources; mostly empty.
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a `ResourceList`.
    pub fn of(list: &Value) -> Self {
        let mut resources = Self::default();
        for (name, amount) in list.as_object().into_iter().flatten() {
            let text = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
            let Ok(quantity) = text.parse::<Quantity>() else { continue };
            match name.as_str() {
                "cpu" => resources.cpu_millis = quantity.millis(),
                "memory" => resources.memory_bytes = quantity.units(),
                "ephemeral-storage" => resources.storage_bytes = quantity.units(),
                "pods" => resources.pods = quantity.units(),
                _ => {
                    resources.others.insert(name.clone(), quantity.units());
                }
            }
        }
        resources
    }

    /// Adds.
    pub fn add(&mut self, other: &Self) {
        self.cpu_millis += other.cpu_millis;
        self.memory_bytes += other.memory_bytes;
        self.storage_bytes += other.storage_bytes;
        self.pods += other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    /// Subtracts.
    pub fn remove(&mut self, other: &Self) {
        self.cpu_millis -= other.cpu_millis;
        self.memory_bytes -= other.memory_bytes;
        self.storage_bytes -= other.storage_bytes;
        self.pods -= other.pods;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() -= amount;
        }
    }

    /// The larger of both, for each resource.
    fn raise_to(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.max(other.storage_bytes);
        for (name, amount) in &other.others {
            let own = self.others.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// What a pod asks for, and what it counts as when nodes are scored.
///
/// `Spec:` KEP-753: sidecars (restartable init containers) run beside what starts after them; other init containers run alone.
pub fn pod_request(spec: &Value) -> (Resources, (i64, i64)) {
    let counted = |container: &Value| {
        let request = Resources::of(&container["resources"]["requests"]);
        let mut scored = request.clone();
        if container["resources"]["requests"]["cpu"].is_null() {
            scored.cpu_millis = DEFAULT_CPU_MILLIS;
        }
        if container["resources"]["requests"]["memory"].is_null() {
            scored.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        (request, scored)
    };
    let mut total = (Resources::default(), Resources::default());
    for container in spec["containers"].as_array().into_iter().flatten() {
        let (request, scored) = counted(container);
        total.0.add(&request);
        total.1.add(&scored);
    }
    let mut sidecars = (Resources::default(), Resources::default());
    let mut peak = (Resources::default(), Resources::default());
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let (request, scored) = counted(container);
        if container["restartPolicy"] == "Always" {
            total.0.add(&request);
            total.1.add(&scored);
            sidecars.0.add(&request);
            sidecars.1.add(&scored);
            peak.0.raise_to(&sidecars.0);
            peak.1.raise_to(&sidecars.1);
        } else {
            let (mut alone, mut alone_scored) = sidecars.clone();
            alone.add(&request);
            alone_scored.add(&scored);
            peak.0.raise_to(&alone);
            peak.1.raise_to(&alone_scored);
        }
    }
    total.0.raise_to(&peak.0);
    total.1.raise_to(&peak.1);
    // requests of the pod as a whole replace those of its containers
    let whole = Resources::of(&spec["resources"]["requests"]);
    if whole.cpu_millis > 0 {
        (total.0.cpu_millis, total.1.cpu_millis) = (whole.cpu_millis, whole.cpu_millis);
    }
    if whole.memory_bytes > 0 {
        (total.0.memory_bytes, total.1.memory_bytes) = (whole.memory_bytes, whole.memory_bytes);
    }
    let overhead = Resources::of(&spec["overhead"]);
    total.0.add(&overhead);
    total.1.add(&overhead);
    total.0.pods = 1;
    (total.0, (total.1.cpu_millis, total.1.memory_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn init_containers_and_sidecars_count_as_they_run() {
        let container = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({"containers": [container("200m"), container("300m")], "initContainers": [sidecar, container("700m")],
            "overhead": {"cpu": "50m"}});
        assert_eq!(pod_request(&spec).0.cpu_millis, 850);
        let small = json!({"containers": [container("200m")]});
        assert_eq!(pod_request(&small).0, Resources { cpu_millis: 200, pods: 1, ..Resources::default() });
        assert_eq!(pod_request(&small).1, (200, 200 * 1024 * 1024));
    }
}
