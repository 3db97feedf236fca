//! EndpointSlice.

use serde_json::{Value, json};

use super::age;
use super::json::{count, has, items, items_mut, number, or, set, unset, word};
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
            problems.invalid(&Path::new("addressType"), word(new, "addressType"), "field is immutable");
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
    const PORTS_MAX: usize = 20_000;
    let family = word(object, "addressType");
    match family {
        "" => problems.required(&Path::new("addressType"), ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => problems.not_supported(&Path::new("addressType"), other, &["FQDN", "IPv4", "IPv6"]),
    }
    if count(object, "endpoints") > ENDPOINTS_MAX {
        problems.too_many(&Path::new("endpoints"), count(object, "endpoints"), ENDPOINTS_MAX);
        return;
    }
    for (index, endpoint) in items(object, "endpoints").enumerate() {
        let path = Path::new("endpoints").index(index);
        let addresses = path.child("addresses");
        if count(endpoint, "addresses") == 0 {
            problems.required(&addresses, "must contain at least 1 address");
        } else if count(endpoint, "addresses") > 100 {
            problems.too_many(&addresses, count(endpoint, "addresses"), 100);
        }
        for (at, address) in items(endpoint, "addresses").enumerate() {
            let text = address.as_str().unwrap_or_default();
            let ip = text.parse::<std::net::IpAddr>().ok();
            match family {
                "FQDN" => {
                    for message in names::dns_subdomain(text) {
                        problems.invalid(&addresses.index(at), text, message);
                    }
                }
                "IPv4" if ip.is_some_and(|ip| ip.is_ipv6()) => problems.invalid(&addresses.index(at), text, "must be an IPv4 address"),
                "IPv6" if ip.is_some_and(|ip| ip.is_ipv4()) => problems.invalid(&addresses.index(at), text, "must be an IPv6 address"),
                _ => {
                    for message in names::ip(text) {
                        problems.invalid(&addresses.index(at), text, message);
                    }
                }
            }
        }
        if !word(endpoint, "hostname").is_empty() {
            for message in names::dns_label(word(endpoint, "hostname")) {
                problems.invalid(&path.child("hostname"), word(endpoint, "hostname"), message);
            }
        }
    }
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
        if has(port, "port") && !(1..=65535).contains(&number(port, "port")) {
            problems.invalid(&path.child("port"), json!(number(port, "port")), names::range_error(1, 65535));
        }
    }
}
