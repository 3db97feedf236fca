//! Who owns which field: `metadata.managedFields` (`Spec:` Kubernetes "Server-Side Apply", field management).
//!
//! Every write but an apply is an `Update`: what it changes becomes its own, and is taken from all others. Call [`track_update`] with what
//! the client asked for (decoded and defaulted), before admission and strategies add what nobody asked for.

pub mod scale;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kind::{Kind, Subresource};
use crate::merge::apply::Writer;
use crate::merge::field_set::FieldSet;
use crate::merge::granular::{Comparison, Shape, compare};
use crate::schema::Schema;

/// More `Update` entries than this are put together, the oldest first.
const UPDATERS_MAX: usize = 10;
/// Who owns the fields of entries that were put together.
const ANCIENT: &str = "ancient-changes";
const UNKNOWN: &str = "unknown";

/// How a field was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By anything else.
    Update,
}

impl Operation {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What makes two writes the same manager's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ManagerId {
    /// Its name.
    pub manager: String,
    /// Appliers and updaters of one name are two.
    pub operation: Operation,
    /// Of an updater. An applier stays the same whichever version it applies.
    pub api_version: String,
    /// Empty for the object itself.
    pub subresource: String,
}

impl ManagerId {
    /// Of a write.
    pub fn of(writer: &Writer<'_>, operation: Operation, api_version: &str) -> Self {
        Self {
            manager: if writer.manager.is_empty() { UNKNOWN.to_owned() } else { writer.manager.to_owned() },
            operation,
            api_version: if operation == Operation::Apply { String::new() } else { api_version.to_owned() },
            subresource: writer.subresource.to_owned(),
        }
    }

    /// As conflicts name it.
    pub fn to_display(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// What a manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The version its fields are named in.
    pub api_version: String,
    /// When it last changed something.
    pub time: Option<String>,
    /// Its fields.
    pub fields: FieldSet,
}

/// `metadata.managedFields`, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Managers(pub BTreeMap<ManagerId, Owned>);

impl Managers {
    /// Reads the list; nothing is an empty one.
    ///
    /// # Errors
    /// Upstream's text of what cannot be read.
    pub fn parse(list: Option<&Value>) -> Result<Self, String> {
        let mut managers = BTreeMap::new();
        for (at, entry) in list.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let text = |name: &str| entry[name].as_str().unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion").to_owned();
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {at}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {at}")),
            }
            let fields = match &entry["fieldsV1"] {
                Value::Null => FieldSet::default(),
                fields => FieldSet::parse(fields).map_err(|error| format!("error decoding set: {error}"))?,
            };
            let id = ManagerId {
                manager: text("manager").to_owned(),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
                subresource: text("subresource").to_owned(),
            };
            managers.insert(id, Owned { api_version, time: entry["time"].as_str().map(str::to_owned), fields });
        }
        Ok(Self(managers))
    }

    /// The list; `None` when nobody owns anything.
    pub fn to_value(&self) -> Option<Value> {
        let mut entries: Vec<(&ManagerId, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(left_id, left), (right_id, right)| {
            let key = |id: &ManagerId, owned: &Owned| {
                (
                    id.operation,
                    owned.time.clone().unwrap_or_default(),
                    id.manager.clone(),
                    owned.api_version.clone(),
                    id.subresource.clone(),
                )
            };
            key(left_id, left).cmp(&key(right_id, right))
        });
        let list: Vec<Value> = entries
            .into_iter()
            .map(|(id, owned)| {
                let mut entry = Map::new();
                let mut put = |name: &str, text: &str| {
                    if !text.is_empty() {
                        entry.insert(name.to_owned(), text.into());
                    }
                };
                put("manager", &id.manager);
                put("operation", id.operation.as_str());
                put("apiVersion", &owned.api_version);
                put("time", owned.time.as_deref().unwrap_or_default());
                put("fieldsType", "FieldsV1");
                put("subresource", &id.subresource);
                entry.insert("fieldsV1".to_owned(), owned.fields.to_value());
                Value::Object(entry)
            })
            .collect();
        if list.is_empty() { None } else { Some(Value::Array(list)) }
    }

    /// Forgets who wrote through another group, whose names of fields may mean something else here. Returns whether there was any.
    pub fn forget_other_groups(&mut self, api_version: &str) -> bool {
        let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
        let (here, before) = (group(api_version), self.0.len());
        self.0.retain(|_, owned| group(&owned.api_version) == here);
        self.0.len() != before
    }

    /// Takes from everybody what a write changed.
    pub fn give_up(&mut self, changed: &Comparison) {
        self.0.retain(|_, owned| {
            for set in [&changed.added, &changed.modified, &changed.removed] {
                owned.fields.subtract(set);
            }
            !owned.fields.is_empty()
        });
    }

    /// Puts the oldest updaters together until there are few enough.
    fn cap(&mut self) {
        let mut updaters: Vec<(String, ManagerId)> = self
            .0
            .iter()
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, owned)| (owned.time.clone().unwrap_or_default(), id.clone()))
            .collect();
        let mut left = updaters.len();
        updaters.sort();
        let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (_, id) in updaters {
            if left <= UPDATERS_MAX {
                return;
            }
            let Some(version) = self.0.get(&id).map(|owned| owned.api_version.clone()) else { continue };
            let Some(first) = first_of_version.get(&version) else {
                first_of_version.insert(version, id);
                continue;
            };
            let bucket =
                ManagerId { manager: ANCIENT.to_owned(), operation: Operation::Update, api_version: version, subresource: String::new() };
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            let Some(owned) = self.0.remove(&id) else { continue };
            left -= 1;
            if let Some(ancient) = self.0.get_mut(&bucket) {
                ancient.fields.unite(&owned.fields);
                ancient.time = owned.time;
            }
        }
    }
}

