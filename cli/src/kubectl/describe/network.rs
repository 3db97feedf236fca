//! Services and Endpoints.

use serde_json::Value;

use super::parts::{self, number, shown, text};

/// How many addresses a line shows.
const ADDRESSES_MAX: usize = 3;

fn joined(list: &Value) -> String {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

/// The text of a Service, without its events.
pub fn service(service: &Value, slices: &Value) -> String {
    let spec = &service["spec"];
    let mut out = parts::head(service);
    out.push_str(&parts::labels(service));
    out.push_str(&parts::annotations("Annotations", &service["metadata"]["annotations"]));
    let selector: Vec<String> =
        spec["selector"].as_object().into_iter().flatten().map(|(key, value)| format!("{key}={}", text(value))).collect();
    out.push_str(&format!("Selector:\t{}\n", if selector.is_empty() { "<none>".to_owned() } else { selector.join(",") }));
    out.push_str(&format!("Type:\t{}\n", text(&spec["type"])));
    if let Some(policy) = spec["ipFamilyPolicy"].as_str() {
        out.push_str(&format!("IP Family Policy:\t{policy}\n"));
    }
    let or_none = |text: String| {
        if text.is_empty() { "<none>".to_owned() } else { text }
    };
    out.push_str(&format!("IP Families:\t{}\n", or_none(joined(&spec["ipFamilies"]))));
    out.push_str(&format!("IP:\t{}\nIPs:\t{}\n", text(&spec["clusterIP"]), or_none(joined(&spec["clusterIPs"]))));
    for (title, value) in [
        ("External IPs", joined(&spec["externalIPs"])),
        ("Desired LoadBalancer IP", shown(&spec["loadBalancerIP"])),
        ("External Name", shown(&spec["externalName"])),
        ("LoadBalancer Ingress", ingress(&service["status"]["loadBalancer"]["ingress"])),
    ] {
        if !value.is_empty() {
            out.push_str(&format!("{title}:\t{value}\n"));
        }
    }
    for port in spec["ports"].as_array().into_iter().flatten() {
        let (name, protocol) = (port["name"].as_str().unwrap_or("<unset>"), text(&port["protocol"]));
        out.push_str(&format!("Port:\t{name}\t{}/{protocol}\n", number(&port["port"])));
        out.push_str(&format!("TargetPort:\t{}/{protocol}\n", shown(&port["targetPort"])));
        if let Some(protocol) = port["appProtocol"].as_str() {
            out.push_str(&format!("AppProtocol:\t{protocol}\n"));
        }
        if number(&port["nodePort"]) != 0 {
            out.push_str(&format!("NodePort:\t{name}\t{}/{protocol}\n", number(&port["nodePort"])));
        }
        out.push_str(&format!("Endpoints:\t{}\n", addresses(slices, text(&port["name"]))));
    }
    out.push_str(&format!("Session Affinity:\t{}\n", text(&spec["sessionAffinity"])));
    for (title, value) in [
        ("External Traffic Policy", shown(&spec["externalTrafficPolicy"])),
        ("Internal Traffic Policy", shown(&spec["internalTrafficPolicy"])),
        ("HealthCheck NodePort", shown(&spec["healthCheckNodePort"])),
        ("LoadBalancer Source Ranges", joined(&spec["loadBalancerSourceRanges"])),
        ("Traffic Distribution", shown(&spec["trafficDistribution"])),
    ] {
        if !value.is_empty() && value != "0" {
            out.push_str(&format!("{title}:\t{value}\n"));
        }
    }
    out
}

fn ingress(list: &Value) -> String {
    let entries: Vec<String> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|entry| match (entry["ip"].as_str(), entry["ipMode"].as_str()) {
            (Some(ip), Some(mode)) => format!("{ip} ({mode})"),
            (Some(ip), None) => ip.to_owned(),
            (None, _) => text(&entry["hostname"]).to_owned(),
        })
        .collect();
    entries.join(", ")
}

/// The addresses behind a port: ready ones, a few of them.
fn addresses(slices: &Value, port: &str) -> String {
    let slices = slices["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut found = Vec::new();
    for slice in slices {
        for entry in slice["ports"].as_array().into_iter().flatten().filter(|entry| text(&entry["name"]) == port) {
            for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
                if endpoint["conditions"]["ready"] == false {
                    continue;
                }
                for address in endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
                    found.push(if entry["port"].is_null() { address.to_owned() } else { format!("{host}:{}", number(&entry["port"])) });
                }
            }
        }
    }
    let shown = found.iter().take(ADDRESSES_MAX).cloned().collect::<Vec<_>>().join(",");
    if found.len() > ADDRESSES_MAX { format!("{shown} + {} more...", found.len() - ADDRESSES_MAX) } else { shown }
}

