//! Deletion: at once, in a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use trierarch_api::decode as schema_decode;
use trierarch_api::decode::SCHEME;
use trierarch_api::{ApiError, GroupResource, Kind, Object, Path, Problems, Snapshot as _};

use crate::apiserver::ApiServer;
use crate::dispatch::{Admitted, Answer};
use crate::list;
use crate::pipeline::commit::{self, Companions, Expect, Outcome};
use crate::pipeline::{Ctx, admit, decode, encode, metadata};
use crate::service_ip;
use crate::write::{object_namespace, state, stored_row};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeleteOptions {
    /// Seconds that a pod may take to end.
    pub grace_period_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`.
    pub propagation_policy: Option<String>,
    /// The older name of `Orphan`.
    pub orphan_dependents: Option<bool>,
    /// What the object must be.
    pub preconditions: Option<Preconditions>,
    /// `All` for a dry run.
    pub dry_run: Option<Vec<String>>,
}

/// What an object must be for a deletion to apply.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconditions {
    /// Its uid.
    pub uid: Option<String>,
    /// Its version.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    fn of(admitted: &Admitted<'_>) -> Result<Self, ApiError> {
        let mut options = if admitted.call.body.is_empty() { Self::default() } else { Self::read(admitted)? };
        let query = admitted.options;
        if let Some(seconds) = query.integer("gracePeriodSeconds")? {
            options.grace_period_seconds = Some(seconds);
        }
        if let Some(policy) = query.get("propagationPolicy") {
            options.propagation_policy = Some(policy.to_owned());
        }
        if let Some(orphan) = query.maybe_flag("orphanDependents") {
            options.orphan_dependents = Some(orphan);
        }
        options.check()?;
        Ok(options)
    }

    /// Of a request's body.
    fn read(admitted: &Admitted<'_>) -> Result<Self, ApiError> {
        let mut value = decode::any_body(admitted.call)?;
        let kind = value["kind"].as_str().unwrap_or_default();
        if !kind.is_empty() && kind != "DeleteOptions" {
            let version = value["apiVersion"].as_str().unwrap_or_default();
            return Err(ApiError::bad_request(format!("no kind {kind:?} is registered for version {version:?} in scheme {SCHEME:?}")));
        }
        if let Some(schema) = trierarch_api::schema::named("meta.v1.DeleteOptions") {
            schema_decode::typed(&schema, &mut value, &mut Vec::new()).map_err(ApiError::bad_request)?;
        }
        serde_json::from_value(value).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    fn check(&self) -> Result<(), ApiError> {
        let path = Path::new("propagationPolicy");
        let mut problems = Problems::default();
        let policy = self.propagation_policy.as_deref();
        if let Some(policy) = policy
            && self.orphan_dependents.is_some()
        {
            problems.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
        } else if let Some(policy) = policy.filter(|policy| !matches!(*policy, "Orphan" | "Background" | "Foreground")) {
            problems.not_supported(&path, policy, &["Foreground", "Background", "Orphan", "nil"]);
        }
        let dry_run = self.dry_run.clone().unwrap_or_default();
        if dry_run.iter().any(|value| value != "All") {
            problems.not_supported(&Path::new("dryRun"), dry_run, &["All"]);
        }
        if problems.is_empty() { Ok(()) } else { Err(crate::pipeline::invalid_options("delete", &problems)) }
    }
}

/// What a deletion did.
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Object>),
    /// It is on its way out.
    Pending(Arc<Object>),
}

/// `DELETE` of an object.
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let options = DeleteOptions::of(admitted)?;
    let mut ctx = admitted.ctx()?;
    ctx.dry_run |= options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
    let namespace = object_namespace(kind, &admitted.info.namespace);
    let deleted = delete(admitted.server, &ctx, kind, namespace, &admitted.info.name, &options).await?;
    let answer = match &deleted {
        Deleted::Pending(object) => encode::answer(200, object, kind, chosen, &ctx),
        Deleted::Gone(object) if returns_object(kind) => encode::answer(200, object, kind, chosen, &ctx),
        Deleted::Gone(object) => Answer::document(200, &success(kind, object), chosen),
    };
    Ok(answer)
}

/// Kinds whose deletion answers with the object, as upstream's storages do.
fn returns_object(kind: &Kind) -> bool {
    match kind.group.as_ref() {
        "" => matches!(
            kind.plural.as_ref(),
            "namespaces"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "services"
                | "serviceaccounts"
        ),
        "resource.k8s.io" | "storage.k8s.io" => true,
        _ => false,
    }
}

fn success(kind: &Kind, object: &Object) -> Value {
    let mut details = json!({ "name": object.name, "kind": kind.plural, "uid": object.uid.0 });
    if !kind.group.is_empty() {
        details["group"] = json!(kind.group);
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

/// `DELETE` of a collection.
pub(crate) async fn collection_request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let options = DeleteOptions::of(admitted)?;
    let mut ctx = admitted.ctx()?;
    ctx.dry_run |= options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
    let selection = list::Selection::parse(admitted.options, kind)?;
    let snapshot = state(admitted.server, &ctx).await?;
    let namespace = Some(admitted.info.namespace.as_str()).filter(|namespace| !namespace.is_empty() && kind.namespaced_scope());
    let mut items = Vec::new();
    for object in snapshot.list(&kind.storage(), namespace).into_iter().filter(|object| selection.matches(object)) {
        match delete(admitted.server, &ctx, kind, &object.namespace, &object.name, &options).await {
            // the answer shows what was chosen, not what became of it
            Ok(_) => items.push(encode::value_of(&object, kind)),
            Err(error) if error.reason == trierarch_api::Reason::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": { "resourceVersion": snapshot.revision().to_string() }, "items": items,
    });
    Ok(Answer::document(200, &list, chosen))
}

/// Deletes an object, or begins to.
///
/// # Errors
/// 404, 409 for preconditions, 403 for what admission protects.
pub async fn delete(
    server: &ApiServer,
    ctx: &Ctx,
    kind: &Arc<Kind>,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    options.check()?;
    let requested = kind;
    let kind = &stored_row(server, requested);
    loop {
        let snapshot = state(server, ctx).await?;
        let object =
            snapshot.get(&kind.storage(), namespace, name).ok_or_else(|| ApiError::not_found(&requested.group_resource(), name))?;
        preconditions(requested, &object, options)?;
        admit::validate_delete(&snapshot, ctx, kind, &object)?;
        let step = plan(kind, &object, options, ctx.now);
        let outcome = match &step {
            Step::Nothing => return Ok(Deleted::Pending(object)),
            Step::Remove(last) => commit::remove(server, ctx, &object, last, service_ip::on_delete(kind, &object.value())).await?,
            Step::Mark(marked) => {
                commit::put(server, ctx, kind, marked, Expect::At(object.resource_version), Companions::default()).await?
            }
        };
        match (outcome, step) {
            (Outcome::Done(object), Step::Remove(_)) => return Ok(Deleted::Gone(object)),
            (Outcome::Done(object), _) => return Ok(Deleted::Pending(object)),
            _ if ctx.local => return Err(ApiError::modified(&requested.group_resource(), name)),
            _ => {}
        }
    }
}

fn preconditions(kind: &Kind, object: &Object, options: &DeleteOptions) -> Result<(), ApiError> {
    let Some(wanted) = &options.preconditions else {
        return Ok(());
    };
    if kind.group.is_empty() && kind.plural == "namespaces" {
        if let Some(uid) = wanted.uid.as_ref().filter(|uid| **uid != object.uid.0) {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", object.uid.0);
            return Err(ApiError::conflict(&kind.group_resource(), &object.name, &why));
        }
        if let Some(version) = wanted.resource_version.as_ref().filter(|version| **version != object.resource_version.to_string()) {
            let now = object.resource_version;
            let why = format!("Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {now}");
            return Err(ApiError::conflict(&kind.group_resource(), &object.name, &why));
        }
        return Ok(());
    }
    // upstream names the kind here, not the resource
    let named = GroupResource { group: kind.group.clone(), resource: kind.kind.clone() };
    if let Some(uid) = wanted.uid.as_ref().filter(|uid| **uid != object.uid.0) {
        return Err(ApiError::conflict(
            &named,
            &object.name,
            &format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                object.uid.0
            ),
        ));
    }
    if let Some(version) = wanted.resource_version.as_ref().filter(|version| **version != object.resource_version.to_string()) {
        return Err(ApiError::conflict(
            &named,
            &object.name,
            &format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                object.resource_version
            ),
        ));
    }
    Ok(())
}

/// What a deletion does to the object.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// It is on its way already.
    Nothing,
    /// It goes now; its last state.
    Remove(Value),
    /// It is marked, and goes later.
    Mark(Value),
}

/// Decides a deletion.
pub fn plan(kind: &Kind, object: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut value = (*object.value()).clone();
    let grace = grace_period(kind, &value, options);
    settle_finalizers(kind, &mut value, options);
    if kind.group.is_empty() && kind.plural == "namespaces" {
        return namespace(object, value, now);
    }
    let held = value["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    if let Some(deleted_at) = object.deletion_timestamp {
        let remaining = value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        if grace == 0 && !held {
            if options.grace_period_seconds.is_some() {
                metadata::of(&mut value).insert("deletionGracePeriodSeconds".to_owned(), 0.into());
            }
            return Step::Remove(value);
        }
        // a grace period can only become shorter, and only if this deletion names one
        if options.grace_period_seconds.is_some() && grace < remaining {
            let since = deleted_at.checked_sub(SignedDuration::from_secs(remaining)).unwrap_or(now);
            let until = since.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now).max(now);
            mark(&mut value, until, grace);
            return Step::Mark(value);
        }
        return if value["metadata"]["finalizers"] == object.value()["metadata"]["finalizers"] { Step::Nothing } else { Step::Mark(value) };
    }
    if grace == 0 && !held {
        // a pod that a node could have been running shows when it went
        if graceful(kind) {
            mark(&mut value, now, 0);
        }
        return Step::Remove(value);
    }
    let until = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    mark(&mut value, until, grace);
    Step::Mark(value)
}

fn mark(value: &mut Value, until: Timestamp, grace: i64) {
    let generation = value["metadata"]["generation"].as_i64().unwrap_or(0);
    let metadata = metadata::of(value);
    let first = !metadata.contains_key("deletionTimestamp");
    metadata.insert("deletionTimestamp".to_owned(), until.to_string().into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if first && generation > 0 {
        metadata.insert("generation".to_owned(), (generation + 1).into());
    }
}

/// A namespace is emptied by its controller before it goes: only without any finalizer is it removed.
fn namespace(object: &Object, mut value: Value, now: Timestamp) -> Step {
    let held = |finalizers: &Value| finalizers.as_array().is_some_and(|list| !list.is_empty());
    if object.deletion_timestamp.is_some() {
        return if held(&value["spec"]["finalizers"]) || held(&value["metadata"]["finalizers"]) {
            Step::Nothing
        } else {
            Step::Remove(value)
        };
    }
    mark(&mut value, now, 0);
    metadata::of(&mut value).remove("deletionGracePeriodSeconds");
    value["status"]["phase"] = json!("Terminating");
    Step::Mark(value)
}

/// Whether objects of the kind may take their time to end.
fn graceful(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "pods"
}

/// How long the object may still take. Only pods that a node runs have a grace period.
fn grace_period(kind: &Kind, value: &Value, options: &DeleteOptions) -> i64 {
    if !graceful(kind) {
        return 0;
    }
    let spec = &value["spec"];
    let asked = options.grace_period_seconds.or_else(|| spec["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    let asked = if asked < 0 { 1 } else { asked };
    let runs = !spec["nodeName"].as_str().unwrap_or_default().is_empty();
    let ended = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if runs && !ended { asked } else { 0 }
}

/// Adds or takes the garbage collector's finalizers as the policy says.
fn settle_finalizers(kind: &Kind, value: &mut Value, options: &DeleteOptions) {
    let old: Vec<String> =
        value["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect();
    let has = |name: &str| old.iter().any(|each| each == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation_policy.as_deref()) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(policy)) => (policy == "Orphan", policy == "Foreground"),
        (None, None) => {
            let by_default = kind.plural == "replicationcontrollers" || (kind.group == "batch" && kind.plural == "jobs");
            // what the object already carries stays; kinds of the first days leave their dependents behind
            if has(ORPHAN) || has(FOREGROUND) { (has(ORPHAN), has(FOREGROUND)) } else { (by_default, false) }
        }
    };
    let mut new: Vec<String> = old.iter().filter(|name| *name != ORPHAN && *name != FOREGROUND).cloned().collect();
    if orphan {
        new.push(ORPHAN.to_owned());
    }
    if foreground {
        new.push(FOREGROUND.to_owned());
    }
    let metadata = metadata::of(value);
    if new.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(new));
    }
}

/// Whether an object that is being deleted has nothing left that keeps it.
pub(crate) fn nothing_holds(kind: &Kind, value: &Value) -> bool {
    let metadata = &value["metadata"];
    let held = |finalizers: &Value| finalizers.as_array().is_some_and(|list| !list.is_empty());
    if metadata["deletionTimestamp"].is_null() || held(&metadata["finalizers"]) {
        return false;
    }
    if kind.group.is_empty() && kind.plural == "namespaces" {
        return !held(&value["spec"]["finalizers"]);
    }
    metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use trierarch_api::Registry;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn check(plural: &str, extra: Value, options: DeleteOptions) -> Step {
        let registry = Registry::with_builtins();
        let kind = registry.by_resource("", "v1", plural).expect("a row");
        let mut value = json!({"metadata": {"name": "x", "namespace": "a", "uid": "u"}});
        json_merge(&mut value, extra);
        let object = Object::from_value(Arc::clone(&kind), &value, 3).expect("an object");
        plan(&kind, &object, &options, now())
    }

    fn json_merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    json_merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn policy(name: &str) -> DeleteOptions {
        DeleteOptions { propagation_policy: Some(name.to_owned()), ..DeleteOptions::default() }
    }

    #[test]
    fn objects_without_finalizers_go_at_once() {
        assert!(matches!(check("configmaps", json!({}), DeleteOptions::default()), Step::Remove(_)));
        assert!(matches!(check("configmaps", json!({}), policy("Background")), Step::Remove(_)));
    }

    #[test]
    fn finalizers_and_policies_hold_an_object() {
        for (extra, options, expected) in [
            (json!({}), policy("Foreground"), json!(["foregroundDeletion"])),
            (json!({}), policy("Orphan"), json!(["orphan"])),
            (json!({"metadata": {"finalizers": ["a/b"]}}), DeleteOptions::default(), json!(["a/b"])),
        ] {
            let Step::Mark(value) = check("configmaps", extra, options) else { panic!("is marked") };
            assert_eq!(value["metadata"]["finalizers"], expected);
            assert_eq!(value["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z");
            assert_eq!(value["metadata"]["deletionGracePeriodSeconds"], 0);
        }
    }

    #[test]
    fn replication_controllers_leave_their_pods_unless_told_otherwise() {
        let Step::Mark(value) = check("replicationcontrollers", json!({}), DeleteOptions::default()) else { panic!("is marked") };
        assert_eq!(value["metadata"]["finalizers"], json!(["orphan"]));
        assert!(matches!(check("replicationcontrollers", json!({}), policy("Background")), Step::Remove(_)));
    }

    #[test]
    fn running_pods_have_a_grace_period_that_only_shrinks() {
        let running = json!({"spec": {"nodeName": "n", "terminationGracePeriodSeconds": 20}});
        let Step::Mark(marked) = check("pods", running.clone(), DeleteOptions::default()) else { panic!("is marked") };
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:00:20Z");
        let with_grace = |seconds| DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() };
        assert_eq!(check("pods", marked.clone(), DeleteOptions::default()), Step::Nothing);
        assert_eq!(check("pods", marked.clone(), with_grace(60)), Step::Nothing);
        let Step::Mark(shorter) = check("pods", marked.clone(), with_grace(5)) else { panic!("is marked") };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-01T00:00:05Z");
        assert!(matches!(check("pods", marked, with_grace(0)), Step::Remove(_)));
        assert!(matches!(check("pods", running, with_grace(0)), Step::Remove(_)));
        assert!(matches!(check("pods", json!({}), DeleteOptions::default()), Step::Remove(_)), "no node runs it");
    }

    #[test]
    fn namespaces_wait_for_their_finalizers() {
        let full = json!({"metadata": {"namespace": ""}, "spec": {"finalizers": ["kubernetes"]}});
        let Step::Mark(marked) = check("namespaces", full, DeleteOptions::default()) else { panic!("is marked") };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(check("namespaces", marked.clone(), DeleteOptions::default()), Step::Nothing);
        let mut empty = marked;
        empty["spec"]["finalizers"] = json!([]);
        assert!(matches!(check("namespaces", empty, DeleteOptions::default()), Step::Remove(_)));
    }
}
