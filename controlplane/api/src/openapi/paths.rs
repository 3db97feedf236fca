//! Operations, from the rows.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Form;
use crate::kind::{Kind, Subresource, Verb};
use crate::schema;

/// Query parameters of reading a collection (`Spec:` meta/v1 ListOptions).
const LIST: &[(&str, &str, &str)] = &[
    ("allowWatchBookmarks", "boolean", "Whether bookmark events are wanted."),
    ("continue", "string", "Where a list that was cut goes on."),
    ("fieldSelector", "string", "Which objects, by their fields."),
    ("labelSelector", "string", "Which objects, by their labels."),
    ("limit", "integer", "How many objects at most."),
    ("resourceVersion", "string", "At which version, or from which on."),
    ("resourceVersionMatch", "string", "How that version is meant."),
    ("sendInitialEvents", "boolean", "Whether a watch begins with the objects that there are."),
    ("timeoutSeconds", "integer", "How long the call may take."),
    ("watch", "boolean", "Whether changes are wanted instead of a list."),
];
/// Query parameters of writing (`Spec:` meta/v1 CreateOptions, UpdateOptions).
const WRITE: &[(&str, &str, &str)] = &[
    ("dryRun", "string", "All: nothing is stored."),
    ("fieldManager", "string", "Who makes the change."),
    ("fieldValidation", "string", "What happens to unknown and duplicate fields: Ignore, Warn or Strict."),
];
/// Query parameters of deleting (`Spec:` meta/v1 DeleteOptions).
const DELETE: &[(&str, &str, &str)] = &[
    ("dryRun", "string", "All: nothing is stored."),
    ("gracePeriodSeconds", "integer", "How long the object may take to end."),
    ("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];
const FORCE: (&str, &str, &str) = ("force", "boolean", "Whether apply takes fields over from other managers.");

struct Row<'a> {
    kind: &'a Kind,
    form: Form,
}

/// Adds a row's paths, and the types that they use.
pub(super) fn of_row(kind: &Kind, form: Form, all: &mut Map<String, Value>, wanted: &mut BTreeSet<String>) {
    let row = Row { kind, form };
    let base = if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) };
    let collection = if kind.namespaced_scope() {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    let own = schema::openapi_name(&schema::table_name(kind));
    let list = format!("{own}List");
    let mut operations = Map::new();
    if kind.allows(Verb::List) {
        operations.insert("get".to_owned(), row.operation("list", LIST, None, &list));
    }
    if kind.allows(Verb::Create) {
        operations.insert("post".to_owned(), row.operation("post", WRITE, Some(&own), &own));
    }
    if kind.allows(Verb::DeleteCollection) {
        operations.insert("delete".to_owned(), row.operation("deletecollection", &[LIST, DELETE].concat(), None, STATUS));
    }
    row.add(all, &collection, operations);
    if kind.namespaced_scope() && kind.allows(Verb::List) {
        let mut operations = Map::new();
        operations.insert("get".to_owned(), row.operation("list", LIST, None, &list));
        row.add(all, &format!("{base}/{}", kind.plural), operations);
    }
    if kind.allows(Verb::Get) {
        let item = format!("{collection}/{{name}}");
        row.add(all, &item, row.item(&own));
        for subresource in kind.subresources {
            let path = format!("{item}/{}", subresource.as_str());
            row.add(all, &path, row.subresource(*subresource, &own, wanted));
        }
    }
}

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

