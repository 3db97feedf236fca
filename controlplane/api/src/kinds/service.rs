//! Service. Addresses and node ports are allocated by the API server; what follows from the object alone is decided here.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::json::{count, fill, has, inner, items, items_mut, label_text, made, number, or, set, unset, word};
use super::{age, service_validate};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, NameRule, RequestFacts, Rules, keep_status};

/// Service's decisions.
pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update,
    validate: service_validate::validate,
    validate_update: service_validate::validate_update,
    validate_status: service_validate::validate_status,
    warnings: service_validate::warnings,
    columns: &[
        NAME_COLUMN,
        Column::new("Type", "string", "How the Service is exposed."),
        Column::new("Cluster-IP", "string", "The Service's address inside the cluster."),
        Column::new("External-IP", "string", "Addresses at which nodes accept traffic for the Service."),
        Column::new("Port(s)", "string", "The ports that the Service exposes."),
        AGE_COLUMN,
        Column::wide("Selector", "string", "The labels of the pods that receive the Service's traffic."),
    ],
    cells,
    own_fields: true,
    field: |service, name| match name {
        "spec.clusterIP" => Some(word(&service["spec"], "clusterIP").to_owned()),
        "spec.type" => Some(word(&service["spec"], "type").to_owned()),
        _ => None,
    },
    name: NameRule::DnsLabel,
    create_on_update: true,
    ..Rules::PLAIN
};

/// Whether clients outside the cluster reach it.
pub(super) fn externally_accessible(spec: &Value) -> bool {
    match word(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => count(spec, "externalIPs") > 0,
        _ => false,
    }
}

fn needs_cluster_ip(spec: &Value) -> bool {
    word(spec, "type") != "ExternalName"
}

