//! `eviction`: a deletion that asks first (`Spec:` policy/v1 Eviction).

use std::sync::Arc;

use serde_json::json;
use trierarch_api::{ApiError, Kind};

use crate::delete::{DeleteOptions, delete};
use crate::dispatch::{Admitted, Answer};
use crate::pipeline::{decode, metadata};

/// `POST` of `pods/NAME/eviction`. Disruption budgets are not among the rows yet, so nothing objects.
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let eviction = decode::any_body(admitted.call)?;
    let name = metadata::text(&eviction, "name");
    if !name.is_empty() && name != admitted.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut ctx = admitted.ctx()?;
    let options: DeleteOptions = if eviction["deleteOptions"].is_null() {
        DeleteOptions::default()
    } else {
        serde_json::from_value(eviction["deleteOptions"].clone()).map_err(|error| ApiError::bad_request(error.to_string()))?
    };
    ctx.dry_run |= options.dry_run.as_ref().is_some_and(|values| !values.is_empty());
    delete(admitted.server, &ctx, kind, &admitted.info.namespace, &admitted.info.name, &options).await?;
    let done = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Ok(Answer::document(201, &done, chosen))
}
