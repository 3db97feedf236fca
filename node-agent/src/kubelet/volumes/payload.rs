//! The files of volumes whose content comes from the API: configMap, secret, downwardAPI, projected.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, PodSpec, Volume};

use crate::kubelet::downward::{self, NodeFacts};
use crate::kubelet::sources::Sources;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, if not root.
    pub uid: Option<u32>,
}

/// Files by relative path.
pub type Payload = BTreeMap<String, File>;

/// A service account token that a projected volume wants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenRequest {
    /// Audience; empty means the API server's.
    pub audience: String,
    /// Wanted lifetime.
    pub expiration_seconds: i64,
}

/// What payloads are made from.
#[derive(Clone, Copy)]
pub struct PayloadInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it refers to.
    pub sources: &'a Sources,
    /// What the node knows.
    pub facts: &'a NodeFacts,
    /// Tokens that were issued for the pod.
    pub tokens: &'a BTreeMap<TokenRequest, String>,
}

const DEFAULT_MODE: u32 = 0o644;

/// The tokens that the pod's volumes want.
pub fn token_requests(spec: &PodSpec) -> Vec<TokenRequest> {
    let projections = spec.volumes.iter().flatten().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    let mut all: Vec<TokenRequest> = projections
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|t| TokenRequest {
            audience: t.audience.clone().unwrap_or_default(),
            expiration_seconds: t.expiration_seconds.unwrap_or(3600),
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// The files of a volume; `None` if the volume is of another kind.
///
/// # Errors
/// Something that is not optional is missing; the text is the message of the `FailedMount` event.
pub fn payload(volume: &Volume, input: &PayloadInput<'_>) -> Option<Result<Payload, String>> {
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let found = input.sources.config_map_data(&source.name);
        return Some(keyed(found, "configmap", &source.name, namespace, source.items.as_deref(), mode, source.optional));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let found = input.sources.secret_data(&name);
        return Some(keyed(found, "secret", &name, namespace, source.items.as_deref(), mode(source.default_mode), source.optional));
    }
    if let Some(source) = &volume.downward_api {
        return Some(downward_files(source.items.as_deref().unwrap_or_default(), mode(source.default_mode), input));
    }
    let source = volume.projected.as_ref()?;
    Some(projected(source.sources.as_deref().unwrap_or_default(), mode(source.default_mode), namespace, input))
}

fn projected(
    sources: &[k8s_openapi::api::core::v1::VolumeProjection],
    default_mode: u32,
    namespace: &str,
    input: &PayloadInput<'_>,
) -> Result<Payload, String> {
    let mut all = Payload::new();
    let mut problems = Vec::new();
    for source in sources {
        let part = if let Some(s) = &source.config_map {
            keyed(input.sources.config_map_data(&s.name), "configmap", &s.name, namespace, s.items.as_deref(), default_mode, s.optional)
        } else if let Some(s) = &source.secret {
            keyed(input.sources.secret_data(&s.name), "secret", &s.name, namespace, s.items.as_deref(), default_mode, s.optional)
        } else if let Some(s) = &source.downward_api {
            downward_files(s.items.as_deref().unwrap_or_default(), default_mode, input)
        } else if let Some(s) = &source.service_account_token {
            let wanted =
                TokenRequest { audience: s.audience.clone().unwrap_or_default(), expiration_seconds: s.expiration_seconds.unwrap_or(3600) };
            match input.tokens.get(&wanted) {
                Some(token) => Ok(Payload::from([(s.path.clone(), token_file(token, default_mode, input.pod))])),
                None => Err("failed to fetch token: the token is not issued yet".to_owned()),
            }
        } else {
            Err("projected volume source is not supported".to_owned())
        };
        match part {
            Ok(part) => all.extend(part),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(problems.join(", ")) }
}

/// A token is readable by the pod's user only: by its owner, or through the pod's group.
fn token_file(token: &str, default_mode: u32, pod: &Pod) -> File {
    let spec = pod.spec.as_ref();
    let fs_group = spec.and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    let user = spec.and_then(common_user);
    let mode = if fs_group.is_some() || user.is_some() { 0o600 } else { default_mode };
    File { data: token.as_bytes().to_vec(), mode, uid: user.and_then(|u| u32::try_from(u).ok()) }
}

/// The one user that all containers run as, if the spec says so.
fn common_user(spec: &PodSpec) -> Option<i64> {
    let pod = spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let mut users = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|s| s.run_as_user).or(pod));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first)
}

