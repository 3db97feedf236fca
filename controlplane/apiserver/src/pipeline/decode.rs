//! From a body to an object of the row, and the checks that need only the row and its schema.

use serde_json::Value;
use trierarch_api::kinds::event;
use trierarch_api::merge::apply::Writer;
use trierarch_api::rules::NameRule;
use trierarch_api::{ApiError, Kind, Path, Problems, Subresource, decode, managed_fields, names, protobuf};

use crate::authenticate::Headers as _;
use crate::dispatch::Call;
use crate::negotiate::{self, BodyEncoding};
use crate::pipeline::{Ctx, metadata};

/// The largest body that is read.
pub const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// The object in a request's body; unknown fields are handled as the request asks.
///
/// # Errors
/// 400, 415
pub fn body(ctx: &Ctx, kind: &Kind, call: &Call) -> Result<Value, ApiError> {
    let (value, warnings) = match negotiate::body_encoding(call.headers.get("content-type"))? {
        BodyEncoding::Json => decode::object(kind, &call.body, ctx.validation)?,
        BodyEncoding::Yaml => {
            let reader = serde_yaml::Deserializer::from_slice(&call.body);
            let (value, duplicates) =
                decode::track(reader).map_err(|error| decode::unrecognized(kind, &call.body, &go_yaml_error(&error.to_string())))?;
            decode::tracked(kind, &call.body, value, duplicates, ctx.validation)?
        }
        BodyEncoding::Protobuf => {
            let value = protobuf::to_json(&call.body).map_err(|error| decode::unrecognized(kind, &call.body, &error.to_string()))?;
            decode::tracked(kind, &call.body, value, Vec::new(), ctx.validation)?
        }
    };
    for warning in warnings {
        ctx.warn(warning);
    }
    Ok(value)
}

/// The same checks on an object that a patch made.
///
/// # Errors
/// 422
pub fn patched(ctx: &Ctx, kind: &Kind, value: Value) -> Result<Value, ApiError> {
    let shown = value.to_string();
    let refuse = |error: ApiError| {
        let why = error.message.split_once(": ").map_or(error.message.as_str(), |(_, why)| why);
        let mut problems = Problems::default();
        problems.invalid(&Path::new("patch"), shown.as_str(), why);
        // upstream's error names neither kind nor object
        let nothing = Kind::cluster("", "", "", "", "");
        ApiError::invalid(&nothing, "", &problems)
    };
    let (value, warnings) = decode::checked(kind, value).and_then(|decoded| decoded.finish(kind, ctx.validation)).map_err(refuse)?;
    for warning in warnings {
        ctx.warn(warning);
    }
    Ok(value)
}

/// The body as JSON of any kind.
///
/// # Errors
/// 400, 415
pub fn any_body(call: &Call) -> Result<Value, ApiError> {
    let json = json_body(call)?;
    Ok(decode::parse(&json)?.0)
}

fn json_body(call: &Call) -> Result<bytes::Bytes, ApiError> {
    match negotiate::body_encoding(call.headers.get("content-type"))? {
        BodyEncoding::Json => Ok(call.body.clone()),
        BodyEncoding::Yaml => yaml_to_json(&call.body),
        BodyEncoding::Protobuf => {
            let value = protobuf::to_json(&call.body).map_err(|error| ApiError::bad_request(error.to_string()))?;
            Ok(crate::pipeline::encode::to_bytes(&value))
        }
    }
}

/// YAML as JSON.
///
/// # Errors
/// 400
pub fn yaml_to_json(body: &[u8]) -> Result<bytes::Bytes, ApiError> {
    let value: Value = serde_yaml::from_slice(body).map_err(|error| ApiError::bad_request(go_yaml_error(&error.to_string())))?;
    Ok(crate::pipeline::encode::to_bytes(&value))
}

