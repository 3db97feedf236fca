//! Endpoints.

use serde_json::Value;

use super::age;
use super::json::{count, fill, items, items_mut, number, word};
use crate::names;
use crate::problem::{Path, Problems};
use crate::rules::{AGE_COLUMN, Column, NAME_COLUMN, Rules, as_given, as_given_update};

/// Endpoints' decisions.
pub const RULES: Rules = Rules {
    default: |object| {
        for subset in items_mut(object, "subsets") {
            for port in items_mut(subset, "ports") {
                fill(port, "protocol", "TCP");
            }
        }
    },
    prepare_create: as_given,
    prepare_update: as_given_update,
    validate,
    deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
    columns: &[NAME_COLUMN, Column::new("Endpoints", "string", "The addresses behind the Service."), AGE_COLUMN],
    cells: |object, now| vec![super::text(object, &["metadata", "name"]).into(), addresses(object).into(), age::age(object, now).into()],
    create_on_update: true,
    ..Rules::PLAIN
};

fn addresses(object: &Value) -> String {
    const SHOWN_MAX: usize = 3;
    let mut all = Vec::new();
    for subset in items(object, "subsets") {
        let ips: Vec<&str> = items(subset, "addresses").map(|address| word(address, "ip")).collect();
        if count(subset, "ports") == 0 {
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in items(subset, "ports") {
            let number = number(port, "port");
            all.extend(ips.iter().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }));
        }
    }
    if count(object, "subsets") == 0 {
        return "<none>".to_owned();
    }
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN_MAX { format!("{shown} + {} more...", all.len() - SHOWN_MAX) } else { shown }
}

fn validate(object: &Value, problems: &mut Problems) {
    for (index, subset) in items(object, "subsets").enumerate() {
        let path = Path::new("subsets").index(index);
        if count(subset, "addresses") + count(subset, "notReadyAddresses") == 0 {
            problems.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (at, address) in items(subset, list).enumerate() {
                let path = path.child(list).index(at);
                let ip = word(address, "ip");
                problems.all_invalid(&path.child("ip"), ip, names::ip(ip));
                if !word(address, "hostname").is_empty() {
                    problems.all_invalid(&path.child("hostname"), word(address, "hostname"), names::dns_label(word(address, "hostname")));
                }
                // said once more where the address's use is judged
                if names::ip(ip).is_empty() {
                    super::service_validate::special_address(ip, &path.child("ip"), problems);
                } else {
                    problems.invalid(&path.child("ip"), ip, "must be a valid IP address");
                }
            }
        }
        let many = count(subset, "ports") > 1;
        for (at, port) in items(subset, "ports").enumerate() {
            let path = path.child("ports").index(at);
            match word(port, "name") {
                "" if many => problems.required(&path.child("name"), ""),
                "" => {}
                name => {
                    for message in names::dns_label(name) {
                        problems.invalid(&path.child("name"), name, message);
                    }
                }
            }
            for message in names::port_number(number(port, "port")) {
                problems.invalid(&path.child("port"), number(port, "port"), message);
            }
            if word(port, "protocol").is_empty() {
                problems.required(&path.child("protocol"), "");
            } else if !matches!(word(port, "protocol"), "TCP" | "UDP" | "SCTP") {
                problems.not_supported(&path.child("protocol"), word(port, "protocol"), &["SCTP", "TCP", "UDP"]);
            }
        }
    }
}
