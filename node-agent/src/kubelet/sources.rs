//! What a pod refers to outside itself, as a value: the shell collects it, the decisions look it up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};

/// Name of a thing a pod's spec refers to in its namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// `v1 ConfigMap`.
    ConfigMap(String),
    /// `v1 Secret`.
    Secret(String),
}

/// The referenced objects of one pod. A name that was looked for and is absent has no entry.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// By name.
    pub config_maps: BTreeMap<String, ConfigMap>,
    /// By name.
    pub secrets: BTreeMap<String, Secret>,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub services: Vec<Service>,
}

impl Sources {
    /// The bytes of a ConfigMap's keys, text and binary.
    pub fn config_map_data(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.config_maps.get(name).map(|map| {
            let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
            text.chain(binary).collect()
        })
    }

    /// The bytes of a Secret's keys.
    pub fn secret_data(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.secrets.get(name).map(|secret| secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect())
    }
}

/// Everything `pod` refers to, and whether it can run without (only if every reference to it is optional).
pub fn references(pod: &Pod) -> BTreeMap<Reference, bool> {
    let mut found: BTreeMap<Reference, bool> = BTreeMap::new();
    let mut note = |reference: Reference, optional: Option<bool>| {
        let optional = optional.unwrap_or(false);
        found.entry(reference).and_modify(|o| *o &= optional).or_insert(optional);
    };
    let Some(spec) = &pod.spec else { return found };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env, &c.env_from));
    let normal = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| (&c.env, &c.env_from));
    for (env, env_from) in normal.chain(ephemeral) {
        for from in env_from.iter().flatten() {
            if let Some(r) = &from.config_map_ref {
                note(Reference::ConfigMap(r.name.clone()), r.optional);
            }
            if let Some(r) = &from.secret_ref {
                note(Reference::Secret(r.name.clone()), r.optional);
            }
        }
        for source in env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            if let Some(r) = &source.config_map_key_ref {
                note(Reference::ConfigMap(r.name.clone()), r.optional);
            }
            if let Some(r) = &source.secret_key_ref {
                note(Reference::Secret(r.name.clone()), r.optional);
            }
        }
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(v) = &volume.config_map {
            note(Reference::ConfigMap(v.name.clone()), v.optional);
        }
        if let Some(v) = &volume.secret {
            note(Reference::Secret(v.secret_name.clone().unwrap_or_default()), v.optional);
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(v) = &source.config_map {
                note(Reference::ConfigMap(v.name.clone()), v.optional);
            }
            if let Some(v) = &source.secret {
                note(Reference::Secret(v.name.clone()), v.optional);
            }
        }
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        note(Reference::Secret(secret.name.clone()), Some(true));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reference_is_optional_only_if_every_use_is() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "a", "envFrom": [{"configMapRef": {"name": "m", "optional": true}}, {"secretRef": {"name": "s", "optional": true}}],
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]}],
            "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "t"}}]}}]}}))
        .unwrap();
        let expected = BTreeMap::from([
            (Reference::ConfigMap("m".into()), false),
            (Reference::Secret("s".into()), true),
            (Reference::Secret("t".into()), false),
        ]);
        assert_eq!(references(&pod), expected);
    }
}