/// A YAML error in the words of Go's parser, which counts lines from zero and leaves out the first.
fn go_yaml_error(text: &str) -> String {
    let (problem, context) = text.split_once(", while ").map_or((text, None), |(problem, context)| (problem, Some(context)));
    let line_of = |text: &str| -> Option<u64> {
        text.rsplit_once(" at line ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok()).map(|line| line.saturating_sub(1))
    };
    let what = problem.split(" at line ").next().unwrap_or(problem);
    let line = context.and_then(line_of).filter(|line| *line > 0).or_else(|| line_of(problem)).unwrap_or(0);
    // the scanner stands before the end of its line, the parser behind it
    let scanner = !what.starts_with("did not find expected");
    match line {
        0 => format!("yaml: {what}"),
        line => format!("yaml: line {}: {what}", if scanner { line + 1 } else { line }),
    }
}

/// Rewrites an object of one row into another that shares its storage.
pub fn convert(from: &Kind, to: &Kind, value: &mut Value) {
    if from.group == to.group && from.version == to.version {
        return;
    }
    // the two Event groups are all that share a storage so far
    event::convert(to, value);
    if let Some(map) = value.as_object_mut() {
        map.insert("kind".to_owned(), to.kind.as_ref().into());
    }
}

/// Brings the object into the form that is stored: known fields only, zero values as the schema says.
pub fn finish(kind: &Kind, value: &mut Value) {
    decode::normalise(kind, value);
}

/// Records who set which field. `seen_as` is the row through which the client sees the object, `kind` the one under which it is stored.
pub fn record_manager(ctx: &Ctx, seen_as: &Kind, kind: &Kind, old: Option<&Value>, new: &mut Value, sub: Option<Subresource>) {
    // a binding is the server's own change
    if (ctx.local && ctx.field_manager.is_empty()) || sub == Some(Subresource::Binding) {
        return;
    }
    let writer = Writer { manager: &ctx.field_manager, subresource: sub.map_or("", Subresource::as_str), now: ctx.now };
    if seen_as.group == kind.group && seen_as.version == kind.version {
        managed_fields::track_update(kind, old, new, &writer);
        return;
    }
    let seen = |value: &Value| {
        let mut value = value.clone();
        convert(kind, seen_as, &mut value);
        value
    };
    let mut seen_new = seen(new);
    managed_fields::track_update(seen_as, old.map(seen).as_ref(), &mut seen_new, &writer);
    match metadata::of(&mut seen_new).remove("managedFields") {
        Some(list) => metadata::of(new).insert("managedFields".to_owned(), list),
        None => metadata::of(new).remove("managedFields"),
    };
}

/// Problems that the row and its schema know of.
pub fn validate(kind: &Kind, object: &Value, old: Option<&Value>, problems: &mut Problems) {
    validate_metadata(kind, object, old, problems);
}

/// Problems of `metadata`.
pub fn validate_metadata(kind: &Kind, object: &Value, old: Option<&Value>, problems: &mut Problems) {
    let path = Path::new("metadata");
    let name = metadata::text(object, "name");
    let prefix = metadata::text(object, "generateName");
    let check_name = |text: &str| match kind.rules.name {
        NameRule::DnsSubdomain => names::dns_subdomain(text),
        NameRule::DnsLabel => names::dns_label(text),
        NameRule::Dns1035Label => names::dns1035_label(text),
        NameRule::PathSegment => names::path_segment(text),
    };
    if old.is_none() {
        if !prefix.is_empty() {
            for problem in check_name(&names::mask_trailing_dash(prefix)) {
                problems.invalid(&path.child("generateName"), prefix, problem);
            }
        }
        if name.is_empty() {
            problems.required(&path.child("name"), "name or generateName is required");
        } else {
            for problem in check_name(name) {
                problems.invalid(&path.child("name"), name, problem);
            }
        }
    }
    let entries = |field: &str| object["metadata"][field].as_object().cloned().unwrap_or_default();
    for (key, value) in entries("labels") {
        for problem in names::qualified_name(&key) {
            problems.invalid(&path.child("labels"), key.as_str(), problem);
        }
        let text = value.as_str().unwrap_or_default();
        for problem in names::label_value(text) {
            problems.invalid(&path.child("labels"), text, problem);
        }
    }
    let mut total = 0;
    for (key, value) in entries("annotations") {
        for problem in names::qualified_name(&key.to_lowercase()) {
            problems.invalid(&path.child("annotations"), key.as_str(), problem);
        }
        total += key.len() + value.as_str().unwrap_or_default().len();
    }
    if total > ANNOTATIONS_BYTES_MAX {
        problems.too_long(&path.child("annotations"), ANNOTATIONS_BYTES_MAX);
    }
    validate_finalizers(object, old, &path, problems);
    validate_owners(object, &path, problems);
}

fn validate_finalizers(object: &Value, old: Option<&Value>, path: &Path, problems: &mut Problems) {
    let list = |value: &Value| -> Vec<String> {
        value["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let now = list(object);
    for finalizer in &now {
        for problem in names::qualified_name(finalizer) {
            problems.invalid(&path.child("finalizers"), finalizer.as_str(), problem);
        }
    }
    if old.is_none() {
        for (index, finalizer) in now.iter().enumerate() {
            if !finalizer.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer.as_str()) {
                let why = "name is neither a standard finalizer name nor is it fully qualified";
                problems.invalid(&path.child("finalizers").index(index), finalizer.as_str(), why);
            }
        }
    }
    if now.iter().any(|each| each == "orphan") && now.iter().any(|each| each == "foregroundDeletion") {
        problems.invalid(&path.child("finalizers"), now.clone(), "finalizer orphan and foregroundDeletion cannot be both set");
    }
    if let Some(old) = old.filter(|old| !old["metadata"]["deletionTimestamp"].is_null()) {
        let before = list(old);
        let added: Vec<&str> = now.iter().filter(|each| !before.contains(each)).map(String::as_str).collect();
        if !added.is_empty() {
            let list = added.iter().map(|each| format!("{each:?}")).collect::<Vec<_>>().join(", ");
            problems.forbidden(
                &path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"),
            );
        }
    }
}

fn validate_owners(object: &Value, path: &Path, problems: &mut Problems) {
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (index, owner) in object["metadata"]["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        let at = path.index(index);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                problems.required(&at.child(field), "must not be empty");
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            problems.invalid(&at, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            let name = owner["name"].as_str().unwrap_or_default().to_owned();
            if let Some(first) = &controller {
                problems.invalid(
                    &path,
                    object["metadata"]["ownerReferences"].clone(),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"),
                );
            }
            controller.get_or_insert(name);
        }
    }
}