/// The text of Endpoints, without their events.
pub fn endpoints(object: &Value) -> String {
    let mut out = parts::head(object);
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out.push_str("Subsets:\n");
    for subset in object["subsets"].as_array().into_iter().flatten() {
        for (title, field) in [("Addresses", "addresses"), ("NotReadyAddresses", "notReadyAddresses")] {
            let list: Vec<&str> = subset[field].as_array().into_iter().flatten().map(|address| text(&address["ip"])).collect();
            out.push_str(&format!("  {title}:\t{}\n", if list.is_empty() { "<none>".to_owned() } else { list.join(",") }));
        }
        let ports = subset["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !ports.is_empty() {
            out.push_str("  Ports:\n    Name\tPort\tProtocol\n    ----\t----\t--------\n");
            for port in ports {
                out.push_str(&format!(
                    "    {}\t{}\t{}\n",
                    port["name"].as_str().unwrap_or("<unset>"),
                    number(&port["port"]),
                    text(&port["protocol"])
                ));
            }
        }
        out.push('\n');
    }
    out
}

/// The text of an EndpointSlice, without its events.
pub fn endpoint_slice(object: &Value) -> String {
    let mut out = parts::head(object);
    out.push_str(&parts::labels(object));
    out.push_str(&parts::annotations("Annotations", &object["metadata"]["annotations"]));
    out.push_str(&format!("AddressType:\t{}\n", text(&object["addressType"])));
    let unset = |value: &Value| if value.is_null() { "<unset>".to_owned() } else { shown(value) };
    let ports = object["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if ports.is_empty() {
        out.push_str("Ports: <unset>\n");
    } else {
        out.push_str("Ports:\n  Name\tPort\tProtocol\n  ----\t----\t--------\n");
        for port in ports {
            let name = port["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("<unset>");
            out.push_str(&format!("  {name}\t{}\t{}\n", unset(&port["port"]), text(&port["protocol"])));
        }
    }
    let endpoints = object["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    if endpoints.is_empty() {
        out.push_str("Endpoints: <none>\n");
        return out;
    }
    out.push_str("Endpoints:\n");
    for endpoint in endpoints {
        let addresses: Vec<&str> = endpoint["addresses"].as_array().into_iter().flatten().map(text).collect();
        out.push_str(&format!("  - Addresses:\t{}\n", if addresses.is_empty() { "<none>".to_owned() } else { addresses.join(", ") }));
        out.push_str(&format!("    Conditions:\n      Ready:\t{}\n", unset(&endpoint["conditions"]["ready"])));
        out.push_str(&format!("    Hostname:\t{}\n", unset(&endpoint["hostname"])));
        if endpoint["targetRef"].is_object() {
            out.push_str(&format!("    TargetRef:\t{}/{}\n", text(&endpoint["targetRef"]["kind"]), text(&endpoint["targetRef"]["name"])));
        }
        out.push_str(&format!("    NodeName:\t{}\n    Zone:\t{}\n", unset(&endpoint["nodeName"]), unset(&endpoint["zone"])));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_few_ready_addresses_show() {
        let endpoint = |address: &str, ready: bool| json!({"addresses": [address], "conditions": {"ready": ready}});
        let slices = json!({"items": [{"ports": [{"name": "", "port": 80}], "endpoints": [endpoint("10.0.0.1", true), endpoint("10.0.0.2", false), endpoint("10.0.0.3", true), endpoint("10.0.0.4", true), endpoint("fd00::1", true)]}]});
        assert_eq!(addresses(&slices, ""), "10.0.0.1:80,10.0.0.3:80,10.0.0.4:80 + 1 more...");
        assert_eq!(addresses(&slices, "other"), "");
        assert_eq!(addresses(&json!({"items": []}), ""), "<none>");
    }

    #[test]
    fn what_an_endpoint_does_not_say_is_unset() {
        let text = endpoint_slice(
            &json!({"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n"}]}),
        );
        assert!(text.ends_with("Ports: <unset>\nEndpoints:\n  - Addresses:\t10.0.0.1\n    Conditions:\n      Ready:\t<unset>\n    Hostname:\t<unset>\n    NodeName:\tn\n    Zone:\t<unset>\n"), "{text}");
    }
}