impl Row<'_> {
    fn add(&self, all: &mut Map<String, Value>, path: &str, mut operations: Map<String, Value>) {
        if operations.is_empty() {
            return;
        }
        let mut parameters = Vec::new();
        for name in ["name", "namespace"] {
            if path.contains(&format!("{{{name}}}")) {
                let mut parameter = json!({"name": name, "in": "path", "required": true, "description": format!("{name} of the object")});
                self.typed(&mut parameter, "string");
                parameters.push(parameter);
            }
        }
        if !parameters.is_empty() {
            operations.insert("parameters".to_owned(), Value::Array(parameters));
        }
        all.insert(path.to_owned(), Value::Object(operations));
    }

    fn typed(&self, parameter: &mut Value, kind: &str) {
        match self.form {
            Form::Two => {
                parameter["type"] = json!(kind);
                parameter["uniqueItems"] = json!(true);
            }
            Form::Three => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
        }
    }

    fn operation(&self, action: &str, parameters: &[(&str, &str, &str)], body: Option<&str>, answer: &str) -> Value {
        let kind = self.kind;
        let mut query: Vec<Value> = parameters
            .iter()
            .map(|(name, kind, description)| {
                let mut parameter = json!({"name": name, "in": "query", "description": description});
                self.typed(&mut parameter, kind);
                parameter
            })
            .collect();
        let media = ["application/json", "application/yaml"];
        let mut operation = json!({
            "description": format!("{action} {}", kind.kind),
            "tags": [format!("{}_{}", if kind.group.is_empty() { "core" } else { &kind.group }, kind.version)],
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        });
        match self.form {
            Form::Two => {
                if let Some(body) = body {
                    query.push(json!({"name": "body", "in": "body", "required": true, "schema": self.form.reference(body)}));
                }
                operation["consumes"] = if body == Some(PATCH) { json!(PATCH_MEDIA) } else { json!(["*/*"]) };
                operation["produces"] = json!(media);
                operation["responses"] = json!({"200": {"description": "OK", "schema": self.form.reference(answer)}});
            }
            Form::Three => {
                if let Some(body) = body {
                    let types: &[&str] = if body == PATCH { PATCH_MEDIA } else { &["*/*"] };
                    let content: Map<String, Value> =
                        types.iter().map(|media| ((*media).to_owned(), json!({"schema": self.form.reference(body)}))).collect();
                    operation["requestBody"] = json!({"content": content});
                }
                let content: Map<String, Value> =
                    media.iter().map(|media| ((*media).to_owned(), json!({"schema": self.form.reference(answer)}))).collect();
                operation["responses"] = json!({"200": {"description": "OK", "content": content}});
            }
        }
        if !query.is_empty() {
            operation["parameters"] = Value::Array(query);
        }
        operation
    }

    fn item(&self, own: &str) -> Map<String, Value> {
        let mut operations = Map::new();
        let mut put = |verb: Verb, method: &str, operation: Value| {
            if self.kind.allows(verb) {
                operations.insert(method.to_owned(), operation);
            }
        };
        put(Verb::Get, "get", self.operation("get", &[], None, own));
        put(Verb::Update, "put", self.operation("put", WRITE, Some(own), own));
        put(Verb::Patch, "patch", self.operation("patch", &[WRITE, &[FORCE]].concat(), Some(PATCH), own));
        put(Verb::Delete, "delete", self.operation("delete", DELETE, Some(OPTIONS), STATUS));
        operations
    }

    fn subresource(&self, subresource: Subresource, own: &str, wanted: &mut BTreeSet<String>) -> Map<String, Value> {
        let mut use_type = |name: &str| {
            wanted.insert(name.to_owned());
            schema::openapi_name(name)
        };
        let object = match subresource {
            Subresource::Scale => use_type("autoscaling.v1.Scale"),
            _ => own.to_owned(),
        };
        let mut operations = Map::new();
        match subresource {
            Subresource::Binding | Subresource::Eviction | Subresource::Token => {
                let body = use_type(match subresource {
                    Subresource::Binding => "core.v1.Binding",
                    Subresource::Eviction => "policy.v1.Eviction",
                    _ => "authentication.v1.TokenRequest",
                });
                operations.insert("post".to_owned(), self.operation("post", WRITE, Some(&body), &body));
            }
            // byte streams, described by their existence
            Subresource::Log | Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy => {
                operations.insert("get".to_owned(), self.operation("connect", &[], None, STATUS));
            }
            _ => {
                operations.insert("get".to_owned(), self.operation("get", &[], None, &object));
                operations.insert("put".to_owned(), self.operation("put", WRITE, Some(&object), &object));
                operations.insert("patch".to_owned(), self.operation("patch", &[WRITE, &[FORCE]].concat(), Some(PATCH), &object));
            }
        }
        operations
    }
}

const PATCH_MEDIA: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
