//! Placement, messages, queueing and preemption against a brute-force reading of the same rules.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, Registry};

use crate::core::{Config, Core, Effect};
use crate::pod::PodInfo;

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");

struct World {
    registry: Registry,
    core: Core,
    now: Timestamp,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Self { registry: Registry::with_builtins(), core: Core::new(Config::default()), now, revision: 0 }
    }

    fn object(&mut self, resource: &GroupResource, value: &Value) -> Arc<Object> {
        self.revision += 1;
        let kind = self.registry.by_storage(resource).unwrap();
        Arc::new(Object::from_value(kind, value, self.revision).unwrap())
    }

    fn tell(&mut self, resource: GroupResource, old: Option<Arc<Object>>, new: Option<Arc<Object>>) {
        self.core.changed(&Change { resource, revision: self.revision, old, new }, self.now);
    }

    fn add_node(&mut self, node: &Value) {
        let node = self.object(&NODES, node);
        self.tell(NODES, None, Some(node));
    }

    fn add_pod(&mut self, pod: &Value) -> Arc<Object> {
        let pod = self.object(&PODS, pod);
        self.tell(PODS, None, Some(Arc::clone(&pod)));
        pod
    }

    fn remove_pod(&mut self, pod: &Arc<Object>) {
        self.tell(PODS, Some(Arc::clone(pod)), None);
    }

    /// The binding is heard of from the cluster.
    fn confirm(&mut self, pod: &Arc<Object>, node: &str) -> Arc<Object> {
        let mut value = Value::clone(&pod.value());
        value["spec"]["nodeName"] = json!(node);
        let bound = self.object(&PODS, &value);
        self.tell(PODS, Some(Arc::clone(pod)), Some(Arc::clone(&bound)));
        bound
    }

    fn next(&mut self) -> Option<Effect> {
        self.core.next(self.now)
    }

    fn bound_to(&mut self) -> String {
        match self.next() {
            Some(Effect::Bind { node, .. }) => node,
            other => panic!("expected a bind, got {other:?}"),
        }
    }

    fn message(&mut self) -> String {
        match self.next() {
            Some(Effect::Refuse { message, .. }) => message,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

fn node(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("node-{name}"), "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "10"}},
    })
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "500m"}}}]);
    }
    json!({"metadata": {"name": name, "namespace": "default", "uid": format!("pod-{name}"), "labels": {"app": "web"}}, "spec": spec})
}

#[test]
fn pods_are_spread_by_free_room_and_refused_in_upstreams_words() {
    let mut world = World::new();
    world.add_pod(&pod("early", json!({})));
    assert_eq!(world.message(), "no nodes available to schedule pods");
    world.now = world.now.checked_add(jiff::SignedDuration::from_secs(5)).unwrap();
    world.add_node(&node("a", "1"));
    world.add_node(&node("b", "1"));
    world.bound_to();
    for name in ["p1", "p2", "p3"] {
        world.add_pod(&pod(name, json!({})));
    }
    let mut nodes = [world.bound_to(), world.bound_to(), world.bound_to()];
    nodes.sort();
    assert!(nodes == ["a", "a", "b"] || nodes == ["a", "b", "b"], "{nodes:?}");
    world.add_pod(&pod("p4", json!({})));
    assert_eq!(
        world.message(),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
         2 No preemption victims found for incoming pod."
    );
}

#[test]
fn each_filter_has_its_reason() {
    let taint = |effect: &str| json!([{"key": "k", "value": "v", "effect": effect}]);
    let unhelpful = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let check = |edit: &dyn Fn(&mut Value), spec: Value, reason: &str| {
        let mut world = World::new();
        let mut row = node("a", "1");
        edit(&mut row);
        world.add_node(&row);
        world.add_pod(&pod("p", spec));
        if reason.is_empty() {
            world.bound_to();
        } else {
            assert_eq!(world.message(), format!("0/1 nodes are available: 1 {reason}. {unhelpful}"));
        }
    };
    let plain = |_: &mut Value| {};
    check(&|node| node["spec"]["unschedulable"] = json!(true), json!({}), "node(s) were unschedulable");
    check(&|node| node["spec"]["taints"] = taint("NoSchedule"), json!({}), "node(s) had untolerated taint(s)");
    check(&|node| node["spec"]["taints"] = taint("NoExecute"), json!({"tolerations": [{"key": "k", "value": "v"}]}), "");
    check(&|node| node["spec"]["taints"] = taint("PreferNoSchedule"), json!({}), "");
    check(&plain, json!({"nodeSelector": {"disk": "ssd"}}), "node(s) didn't match Pod's node affinity/selector");
    check(&plain, json!({"nodeSelector": {"kubernetes.io/hostname": "a"}}), "");
    let affinity = |operator: &str, values: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": operator, "values": values}]}]}}}})
    };
    check(&plain, affinity("In", json!(["a", "b"])), "");
    check(&plain, affinity("NotIn", json!(["a"])), "node(s) didn't match Pod's node affinity/selector");
    check(
        &plain,
        json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]}),
        "node(s) didn't match pod topology spread constraints (missing required label)",
    );
    let near = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    check(&plain, near, "node(s) didn't match pod affinity rules");
}

