//! Create and update: what happens to an object between its bytes and the store.

use std::sync::Arc;

use serde_json::Value;
use trierarch_api::{ApiError, Kind, Object, Path, Problems, Reason, Snapshot as _, Subresource, Verb};
use trierarch_raft::Guard;

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::dispatch::{Admitted, Answer};
use crate::pipeline::commit::{self, Companions, Expect, Outcome};
use crate::pipeline::{Ctx, admit, decode, encode, metadata, quota};
use crate::request::RequestInfo;
use crate::service_ip;

/// How often a generated name may collide, or a creation lose a race for what it needs, before the client hears of it.
const TRIES: usize = 8;

/// `POST` of a collection.
pub(crate) async fn create_request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let ctx = admitted.ctx()?;
    let value = decode::body(&ctx, kind, admitted.call)?;
    let object = create(admitted.server, &ctx, kind, &admitted.info.namespace, value).await?;
    Ok(encode::answer(201, &object, kind, chosen, &ctx))
}

/// `PUT` of an object or of a subresource that is a view of it.
pub(crate) async fn update_request(admitted: &Admitted<'_>, kind: &Arc<Kind>, sub: Option<Subresource>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let ctx = admitted.ctx()?;
    let info = admitted.info;
    let value = decode::body(&ctx, kind, admitted.call)?;
    let name = metadata::text(&value, "name");
    if name.is_empty() {
        let why = format!("the name of the object ({} based on URL) was undeterminable: name must be provided", info.name);
        return Err(ApiError::bad_request(why));
    }
    if name != info.name {
        return Err(ApiError::bad_request(format!("the name of the object ({name}) does not match the name on the URL ({})", info.name)));
    }
    let target = Target { kind, namespace: object_namespace(kind, &info.namespace), name: &info.name, sub };
    let updated = update(admitted.server, &ctx, &target, Source::Whole(value)).await?;
    Ok(encode::answer(if updated.created { 201 } else { 200 }, &updated.object, kind, chosen, &ctx))
}

/// The namespace part of an object's key: the `namespaces` resource carries its own name as namespace in requests.
pub(crate) fn object_namespace<'a>(kind: &Kind, namespace: &'a str) -> &'a str {
    if kind.namespaced_scope() { namespace } else { "" }
}

/// The state that a write is decided on. A write that loses a race is decided again, until its time is over.
///
/// # Errors
/// 503 or 504.
pub(crate) async fn state(server: &ApiServer, ctx: &Ctx) -> Result<StoreSnapshot, ApiError> {
    if ctx.deadline.passed() {
        return Err(ApiError::new(Reason::Timeout, "Timeout: request did not complete within the allotted time"));
    }
    if ctx.local { Ok(server.snapshot()) } else { server.fresh_snapshot(ctx.deadline).await }
}

/// The row under which objects of a row are stored.
pub(crate) fn stored_row(server: &ApiServer, kind: &Arc<Kind>) -> Arc<Kind> {
    match &kind.stored_as {
        Some(resource) => server.registry.by_storage(resource).unwrap_or_else(|| Arc::clone(kind)),
        None => Arc::clone(kind),
    }
}

/// Stores a new object.
///
/// # Errors
/// Everything that can be wrong with it; 409 when the name is taken.
pub async fn create(server: &ApiServer, ctx: &Ctx, kind: &Arc<Kind>, namespace: &str, value: Value) -> Result<Arc<Object>, ApiError> {
    create_new(server, ctx, kind, namespace, value, false).await
}

