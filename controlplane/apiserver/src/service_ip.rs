//! Addresses and node ports of Services, taken and given back in the same transaction as the Service itself.
//!
//! An allocation is a key of its own: `~service-ips/ADDRESS`, `~node-ports/PORT`. Creating it is guarded by its absence, so two
//! masters cannot hand out the same one, and nothing has to be repaired afterwards.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bytes::Bytes;
use rand::RngExt as _;
use serde_json::{Value, json};
use trierarch_api::{ApiError, Kind, Path, Problems};
use trierarch_raft::{Guard, Op, View};

use crate::apiserver::StoreSnapshot;
use crate::config::Settings;
use crate::pipeline::commit::Companions;
use crate::pipeline::metadata;

/// Random tries before the range is walked.
const RANDOM_TRIES: usize = 32;
/// Addresses at the beginning that are left to those who name theirs, at most.
const STATIC_MAX: u32 = 256;

fn is_service(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

fn address_key(address: &str) -> Bytes {
    Bytes::from(format!("~service-ips/{address}"))
}

fn port_key(port: u16) -> Bytes {
    Bytes::from(format!("~node-ports/{port}"))
}

/// What a Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

fn held(service: &Value) -> Held {
    let spec = &service["spec"];
    let mut held = Held::default();
    for address in spec["clusterIPs"].as_array().into_iter().flatten().chain([&spec["clusterIP"]]) {
        if let Some(address) = address.as_str().filter(|text| !text.is_empty() && *text != "None") {
            held.addresses.insert(address.to_owned());
        }
    }
    let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]).chain([&spec["healthCheckNodePort"]]);
    held.ports.extend(ports.filter_map(|port| port.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)));
    held
}

/// Fills a new Service's addresses and ports.
///
/// # Errors
/// 422 when an address or port is taken or out of range, 500 when there is none left.
pub fn on_create(snapshot: &StoreSnapshot, settings: &Settings, kind: &Kind, service: &mut Value) -> Result<Companions, ApiError> {
    if !is_service(kind) {
        return Ok(Companions::default());
    }
    settle(&snapshot.view, settings, kind, service, &Value::Null)
}

/// Keeps, takes and gives back as the Service changes.
///
/// # Errors
/// As [`on_create`].
pub fn on_update(
    snapshot: &StoreSnapshot,
    settings: &Settings,
    kind: &Kind,
    service: &mut Value,
    old: &Value,
) -> Result<Companions, ApiError> {
    if !is_service(kind) {
        return Ok(Companions::default());
    }
    keep_allocated(service, old);
    settle(&snapshot.view, settings, kind, service, old)
}

/// Gives back everything.
pub fn on_delete(kind: &Kind, service: &Value) -> Companions {
    if !is_service(kind) {
        return Companions::default();
    }
    let held = held(service);
    let keys = held.addresses.iter().map(|address| address_key(address)).chain(held.ports.iter().map(|port| port_key(*port)));
    Companions { guards: Vec::new(), ops: keys.map(|key| Op::Delete { key }).collect() }
}

fn kind_of(service: &Value) -> &str {
    service["spec"]["type"].as_str().filter(|text| !text.is_empty()).unwrap_or("ClusterIP")
}

