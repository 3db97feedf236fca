//! The environment of a container: service links, `envFrom`, `env`, references and expansion, in Kubernetes' order of precedence.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Service};

use super::downward::{self, NodeFacts};
use super::expand::expand;
use super::sources::Sources;

/// Why a container can't be configured; the text becomes the message of `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Reads a file by volume and path.
pub type ReadVolumeFile<'a> = &'a dyn Fn(&str, &str) -> Result<Vec<u8>, String>;

/// What the environment is made from.
#[derive(Clone, Copy)]
pub struct EnvInput<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What it refers to.
    pub sources: &'a Sources,
    /// What the node knows.
    pub facts: &'a NodeFacts,
    /// Reads a file of one of the pod's volumes, for `fileKeyRef`.
    pub read_volume_file: ReadVolumeFile<'a>,
}

/// Names and values in the order in which they are defined; service links last.
///
/// # Errors
/// A reference that is missing and not optional. Retrying is useful: the object may appear.
pub fn environment(container: &Container, input: &EnvInput<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let spec = input.pod.spec.as_ref();
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = service_links(&input.sources.services, namespace, spec.and_then(|s| s.enable_service_links).unwrap_or(true));
    let mut env = Ordered::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (data, kind, name, optional) = if let Some(r) = &from.config_map_ref {
            (input.sources.config_map_data(&r.name), "configmap", &r.name, r.optional)
        } else if let Some(r) = &from.secret_ref {
            (input.sources.secret_data(&r.name), "secret", &r.name, r.optional)
        } else {
            continue;
        };
        let Some(data) = data else {
            if optional == Some(true) {
                continue;
            }
            return Err(not_found(kind, name));
        };
        for (key, value) in data {
            // Text keys only: a ConfigMap's binary data never reaches the environment.
            if kind == "configmap" && !input.sources.config_maps[name].data.as_ref().is_some_and(|d| d.contains_key(&key)) {
                continue;
            }
            let key = format!("{prefix}{key}");
            if !key.is_empty() && !key.contains('=') {
                env.set(key, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| env.get(name).cloned().or_else(|| links.get(name).cloned());
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, lookup)),
            (_, Some(_)) => referenced(variable, container, input)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(variable.name.clone(), value);
        }
    }
    for (name, value) in links {
        if env.get(&name).is_none() {
            env.set(name, value);
        }
    }
    Ok(env.entries)
}

fn referenced(variable: &EnvVar, container: &Container, input: &EnvInput<'_>) -> Result<Option<String>, ConfigError> {
    let Some(from) = &variable.value_from else { return Ok(None) };
    let namespace = input.pod.metadata.namespace.as_deref().unwrap_or_default();
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    if let Some(selector) = &from.field_ref {
        return downward::field(input.pod, selector, input.facts).map(Some).map_err(ConfigError);
    }
    if let Some(selector) = &from.resource_field_ref {
        let target = selector.container_name.as_deref().filter(|n| !n.is_empty());
        let found = target.and_then(|name| {
            let spec = input.pod.spec.as_ref()?;
            spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
        });
        return downward::resource(found.unwrap_or(container), selector, input.facts).map(Some).map_err(ConfigError);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        return match input.sources.config_map_data(&r.name) {
            None if optional => Ok(None),
            None => Err(not_found("configmap", &r.name)),
            Some(data) => match data.get(&r.key) {
                Some(value) => Ok(Some(text(value))),
                None if optional => Ok(None),
                None => Err(ConfigError(format!("couldn't find key {} in ConfigMap {namespace}/{}", r.key, r.name))),
            },
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        return match input.sources.secret_data(&r.name) {
            None if optional => Ok(None),
            None => Err(not_found("secret", &r.name)),
            Some(data) => match data.get(&r.key) {
                Some(value) => Ok(Some(text(value))),
                None if optional => Ok(None),
                None => Err(ConfigError(format!("couldn't find key {} in Secret {namespace}/{}", r.key, r.name))),
            },
        };
    }
    if let Some(r) = &from.file_key_ref {
        let optional = r.optional == Some(true);
        let bytes = match (input.read_volume_file)(&r.volume_name, &r.path) {
            Ok(bytes) => bytes,
            Err(_) if optional => return Ok(None),
            Err(message) => return Err(ConfigError(message)),
        };
        let file = parse_env_file(&String::from_utf8_lossy(&bytes)).map_err(|_line| ConfigError("couldn't parse env file".to_owned()))?;
        return match file.get(&r.key) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(ConfigError(format!("environment variable key {:?} not found in file {:?}", r.key, r.path))),
        };
    }
    Ok(None)
}

