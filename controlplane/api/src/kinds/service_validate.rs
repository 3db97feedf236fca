//! What is wrong with a Service, in upstream's words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::json::{count, has, items, number, word};
use super::{container_validate, scheduling_validate, service};
use crate::names;
use crate::problem::{Path, Problems};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const POLICIES: &[&str] = &["Cluster", "Local"];

/// Problems of a Service by itself.
pub(super) fn validate(service: &Value, problems: &mut Problems) {
    let (spec, path) = (&service["spec"], Path::new("spec"));
    let kind = word(spec, "type");
    let headless = word(spec, "clusterIP") == "None";
    if count(spec, "ports") == 0 && !headless && kind != "ExternalName" {
        problems.required(&path.child("ports"), "");
    }
    by_type(spec, kind, headless, &path, problems);
    let mut seen = BTreeSet::new();
    for (index, port) in items(spec, "ports").enumerate() {
        one_port(port, count(spec, "ports") > 1, &mut seen, &path.child("ports").index(index), problems);
    }
    scheduling_validate::labels(spec, "selector", &path.child("selector"), problems);
    affinity(spec, &path, problems);
    addresses(spec, kind, &path, problems);
    for (index, address) in items(spec, "externalIPs").enumerate() {
        let (text, at) = (address.as_str().unwrap_or_default(), path.child("externalIPs").index(index));
        let complaints = names::ip(text);
        if complaints.is_empty() {
            special_address(text, &at, problems);
        } else {
            problems.all_invalid(&at, text, complaints);
        }
    }
    if !TYPES.contains(&kind) {
        if kind.is_empty() {
            problems.required(&path.child("type"), "");
        } else {
            problems.not_supported(&path.child("type"), kind, TYPES);
        }
    }
    node_ports(spec, kind, &path, problems);
    same_ports(spec, &path, problems);
    balancer(spec, kind, &path, problems);
    traffic(spec, &path, problems);
}

fn by_type(spec: &Value, kind: &str, headless: bool, path: &Path, problems: &mut Problems) {
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let why = format!("may not be set to 'None' for {kind} services");
            problems.invalid(&path.child("clusterIPs").index(0), "None", why);
        }
        "ExternalName" => {
            if count(spec, "clusterIPs") > 0 {
                problems.forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services");
            }
            for (field, shown) in [("ipFamilies", "ipFamilies"), ("ipFamilyPolicy", "ipFamilyPolicy")] {
                if has(spec, field) && (count(spec, field) > 0 || spec[field].is_string()) {
                    problems.forbidden(&path.child(shown), "may not be set for ExternalName services");
                }
            }
            let name = word(spec, "externalName").trim_end_matches('.');
            if name.is_empty() {
                problems.required(&path.child("externalName"), "");
            } else {
                problems.all_invalid(&path.child("externalName"), name, names::dns_subdomain(name));
            }
        }
        _ => {}
    }
}

fn one_port<'a>(port: &'a Value, several: bool, seen: &mut BTreeSet<&'a str>, at: &Path, problems: &mut Problems) {
    match word(port, "name") {
        "" if several => problems.required(&at.child("name"), ""),
        "" => {}
        name => {
            problems.all_invalid(&at.child("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                problems.duplicate(&at.child("name"), name);
            }
        }
    }
    let value = number(port, "port");
    problems.all_invalid(&at.child("port"), value, names::port_number(value));
    match word(port, "protocol") {
        "" => problems.required(&at.child("protocol"), ""),
        protocol if !PROTOCOLS.contains(&protocol) => problems.not_supported(&at.child("protocol"), protocol, PROTOCOLS),
        _ => {}
    }
    container_validate::port(&port["targetPort"], &at.child("targetPort"), problems);
    let app = word(port, "appProtocol");
    if !app.is_empty() {
        problems.all_invalid(&at.child("appProtocol"), app, names::qualified_name(app));
    }
}

fn affinity(spec: &Value, path: &Path, problems: &mut Problems) {
    const KINDS: &[&str] = &["ClientIP", "None"];
    const SECONDS_MAX: i64 = 86_400;
    let affinity = word(spec, "sessionAffinity");
    match affinity {
        "" => problems.required(&path.child("sessionAffinity"), ""),
        other if !KINDS.contains(&other) => problems.not_supported(&path.child("sessionAffinity"), other, KINDS),
        _ => {}
    }
    let at = path.child("sessionAffinityConfig");
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if affinity == "ClientIP" {
        let at = at.child("clientIP").child("timeoutSeconds");
        match seconds.as_i64() {
            None => problems.required(&at, format!("when session affinity type is {affinity}")),
            Some(seconds) if !(1..=SECONDS_MAX).contains(&seconds) => {
                problems.invalid(&at, seconds, format!("must be greater than 0 and less than {SECONDS_MAX}"));
            }
            Some(_) => {}
        }
    } else if affinity == "None" && has(spec, "sessionAffinityConfig") {
        problems.forbidden(&at, format!("must not be set when session affinity is {affinity}"));
    }
}

