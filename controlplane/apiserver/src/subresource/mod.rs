//! What hangs below an object's path. Those that are views of the object (status and its like) share the update's way.

pub mod binding;
pub mod eviction;
pub mod scale;
pub mod token;

use serde_json::Value;
use trierarch_api::kinds::pod;
use trierarch_api::rules::{RequestFacts, keep_all_but_status};
use trierarch_api::{ApiError, Kind, Path, Problems, Subresource};

/// Limits a new state to what the subresource may change.
///
/// # Errors
/// 400 for a state that cannot be read so.
pub fn prepare(kind: &Kind, sub: Option<Subresource>, new: &mut Value, old: &Value, facts: &RequestFacts) -> Result<(), ApiError> {
    match sub {
        None => (kind.rules.prepare_update)(new, old, facts),
        Some(Subresource::Status) => (kind.rules.prepare_status)(new, old, facts),
        Some(Subresource::EphemeralContainers) => {
            only(new, old, &[&["spec", "ephemeralContainers"]]);
            bump_generation(new, old);
        }
        Some(Subresource::Resize) => {
            resize(new, old);
            bump_generation(new, old);
        }
        // the client sends all of the namespace but its status
        Some(Subresource::Finalize) => trierarch_api::rules::copy_field(new, old, "status"),
        Some(Subresource::Approval) => only(new, old, &[&["status", "conditions"]]),
        // the change was made by the server itself, from the old object
        Some(Subresource::Binding) => {}
        Some(_) => keep_all_but_status(new, old, facts),
    }
    Ok(())
}

/// Problems of what the subresource changed.
pub fn allow(kind: &Kind, sub: Option<Subresource>, new: &Value, old: &Value, problems: &mut Problems) {
    let _ = kind;
    if sub == Some(Subresource::Resize) {
        let (before, after) = (pod::qos_class(&old["spec"]), pod::qos_class(&new["spec"]));
        if before != after {
            problems.invalid(&Path::new("spec"), before, "Pod QOS Class may not change as a result of resizing");
        }
    }
    if sub == Some(Subresource::EphemeralContainers) {
        let path = Path::new("spec").child("ephemeralContainers");
        let list = |value: &Value| value["spec"]["ephemeralContainers"].as_array().cloned().unwrap_or_default();
        let now = list(new);
        for before in list(old) {
            match now.iter().find(|container| container["name"] == before["name"]) {
                None => problems.forbidden(&path, format!("existing ephemeral containers {} may not be removed\n", before["name"])),
                Some(same) if *same != before => {
                    problems.forbidden(&path, format!("existing ephemeral containers {} may not be changed\n", before["name"]))
                }
                Some(_) => {}
            }
        }
    }
}

/// Takes everything from the old object but `metadata.resourceVersion` and these paths.
fn only(new: &mut Value, old: &Value, paths: &[&[&str]]) {
    let mut kept = old.clone();
    for path in paths {
        let from = path.iter().try_fold(&*new, |value, name| value.get(name)).cloned();
        set(&mut kept, path, from);
    }
    for field in ["resourceVersion", "managedFields"] {
        let from = new["metadata"].get(field).cloned();
        set(&mut kept, &["metadata", field], from);
    }
    *new = kept;
}

fn set(value: &mut Value, path: &[&str], to: Option<Value>) {
    let Some((last, parents)) = path.split_last() else { return };
    if to.is_none() && parents.iter().try_fold(&*value, |value, name| value.get(name)).is_none() {
        return;
    }
    let mut at = value;
    for name in parents {
        if !at[*name].is_object() {
            at[*name] = Value::Object(serde_json::Map::new());
        }
        at = &mut at[*name];
    }
    if let Some(map) = at.as_object_mut() {
        match to {
            Some(to) => map.insert((*last).to_owned(), to),
            None => map.remove(*last),
        };
    }
}

/// Resources and resize policies of containers that exist; nothing else.
fn resize(new: &mut Value, old: &Value) {
    let wanted = new.clone();
    only(new, old, &[]);
    for which in ["containers", "initContainers"] {
        for container in new["spec"][which].as_array_mut().into_iter().flatten() {
            let twin = wanted["spec"][which].as_array().into_iter().flatten().find(|other| other["name"] == container["name"]);
            let Some(twin) = twin else { continue };
            for field in ["resources", "resizePolicy"] {
                set(container, &[field], twin.get(field).cloned());
            }
        }
    }
}

fn bump_generation(new: &mut Value, old: &Value) {
    if new["spec"] != old["spec"] {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        new["metadata"]["generation"] = generation.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_subresource_is_for_changes() {
        let old = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"finalizers": ["kubernetes"], "other": 1}});
        let mut new = json!({"metadata": {"name": "n", "resourceVersion": "7"}, "spec": {"finalizers": [], "other": 2}});
        only(&mut new, &old, &[&["spec", "finalizers"]]);
        assert_eq!(
            new,
            json!({"metadata": {"name": "n", "labels": {"a": "b"}, "resourceVersion": "7"}, "spec": {"finalizers": [], "other": 1}})
        );
    }

    #[test]
    fn a_resize_touches_resources_only() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]}});
        let mut new =
            json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "other", "resources": {"limits": {"cpu": "2"}}}]}});
        resize(&mut new, &old);
        bump_generation(&mut new, &old);
        assert_eq!(new["spec"]["containers"][0], json!({"name": "c", "image": "i", "resources": {"limits": {"cpu": "2"}}}));
        assert_eq!(new["metadata"]["generation"], 4);
    }
}
