//! `metadata`: what the server sets, keeps and compares, whatever the kind.

use jiff::Timestamp;
use rand::RngExt as _;
use serde_json::{Map, Value};
use trierarch_api::{ApiError, Kind, Object, Problems};

/// The alphabet of generated names: no vowels, no look-alikes.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_MAX: usize = 63;
const SUFFIX_LENGTH: usize = 5;

/// The `metadata` of an object, made if it is not there.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let metadata = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !metadata.is_object() {
        *metadata = Value::Object(Map::new());
    }
    metadata.as_object_mut().expect("made an object above")
}

/// A text of `metadata`.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// Random characters of generated names.
pub fn random_suffix() -> String {
    let mut rng = rand::rng();
    (0..SUFFIX_LENGTH).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A name with a given beginning.
pub fn generated(prefix: &str) -> String {
    let mut base = prefix.to_owned();
    let mut keep = base.len().min(GENERATED_MAX - SUFFIX_LENGTH);
    while !base.is_char_boundary(keep) {
        keep -= 1;
    }
    base.truncate(keep);
    base + &random_suffix()
}

/// Fits an object's namespace to the request's.
///
/// # Errors
/// 400 when they differ.
pub fn settle_namespace(kind: &Kind, object: &mut Value, namespace: &str) -> Result<(), ApiError> {
    let stated = text(object, "namespace").to_owned();
    if !kind.namespaced_scope() {
        if !stated.is_empty() {
            return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
        }
        of(object).remove("namespace");
        return Ok(());
    }
    if !stated.is_empty() && stated != namespace {
        return Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    of(object).insert("namespace".to_owned(), namespace.into());
    Ok(())
}

/// Sets what the server decides for a new object and drops what no client may set.
pub fn create(kind: &Kind, object: &mut Value, uid: &str, now: Timestamp) {
    let has_generation = kind.rules.has_generation;
    let metadata = of(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid.into());
    metadata.insert("creationTimestamp".to_owned(), now.to_string().into());
    if has_generation {
        metadata.insert("generation".to_owned(), 1.into());
    }
    drop_empty(metadata);
}

/// Keeps what no update may change.
pub fn update(object: &mut Value, old: &Value) {
    let kept = &old["metadata"];
    let metadata = of(object);
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"] {
        match kept.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.remove("selfLink");
    drop_empty(metadata);
}

/// Maps and lists without members are not written, as upstream's encoders leave them out.
fn drop_empty(metadata: &mut Map<String, Value>) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
    for field in ["generateName", "creationTimestamp", "namespace", "uid"] {
        if metadata.get(field).is_some_and(|value| value.is_null() || value == "") {
            metadata.remove(field);
        }
    }
}

/// The revision a writer decided on, if it says so.
///
/// # Errors
/// 500, as upstream has it, for a version that is no number.
pub fn expected_version(object: &Value) -> Result<Option<u64>, ApiError> {
    match text(object, "resourceVersion") {
        "" | "0" => Ok(None),
        stated => {
            stated.parse().map(Some).map_err(|_ignored| ApiError::unknown(format!("strconv.ParseUint: parsing {stated:?}: invalid syntax")))
        }
    }
}

/// Compares name and uid of an update with the object it is for.
///
/// # Errors
/// 400 for another name, 409 for another uid.
pub fn check_identity(object: &Value, old: &Object) -> Result<(), ApiError> {
    let uid = text(object, "uid");
    if !uid.is_empty() && uid != old.uid.0 {
        return Err(ApiError::conflict(
            &old.kind.group_resource(),
            &old.name,
            &format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", old.uid.0),
        ));
    }
    Ok(())
}

/// Compares times that a client sent along with those that the object has.
///
/// # Errors
/// 422 when they differ.
pub fn check_times(kind: &Kind, object: &Value, old: &Value) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (now, before) = (&object["metadata"][field], &old["metadata"][field]);
        // an object on its way out keeps its time, whatever is sent
        let kept = field == "deletionTimestamp" && !before.is_null();
        if !now.is_null() && now != before && !kept {
            problems.invalid(&trierarch_api::Path::new("metadata").child(field), now.clone(), "field is immutable");
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, text(object, "name"), &problems)) }
}

/// Compares the uid that a patch left with the object's.
///
/// # Errors
/// 422 for another uid.
pub fn check_uid(kind: &Kind, object: &Value, old: &Object) -> Result<(), ApiError> {
    let uid = text(object, "uid");
    if uid.is_empty() || uid == old.uid.0 {
        return Ok(());
    }
    let mut problems = Problems::default();
    problems.invalid(&trierarch_api::Path::new("metadata").child("uid"), uid, "field is immutable");
    Err(ApiError::invalid(kind, &old.name, &problems))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_their_beginning_and_fit() {
        let name = generated("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generated(&"x".repeat(100)).len(), 63);
        assert!(random_suffix().bytes().all(|byte| ALPHABET.contains(&byte)));
    }
}