#[test]
fn host_ports_and_anti_affinity_keep_pods_apart() {
    for spec in [
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}),
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}),
        json!({"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]}),
    ] {
        let mut world = World::new();
        world.add_node(&node("a", "4"));
        world.add_node(&node("b", "4"));
        world.add_pod(&pod("p1", spec.clone()));
        world.add_pod(&pod("p2", spec.clone()));
        let mut nodes = [world.bound_to(), world.bound_to()];
        nodes.sort();
        assert_eq!(nodes, ["a", "b"], "{spec}");
    }
}

#[test]
fn a_waiting_pod_is_tried_when_room_appears() {
    let mut world = World::new();
    world.add_node(&node("a", "500m"));
    let first = world.add_pod(&pod("p1", json!({})));
    assert_eq!(world.bound_to(), "a");
    let first = world.confirm(&first, "a");
    world.add_pod(&pod("p2", json!({})));
    world.message();
    assert!(world.next().is_none(), "nothing has changed");
    world.now = world.now.checked_add(jiff::SignedDuration::from_secs(2)).unwrap();
    world.remove_pod(&first);
    assert_eq!(world.bound_to(), "a");
}

#[test]
fn the_more_important_pod_is_first_and_a_gated_one_waits() {
    let mut world = World::new();
    world.add_node(&node("a", "4"));
    world.add_pod(&pod("low", json!({"priority": 1})));
    world.add_pod(&pod("high", json!({"priority": 10})));
    let gated = world.add_pod(&pod("gated", json!({"priority": 100, "schedulingGates": [{"name": "g"}]})));
    assert!(matches!(world.next(), Some(Effect::Gate { .. })));
    let mut order = Vec::new();
    while let Some(Effect::Bind { pod, .. }) = world.next() {
        order.push(pod.id.name.clone());
    }
    assert_eq!(order, ["high", "low"]);
    let mut value = Value::clone(&gated.value());
    value["spec"]["schedulingGates"] = json!([]);
    let open = world.object(&PODS, &value);
    world.tell(PODS, Some(gated), Some(open));
    assert_eq!(world.bound_to(), "a");
}

#[test]
fn preemption_takes_the_least_important_victims_and_keeps_the_room() {
    let mut world = World::new();
    world.add_node(&node("a", "1"));
    let mut victims = Vec::new();
    for (name, priority) in [("v1", 1), ("v2", 2)] {
        let pod = world.add_pod(&pod(name, json!({"priority": priority})));
        world.bound_to();
        victims.push(world.confirm(&pod, "a"));
    }
    world.add_pod(&pod("important", json!({"priority": 100})));
    let Some(Effect::Refuse { nominate, victims: chosen, message, .. }) = world.next() else { panic!("expected a refusal") };
    assert_eq!(nominate.as_deref(), Some("a"));
    assert_eq!(chosen.iter().map(|victim| victim.id.name.as_str()).collect::<Vec<_>>(), ["v1"]);
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    world.now = world.now.checked_add(jiff::SignedDuration::from_secs(2)).unwrap();
    world.remove_pod(&victims[0]);
    // a less important pod may not take the room that was made
    world.add_pod(&pod("thief", json!({"priority": 5})));
    let Some(Effect::Bind { pod: bound, .. }) = world.next() else { panic!("expected a bind") };
    assert_eq!(bound.id.name, "important");
    world.message();
    // nor may one that never preempts displace anybody
    world.add_pod(&pod("meek", json!({"priority": 200, "preemptionPolicy": "Never"})));
    assert!(world.message().ends_with("preemption: not eligible due to preemptionPolicy=Never."));
}