/// Whether its ports get node ports.
pub fn needs_node_port(spec: &Value) -> bool {
    match word(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec.get("allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn needs_health_port(spec: &Value) -> bool {
    word(spec, "type") == "LoadBalancer" && word(spec, "externalTrafficPolicy") == "Local"
}

fn default(service: &mut Value) {
    let spec = made(service, "spec");
    fill(spec, "sessionAffinity", "None");
    match word(spec, "sessionAffinity") {
        "None" => {
            unset(spec, "sessionAffinityConfig");
        }
        "ClientIP" if !has(&spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds") => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
    // indexing above may have left a null behind
    if spec.get("sessionAffinityConfig").is_some_and(Value::is_null) {
        unset(spec, "sessionAffinityConfig");
    }
    fill(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        fill(port, "protocol", "TCP");
        let target = &port["targetPort"];
        if target.is_null() || target == &json!(0) || target == &json!("") {
            let number = number(port, "port");
            set(port, "targetPort", number);
        }
    }
    if externally_accessible(spec) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    let kind = word(spec, "type").to_owned();
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        fill(spec, "allocateLoadBalancerNodePorts", true);
        if let Some(balancer) = inner(service, "status").and_then(|status| inner(status, "loadBalancer")) {
            for ingress in items_mut(balancer, "ingress") {
                if !word(ingress, "ip").is_empty() {
                    fill(ingress, "ipMode", "VIP");
                }
            }
        }
    }
}

fn prepare_create(service: &mut Value, _: &RequestFacts) {
    set(service, "status", json!({"loadBalancer": {}}));
    let spec = made(service, "spec");
    single_to_list(spec);
    default_families(spec);
}

/// `clusterIPs` repeats a `clusterIP` that was given alone.
fn single_to_list(spec: &mut Value) {
    let single = word(spec, "clusterIP").to_owned();
    if !single.is_empty() && count(spec, "clusterIPs") == 0 {
        set(spec, "clusterIPs", json!([single]));
    }
}

/// This cluster has one address family.
fn default_families(spec: &mut Value) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let headless_without_selector = word(spec, "clusterIP") == "None" && count(spec, "selector") == 0;
    if headless_without_selector && !has(spec, "ipFamilyPolicy") && count(spec, "ipFamilies") == 0 {
        set(spec, "ipFamilyPolicy", "RequireDualStack");
        set(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
        return;
    }
    fill(spec, "ipFamilyPolicy", "SingleStack");
    if count(spec, "ipFamilies") == 0 {
        set(spec, "ipFamilies", json!(["IPv4"]));
    }
}

fn same(left: &Value, right: &Value, key: &str) -> bool {
    left.get(key).filter(|value| !value.is_null()) == right.get(key).filter(|value| !value.is_null())
}

fn node_ports(spec: &Value) -> Vec<i64> {
    let mut ports: Vec<i64> = items(spec, "ports").map(|port| number(port, "nodePort")).filter(|port| *port != 0).collect();
    ports.sort_unstable();
    ports
}

fn prepare_update(new: &mut Value, old: &Value, facts: &RequestFacts) {
    keep_status(new, old, facts);
    let before = &old["spec"];
    let spec = made(new, "spec");
    carry_allocations(spec, before);
    follow_single(spec, before);
    drop_what_the_type_has_not(spec, before);
    if needs_cluster_ip(spec) {
        default_families(spec);
    }
    if word(spec, "type") != "LoadBalancer"
        && let Some(status) = inner(new, "status")
    {
        set(status, "loadBalancer", json!({}));
    }
}

/// A client that sends the whole object may leave out what the server allocated.
fn carry_allocations(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        if word(spec, "clusterIP").is_empty() && has(before, "clusterIP") && count(spec, "clusterIPs") == 0 {
            set(spec, "clusterIP", before["clusterIP"].clone());
            if count(before, "clusterIPs") > 0 {
                set(spec, "clusterIPs", before["clusterIPs"].clone());
            }
        }
        if count(spec, "ipFamilies") == 0 && count(before, "ipFamilies") > 0 {
            set(spec, "ipFamilies", before["ipFamilies"].clone());
        }
        if !has(spec, "ipFamilyPolicy") && has(before, "ipFamilyPolicy") {
            set(spec, "ipFamilyPolicy", before["ipFamilyPolicy"].clone());
        }
    }
    if needs_node_port(before) && needs_node_port(spec) {
        let known: Vec<(i64, String, i64)> = items(before, "ports")
            .map(|port| (number(port, "port"), word(port, "protocol").to_owned(), number(port, "nodePort")))
            .collect();
        let used = node_ports(spec);
        for port in items_mut(spec, "ports") {
            if number(port, "nodePort") == 0
                && let Some((_, _, node_port)) = known.iter().find(|(n, protocol, node_port)| {
                    *n == number(port, "port") && protocol == word(port, "protocol") && !used.contains(node_port)
                })
                && *node_port != 0
            {
                set(port, "nodePort", *node_port);
            }
        }
    }
    if needs_health_port(before)
        && needs_health_port(spec)
        && number(spec, "healthCheckNodePort") == 0
        && has(before, "healthCheckNodePort")
    {
        set(spec, "healthCheckNodePort", before["healthCheckNodePort"].clone());
    }
}

/// A client that knows only `clusterIP` changes the list through it.
fn follow_single(spec: &mut Value, before: &Value) {
    let (single, single_before) = (word(spec, "clusterIP").to_owned(), word(before, "clusterIP"));
    if single != single_before && same(spec, before, "clusterIPs") {
        if single.is_empty() {
            unset(spec, "clusterIPs");
        } else {
            set(spec, "clusterIPs", json!([single]));
        }
    }
}

fn drop_what_the_type_has_not(spec: &mut Value, before: &Value) {
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) {
        if same(spec, before, "clusterIP") && same(spec, before, "clusterIPs") {
            unset(spec, "clusterIP");
            unset(spec, "clusterIPs");
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if same(spec, before, key) {
                unset(spec, key);
            }
        }
    }
    if needs_node_port(before) && !needs_node_port(spec) && node_ports(before) == node_ports(spec) {
        for port in items_mut(spec, "ports") {
            unset(port, "nodePort");
        }
    }
    if needs_health_port(before) && !needs_health_port(spec) && same(spec, before, "healthCheckNodePort") {
        unset(spec, "healthCheckNodePort");
    }
    if word(before, "type") == "LoadBalancer" && word(spec, "type") != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, before, key) {
                unset(spec, key);
            }
        }
    }
    if externally_accessible(before) && !externally_accessible(spec) && same(spec, before, "externalTrafficPolicy") {
        unset(spec, "externalTrafficPolicy");
    }
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) && same(spec, before, "internalTrafficPolicy") {
        unset(spec, "internalTrafficPolicy");
    }
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let outside: Vec<&str> = items(spec, "externalIPs").filter_map(Value::as_str).collect();
    match word(spec, "type") {
        "ClusterIP" | "NodePort" => or(&outside.join(","), "<none>").to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = items(&service["status"]["loadBalancer"], "ingress")
                .map(|ingress| or(word(ingress, "ip"), word(ingress, "hostname")))
                .filter(|text| !text.is_empty())
                .collect();
            all.extend(outside);
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => word(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn cells(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let ports = items(spec, "ports")
        .map(|port| match number(port, "nodePort") {
            0 => format!("{}/{}", number(port, "port"), word(port, "protocol")),
            node_port => format!("{}:{node_port}/{}", number(port, "port"), word(port, "protocol")),
        })
        .collect::<Vec<_>>()
        .join(",");
    vec![
        super::text(service, &["metadata", "name"]).into(),
        word(spec, "type").into(),
        spec["clusterIPs"][0].as_str().unwrap_or("<none>").into(),
        external_ip(service).into(),
        or(&ports, "<none>").into(),
        age::age(service, now).into(),
        label_text(&spec["selector"]).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RequestFacts {
        RequestFacts { user: "u".to_owned(), groups: Vec::new(), now: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn a_service_is_filled() {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "type": "NodePort"}});
        default(&mut service);
        let once = service.clone();
        default(&mut service);
        assert_eq!(service, once);
        assert_eq!(
            once["spec"],
            json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "NodePort", "sessionAffinity": "None",
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster"})
        );
    }

    #[test]
    fn an_update_without_the_allocated_values_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}, "status": {"loadBalancer": {}}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        prepare_update(&mut new, &old, &facts());
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    }

    #[test]
    fn a_changed_type_drops_what_it_has_no_use_for() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = old.clone();
        new["spec"]["type"] = json!("ExternalName");
        new["spec"]["externalName"] = json!("example.com");
        prepare_update(&mut new, &old, &facts());
        assert_eq!(new["spec"], json!({"type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80, "protocol": "TCP"}]}));
    }
}
