//! Server-side apply (`Spec:` Kubernetes "Server-Side Apply").

use serde_json::Value;

use super::field_set::{Element, FieldSet, path_text};
use super::granular::{self, Shape};
use crate::kind::Kind;
use crate::managed_fields::{self, ManagerId, Managers, Model, Operation, Owned, reset_fields, strip};
use crate::status::{ApiError, Cause, Reason};

/// What kubectl writes when it applies by itself, without the server's help.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;
/// Takes over what it applied by itself before.
const KUBECTL: &str = "kubectl";
/// Owns what was there before anybody applied.
const BEFORE: &str = "before-first-apply";

/// Who writes, and how.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what stands for it.
    pub manager: &'a str,
    /// The subresource written to, empty for the object itself.
    pub subresource: &'a str,
    /// When.
    pub now: jiff::Timestamp,
}

/// A field that somebody else owns with another value.
struct Conflict {
    manager: ManagerId,
    path: Vec<Element>,
}

enum Refusal {
    Conflicts(Vec<Conflict>),
    Error(ApiError),
}

/// The object that follows from applying `config` (as the client sent it) to `live` (`None`: it does not exist yet).
/// Its `metadata.managedFields` are updated. Without `force`, fields that others own with other values are conflicts.
///
/// # Errors
/// `Conflict` with one cause `FieldManagerConflict` for each field; 400 and 500 for configurations that do not fit.
pub fn apply(kind: &Kind, live: Option<&Value>, config: &Value, writer: &Writer<'_>, force: bool) -> Result<Value, ApiError> {
    let schema = crate::schema::of(kind);
    let model =
        Model { schema: &schema, api_version: &kind.api_version(), kind: &kind.kind, reset: reset_fields(kind, writer.subresource) };
    let mut object = to(&model, live, config, writer, force)?;
    let tracked = object["metadata"].as_object_mut().and_then(|metadata| metadata.remove("managedFields"));
    let mut object = crate::decode::checked(kind, object)?.object;
    if let (Some(list), Some(metadata)) = (tracked, object["metadata"].as_object_mut()) {
        metadata.insert("managedFields".to_owned(), list);
    }
    Ok(object)
}

/// [`apply`] for an object without a row. Values are as the configuration spells them.
///
/// # Errors
/// As [`apply`].
pub fn to(model: &Model<'_>, live: Option<&Value>, config: &Value, writer: &Writer<'_>, force: bool) -> Result<Value, ApiError> {
    let stated = (text(config, "apiVersion"), text(config, "kind"));
    if stated != (model.api_version, model.kind) {
        return Err(ApiError::bad_request(format!("invalid object type: {}", type_text(stated.0, stated.1))));
    }
    let blank;
    let live = match live {
        Some(live) => live,
        None => {
            blank = managed_fields::blank(model);
            &blank
        }
    };
    let mut managers = Managers::parse(live["metadata"].get("managedFields"))
        .map_err(|error| ApiError::unknown(format!("failed to decode managed fields: {error}")))?;
    if managers.0.is_empty() {
        let before = Writer { manager: BEFORE, ..writer.clone() };
        managed_fields::update(model, None, &without_managers(live), &mut managers, &before);
    }
    if config["metadata"]["managedFields"].is_array() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    granular::validate(model.schema, config).map_err(|why| {
        let named = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
        let subject = format!("{}/{}; {}", named("namespace"), named("name"), type_text(stated.0, stated.1));
        ApiError::unknown(format!("failed to create typed patch object ({subject}): {why}"))
    })?;
    managers.forget_other_groups(model.api_version);
    let outcome = match step(model, live, config, managers.clone(), writer, force) {
        Err(Refusal::Conflicts(conflicts)) if writer.manager == KUBECTL => match applied_by_itself(model, live) {
            None => Err(Refusal::Conflicts(conflicts)),
            Some(allowed) => {
                let left: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.contains(&conflict.path)).collect();
                if left.is_empty() { step(model, live, config, managers, writer, true) } else { Err(Refusal::Conflicts(left)) }
            }
        },
        other => other,
    };
    let (mut object, managers) = outcome.map_err(|refusal| match refusal {
        Refusal::Conflicts(conflicts) => refuse(&conflicts),
        Refusal::Error(error) => error,
    })?;
    if writer.manager == KUBECTL {
        renew_last_applied(&mut object, config);
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        match managers.to_value() {
            Some(list) => metadata.insert("managedFields".to_owned(), list),
            None => metadata.remove("managedFields"),
        };
    }
    Ok(object)
}