fn not_found(kind: &str, name: &str) -> ConfigError {
    ConfigError(format!("{kind} {name:?} not found"))
}

/// The variables of an environment file: `NAME='value'` per line, `#` comments. Values are taken literally between single quotes.
///
/// # Errors
/// The first line that is not a variable.
pub fn parse_env_file(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut out = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let line = rest[..line_end].trim();
        if line.is_empty() || line.starts_with('#') {
            rest = rest.get(line_end + 1..).unwrap_or_default();
            continue;
        }
        let (name, value) = rest.split_once('=').ok_or_else(|| line.to_owned())?;
        let name = name.trim_start();
        if name.contains(char::is_whitespace) || name.is_empty() {
            return Err(line.to_owned());
        }
        let (value, after) = match value.strip_prefix('\'') {
            Some(quoted) => quoted.split_once('\'').ok_or_else(|| line.to_owned())?,
            None => {
                let end = value.find('\n').unwrap_or(value.len());
                (value[..end].trim(), &value[end..])
            }
        };
        out.insert(name.to_owned(), value.to_owned());
        let end = after.find('\n').unwrap_or(after.len());
        if !after[..end].trim().is_empty() && !after[..end].trim().starts_with('#') {
            return Err(line.to_owned());
        }
        rest = after.get(end + 1..).unwrap_or_default();
    }
    Ok(out)
}

/// Variables for the Services a pod may know: those of its own namespace when it wants links, and the API's always.
pub fn service_links(services: &[Service], namespace: &str, all: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (ns, name) = (service.metadata.namespace.as_deref().unwrap_or_default(), service.metadata.name.as_deref().unwrap_or_default());
        let has_ip = service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).is_some_and(|ip| !ip.is_empty() && ip != "None");
        if !has_ip {
            continue;
        }
        let master = ns == "default" && name == "kubernetes";
        if all && ns == namespace {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut out = BTreeMap::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.clone().unwrap_or_default();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.clone());
        for (index, port) in ports.iter().enumerate() {
            if index == 0 {
                out.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
            }
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                out.insert(format!("{prefix}_SERVICE_PORT_{}", port_name.to_uppercase().replace('-', "_")), port.port.to_string());
            }
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let port_prefix = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(port_prefix.clone(), url);
            out.insert(format!("{port_prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{port_prefix}_PORT"), port.port.to_string());
            out.insert(format!("{port_prefix}_ADDR"), ip.clone());
        }
    }
    out
}