fn addresses(spec: &Value, kind: &str, path: &Path, problems: &mut Problems) {
    if kind == "ExternalName" {
        return;
    }
    let (single, all, at) = (word(spec, "clusterIP"), &spec["clusterIPs"], path.child("clusterIPs"));
    let listed: Vec<&str> = items(spec, "clusterIPs").filter_map(Value::as_str).collect();
    if listed.first().is_some_and(|first| single.is_empty() && !first.is_empty()) {
        problems.invalid(&at, all.clone(), "must be empty when `clusterIP` is not specified");
    } else if listed.first().is_some_and(|first| *first != single) {
        problems.invalid(&at, all.clone(), "first value must match `clusterIP`");
    }
    if listed.len() > 2 {
        problems.invalid(&at, all.clone(), "may only hold up to 2 values");
    }
    for (index, address) in listed.iter().enumerate() {
        if index == 0 && *address == "None" {
            if listed.len() > 1 {
                problems.invalid(&at, all.clone(), "'None' must be the first and only value");
            }
            return;
        }
        problems.all_invalid(&at.index(index), *address, names::ip(address));
    }
    let families: Vec<bool> = listed.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|address| address.is_ipv6()).collect();
    if families.len() == 2 && families[0] == families[1] {
        problems.invalid(&at, all.clone(), "may specify no more than one IP for each IP family");
    }
    for (index, family) in items(spec, "ipFamilies").enumerate() {
        let text = family.as_str().unwrap_or_default();
        if !["IPv4", "IPv6"].contains(&text) {
            problems.not_supported(&path.child("ipFamilies").index(index), text, &["IPv4", "IPv6"]);
        }
    }
    let policy = word(spec, "ipFamilyPolicy");
    const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if !policy.is_empty() && !FAMILY_POLICIES.contains(&policy) {
        problems.not_supported(&path.child("ipFamilyPolicy"), policy, FAMILY_POLICIES);
    }
}

/// Addresses that no packet from elsewhere can be for.
pub(super) fn special_address(text: &str, path: &Path, problems: &mut Problems) {
    let Ok(address) = text.parse::<IpAddr>() else { return };
    let mut refuse = |why: &str| problems.invalid(path, text, why);
    match address {
        IpAddr::V4(v4) => {
            if v4.is_unspecified() {
                refuse("may not be unspecified (0.0.0.0)");
            }
            if v4.is_loopback() {
                refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
            }
            if v4.is_link_local() {
                refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
            }
            if v4.octets()[..3] == [224, 0, 0] {
                refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
            }
        }
        IpAddr::V6(v6) => {
            if v6.is_unspecified() {
                refuse("may not be unspecified (0.0.0.0)");
            }
            if v6.is_loopback() {
                refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
            }
            if v6.segments()[0] & 0xffc0 == 0xfe80 {
                refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
            }
            if v6.segments()[0] == 0xff02 {
                refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
            }
        }
    }
}

fn node_ports(spec: &Value, kind: &str, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(spec, "ports").enumerate() {
        let (node_port, at) = (number(port, "nodePort"), path.child("ports").index(index).child("nodePort"));
        if node_port == 0 {
            continue;
        }
        if kind == "ClusterIP" {
            problems.forbidden(&at, "may not be used when `type` is 'ClusterIP'");
        } else if !seen.insert((word(port, "protocol"), node_port)) {
            problems.duplicate(&at, node_port);
        }
    }
}

fn same_ports(spec: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(spec, "ports").enumerate() {
        if !seen.insert((word(port, "protocol"), number(port, "port"))) {
            problems.duplicate(&path.child("ports").index(index), port.clone());
        }
    }
}

fn balancer(spec: &Value, kind: &str, path: &Path, problems: &mut Problems) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let (balanced, ranges) = (kind == "LoadBalancer", path.child("LoadBalancerSourceRanges"));
    if count(spec, "loadBalancerSourceRanges") > 0 {
        if !balanced {
            problems.forbidden(&ranges, ONLY);
        }
        for (index, range) in items(spec, "loadBalancerSourceRanges").enumerate() {
            let text = range.as_str().unwrap_or_default();
            if !names::is_cidr(text.trim()) {
                problems.invalid(&ranges.index(index), text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
            }
        }
    }
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        problems.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY);
    }
    if balanced && !has(spec, "allocateLoadBalancerNodePorts") {
        problems.required(&path.child("allocateLoadBalancerNodePorts"), "");
    }
    let class = word(spec, "loadBalancerClass");
    if has(spec, "loadBalancerClass") {
        if !balanced {
            problems.forbidden(&path.child("loadBalancerClass"), ONLY);
        } else {
            problems.all_invalid(&path.child("loadBalancerClass"), class, names::qualified_name(class));
        }
    }
}