/// Groups whose status writes may change metadata, too.
const METADATA_WITH_STATUS: &[&str] = &["", "apps", "autoscaling", "batch", "certificates.k8s.io", "policy"];

/// The fields that a write to a row or to one of its subresources cannot change, so that nobody comes to own them by it.
pub fn reset_fields(kind: &Kind, subresource: &str) -> FieldSet {
    let mut fields: Vec<&[&str]> = Vec::new();
    let csr = kind.group == "certificates.k8s.io" && kind.plural == "certificatesigningrequests";
    match subresource {
        "status" => {
            fields.push(&["spec"]);
            if csr {
                fields.push(&["status", "conditions"]);
            }
            match (kind.group.as_ref(), kind.plural.as_ref()) {
                ("", "pods") => fields.extend([["metadata", "deletionTimestamp"].as_slice(), &["metadata", "ownerReferences"]]),
                ("apps", "deployments") => fields.push(&["metadata", "labels"]),
                ("networking.k8s.io", "ingresses") => {}
                (group, _) if METADATA_WITH_STATUS.contains(&group) => {}
                _ => fields.push(&["metadata"]),
            }
        }
        "approval" => fields.extend([["spec"].as_slice(), &["status", "certificate"]]),
        "" if csr => fields.extend([["spec"].as_slice(), &["status"]]),
        "" | "finalize" if kind.has(Subresource::Status) => fields.push(&["status"]),
        _ => {}
    }
    FieldSet::of_fields(&fields)
}

/// What ownership is worked out from.
pub struct Model<'a> {
    /// Of the object.
    pub schema: &'a Schema,
    /// The version in which the writer sees it.
    pub api_version: &'a str,
    /// Of the object.
    pub kind: &'a str,
    /// What the write cannot change.
    pub reset: FieldSet,
}

/// Takes away the fields that nobody owns: the object's identity, and what only the server sets.
pub fn strip(set: &mut FieldSet) {
    set.subtract(&FieldSet::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ]));
}

/// An object of which nothing is set, as a Go server would write it.
pub fn blank(model: &Model<'_>) -> Value {
    let mut value = json!({ "apiVersion": model.api_version, "kind": model.kind });
    match crate::decode::typed(model.schema, &mut value, &mut Vec::new()) {
        Ok(()) => value,
        Err(_) => json!({}),
    }
}

/// Records in `new` what a create, update or patch (`Update` operations) changed since `old`; takes ownership from others where values
/// differ. Call it after defaults, before admission and strategies. A write whose `managedFields` is `[{}]` or `[]` resets them.
pub fn track_update(kind: &Kind, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let schema = crate::schema::of(kind);
    let model =
        Model { schema: &schema, api_version: &kind.api_version(), kind: &kind.kind, reset: reset_fields(kind, writer.subresource) };
    track(&model, old, new, writer);
}

/// [`track_update`] for an object without a row.
pub fn track(model: &Model<'_>, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let stated = new.get_mut("metadata").and_then(Value::as_object_mut).and_then(|metadata| metadata.remove("managedFields"));
    let live = old.and_then(|old| old["metadata"].get("managedFields"));
    let from_live = || Managers::parse(live).unwrap_or_default();
    let (mut managers, as_before) = match &stated {
        Some(list) if writer.subresource.is_empty() => {
            if resets(list) {
                (Managers::default(), false)
            } else if Some(list) == live {
                (from_live(), true)
            } else {
                let given = Managers::parse(Some(list)).unwrap_or_default();
                if given.0.is_empty() { (from_live(), true) } else { (given, false) }
            }
        }
        _ => (from_live(), true),
    };
    // an object that nobody tracks stays untracked until it is applied
    if managers.0.is_empty() && old.is_some_and(|old| !old["metadata"]["uid"].is_null()) {
        return;
    }
    let as_before = !managers.forget_other_groups(model.api_version) && as_before;
    let kept = if update(model, old, new, &mut managers, writer) || !as_before { managers.to_value() } else { live.cloned() };
    if let (Some(list), Some(metadata)) = (kept, new.get_mut("metadata").and_then(Value::as_object_mut)) {
        metadata.insert("managedFields".to_owned(), list);
    }
}

/// Whether anybody's fields changed.
pub(crate) fn update(model: &Model<'_>, old: Option<&Value>, new: &Value, managers: &mut Managers, writer: &Writer<'_>) -> bool {
    let made;
    let old = match old {
        Some(old) => old,
        None => {
            made = blank(model);
            &made
        }
    };
    let changed = compare(Shape::of(model.schema), old, new).without(&model.reset);
    let mut own = changed.added.clone();
    own.unite(&changed.modified);
    strip(&mut own);
    let mut lost = changed.removed.clone();
    strip(&mut lost);
    if own.is_empty() && lost.is_empty() {
        return false;
    }
    managers.give_up(&changed);
    if !own.is_empty() {
        let id = ManagerId::of(writer, Operation::Update, model.api_version);
        let time = Some(crate::decode::time_text(writer.now));
        match managers.0.get_mut(&id) {
            Some(previous) => {
                previous.fields.unite(&own);
                previous.time = time;
            }
            None => {
                managers.0.insert(id, Owned { api_version: model.api_version.to_owned(), time, fields: own });
            }
        }
    }
    managers.cap();
    true
}

/// Whether the list says that nobody shall own anything.
fn resets(list: &Value) -> bool {
    match list.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([only]) => only.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
