//! OpenAPI documents of the rows (`Spec:` Kubernetes "OpenAPI"; OpenAPI Specification 3.0, Swagger 2.0).
//!
//! Structure, list types and defaults come from the table of facts, descriptions from `k8s-openapi`. A document is made when somebody asks for
//! it; the caller keeps its bytes, and nothing else stays in memory.

mod definitions;
mod descriptions;
pub mod gnostic;
mod paths;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::kind::{Kind, Registry};

/// Which of the two specifications a document follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Swagger 2.0: `definitions`.
    Two,
    /// OpenAPI 3.0: `components.schemas`.
    Three,
}

impl Form {
    fn reference(self, name: &str) -> Value {
        match self {
            Self::Two => json!({"$ref": format!("#/definitions/{name}")}),
            Self::Three => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// What every group version refers to, beside its own kinds.
const COMMON: &[&str] = &["meta.v1.DeleteOptions", "meta.v1.Status", "meta.v1.Patch", "meta.v1.APIResourceList"];

fn info() -> Value {
    json!({"title": "Kubernetes", "version": crate::VERSION})
}

/// The Swagger 2.0 document of everything (`/openapi/v2`).
pub fn v2(registry: &Registry) -> Value {
    let rows = registry.all();
    let rows: Vec<&Kind> = rows.iter().map(AsRef::as_ref).collect();
    let (paths, schemas) = contents(&rows, Form::Two);
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": schemas})
}

/// The OpenAPI 3.0 document of one group version (`/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`); `None` if no row is in it.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let rows = registry.all();
    let rows: Vec<&Kind> = rows.iter().map(AsRef::as_ref).filter(|row| row.group == group && row.version == version).collect();
    if rows.is_empty() {
        return None;
    }
    let (paths, schemas) = contents(&rows, Form::Three);
    Some(json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}}))
}

/// The paths under `/openapi/v3` with their group and version: `("api/v1", "", "v1")`, `("apis/apps/v1", "apps", "v1")`.
pub fn v3_paths(registry: &Registry) -> Vec<(String, String, String)> {
    let versions: BTreeSet<(String, String)> = registry.all().iter().map(|row| (row.group.to_string(), row.version.to_string())).collect();
    versions
        .into_iter()
        .map(|(group, version)| {
            let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            (path, group, version)
        })
        .collect()
}

fn contents(rows: &[&Kind], form: Form) -> (Map<String, Value>, Map<String, Value>) {
    let mut all = Map::new();
    let mut wanted: BTreeSet<String> = COMMON.iter().map(|name| (*name).to_owned()).collect();
    for row in rows {
        paths::of_row(row, form, &mut all, &mut wanted);
    }
    (all, definitions::reachable(rows, wanted, form))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` below a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    found.insert(target.rsplit('/').next().unwrap_or_default().to_owned());
                }
                map.values().for_each(|inner| references(inner, found));
            }
            Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let registry = Registry::with_builtins();
        let mut documents: Vec<(Value, &str)> = vec![(v2(&registry), "/definitions")];
        for (_, group, version) in v3_paths(&registry) {
            documents.push((v3(&registry, &group, &version).expect("the path is listed"), "/components/schemas"));
        }
        for (document, schemas) in documents {
            let mut found = BTreeSet::new();
            references(&document, &mut found);
            assert!(found.len() > 5, "a document refers to its schemas");
            let known = document.pointer(schemas).and_then(Value::as_object).expect("there are schemas");
            let lost: Vec<_> = found.iter().filter(|name| !known.contains_key(*name)).collect();
            assert!(lost.is_empty(), "{lost:?}");
        }
    }

    #[test]
    fn kubectl_finds_what_it_looks_for() {
        let document = v3(&Registry::with_builtins(), "apps", "v1").expect("there are rows");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
        assert!(patch["parameters"].as_array().expect("a list").iter().any(|parameter| parameter["name"] == "fieldValidation"));
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        assert!(deployment["description"].as_str().is_some_and(|text| text.contains("Deployment")));
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert!(containers["description"].as_str().is_some_and(|text| !text.is_empty()));
        assert!(v3(&Registry::with_builtins(), "nowhere", "v1").is_none());
    }
}
