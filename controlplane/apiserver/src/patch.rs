//! The four ways to change an object without sending all of it.

use std::sync::Arc;

use serde_json::Value;
use trierarch_api::merge::apply::{self, Writer};
use trierarch_api::merge::{json, strategic};
use trierarch_api::{ApiError, Kind, Reason, Subresource, schema};

use crate::authenticate::Headers as _;
use crate::dispatch::{Admitted, Answer};
use crate::negotiate;
use crate::pipeline::{Ctx, decode, encode, metadata};
use crate::write::{Source, Target, object_namespace, update};

/// A patch's media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// RFC 6902
    Json,
    /// RFC 7386
    Merge,
    /// With the schema's merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

const ACCEPTED: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl Type {
    /// Of a `Content-Type`.
    ///
    /// # Errors
    /// 415
    pub fn parse(content_type: &str) -> Result<Self, ApiError> {
        match negotiate::media_type(content_type) {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(negotiate::unsupported_media_type(&ACCEPTED)),
        }
    }
}

/// `PATCH`
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>, sub: Option<Subresource>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let ctx = admitted.ctx()?;
    let info = admitted.info;
    let way = Type::parse(admitted.call.headers.get("content-type").unwrap_or_default())?;
    if way == Type::Apply && admitted.options.text("fieldManager").is_empty() {
        return Err(ApiError::new(
            Reason::Invalid,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    if way != Type::Apply && ctx.force {
        return Err(ApiError::new(
            Reason::Invalid,
            "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch",
        ));
    }
    let namespace = object_namespace(kind, &info.namespace);
    let change = change(&ctx, kind, way, sub, &admitted.call.body, namespace, &info.name)?;
    let target = Target { kind, namespace, name: &info.name, sub };
    let source = if way == Type::Apply { Source::Applied(&change) } else { Source::From(&change) };
    let updated = update(admitted.server, &ctx, &target, source).await?;
    Ok(encode::answer(if updated.created { 201 } else { 200 }, &updated.object, kind, chosen, &ctx))
}

/// The function from an object to the patched one.
///
/// # Errors
/// 400 for a patch that cannot be read.
pub fn change<'a>(
    ctx: &'a Ctx,
    kind: &'a Arc<Kind>,
    way: Type,
    sub: Option<Subresource>,
    body: &'a [u8],
    namespace: &'a str,
    name: &'a str,
) -> Result<impl Fn(Option<&Value>) -> Result<Value, ApiError> + Send + Sync + 'a, ApiError> {
    let parsed = match way {
        Type::Json => Value::Null,
        Type::Merge | Type::Strategic => {
            let patch: Value =
                serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
            if !patch.is_object() {
                return Err(ApiError::bad_request(
                    "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
                ));
            }
            patch
        }
        Type::Apply => {
            let json = decode::yaml_to_json(body)?;
            let mut config = trierarch_api::decode::parse(&json)?.0;
            if config["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
                return Err(ApiError::bad_request("metadata.managedFields must be nil"));
            }
            let object = metadata::of(&mut config);
            if kind.namespaced_scope() && !object.contains_key("namespace") {
                object.insert("namespace".to_owned(), namespace.into());
            }
            if !object.contains_key("name") {
                object.insert("name".to_owned(), name.into());
            }
            apply_config(ctx, kind, config)?
        }
    };
    Ok(move |old: Option<&Value>| {
        let value = match way {
            Type::Json => json::patch(present(old)?, body)?,
            Type::Merge => {
                let mut value = present(old)?.clone();
                json::merge(&mut value, &parsed);
                value
            }
            Type::Strategic => strategic::apply(&schema::of(kind), present(old)?, &parsed)?,
            Type::Apply => {
                let writer = Writer { manager: &ctx.field_manager, subresource: sub.map_or("", Subresource::as_str), now: ctx.now };
                return apply::apply(kind, old, &parsed, &writer, ctx.force);
            }
        };
        decode::patched(ctx, kind, value)
    })
}

/// An apply's configuration: checked against the schema, but not filled with what it leaves out.
fn apply_config(ctx: &Ctx, kind: &Kind, config: Value) -> Result<Value, ApiError> {
    decode::patched(ctx, kind, config.clone())?;
    let mut config = config;
    if config["apiVersion"].is_null() || config["kind"].is_null() {
        config["apiVersion"] = kind.api_version().into();
        config["kind"] = kind.kind.as_ref().into();
    }
    Ok(config)
}

fn present(old: Option<&Value>) -> Result<&Value, ApiError> {
    old.ok_or_else(|| ApiError::internal("a patch needs an object"))
}