fn keyed(
    data: Option<BTreeMap<String, Vec<u8>>>,
    kind: &str,
    name: &str,
    namespace: &str,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: Option<bool>,
) -> Result<Payload, String> {
    let optional = optional == Some(true);
    let Some(data) = data else {
        return if optional { Ok(Payload::new()) } else { Err(format!("{kind} {name:?} not found")) };
    };
    let file = |data: &Vec<u8>, mode: u32| File { data: data.clone(), mode, uid: None };
    match items {
        None | Some([]) => Ok(data.iter().map(|(key, value)| (key.clone(), file(value, default_mode))).collect()),
        Some(items) => {
            let mut out = Payload::new();
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        out.insert(item.path.clone(), file(value, item.mode.map_or(default_mode, |m| mode(Some(m)))));
                    }
                    None if optional => {}
                    None if kind == "secret" => return Err(format!("references non-existent secret key: {}", item.key)),
                    None => return Err(format!("configmap references non-existent config key: {} (in {namespace}/{name})", item.key)),
                }
            }
            Ok(out)
        }
    }
}

fn downward_files(items: &[DownwardAPIVolumeFile], default_mode: u32, input: &PayloadInput<'_>) -> Result<Payload, String> {
    let spec = input.pod.spec.as_ref();
    items
        .iter()
        .map(|item| {
            let text = if let Some(selector) = &item.field_ref {
                downward::field(input.pod, selector, input.facts)?
            } else if let Some(selector) = &item.resource_field_ref {
                let name = selector.container_name.as_deref().unwrap_or_default();
                let container = spec
                    .and_then(|s| s.containers.iter().chain(s.init_containers.iter().flatten()).find(|c| c.name == name))
                    .ok_or_else(|| format!("container {name} not found"))?;
                downward::resource(container, selector, input.facts)?
            } else {
                String::new()
            };
            let mode = item.mode.map_or(default_mode, |m| mode(Some(m)));
            Ok((item.path.clone(), File { data: text.into_bytes(), mode, uid: None }))
        })
        .collect()
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|m| u32::try_from(m).ok()).unwrap_or(DEFAULT_MODE) & 0o7777
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn files(volume: Value, spec: Value) -> Result<BTreeMap<String, (String, u32)>, String> {
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}, "spec": spec})).unwrap();
        let sources = Sources {
            config_maps: BTreeMap::from([("m".into(), serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap())]),
            secrets: BTreeMap::from([("s".into(), serde_json::from_value(json!({"data": {"k": "aHVzaA=="}})).unwrap())]),
            services: vec![],
        };
        let tokens = BTreeMap::from([(TokenRequest { audience: String::new(), expiration_seconds: 3607 }, "jwt".to_owned())]);
        let input = PayloadInput { pod: &pod, sources: &sources, facts: &NodeFacts::default(), tokens: &tokens };
        let files = payload(&volume, &input).unwrap()?;
        Ok(files.into_iter().map(|(path, f)| (path, (String::from_utf8(f.data).unwrap(), f.mode))).collect())
    }

    fn list(pairs: &[(&str, &str, u32)]) -> Result<BTreeMap<String, (String, u32)>, String> {
        Ok(pairs.iter().map(|(p, d, m)| ((*p).to_owned(), ((*d).to_owned(), *m))).collect())
    }

    fn bare() -> Value {
        json!({"containers": []})
    }

    #[test]
    fn whole_objects_and_chosen_keys() {
        assert_eq!(files(json!({"name": "v", "configMap": {"name": "m"}}), bare()), list(&[("k", "v", 0o644), ("l", "w", 0o644)]));
        let chosen = json!({"name": "v", "configMap": {"name": "m", "defaultMode": 256, "items": [{"key": "k", "path": "a/b"}, {"key": "l", "path": "c", "mode": 511}]}});
        assert_eq!(files(chosen, bare()), list(&[("a/b", "v", 0o400), ("c", "w", 0o777)]));
    }

    #[test]
    fn missing_things_stop_the_pod_unless_optional() {
        assert_eq!(files(json!({"name": "v", "secret": {"secretName": "x"}}), bare()), Err("secret \"x\" not found".into()));
        assert_eq!(files(json!({"name": "v", "secret": {"secretName": "x", "optional": true}}), bare()), list(&[]));
        let key = json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}});
        assert_eq!(files(key, bare()), Err("references non-existent secret key: z".into()));
    }

    #[test]
    fn projections_join_their_sources() {
        let volume = json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}, {"configMap": {"name": "m", "items": [{"key": "k", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}});
        assert_eq!(files(volume.clone(), bare()), list(&[("token", "jwt", 0o644), ("ca.crt", "v", 0o644), ("labels", "a=\"b\"", 0o644)]));
        let group = json!({"containers": [], "securityContext": {"fsGroup": 5}});
        assert_eq!(files(volume, group).unwrap()["token"].1, 0o600);
    }
}