/// [`create`]; an object that follows from an apply (`applied`) says already who owns what.
async fn create_new(
    server: &ApiServer,
    ctx: &Ctx,
    kind: &Arc<Kind>,
    namespace: &str,
    mut value: Value,
    applied: bool,
) -> Result<Arc<Object>, ApiError> {
    let requested = kind;
    let kind = &stored_row(server, requested);
    metadata::settle_namespace(kind, &mut value, object_namespace(kind, namespace))?;
    if !metadata::text(&value, "resourceVersion").is_empty() {
        return Err(ApiError::unknown("resourceVersion should not be set on objects to be created"));
    }
    decode::convert(requested, kind, &mut value);
    let generates = metadata::text(&value, "name").is_empty() && !metadata::text(&value, "generateName").is_empty();
    let uid = uuid::Uuid::new_v4().to_string();
    let mut last = None;
    let mut turn = None;
    for _ in 0..TRIES {
        let snapshot = state(server, ctx).await?;
        let mut object = value.clone();
        if generates {
            let name = metadata::generated(metadata::text(&object, "generateName"));
            metadata::of(&mut object).insert("name".to_owned(), name.into());
        }
        let name = metadata::text(&object, "name").to_owned();
        metadata::create(kind, &mut object, &uid, ctx.now);
        (kind.rules.default)(&mut object);
        if !applied {
            decode::record_manager(ctx, requested, kind, None, &mut object, None);
        }
        admit::namespace_lives(&snapshot, kind, &value)?;
        Box::pin(admit::mutate_create(server, &snapshot, ctx, kind, &mut object)).await?;
        (kind.rules.default)(&mut object);
        (kind.rules.prepare_create)(&mut object, &ctx.facts());
        let mut companions = service_ip::on_create(&snapshot, &server.settings, kind, &mut object)?;
        decode::finish(kind, &mut object);
        check(kind, requested, &object, None, None)?;
        for warning in (kind.rules.warnings)(&object) {
            ctx.warn(warning);
        }
        admit::validate_create(server, &snapshot, ctx, kind, &object)?;
        quota::on_create(&snapshot, ctx, kind, &object, &mut companions)?;
        if let Some(key) = admit::namespace_key(kind, &object) {
            companions.guards.insert(0, Guard::Present { key });
        }
        match Box::pin(commit::put(server, ctx, kind, &object, Expect::Absent, companions)).await? {
            Outcome::Done(stored) => {
                // a dry run commits nothing, so it must look itself
                if ctx.dry_run && snapshot.get(&kind.storage(), &stored.namespace, &stored.name).is_some() {
                    if generates {
                        continue;
                    }
                    return Err(ApiError::already_exists(&requested.group_resource(), &name));
                }
                return Ok(stored);
            }
            Outcome::Lost => {
                let taken = ApiError::already_exists(&requested.group_resource(), &name);
                if !generates {
                    return Err(taken);
                }
                last = Some(taken);
            }
            // the namespace went away, or somebody took the address or the room in a quota: look again, and one after the other
            Outcome::CompanionLost(_) => {
                last = Some(ApiError::unavailable("the request lost a race too often; try again"));
                if turn.is_none() {
                    turn = Some(server.quota_lines.turn(namespace).await);
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| ApiError::unavailable("the request lost a race too often; try again")))
}

/// Which object an update is for.
pub struct Target<'a> {
    /// The row through which it is seen.
    pub kind: &'a Arc<Kind>,
    /// Its namespace, empty when cluster-scoped.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Which part may change; `None` is the main resource.
    pub sub: Option<Subresource>,
}

/// How the new state comes about.
pub enum Source<'a> {
    /// The client sent all of it.
    Whole(Value),
    /// It follows from the present one (`None`: the object does not exist), and is computed again when a race is lost.
    From(&'a (dyn Fn(Option<&Value>) -> Result<Value, ApiError> + Send + Sync)),
    /// As above, for server-side apply, which keeps `managedFields` itself.
    Applied(&'a (dyn Fn(Option<&Value>) -> Result<Value, ApiError> + Send + Sync)),
}

/// An update's outcome.
pub struct Updated {
    /// The object as it is now.
    pub object: Arc<Object>,
    /// It did not exist before.
    pub created: bool,
}

/// Changes an object. Whoever does not say which version it has seen loses no race: it is tried again until its time is over
/// (`Spec:` API conventions, "Concurrency Control and Consistency").
///
/// # Errors
/// Everything that can be wrong with the new state; 404 and 409.
pub async fn update(server: &ApiServer, ctx: &Ctx, target: &Target<'_>, source: Source<'_>) -> Result<Updated, ApiError> {
    let kind = &stored_row(server, target.kind);
    loop {
        let snapshot = state(server, ctx).await?;
        let found = snapshot.get(&kind.storage(), target.namespace, target.name);
        let Some(old) = found else {
            return missing(server, ctx, target, source).await;
        };
        let seen = encode::value_of(&old, target.kind);
        let (mut new, applied) = match &source {
            Source::Whole(value) => (value.clone(), false),
            Source::From(change) => (change(Some(&seen))?, false),
            Source::Applied(change) => (change(Some(&seen))?, true),
        };
        decode::convert(target.kind, kind, &mut new);
        metadata::settle_namespace(kind, &mut new, target.namespace)?;
        if metadata::text(&new, "name") != old.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                metadata::text(&new, "name"),
                old.name
            )));
        }
        let expected = metadata::expected_version(&new)?;
        if let Some(version) = expected.filter(|version| *version != old.resource_version) {
            tracing::trace!(version, resource_version = old.resource_version, "Met a stale writer");
            return Err(ApiError::modified(&target.kind.group_resource(), &old.name));
        }
        if expected.is_none() && !kind.rules.unconditional_update {
            let mut problems = Problems::default();
            problems.invalid(&Path::new("metadata").child("resourceVersion"), 0, "must be specified for an update");
            // upstream's error names the resource here, not the kind
            let named = Kind { kind: kind.plural.clone(), ..(**kind).clone() };
            return Err(ApiError::invalid(&named, &old.name, &problems));
        }
        if matches!(source, Source::Whole(_)) {
            metadata::check_identity(&new, &old)?;
        } else {
            metadata::check_uid(kind, &new, &old)?;
        }
        if !ctx.local {
            metadata::check_times(kind, &new, &old.value())?;
        }
        // whether losing the race is the client's affair
        let stated = matches!(source, Source::Whole(_)) && expected.is_some();
        match Box::pin(replace(server, ctx, kind, target, &snapshot, &old, new, applied)).await? {
            Outcome::Done(object) => return Ok(Updated { object, created: false }),
            Outcome::Lost if stated => return Err(ApiError::modified(&target.kind.group_resource(), &old.name)),
            Outcome::Lost | Outcome::CompanionLost(_) => {}
        }
        if ctx.local {
            // the local view has not caught up with what the store refused: the caller looks again
            return Err(ApiError::modified(&target.kind.group_resource(), target.name));
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of update, cut out of its loop")]
async fn replace(
    server: &ApiServer,
    ctx: &Ctx,
    kind: &Arc<Kind>,
    target: &Target<'_>,
    snapshot: &StoreSnapshot,
    old: &Arc<Object>,
    mut new: Value,
    applied: bool,
) -> Result<Outcome, ApiError> {
    let old_value = old.value();
    (kind.rules.default)(&mut new);
    if !applied {
        decode::record_manager(ctx, target.kind, kind, Some(&old_value), &mut new, target.sub);
    }
    metadata::update(&mut new, &old_value);
    crate::subresource::prepare(kind, target.sub, &mut new, &old_value, &ctx.facts())?;
    admit::mutate_update(snapshot, ctx, kind, target.sub, &mut new, &old_value)?;
    let mut companions = match target.sub {
        None => service_ip::on_update(snapshot, &server.settings, kind, &mut new, &old_value)?,
        Some(_) => Companions::default(),
    };
    decode::finish(kind, &mut new);
    check(kind, target.kind, &new, Some(&old_value), target.sub)?;
    for warning in (kind.rules.warnings)(&new) {
        ctx.warn(warning);
    }
    admit::validate_update(server, snapshot, ctx, kind, target.sub, &new, &old_value)?;
    quota::on_update(snapshot, ctx, kind, target.sub, &new, &old_value, &mut companions)?;
    if same_but_times(&new, &old_value) {
        return Ok(Outcome::Done(Arc::clone(old)));
    }
    if crate::delete::nothing_holds(kind, &new) {
        // the last finalizer went: this update is the end of the object
        let mut released = service_ip::on_delete(kind, &old_value);
        released.guards.extend(companions.guards);
        return commit::remove(server, ctx, old, &new, released).await;
    }
    commit::put(server, ctx, kind, &new, Expect::At(old.resource_version), companions).await
}

async fn missing(server: &ApiServer, ctx: &Ctx, target: &Target<'_>, source: Source<'_>) -> Result<Updated, ApiError> {
    let creates = match &source {
        Source::Whole(_) => target.sub.is_none() && target.kind.rules.create_on_update && target.kind.allows(Verb::Create),
        Source::From(_) => false,
        Source::Applied(_) => target.sub.is_none(),
    };
    if !creates {
        return Err(ApiError::not_found(&target.kind.group_resource(), target.name));
    }
    if !ctx.local {
        // who may change may not therefore create
        server.authorize(&ctx.user, &creation(target))?;
    }
    let (mut value, applied) = match source {
        Source::Whole(value) => (value, false),
        Source::From(change) => (change(None)?, false),
        Source::Applied(change) => (change(None)?, true),
    };
    if metadata::expected_version(&value)?.is_some() || !metadata::text(&value, "uid").is_empty() {
        return Err(ApiError::conflict(
            &target.kind.group_resource(),
            target.name,
            "the object has been deleted; please recreate it if that is what you want",
        ));
    }
    metadata::of(&mut value).remove("resourceVersion");
    let object = Box::pin(create_new(server, ctx, target.kind, target.namespace, value, applied)).await?;
    Ok(Updated { object, created: true })
}

/// The creation of an object, as authorization sees it.
fn creation(target: &Target<'_>) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "create".to_owned(),
        group: target.kind.group.to_string(),
        version: target.kind.version.to_string(),
        namespace: target.namespace.to_owned(),
        resource: target.kind.plural.to_string(),
        name: target.name.to_owned(),
        ..RequestInfo::default()
    }
}