fn wants_ports(service: &Value) -> bool {
    match kind_of(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// A client that leaves out what was allocated for it keeps it; what the new type does not use is dropped unless it was set on purpose.
fn keep_allocated(service: &mut Value, old: &Value) {
    let (new_kind, old_kind) = (kind_of(service).to_owned(), kind_of(old).to_owned());
    if new_kind == "ExternalName" && old_kind != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][field] == old["spec"][field]
                && let Some(spec) = service["spec"].as_object_mut()
            {
                spec.remove(field);
            }
        }
    }
    if new_kind != "ExternalName" && old_kind != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let empty =
                service["spec"][field].as_str().is_none_or(str::is_empty) && service["spec"][field].as_array().is_none_or(Vec::is_empty);
            if empty && !old["spec"][field].is_null() {
                service["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    let uses_ports = matches!(new_kind.as_str(), "NodePort" | "LoadBalancer");
    let used_ports = matches!(old_kind.as_str(), "NodePort" | "LoadBalancer");
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let twin = old_ports.iter().find(|other| other["port"] == port["port"] && protocol(other) == protocol(port));
        let stated = port["nodePort"].as_u64().unwrap_or(0);
        let before = twin.and_then(|twin| twin["nodePort"].as_u64()).unwrap_or(0);
        if uses_ports && used_ports && stated == 0 && before > 0 {
            port["nodePort"] = json!(before);
        } else if !uses_ports
            && used_ports
            && stated == before
            && let Some(port) = port.as_object_mut()
        {
            port.remove("nodePort");
        }
    }
    if !needs_health_port(service)
        && let Some(spec) = service["spec"].as_object_mut()
    {
        spec.remove("healthCheckNodePort");
    } else if service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 && !old["spec"]["healthCheckNodePort"].is_null() {
        service["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().filter(|text| !text.is_empty()).unwrap_or("TCP")
}

fn needs_health_port(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

fn settle(view: &View, settings: &Settings, kind: &Kind, service: &mut Value, old: &Value) -> Result<Companions, ApiError> {
    let before = held(old);
    let mut problems = Problems::default();
    if kind_of(service) != "ExternalName" {
        families(service, &mut problems);
        address(view, settings, service, &before, &mut problems)?;
    }
    node_ports(view, settings, service, &before, &mut problems)?;
    if !problems.is_empty() {
        return Err(ApiError::invalid(kind, metadata::text(service, "name"), &problems));
    }
    let after = held(service);
    let owner = Bytes::from(format!("{}/{}", metadata::text(service, "namespace"), metadata::text(service, "name")));
    let mut companions = Companions::default();
    let taken = after.addresses.difference(&before.addresses).map(|address| address_key(address));
    for key in taken.chain(after.ports.difference(&before.ports).map(|port| port_key(*port))) {
        companions.guards.push(Guard::Absent { key: key.clone() });
        companions.ops.push(Op::Put { key, value: owner.clone(), split: 0, terms: Vec::new() });
    }
    let given = before.addresses.difference(&after.addresses).map(|address| address_key(address));
    companions.ops.extend(given.chain(before.ports.difference(&after.ports).map(|port| port_key(*port))).map(|key| Op::Delete { key }));
    Ok(companions)
}

/// One family here: IPv4. A headless Service without selector may be resolved to both.
fn families(service: &mut Value, problems: &mut Problems) {
    let path = Path::new("spec");
    let asked_for_both = service["spec"]["ipFamilyPolicy"] == "RequireDualStack";
    let spec = &mut service["spec"];
    let headless = spec["clusterIP"] == "None";
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = json!(if headless && selectorless { "RequireDualStack" } else { "SingleStack" });
    }
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        spec["ipFamilies"] =
            if headless && selectorless && spec["ipFamilyPolicy"] != "SingleStack" { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
    }
    if headless && selectorless {
        return;
    }
    if asked_for_both {
        problems.invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", "this cluster is not configured for dual-stack services");
    }
    for (index, family) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
        if family == "IPv6" {
            problems.invalid(&path.child("ipFamilies").index(index), "IPv6", "not configured on this cluster");
        }
    }
}

fn address(view: &View, settings: &Settings, service: &mut Value, before: &Held, problems: &mut Problems) -> Result<(), ApiError> {
    let spec = &mut service["spec"];
    let stated = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    let listed: Vec<String> =
        spec["clusterIPs"].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect();
    // a list that says something else than the single address is for validation to refuse
    if !listed.is_empty() && (listed.len() > 1 || listed[0] != stated) {
        return Ok(());
    }
    let chosen = match stated.as_str() {
        "None" => "None".to_owned(),
        "" => free_address(view, settings).ok_or_else(|| ApiError::internal("failed to allocate a serviceIP: range is full"))?,
        named if before.addresses.contains(named) => named.to_owned(),
        named => {
            let path = Path::new("spec").child("clusterIPs");
            match named.parse::<Ipv4Addr>() {
                Ok(address) if !in_range(settings, address) => {
                    problems.invalid(
                        &path,
                        json!([named]),
                        format!("failed to allocate IP {named}: the provided network does not match the current range"),
                    );
                }
                Ok(_) if view.get(&address_key(named)).is_some() => {
                    problems.invalid(&path, json!([named]), format!("failed to allocate IP {named}: provided IP is already allocated"));
                }
                Ok(_) => {}
                Err(_) => problems.invalid(&path.index(0), named, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            }
            named.to_owned()
        }
    };
    spec["clusterIP"] = json!(chosen);
    spec["clusterIPs"] = json!([chosen]);
    Ok(())
}

/// First and last usable address.
fn range(settings: &Settings) -> (u32, u32) {
    let (base, length) = settings.service_cidr;
    let size = 1_u32.checked_shl(32 - u32::from(length.min(32))).unwrap_or(u32::MAX);
    let base = u32::from(base);
    (base.saturating_add(1), base.saturating_add(size.saturating_sub(2)))
}

fn in_range(settings: &Settings, address: Ipv4Addr) -> bool {
    let (first, last) = range(settings);
    (first..=last).contains(&u32::from(address))
}

fn free_address(view: &View, settings: &Settings) -> Option<String> {
    let (first, last) = range(settings);
    let size = last.checked_sub(first)?.saturating_add(1);
    let reserved = (size / 16).clamp(16, STATIC_MAX).min(size.saturating_sub(1));
    let dynamic = first + reserved;
    let free = |number: u32| {
        let address = Ipv4Addr::from(number).to_string();
        view.get(&address_key(&address)).is_none().then_some(address)
    };
    let mut rng = rand::rng();
    (0..RANDOM_TRIES)
        .find_map(|_| free(rng.random_range(dynamic..=last)))
        .or_else(|| (dynamic..=last).find_map(free))
        .or_else(|| (first..dynamic).find_map(free))
}

fn node_ports(view: &View, settings: &Settings, service: &mut Value, before: &Held, problems: &mut Problems) -> Result<(), ApiError> {
    let wants = wants_ports(service);
    let health = needs_health_port(service);
    let mut used: BTreeSet<u16> = held(service).ports;
    let path = Path::new("spec").child("ports");
    let mut shared: Vec<(u64, String, u16)> = Vec::new();
    for (index, port) in service["spec"]["ports"].as_array_mut().into_iter().flatten().enumerate() {
        let stated = port["nodePort"].as_u64().unwrap_or(0);
        let number = port["port"].as_u64().unwrap_or(0);
        let protocol = protocol(port).to_owned();
        if stated == 0 {
            if wants {
                // the same port over another protocol shares its node port
                let twin = shared.iter().find(|(other, over, _)| *other == number && *over != protocol).map(|(_, _, node_port)| *node_port);
                let chosen = twin
                    .or_else(|| free_port(view, settings, &used))
                    .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?;
                used.insert(chosen);
                port["nodePort"] = json!(chosen);
                shared.push((number, protocol, chosen));
            }
            continue;
        }
        let at = path.index(index).child("nodePort");
        if shared.iter().any(|(_, other, node_port)| *other == protocol && u64::from(*node_port) == stated) {
            problems.invalid(&at, stated, "provided port is already allocated");
        } else {
            check_port(view, settings, stated, before, &at, problems);
        }
        shared.push((number, protocol, u16::try_from(stated).unwrap_or(0)));
    }
    if health {
        let stated = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
        if stated == 0 {
            let chosen = free_port(view, settings, &used)
                .ok_or_else(|| ApiError::internal("failed to allocate a HealthCheck nodePort: range is full"))?;
            service["spec"]["healthCheckNodePort"] = json!(chosen);
        } else {
            check_port(view, settings, stated, before, &Path::new("spec").child("healthCheckNodePort"), problems);
        }
    }
    Ok(())
}

fn check_port(view: &View, settings: &Settings, stated: u64, before: &Held, path: &Path, problems: &mut Problems) {
    let in_range = u16::try_from(stated).ok().filter(|port| settings.node_ports.contains(port));
    match in_range {
        None => problems.invalid(
            path,
            stated,
            format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                settings.node_ports.start(),
                settings.node_ports.end()
            ),
        ),
        Some(port) if !before.ports.contains(&port) && view.get(&port_key(port)).is_some() => {
            problems.invalid(path, stated, "provided port is already allocated");
        }
        Some(_) => {}
    }
}

fn free_port(view: &View, settings: &Settings, used: &BTreeSet<u16>) -> Option<u16> {
    let free = |port: &u16| !used.contains(port) && view.get(&port_key(*port)).is_none();
    let mut rng = rand::rng();
    (0..RANDOM_TRIES).map(|_| rng.random_range(settings.node_ports.clone())).find(free).or_else(|| settings.node_ports.clone().find(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_addresses_and_ports_once() {
        let service = json!({"spec": {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [
            {"port": 53, "protocol": "UDP", "nodePort": 30053}, {"port": 53, "nodePort": 30053}], "healthCheckNodePort": 31000}});
        let expected = Held { addresses: ["10.96.0.5".to_owned()].into(), ports: [30053, 31000].into() };
        assert_eq!(held(&service), expected);
        assert_eq!(held(&json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}})), Held::default());
    }

    #[test]
    fn a_change_of_type_keeps_and_drops_what_was_allocated() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80, "nodePort": 30080}]}});
        let mut same = json!({"spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        keep_allocated(&mut same, &old);
        assert_eq!(same["spec"]["clusterIP"], "10.96.0.5");
        assert_eq!(same["spec"]["ports"][0]["nodePort"], 30080);
        let mut internal = old.clone();
        internal["spec"]["type"] = json!("ClusterIP");
        keep_allocated(&mut internal, &old);
        assert!(internal["spec"]["ports"][0]["nodePort"].is_null());
        let mut external = old.clone();
        external["spec"]["type"] = json!("ExternalName");
        keep_allocated(&mut external, &old);
        assert!(external["spec"]["clusterIP"].is_null());
    }
}
