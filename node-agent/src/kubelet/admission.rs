//! Whether the node takes a pod that was bound to it: whoever sets `spec.nodeName` himself asks no scheduler. Refusals are worded as the
//! kubelet words them, the first reason decides (`Spec:` Kubernetes "Assigning Pods to Nodes", nodeName).

use k8s_openapi::api::core::v1::{ContainerPort, Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration};
use trierarch_api::selector::{Operator, Requirement};

use super::observed::PodFailure;
use super::quantity::{ResourceList, get_millis};
use super::resources;
use super::restart::is_sidecar;

/// Sysctls that change nothing outside the pod.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// What the node has, and who uses it already.
pub struct Room<'a> {
    /// The Node as it is stored; not known for a moment after its registration.
    pub node: Option<&'a Node>,
    /// What it offers.
    pub allocatable: &'a ResourceList,
    /// The pods that it has taken and that have not ended.
    pub pods: &'a [&'a Pod],
}

/// Why the node does not take a pod, if it does not.
pub fn refusal(pod: &Pod, room: &Room<'_>) -> Option<PodFailure> {
    let spec = pod.spec.as_ref()?;
    let (reason, message) = forbidden_sysctl(spec)
        .or_else(|| shortage(spec, room))
        .or_else(|| wrong_node(spec, room.node?))
        .or_else(|| taken_port(spec, room.pods))
        .or_else(|| taint(spec, room.node?))?;
    Some(PodFailure { reason, message, rejected: true, ..PodFailure::default() })
}

type Refusal = (String, String);

fn forbidden_sysctl(spec: &PodSpec) -> Option<Refusal> {
    let sysctls = spec.security_context.as_ref()?.sysctls.as_ref()?;
    let bad = sysctls.iter().find(|sysctl| !SAFE_SYSCTLS.contains(&sysctl.name.replace('/', ".").as_str()))?;
    Some(("SysctlForbidden".to_owned(), format!("forbidden sysctl: {:?} not allowlisted", bad.name)))
}

/// What is short: pods by number, then the resources, cpu in thousandths.
fn shortage(spec: &PodSpec, room: &Room<'_>) -> Option<Refusal> {
    let short = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}");
        (requested > 0 && requested > capacity - used).then(|| (format!("OutOf{name}"), message))
    };
    let capacity = |name: &str| get_millis(Some(room.allocatable), name).unwrap_or(0);
    let used = i64::try_from(room.pods.len()).unwrap_or(i64::MAX);
    short("pods", 1, used, capacity("pods") / 1000).or_else(|| {
        ["cpu", "memory", "ephemeral-storage"].into_iter().find_map(|name| {
            let unit = if name == "cpu" { 1 } else { 1000 };
            let requested = resources::request_millis(spec, name) / unit;
            let used = room.pods.iter().filter_map(|pod| pod.spec.as_ref()).map(|spec| resources::request_millis(spec, name) / unit).sum();
            short(name, requested, used, capacity(name) / unit)
        })
    })
}

fn failed(predicate: &str, why: &str) -> Refusal {
    (predicate.to_owned(), format!("Predicate {predicate} failed: {why}"))
}

fn wrong_node(spec: &PodSpec, node: &Node) -> Option<Refusal> {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let name = node.metadata.name.as_deref();
    let matches = |term: &NodeSelectorTerm| {
        let (on_labels, on_fields) =
            (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
        // an empty term matches nothing
        !(on_labels.is_empty() && on_fields.is_empty())
            && on_labels.iter().all(|wanted| holds(wanted, labels.get(&wanted.key).map(String::as_str)))
            && on_fields.iter().all(|wanted| wanted.key == "metadata.name" && holds(wanted, name))
    };
    let fits = selected && required.is_none_or(|required| required.node_selector_terms.iter().any(matches));
    (!fits).then(|| failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"))
}

fn holds(wanted: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let operator = match wanted.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return false,
    };
    Requirement { key: wanted.key.clone(), operator, values: wanted.values.clone().unwrap_or_default() }.matches(value)
}

/// Ports of the node that containers ask for.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|number| number > 0))
}

fn taken_port(spec: &PodSpec, pods: &[&Pod]) -> Option<Refusal> {
    let address = |port: &ContainerPort| port.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "0.0.0.0");
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let clash = |wanted: &ContainerPort, taken: &ContainerPort| {
        let (here, there) = (address(wanted), address(taken));
        wanted.host_port == taken.host_port && protocol(wanted) == protocol(taken) && (here.is_none() || there.is_none() || here == there)
    };
    let taken = || pods.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(host_ports);
    let clashes = host_ports(spec).any(|wanted| taken().any(|taken| clash(wanted, taken)));
    clashes.then(|| failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"))
}