/// Every problem of a new state, as the rules of the row see it through which it was written.
fn check(kind: &Kind, seen_as: &Kind, object: &Value, old: Option<&Value>, sub: Option<Subresource>) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    if encode::converts(seen_as, kind) {
        let seen = |value: &Value| {
            let mut value = value.clone();
            decode::convert(kind, seen_as, &mut value);
            value
        };
        let (new, old) = (seen(object), old.map(seen));
        (seen_as.rules.validate)(&new, &mut problems);
        match &old {
            Some(old) => (seen_as.rules.validate_update)(&new, old, &mut problems),
            None => (seen_as.rules.validate_create)(&new, &mut problems),
        }
        return if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, metadata::text(object, "name"), &problems)) };
    }
    match (old, sub) {
        (Some(old), Some(Subresource::Status)) => {
            decode::validate_metadata(kind, object, Some(old), &mut problems);
            (kind.rules.validate_status)(object, old, &mut problems);
        }
        (Some(old), _) => {
            decode::validate(kind, object, Some(old), &mut problems);
            (kind.rules.validate)(object, &mut problems);
            // these change what an ordinary update may not
            if !matches!(sub, Some(Subresource::Binding | Subresource::EphemeralContainers | Subresource::Resize)) {
                (kind.rules.validate_update)(object, old, &mut problems);
            }
            crate::subresource::allow(kind, sub, object, old, &mut problems);
        }
        (None, _) => {
            decode::validate(kind, object, None, &mut problems);
            (kind.rules.validate)(object, &mut problems);
            (kind.rules.validate_create)(object, &mut problems);
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(kind, metadata::text(object, "name"), &problems)) }
}

