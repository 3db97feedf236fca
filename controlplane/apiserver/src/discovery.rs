//! What there is: versions, groups and resources, plain and aggregated (`Spec:` Kubernetes "API Discovery").

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use trierarch_api::{ApiError, Kind, Scope, Subresource, Verb};

use crate::apiserver::ApiServer;
use crate::authenticate::Headers as _;
use crate::dispatch::{Admitted, Answer};
use crate::negotiate;
use crate::pipeline::encode;

/// The version that clients see. Tools compare its beginning.
pub const GIT_VERSION: &str = "v1.37.2+trierarch";

/// Groups in the order in which clients prefer them; the rest follows by name.
const ORDER: [&str; 18] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
];

/// `/version`
pub(crate) fn version() -> Answer {
    let body = json!({
        "major": "1",
        "minor": "37",
        "emulationMajor": "1",
        "emulationMinor": "37",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "rust",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    });
    Answer::full(200, "application/json", serde_json::to_vec_pretty(&body).unwrap_or_default())
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A group's name, and its rows by version.
type Group = (String, BTreeMap<String, Vec<Arc<Kind>>>);

/// Rows by version, by group, in the order of [`ORDER`]; the core group has the empty name.
fn groups(server: &ApiServer) -> Vec<Group> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<Arc<Kind>>>> = BTreeMap::new();
    for row in server.registry.all() {
        found.entry(row.group.to_string()).or_default().entry(row.version.to_string()).or_default().push(row);
    }
    let rank = |group: &str| ORDER.iter().position(|known| *known == group).unwrap_or(ORDER.len());
    let mut list: Vec<_> = found.into_iter().collect();
    list.sort_by_key(|(group, _)| rank(group));
    list
}

/// `/`
pub(crate) fn paths(server: &ApiServer) -> Answer {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"].map(str::to_owned).to_vec();
    for (group, versions) in groups(server).into_iter().filter(|(group, _)| !group.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.keys().map(|version| format!("/apis/{group}/{version}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(str::to_owned),
    );
    Answer::full(200, "application/json", serde_json::to_vec_pretty(&json!({ "paths": paths })).unwrap_or_default())
}

/// The version of aggregated discovery that the client asks for first, if it does.
fn aggregated(admitted: &Admitted<'_>) -> Option<&'static str> {
    let accept = admitted.call.headers.get("accept").unwrap_or_default();
    for clause in negotiate::clauses(accept) {
        if clause.media != "application/json" {
            continue;
        }
        match (clause.param("g"), clause.param("v"), clause.param("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => return Some("v2"),
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

/// `/api`
pub(crate) fn api(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    if let Some(version) = aggregated(admitted) {
        return Ok(aggregate(admitted, version, |group| group.is_empty()));
    }
    let chosen = admitted.choose(false)?;
    let body = json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": admitted.server.settings.advertise }],
    });
    Ok(Answer::document(200, &body, chosen).header("vary", "Accept"))
}

/// `/apis`
pub(crate) fn apis(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    if let Some(version) = aggregated(admitted) {
        return Ok(aggregate(admitted, version, |group| !group.is_empty()));
    }
    let chosen = admitted.choose(false)?;
    let list: Vec<Value> = groups(admitted.server)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_value(group, versions))
        .collect();
    Ok(Answer::document(200, &json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": list }), chosen).header("vary", "Accept"))
}

fn group_value(group: &str, versions: &BTreeMap<String, Vec<Arc<Kind>>>) -> Value {
    let mut names: Vec<&String> = versions.keys().collect();
    names.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
    let entries: Vec<Value> =
        names.iter().map(|version| json!({ "groupVersion": format!("{group}/{version}"), "version": version })).collect();
    json!({ "name": group, "versions": entries, "preferredVersion": entries.first() })
}

/// General availability before beta before alpha, then higher numbers.
fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    let number = |text: &str| text.parse().unwrap_or(0);
    if let Some((major, minor)) = rest.split_once("beta") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (0, number(major), number(minor))
    } else {
        (2, number(rest), 0)
    }
}

/// `/apis/GROUP`
pub(crate) fn group(admitted: &Admitted<'_>, name: &str) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let all = groups(admitted.server);
    let (group, versions) = all.iter().find(|(group, _)| group == name && !group.is_empty()).ok_or_else(ApiError::no_such_path)?;
    let mut value = group_value(group, versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Ok(Answer::document(200, &value, chosen))
}

/// `/api/v1` and `/apis/GROUP/VERSION`
pub(crate) fn resources(admitted: &Admitted<'_>, group: &str, version: &str) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let rows: Vec<Arc<Kind>> =
        admitted.server.registry.all().into_iter().filter(|row| row.group == group && row.version == version).collect();
    if rows.is_empty() {
        return Err(ApiError::no_such_path());
    }
    let mut list = Vec::new();
    for row in &rows {
        let mut entry = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.scope == Scope::Namespaced,
            "kind": row.kind, "verbs": verbs(row.verbs),
        });
        if !row.short_names.is_empty() {
            entry["shortNames"] = json!(row.short_names);
        }
        if !row.categories.is_empty() {
            entry["categories"] = json!(row.categories);
        }
        list.push(entry);
        for sub in row.subresources {
            let (sub_group, sub_version, kind) = sub_kind(row, *sub);
            let mut entry = json!({
                "name": format!("{}/{}", row.plural, sub.as_str()), "singularName": "",
                "namespaced": row.scope == Scope::Namespaced, "kind": kind, "verbs": sub_verbs(*sub),
            });
            if sub_group != row.group || sub_version != row.version {
                entry["group"] = json!(sub_group);
                entry["version"] = json!(sub_version);
            }
            list.push(entry);
        }
    }
    if group.is_empty() {
        list.push(json!({ "name": "bindings", "singularName": "binding", "namespaced": true, "kind": "Binding", "verbs": ["create"] }));
    }
    list.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let name = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(Answer::document(200, &json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list }), chosen))
}

fn verbs(verbs: &[Verb]) -> Vec<&'static str> {
    let mut names: Vec<&str> = verbs.iter().map(|verb| verb.as_str()).collect();
    names.sort_unstable();
    names
}