#[test]
fn a_failed_bind_gives_the_room_back_and_is_retried() {
    let mut world = World::new();
    world.add_node(&node("a", "500m"));
    world.add_pod(&pod("p", json!({})));
    let Some(Effect::Bind { pod, .. }) = world.next() else { panic!("expected a bind") };
    assert_eq!(world.core.nodes().rows()[0].requested.cpu_millis, 500);
    world.core.bound(&pod, false, world.now);
    assert_eq!(world.core.nodes().rows()[0].requested.cpu_millis, 0);
    let due = world.core.next_due().unwrap();
    assert!(due <= world.now.checked_add(Duration::from_secs(1)).unwrap());
    world.now = due;
    assert_eq!(world.bound_to(), "a");
}

#[test]
fn pods_of_other_schedulers_are_left_alone_but_take_room() {
    let mut world = World::new();
    world.add_node(&node("a", "500m"));
    world.add_pod(&pod("theirs", json!({"schedulerName": "other"})));
    assert!(world.next().is_none());
    world.add_pod(&pod("placed", json!({"nodeName": "a", "schedulerName": "other"})));
    world.add_pod(&pod("ours", json!({})));
    world.message();
}

#[derive(Clone, Debug)]
struct Wish {
    cpu: i64,
    memory: i64,
    port: Option<i64>,
    zone: Option<u8>,
    apart: bool,
    tolerates: bool,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (1..1500_i64, 1..2048_i64, proptest::option::of(1..3_i64), proptest::option::of(0..3_u8), any::<bool>(), any::<bool>());
    let wish = wish.prop_map(|(cpu, memory, port, zone, apart, tolerates)| Wish { cpu, memory, port, zone, apart, tolerates });
    proptest::collection::vec(wish, 1..40)
}