fn traffic(spec: &Value, path: &Path, problems: &mut Problems) {
    let external = word(spec, "externalTrafficPolicy");
    if service::externally_accessible(spec) {
        if external.is_empty() {
            problems.required(&path.child("externalTrafficPolicy"), "");
        } else if !POLICIES.contains(&external) {
            problems.not_supported(&path.child("externalTrafficPolicy"), external, POLICIES);
        }
    } else if !external.is_empty() {
        problems.invalid(&path.child("externalTrafficPolicy"), external, "may only be set for externally-accessible services");
    }
    let health = number(spec, "healthCheckNodePort");
    let local = word(spec, "type") == "LoadBalancer" && external == "Local";
    if health != 0 && !local {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        problems.invalid(&path.child("healthCheckNodePort"), health, why);
    }
    let internal = word(spec, "internalTrafficPolicy");
    if !internal.is_empty() && !POLICIES.contains(&internal) {
        problems.not_supported(&path.child("internalTrafficPolicy"), internal, POLICIES);
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if has(spec, "trafficDistribution") && !DISTRIBUTIONS.contains(&word(spec, "trafficDistribution")) {
        problems.not_supported(&path.child("trafficDistribution"), word(spec, "trafficDistribution"), DISTRIBUTIONS);
    }
}

/// Problems of a change to a Service.
pub(super) fn validate_update(new: &Value, old: &Value, problems: &mut Problems) {
    let (before, after) = (&old["spec"], &new["spec"]);
    let both_have_addresses = word(before, "type") != "ExternalName" && word(after, "type") != "ExternalName";
    let (was, is) = (word(before, "clusterIP"), word(after, "clusterIP"));
    if both_have_addresses && !was.is_empty() && was != is {
        let list = if is.is_empty() { json!([]) } else { after["clusterIPs"].clone() };
        problems.invalid(&Path::new("spec").child("clusterIPs").index(0), list, "may not change once set");
    }
    let class = |spec: &Value| (word(spec, "type") == "LoadBalancer").then(|| spec["loadBalancerClass"].clone());
    if let (Some(was), Some(is)) = (class(before), class(after))
        && was != is
    {
        problems.invalid(&Path::new("spec").child("loadBalancerClass"), is, "may not change once set");
    }
}

/// Problems of a new status.
pub(super) fn validate_status(new: &Value, _: &Value, problems: &mut Problems) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = &new["status"]["loadBalancer"];
    if count(ingress, "ingress") > 0 && word(&new["spec"], "type") != "LoadBalancer" {
        problems.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (index, entry) in items(ingress, "ingress").enumerate() {
        let at = path.index(index);
        let (ip, mode, host) = (word(entry, "ip"), word(entry, "ipMode"), word(entry, "hostname"));
        if !ip.is_empty() {
            problems.all_invalid(&at.child("ip"), ip, names::ip(ip));
        }
        if !ip.is_empty() && mode.is_empty() && names::ip(ip).is_empty() {
            problems.required(&at.child("ipMode"), "must be specified when `ip` is set");
        } else if ip.is_empty() && !mode.is_empty() {
            problems.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set");
        } else if !mode.is_empty() && !["VIP", "Proxy"].contains(&mode) {
            problems.not_supported(&at.child("ipMode"), mode, &["Proxy", "VIP"]);
        }
        if !host.is_empty() {
            problems.all_invalid(&at.child("hostname"), host, names::dns_subdomain(host));
            if host.parse::<IpAddr>().is_ok() {
                problems.invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

/// What a client should know although it is allowed.
pub(super) fn warnings(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let mut out = Vec::new();
    let (headless, kind) = (word(spec, "clusterIP") == "None", word(spec, "type"));
    if headless {
        if !word(spec, "loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if count(spec, "externalIPs") > 0 {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if word(spec, "sessionAffinity") != "None" && !word(spec, "sessionAffinity").is_empty() {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if !word(spec, "externalName").is_empty() && kind != "ExternalName" {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if word(spec, "trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_of_one_port_stand_together() {
        let service = json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"name": "a", "port": 1, "targetPort": 1, "protocol": "TCP"}, {"name": "a", "port": 0, "targetPort": 1, "protocol": "TCP"},
                {"port": 3, "targetPort": 1, "protocol": "TCP"}]}});
        let mut problems = Problems::default();
        validate(&service, &mut problems);
        let paths: Vec<&str> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["spec.ports[1].name", "spec.ports[1].port", "spec.ports[2].name"]);
    }
}