/// Group, version and kind of what a subresource takes or gives.
fn sub_kind(row: &Kind, sub: Subresource) -> (String, String, String) {
    let own = |kind: &str| (row.group.to_string(), row.version.to_string(), kind.to_owned());
    match sub {
        Subresource::Scale => ("autoscaling".to_owned(), "v1".to_owned(), "Scale".to_owned()),
        Subresource::Eviction => ("policy".to_owned(), "v1".to_owned(), "Eviction".to_owned()),
        Subresource::Token => ("authentication.k8s.io".to_owned(), "v1".to_owned(), "TokenRequest".to_owned()),
        Subresource::Binding => own("Binding"),
        Subresource::Exec => own("PodExecOptions"),
        Subresource::Attach => own("PodAttachOptions"),
        Subresource::PortForward => own("PodPortForwardOptions"),
        Subresource::Proxy => own(&format!("{}ProxyOptions", row.kind)),
        _ => own(&row.kind),
    }
}

fn sub_verbs(sub: Subresource) -> &'static [&'static str] {
    match sub {
        Subresource::Status | Subresource::Scale | Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval => {
            &["get", "patch", "update"]
        }
        Subresource::Log => &["get"],
        Subresource::Exec | Subresource::Attach | Subresource::PortForward => &["create", "get"],
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
        Subresource::Finalize => &["update"],
    }
}

fn aggregate(admitted: &Admitted<'_>, version: &str, wanted: impl Fn(&str) -> bool) -> Answer {
    let items: Vec<Value> = groups(admitted.server)
        .iter()
        .filter(|(group, _)| wanted(group))
        .map(|(group, versions)| {
            let mut names: Vec<&String> = versions.keys().collect();
            names.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
            let list: Vec<Value> = names
                .iter()
                .map(|name| json!({ "version": name, "resources": aggregated_resources(group, &versions[*name]), "freshness": "Current" }))
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            json!({ "metadata": metadata, "versions": list })
        })
        .collect();
    let body = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items,
    });
    let bytes = encode::to_bytes(&body);
    let tag = {
        use sha2::Digest as _;
        format!("\"{}\"", hex::encode_upper(sha2::Sha256::digest(&bytes)))
    };
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    let answer = if admitted.call.headers.get("if-none-match").is_some_and(|known| known == tag) {
        Answer::full(304, &kind, bytes::Bytes::new())
    } else {
        Answer::full(200, &kind, bytes)
    };
    answer.header("etag", tag).header("vary", "Accept").header("cache-control", "public")
}

fn aggregated_resources(group: &str, rows: &[Arc<Kind>]) -> Vec<Value> {
    let scope = |row: &Kind| if row.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" };
    let mut list: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut entry = Map::new();
            entry.insert("resource".to_owned(), json!(row.plural));
            entry.insert("responseKind".to_owned(), json!({ "group": row.group, "version": row.version, "kind": row.kind }));
            entry.insert("scope".to_owned(), json!(scope(row)));
            entry.insert("singularResource".to_owned(), json!(row.singular));
            entry.insert("verbs".to_owned(), json!(verbs(row.verbs)));
            if !row.short_names.is_empty() {
                entry.insert("shortNames".to_owned(), json!(row.short_names));
            }
            if !row.categories.is_empty() {
                entry.insert("categories".to_owned(), json!(row.categories));
            }
            let subs: Vec<Value> = row
                .subresources
                .iter()
                .map(|sub| {
                    let (group, version, kind) = sub_kind(row, *sub);
                    json!({ "subresource": sub.as_str(), "responseKind": { "group": group, "version": version, "kind": kind }, "verbs": sub_verbs(*sub) })
                })
                .collect();
            if !subs.is_empty() {
                entry.insert("subresources".to_owned(), json!(subs));
            }
            Value::Object(entry)
        })
        .collect();
    if group.is_empty() {
        list.push(json!({
            "resource": "bindings", "responseKind": { "group": "", "version": "v1", "kind": "Binding" },
            "scope": "Namespaced", "singularResource": "binding", "verbs": ["create"],
        }));
    }
    list.sort_by(|a, b| a["resource"].as_str().cmp(&b["resource"].as_str()));
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1beta1", "v2", "v1alpha1", "v1", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}