fn taint(spec: &PodSpec, node: &Node) -> Option<Refusal> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let bad = taints.iter().filter(|taint| taint.effect == "NoExecute").any(|taint| !tolerations.iter().any(|one| tolerates(one, taint)));
    bad.then(|| failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"))
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let (key, effect) = (toleration.key.as_deref().unwrap_or_default(), toleration.effect.as_deref().unwrap_or_default());
    let same_value = || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "Exists" => true,
            "" | "Equal" => !key.is_empty() && same_value(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asks(resources: Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": {"requests": resources}}]}))
    }

    fn listens(port: Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "ports": [port]}]}))
    }

    fn check(pod: &Pod, others: &[&Pod], expected: Option<(&str, &str)>) {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "4"}},
            "spec": {"taints": [{"key": "gone", "effect": "NoExecute"}, {"key": "busy", "effect": "NoSchedule"}]},
        }))
        .unwrap();
        let offers = [("cpu", "2"), ("memory", "1Gi"), ("ephemeral-storage", "10Gi"), ("pods", "3")];
        let allocatable = offers.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into();
        let mut tolerant = pod.clone();
        let spec = tolerant.spec.as_mut().unwrap();
        if spec.tolerations.is_none() {
            spec.tolerations = Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]);
        }
        let room = Room { node: Some(&node), allocatable: &allocatable, pods: others };
        let found = refusal(&tolerant, &room).map(|failure| (failure.reason, failure.message));
        assert_eq!(found.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())), expected);
    }

    #[test]
    fn what_the_node_has_not_got_is_refused_with_numbers() {
        let small = asks(json!({"cpu": "500m", "memory": "256Mi"}));
        check(&small, &[], None);
        check(&small, &[&small, &small], None);
        let full = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        check(&small, &[&small, &small, &small], Some(("OutOfpods", full)));
        let cpu = "Node didn't have enough resource: cpu, requested: 1800, used: 500, capacity: 2000";
        check(&asks(json!({"cpu": "1800m"})), &[&small], Some(("OutOfcpu", cpu)));
        let memory = "Node didn't have enough resource: memory, requested: 1073741824, used: 268435456, capacity: 1073741824";
        check(&asks(json!({"memory": "1Gi"})), &[&small], Some(("OutOfmemory", memory)));
        check(&asks(json!({})), &[&asks(json!({"cpu": "2", "memory": "1Gi"}))], None);
        // what an initialisation needs for itself counts, too
        let peak = pod(json!({"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "3"}}}], "containers": [{"name": "a"}]}));
        let cpu = "Node didn't have enough resource: cpu, requested: 3000, used: 0, capacity: 2000";
        check(&peak, &[], Some(("OutOfcpu", cpu)));
    }

    #[test]
    fn a_node_of_another_kind_is_refused() {
        let wrong = Some(("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"));
        let selects = |labels: Value| pod(json!({"containers": [], "nodeSelector": labels}));
        check(&selects(json!({"disk": "ssd"})), &[], None);
        check(&selects(json!({"disk": "tape"})), &[], wrong);
        let requires = |term: Value| {
            let required = json!({"nodeSelectorTerms": [term]});
            pod(json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}))
        };
        let label = |operator: &str, value: &str| {
            requires(json!({"matchExpressions": [{"key": "cores", "operator": operator, "values": [value]}]}))
        };
        check(&label("In", "4"), &[], None);
        check(&label("NotIn", "4"), &[], wrong);
        check(&label("Gt", "3"), &[], None);
        check(&label("Lt", "3"), &[], wrong);
        check(&requires(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})), &[], None);
        check(&requires(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})), &[], wrong);
        check(&requires(json!({})), &[], wrong);
    }

    #[test]
    fn a_port_of_the_node_has_one_owner() {
        let clash = Some(("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"));
        let web = listens(json!({"containerPort": 80, "hostPort": 80}));
        check(&web, &[], None);
        check(&web, &[&web], clash);
        check(&web, &[&listens(json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}))], None);
        let at = |ip: &str| listens(json!({"containerPort": 80, "hostPort": 80, "hostIP": ip}));
        check(&at("10.0.0.1"), &[&at("10.0.0.2")], None);
        check(&at("10.0.0.1"), &[&at("0.0.0.0")], clash);
        check(&listens(json!({"containerPort": 80})), &[&web], None);
    }

    #[test]
    fn only_a_taint_that_ends_pods_keeps_them_away() {
        let tolerates = |tolerations: Value| pod(json!({"containers": [], "tolerations": tolerations}));
        let tainted = Some(("TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"));
        check(&tolerates(json!([])), &[], tainted);
        check(&tolerates(json!([{"key": "gone", "operator": "Exists"}])), &[], None);
        check(&tolerates(json!([{"key": "gone", "value": "else"}])), &[], tainted);
        check(&tolerates(json!([{"key": "gone", "operator": "Exists", "effect": "NoSchedule"}])), &[], tainted);
    }

    #[test]
    fn a_sysctl_of_the_whole_machine_is_refused() {
        let sets = |name: &str| pod(json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        check(&sets("kernel.shm_rmid_forced"), &[], None);
        check(&sets("kernel.msgmax"), &[], Some(("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted")));
    }
}