/// Whether a node may take a pod, read naively from the JSON of both and of all placed pods.
fn brute_force(wanted: &Value, node: &Value, placed: &[(Value, String)]) -> bool {
    let name = node["metadata"]["name"].as_str().unwrap();
    let here: Vec<&Value> = placed.iter().filter(|(_, on)| on == name).map(|(pod, _)| pod).collect();
    let cpu = |pod: &Value| {
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap().trim_end_matches('m').parse::<i64>().unwrap()
    };
    let memory = |pod: &Value| {
        pod["spec"]["containers"][0]["resources"]["requests"]["memory"].as_str().unwrap().trim_end_matches("Mi").parse::<i64>().unwrap()
    };
    let port = |pod: &Value| pod["spec"]["containers"][0]["ports"][0]["hostPort"].as_i64();
    let apart = |pod: &Value| pod["spec"]["affinity"].is_object();
    let fits = here.len() < 10
        && here.iter().map(|pod| cpu(pod)).sum::<i64>() + cpu(wanted) <= 4000
        && here.iter().map(|pod| memory(pod)).sum::<i64>() + memory(wanted) <= 4096;
    let ports = port(wanted).is_none() || here.iter().all(|pod| port(pod) != port(wanted));
    let zone = &wanted["spec"]["nodeSelector"]["zone"];
    let selected = zone.is_null() || node["metadata"]["labels"]["zone"] == *zone;
    let tainted = node["spec"]["taints"].is_array() && !wanted["spec"]["tolerations"].is_array();
    // those that want to be apart are apart from each other, within a node
    let apart_ok = !apart(wanted) || !here.iter().any(|pod| apart(pod));
    fits && ports && selected && !tainted && apart_ok
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_overcommitted_and_the_filters_agree_with_brute_force(wishes in wishes(), nodes in 1..6_usize) {
        let mut world = World::new();
        let mut rows = Vec::new();
        for index in 0..nodes {
            let mut row = node(&format!("n{index}"), "4");
            row["metadata"]["labels"]["zone"] = json!(format!("z{}", index % 3));
            if index == 1 {
                row["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
            }
            world.add_node(&row);
            rows.push(row);
        }
        let mut placed: Vec<(Value, String)> = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let mut container = json!({"name": "c", "image": "i",
                "resources": {"requests": {"cpu": format!("{}m", wish.cpu), "memory": format!("{}Mi", wish.memory)}}});
            if let Some(port) = wish.port {
                container["ports"] = json!([{"containerPort": 80, "hostPort": port}]);
            }
            let mut wanted = pod(&format!("p{index}"), json!({"containers": [container]}));
            if let Some(zone) = wish.zone {
                wanted["spec"]["nodeSelector"]["zone"] = json!(format!("z{zone}"));
            }
            if wish.tolerates {
                wanted["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
            }
            if wish.apart {
                wanted["metadata"]["labels"]["apart"] = json!("yes");
                wanted["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"apart": "yes"}}}]}});
            }
            let allowed: Vec<&str> = rows
                .iter()
                .filter(|row| brute_force(&wanted, row, &placed))
                .map(|row| row["metadata"]["name"].as_str().unwrap())
                .collect();
            world.add_pod(&wanted);
            match world.next() {
                Some(Effect::Bind { node, .. }) => {
                    prop_assert!(allowed.contains(&node.as_str()), "{node} is not among {allowed:?}");
                    placed.push((wanted, node));
                }
                Some(Effect::Refuse { .. }) => prop_assert!(allowed.is_empty(), "refused, though {allowed:?} would do"),
                other => prop_assert!(false, "{other:?}"),
            }
        }
        for row in world.core.nodes().rows() {
            prop_assert!(row.requested.cpu_millis <= row.allocatable.cpu_millis);
            prop_assert!(row.requested.memory_bytes <= row.allocatable.memory_bytes);
        }
    }

    /// Counts kept while pods come and go agree with the placed pods: a new pod always goes to a least crowded zone.
    #[test]
    fn spreading_and_separation_hold_while_pods_come_and_go(steps in proptest::collection::vec((any::<bool>(), 0..20_usize, any::<bool>()), 1..60)) {
        let mut world = World::new();
        for index in 0..6 {
            let mut row = node(&format!("n{index}"), "64");
            row["status"]["allocatable"]["pods"] = json!("100");
            row["metadata"]["labels"]["zone"] = json!(format!("z{}", index % 3));
            world.add_node(&row);
        }
        let zone = |node: &str| node.trim_start_matches('n').parse::<usize>().unwrap() % 3;
        let mut placed: Vec<(Arc<Object>, String, bool)> = Vec::new();
        for (serial, (add, index, lonely)) in steps.into_iter().enumerate() {
            if !add && !placed.is_empty() {
                let (gone, _, _) = placed.remove(index % placed.len());
                world.remove_pod(&gone);
                continue;
            }
            let app = if lonely { "lonely" } else { "web" };
            let mut wanted = pod(&format!("p{serial}"), if lonely {
                json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "lonely"}}}]}}})
            } else {
                json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "web"}}}]})
            });
            wanted["metadata"]["labels"]["app"] = json!(app);
            let object = world.add_pod(&wanted);
            let alone = placed.iter().filter(|(_, _, lonely)| *lonely).count();
            match world.next() {
                Some(Effect::Bind { node, .. }) => {
                    if lonely {
                        prop_assert!(!placed.iter().any(|(_, on, lonely)| *lonely && *on == node));
                    } else {
                        let mut crowds = [0; 3];
                        placed.iter().filter(|(_, _, lonely)| !lonely).for_each(|(_, on, _)| crowds[zone(on)] += 1);
                        prop_assert_eq!(crowds[zone(&node)], crowds.into_iter().min().unwrap());
                    }
                    let bound = world.confirm(&object, &node);
                    placed.push((bound, node, lonely));
                }
                Some(Effect::Refuse { .. }) => {
                    prop_assert!(lonely && alone == 6, "refused though there was room");
                    world.remove_pod(&object);
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_places(count in 1..30_usize) {
        let run = || {
            let mut world = World::new();
            for index in 0..5 {
                world.add_node(&node(&format!("n{index}"), "8"));
            }
            (0..count).map(|index| { world.add_pod(&pod(&format!("p{index}"), json!({}))); world.bound_to() }).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn what_a_pod_takes_is_given_back() {
    let mut world = World::new();
    world.add_node(&node("a", "4"));
    let wanted = pod(
        "p",
        json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}], "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]}),
    );
    let before = format!("{:?}", world.core.nodes().rows());
    let info = PodInfo::of(&world.object(&PODS, &wanted));
    assert_eq!(info.ports.len(), 1);
    let first = world.add_pod(&wanted);
    world.bound_to();
    let bound = world.confirm(&first, "a");
    world.remove_pod(&bound);
    assert_eq!(format!("{:?}", world.core.nodes().rows()), before);
    assert_eq!(world.core.waiting(), 0);
}