fn step(
    model: &Model<'_>,
    live: &Value,
    config: &Value,
    mut managers: Managers,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(Value, Managers), Refusal> {
    let shape = Shape::of(model.schema);
    let id = ManagerId::of(writer, Operation::Apply, model.api_version);
    let merged = granular::merge(shape, live, config);
    let mut own = granular::fields_of(shape, config);
    own.subtract_trees(&model.reset);
    let last = managers.0.remove(&id);
    let time = last.as_ref().and_then(|last| last.time.clone());
    managers.0.insert(id.clone(), Owned { api_version: model.api_version.to_owned(), time, fields: own });
    let object = match &last {
        Some(last) if !last.fields.is_empty() => prune(shape, merged, &last.fields, &managers),
        _ => merged,
    };
    if !object.is_object() {
        return Err(Refusal::Error(ApiError::internal("an apply left nothing of the object")));
    }

    let changed = granular::compare(shape, live, &object).without(&model.reset);
    let mut touched = changed.modified.clone();
    touched.unite(&changed.added);
    let mut conflicts = Vec::new();
    for (other, owned) in managers.0.iter_mut().filter(|(other, _)| **other != id) {
        if force {
            owned.fields.subtract(&touched);
        } else if owned.fields.meets(&touched) {
            let paths = owned.fields.intersection(&touched).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: other.clone(), path }));
        }
        owned.fields.subtract(&changed.removed);
    }
    if !conflicts.is_empty() {
        return Err(Refusal::Conflicts(conflicts));
    }
    if let Some(owned) = managers.0.get_mut(&id) {
        strip(&mut owned.fields);
        if !granular::same(live, &object) {
            owned.time = Some(crate::decode::time_text(writer.now));
        }
    }
    managers.0.retain(|_, owned| !owned.fields.is_empty());
    Ok((object, managers))
}

/// Takes away what the applier applied last time, does not apply now, and nobody else owns.
fn prune(shape: Shape<'_>, merged: Value, last: &FieldSet, managers: &Managers) -> Value {
    let last = granular::with_named_fields(shape, last);
    let pruned = granular::remove(shape, &merged, &last);
    let all = granular::with_named_fields(shape, &granular::fields_of(shape, &merged));
    let mut kept = FieldSet::default();
    for owned in managers.0.values() {
        kept.unite(&owned.fields);
    }
    // what somebody owns comes back, and so does what contains it
    let mut gone = all.clone();
    gone.subtract(&granular::with_named_fields(shape, &granular::fields_of(shape, &pruned)));
    gone.subtract(&granular::with_named_fields(shape, &kept));
    let pruned = granular::remove(shape, &merged, &gone);
    // and so does what nobody owned, but went with something above it
    let mut gone = all;
    gone.subtract(&granular::with_named_fields(shape, &granular::fields_of(shape, &pruned)));
    let gone = gone.intersection(&last);
    if gone.is_empty() { merged } else { granular::remove(shape, &merged, &gone) }
}

/// The fields that kubectl applied by itself and that still have the values it gave them.
fn applied_by_itself(model: &Model<'_>, live: &Value) -> Option<FieldSet> {
    let annotation = live["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())?;
    let applied: Value = serde_json::from_str(annotation).ok()?;
    if text(&applied, "apiVersion") != model.api_version || granular::validate(model.schema, &applied).is_err() {
        return None;
    }
    let shape = Shape::of(model.schema);
    let mut fields = granular::fields_of(shape, &applied);
    let differs = granular::compare(shape, &applied, live);
    for set in [&differs.modified, &differs.added, &differs.removed] {
        fields.subtract(set);
    }
    Some(fields)
}

/// Keeps the annotation true for clients that still apply by themselves.
fn renew_last_applied(object: &mut Value, config: &Value) {
    if object["metadata"]["annotations"][LAST_APPLIED].as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut applied = config.clone();
    if let Some(annotations) = applied["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let Some(annotations) = object["metadata"]["annotations"].as_object_mut() else { return };
    annotations.insert(LAST_APPLIED.to_owned(), format!("{}\n", go_json(&applied)).into());
    let bytes: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().unwrap_or_default().len()).sum();
    if bytes > ANNOTATIONS_BYTES_MAX {
        annotations.remove(LAST_APPLIED);
    }
}

/// JSON in which the characters special to HTML are escaped.
fn go_json(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            other => out.push(other),
        }
    }
    out
}

fn refuse(conflicts: &[Conflict]) -> ApiError {
    let message = match conflicts {
        [only] => format!("Apply failed with 1 conflict: conflict with {}: {}", only.manager.to_display(), path_text(&only.path)),
        many => {
            let mut lines: Vec<String> = Vec::new();
            for (at, conflict) in many.iter().enumerate() {
                if at == 0 || many[at - 1].manager != conflict.manager {
                    lines.push(format!("conflicts with {}:", conflict.manager.to_display()));
                }
                lines.push(format!("- {}", path_text(&conflict.path)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.manager.to_display()),
            field: path_text(&conflict.path),
        })
        .collect();
    ApiError { causes, ..ApiError::new(Reason::Conflict, message) }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// `apps/v1, Kind=Deployment`
fn type_text(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if group.is_empty() { format!("/{version}, Kind={kind}") } else { format!("{group}/{version}, Kind={kind}") }
}

fn without_managers(live: &Value) -> Value {
    let mut live = live.clone();
    if let Some(metadata) = live["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    live
}

#[cfg(test)]
mod tests;
