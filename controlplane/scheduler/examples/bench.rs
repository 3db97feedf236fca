//! Pods per second of the pure core: 5,000 nodes, 10,000 pods, binds that succeed at once and are heard of from the cluster.
//!
//! `cargo run --release -p trierarch-scheduler --example bench [NODES] [PODS] [basic|anti-affinity|spread]`

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, Registry};
use trierarch_scheduler::{Config, Core, Effect};

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nodes: usize = arguments.next().map_or(Ok(5000), |text| text.parse())?;
    let pods: usize = arguments.next().map_or(Ok(10_000), |text| text.parse())?;
    let shape = arguments.next().unwrap_or_else(|| "basic".to_owned());
    let registry = Registry::with_builtins();
    let (pod_kind, node_kind) = (registry.by_storage(&PODS).ok_or("no pods")?, registry.by_storage(&NODES).ok_or("no nodes")?);
    let now = Timestamp::from_second(1_800_000_000)?;
    let mut core = Core::new(Config::default());
    for index in 0..nodes {
        let node = json!({
            "metadata": {"name": format!("node-{index}"), "uid": format!("n{index}"),
                "labels": {"kubernetes.io/hostname": format!("node-{index}"), "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
            "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
        });
        let node = Arc::new(Object::from_value(Arc::clone(&node_kind), &node, 1)?);
        core.changed(&Change { resource: NODES, revision: 1, old: None, new: Some(node) }, now);
    }
    let objects: Vec<Arc<Object>> =
        (0..pods).map(|index| Object::from_value(Arc::clone(&pod_kind), &pod(index, &shape), 2).map(Arc::new)).collect::<Result<_, _>>()?;
    let begin = Timestamp::now();
    let mut bound = 0_usize;
    for object in &objects {
        core.changed(&Change { resource: PODS, revision: 2, old: None, new: Some(Arc::clone(object)) }, now);
    }
    while let Some(effect) = core.next(now) {
        if let Effect::Bind { pod, .. } = effect {
            core.bound(&pod, true, now);
            bound += 1;
        }
    }
    let elapsed = Timestamp::now().duration_since(begin).as_secs_f64();
    #[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
    {
        let rate = u32::try_from(bound).map_or(0.0, f64::from) / elapsed;
        println!("{shape}: {bound} of {pods} pods on {nodes} nodes in {elapsed:.3} s: {rate:.0} pods/s");
    }
    Ok(())
}

fn pod(index: usize, shape: &str) -> Value {
    let mut spec = json!({"containers": [{"name": "c", "image": "registry.example/app:1",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    match shape {
        "anti-affinity" => {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"color": "green"}}}]}});
        }
        "spread" => {
            spec["topologySpreadConstraints"] = json!([{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 5,
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "green"}}}]);
        }
        _ => {}
    }
    json!({"metadata": {"name": format!("pod-{index}"), "namespace": "bench", "uid": format!("p{index}"), "labels": {"color": "green"}},
        "spec": spec})
}