/// Variables that keep the place of their first definition.
#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Ordered {
    fn get(&self, name: &str) -> Option<&String> {
        self.index.get(name).map(|at| &self.entries[*at].1)
    }

    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(at) => self.entries[*at].1 = value,
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sources() -> Sources {
        Sources {
            config_maps: BTreeMap::from([(
                "m".to_owned(),
                serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"one": "1", "two": "$(one)"}, "binaryData": {"bin": "AAE="}})).unwrap(),
            )]),
            secrets: BTreeMap::from([("s".to_owned(), serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"pass": "aHVzaA=="}})).unwrap())]),
            services: vec![
                serde_json::from_value(json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}})).unwrap(),
                serde_json::from_value(json!({"metadata": {"name": "my-db", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 5432, "protocol": "TCP"}]}})).unwrap(),
                serde_json::from_value(json!({"metadata": {"name": "headless", "namespace": "ns"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}})).unwrap(),
            ],
        }
    }

    fn env_of(container: serde_json::Value, extra_spec: serde_json::Value) -> Result<BTreeMap<String, String>, ConfigError> {
        let container: Container = serde_json::from_value(container).unwrap();
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(extra_spec.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).unwrap();
        let facts = NodeFacts { pod_ips: vec!["10.244.0.9".into()], ..NodeFacts::default() };
        let read = |_: &str, path: &str| if path == "env" { Ok(b"A='x y'\nB=2\n".to_vec()) } else { Err("no such file".to_owned()) };
        let input = EnvInput { pod: &pod, sources: &sources(), facts: &facts, read_volume_file: &read };
        environment(&container, &input).map(|list| list.into_iter().collect())
    }

    #[test]
    fn later_definitions_see_earlier_ones_and_links() {
        let env = env_of(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
                "env": [{"name": "A", "value": "$(P_one)$(LATE)"}, {"name": "LATE", "value": "x"}, {"name": "B", "value": "$(A)-$(MY_DB_SERVICE_HOST)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, {"name": "EMPTY"}]}),
            json!({}),
        )
        .unwrap();
        for (name, value) in [
            ("P_one", "1"),
            ("P_two", "$(one)"),
            ("pass", "hush"),
            ("A", "1$(LATE)"),
            ("B", "1$(LATE)-10.96.0.7"),
            ("IP", "10.244.0.9"),
            ("EMPTY", ""),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("MY_DB_PORT", "tcp://10.96.0.7:5432"),
            ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.7"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("P_bin") && !env.keys().any(|k| k.starts_with("HEADLESS")));
    }

    #[test]
    fn without_links_only_the_api_remains() {
        let env = env_of(json!({"name": "c"}), json!({"enableServiceLinks": false})).unwrap();
        assert!(env.contains_key("KUBERNETES_PORT") && !env.contains_key("MY_DB_PORT"));
    }

    #[test]
    fn missing_references_stop_the_container_unless_optional() {
        let from = |kind: &str, name: &str, key: &str, optional: bool| {
            env_of(
                json!({"name": "c", "env": [{"name": "X", "valueFrom": {kind: {"name": name, "key": key, "optional": optional}}}]}),
                json!({}),
            )
            .map(|env| env.get("X").cloned())
            .map_err(|e| e.0)
        };
        assert_eq!(from("configMapKeyRef", "m", "one", false), Ok(Some("1".into())));
        assert_eq!(from("configMapKeyRef", "none", "one", false), Err("configmap \"none\" not found".into()));
        assert_eq!(from("configMapKeyRef", "m", "nine", false), Err("couldn't find key nine in ConfigMap ns/m".into()));
        assert_eq!(from("secretKeyRef", "s", "nine", false), Err("couldn't find key nine in Secret ns/s".into()));
        assert_eq!(from("secretKeyRef", "none", "nine", true), Ok(None));
        assert_eq!(
            env_of(json!({"name": "c", "envFrom": [{"secretRef": {"name": "gone"}}]}), json!({})).unwrap_err().0,
            "secret \"gone\" not found"
        );
    }

    #[test]
    fn a_file_of_a_volume_can_hold_variables() {
        let get = |key: &str, path: &str, optional: bool| {
            env_of(json!({"name": "c", "env": [{"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": path, "key": key, "optional": optional}}}]}), json!({}))
                .map(|env| env.get("X").cloned())
        };
        assert_eq!(get("A", "env", false), Ok(Some("x y".into())));
        assert_eq!(get("B", "env", false), Ok(Some("2".into())));
        assert!(get("C", "env", false).is_err());
        assert_eq!(get("A", "gone", true), Ok(None));
        assert!(parse_env_file("no equals sign").is_err());
    }
}
