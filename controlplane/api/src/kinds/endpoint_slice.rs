//! EndpointSlice.

use serde_json::Value;

use super::age;
use super::json::{count, has, items, items_mut, or, set, unset, word};
use crate::names;
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, RequestFacts, Rules, bump_generation};

/// EndpointSlice's decisions.
pub const RULES: Rules = Rules {
    default: |object| {
        for port in items_mut(object, "ports") {
            if !has(port, "name") {
                set(port, "name", "");
            }
            super::json::fill(port, "protocol", "TCP");
        }
    },
    prepare_create: crate::rules::first_generation,
    prepare_update,
    validate,
    validate_update: |new, old, problems| {
        if new.get("addressType") != old.get("addressType") {
            problems.invalid(&Path::new("addressType"), Value::Null, "field is immutable");
        }
    },
    columns: &[
        NAME_COLUMN,
        Column::new("AddressType", "string", "What kind of addresses the slice holds."),
        Column::new("Ports", "string", "The ports of each endpoint."),
        Column::new("Endpoints", "string", "The addresses of the endpoints."),
        AGE_COLUMN,
    ],
    cells: |object, now| {
        let ports = items(object, "ports")
            .map(|port| match port.get("port").and_then(Value::as_i64) {
                Some(number) => number.to_string(),
                None => or(word(port, "name"), "*").to_owned(),
            })
            .collect();
        let addresses = items(object, "endpoints")
            .flat_map(|endpoint| items(endpoint, "addresses").filter_map(Value::as_str).map(str::to_owned))
            .collect();
        vec![
            super::text(object, &["metadata", "name"]).into(),
            word(object, "addressType").into(),
            at_most_three(ports).into(),
            at_most_three(addresses).into(),
            age::age(object, now).into(),
        ]
    },
    has_generation: true,
    ..Rules::PLAIN
};

fn at_most_three(all: Vec<String>) -> String {
    const SHOWN_MAX: usize = 3;
    if all.is_empty() {
        return "<unset>".to_owned();
    }
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN_MAX { format!("{shown} + {} more...", all.len() - SHOWN_MAX) } else { shown }
}

fn prepare_update(new: &mut Value, old: &Value, _: &RequestFacts) {
    let core = |object: &Value| {
        let mut copy = object.clone();
        for key in ["resourceVersion", "managedFields", "generation"] {
            unset(&mut copy["metadata"], key);
        }
        copy
    };
    let changed = core(new) != core(old);
    bump_generation(new, old, changed);
}

fn validate(object: &Value, problems: &mut Problems) {
    const ENDPOINTS_MAX: usize = 1000;
    const FAMILIES: &[&str] = &["FQDN", "IPv4", "IPv6"];
    ports(object, problems);
    let family = word(object, "addressType");
    let mut late = Problems::default();
    if count(object, "endpoints") > ENDPOINTS_MAX {
        problems.too_many(&Path::new("endpoints"), count(object, "endpoints"), ENDPOINTS_MAX);
        return;
    }
    for (index, endpoint) in items(object, "endpoints").enumerate() {
        let path = Path::new("endpoints").index(index);
        addresses(endpoint, family, &path.child("addresses"), problems, &mut late);
        for (field, check) in [("nodeName", names::dns_subdomain as fn(&str) -> Vec<String>), ("hostname", names::dns_label)] {
            let text = word(endpoint, field);
            if !text.is_empty() {
                problems.all_invalid(&path.child(field), text, check(text));
            }
        }
    }
    match family {
        "" => problems.required(&Path::new("addressType"), ""),
        other if !FAMILIES.contains(&other) => problems.not_supported(&Path::new("addressType"), other, FAMILIES),
        _ => {}
    }
    problems.0.extend(late.0);
}

fn addresses(endpoint: &Value, family: &str, path: &Path, problems: &mut Problems, late: &mut Problems) {
    const ADDRESSES_MAX: usize = 100;
    if count(endpoint, "addresses") == 0 {
        late.required(path, "");
    } else if count(endpoint, "addresses") > ADDRESSES_MAX {
        late.too_many(path, count(endpoint, "addresses"), ADDRESSES_MAX);
    }
    for (at, address) in items(endpoint, "addresses").enumerate() {
        let text = address.as_str().unwrap_or_default();
        let ip = text.parse::<std::net::IpAddr>().ok();
        match family {
            "FQDN" => problems.all_invalid(&path.index(at), text, names::dns_subdomain(text)),
            "IPv4" | "IPv6" => {
                problems.all_invalid(&path.index(at), text, names::ip(text));
                match ip {
                    Some(ip) if ip.is_ipv6() && family == "IPv4" => problems.invalid(path, text, "must be an IPv4 address"),
                    Some(ip) if ip.is_ipv4() && family == "IPv6" => problems.invalid(path, text, "must be an IPv6 address"),
                    _ => {}
                }
                super::service_validate::special_address(text, &path.index(at), problems);
            }
            _ => {}
        }
    }
}

fn ports(object: &Value, problems: &mut Problems) {
    const PORTS_MAX: usize = 20_000;
    if count(object, "ports") > PORTS_MAX {
        problems.too_many(&Path::new("ports"), count(object, "ports"), PORTS_MAX);
        return;
    }
    let mut seen = Vec::new();
    for (index, port) in items(object, "ports").enumerate() {
        let path = Path::new("ports").index(index);
        let name = word(port, "name");
        if !name.is_empty() {
            for message in names::dns_label(name) {
                problems.invalid(&path.child("name"), name, message);
            }
        }
        if seen.contains(&name) {
            problems.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        match word(port, "protocol") {
            "" => problems.required(&path.child("protocol"), ""),
            "TCP" | "UDP" | "SCTP" => {}
            other => problems.not_supported(&path.child("protocol"), other, &["SCTP", "TCP", "UDP"]),
        }
    }
}
