//! `GET` of one object.

use std::sync::Arc;

use trierarch_api::{ApiError, Kind, Object, Snapshot as _};

use crate::apiserver::{StoreSnapshot, store_error};
use crate::dispatch::{Admitted, Answer};
use crate::pipeline::encode;
use crate::table::Include;
use crate::write::object_namespace;

/// Answers with the object.
pub(crate) async fn get_request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let include = Include::parse(admitted.options)?;
    let object = object(admitted, kind).await?;
    Ok(Answer::full(200, chosen.content_type(), encode::object(&object, kind, chosen, include)))
}

/// The object that a request's path names.
///
/// # Errors
/// 404
pub(crate) async fn object(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Arc<Object>, ApiError> {
    let name = &admitted.info.name;
    state(admitted)
        .await?
        .get(&kind.storage(), object_namespace(kind, &admitted.info.namespace), name)
        .ok_or_else(|| ApiError::not_found(&kind.group_resource(), name))
}

/// The state a read asks for: the newest without `resourceVersion`, any with `0`, else at least that one.
pub(crate) async fn state(admitted: &Admitted<'_>) -> Result<StoreSnapshot, ApiError> {
    match admitted.options.text("resourceVersion") {
        "" => admitted.server.fresh_snapshot(admitted.deadline).await,
        "0" => Ok(admitted.server.snapshot()),
        stated => {
            let revision = parse_version(stated)?;
            at_least(admitted, revision).await
        }
    }
}

/// A state of at least this revision; waited for up to three seconds.
pub(crate) async fn at_least(admitted: &Admitted<'_>, revision: u64) -> Result<StoreSnapshot, ApiError> {
    let wait = admitted.deadline.left().min(std::time::Duration::from_secs(3));
    let view = admitted.server.store.view_at_least(revision, wait).await.map_err(|error| store_error(&error))?;
    Ok(StoreSnapshot::new(view, Arc::clone(&admitted.server.registry)))
}

/// Reads a `resourceVersion` parameter.
///
/// # Errors
/// 400 when it is no number.
pub(crate) fn parse_version(text: &str) -> Result<u64, ApiError> {
    text.parse().map_err(|_ignored| {
        ApiError::unknown(format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
    })
}