/// Whether an update changes nothing: times of `managedFields` and the version do not count.
fn same_but_times(new: &Value, old: &Value) -> bool {
    same_but(new, old, &[], |key, new, old| match key {
        "metadata" => same_but(new, old, &["resourceVersion"], same_metadata),
        _ => new == old,
    })
}

fn same_metadata(key: &str, new: &Value, old: &Value) -> bool {
    if key != "managedFields" {
        return new == old;
    }
    let (Some(new), Some(old)) = (new.as_array(), old.as_array()) else { return false };
    new.len() == old.len() && new.iter().zip(old).all(|(new, old)| same_but(new, old, &["time"], |_, new, old| new == old))
}

/// Whether two objects have the same members, apart from some, and `same` says so of each.
fn same_but(new: &Value, old: &Value, ignored: &[&str], same: impl Fn(&str, &Value, &Value) -> bool) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    let counted = |key: &String| !ignored.contains(&key.as_str());
    new.keys().filter(|key| counted(key)).count() == old.keys().filter(|key| counted(key)).count()
        && new.iter().filter(|(key, _)| counted(key)).all(|(key, new)| old.get(key).is_some_and(|old| same(key, new, old)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_and_versions_do_not_count_as_changes() {
        let object = |version: &str, time: &str, value: &str, manager: &str| {
            json!({"kind": "X", "metadata": {"name": "a", "resourceVersion": version, "managedFields": [{"manager": manager, "time": time}]},
                "data": value})
        };
        let old = object("1", "then", "v", "m");
        for (new, same) in [
            (object("2", "now", "v", "m"), true),
            (object("1", "then", "w", "m"), false),
            (object("1", "then", "v", "n"), false),
            (json!({"kind": "X", "metadata": {"name": "a", "managedFields": [{"manager": "m"}]}, "data": "v"}), true),
            (json!({"kind": "X", "metadata": {"name": "a"}, "data": "v"}), false),
            (json!({"kind": "X", "metadata": {"name": "b", "managedFields": [{"manager": "m"}]}, "data": "v"}), false),
        ] {
            assert_eq!(same_but_times(&new, &old), same, "{new}");
            assert_eq!(same_but_times(&old, &new), same, "{new}");
        }
    }
}
