//! The four ways to change an object without sending all of it.

use std::sync::Arc;

use serde_json::Value;
use trierarch_api::merge::apply::{self, Writer};
use trierarch_api::merge::{json, strategic};
use trierarch_api::{ApiError, FieldValidation, Kind, Path, Problems, Reason, Subresource, schema};

use crate::authenticate::Headers as _;
use crate::dispatch::{Admitted, Answer};
use crate::negotiate;
use crate::pipeline::{Ctx, decode, encode, invalid_options, metadata};
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
            _ => Err(ApiError::new(Reason::UnsupportedMediaType, "415: Unsupported Media Type")),
        }
    }
}

/// `PATCH`
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>, sub: Option<Subresource>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let ctx = admitted.ctx()?;
    let info = admitted.info;
    let way = way(admitted, &ctx)?;
    let namespace = object_namespace(kind, &info.namespace);
    let change = change(&ctx, kind, way, sub, &admitted.call.body, namespace, &info.name)?;
    let target = Target { kind, namespace, name: &info.name, sub };
    let source = if way == Type::Apply { Source::Applied(&change) } else { Source::From(&change) };
    let updated = update(admitted.server, &ctx, &target, source).await?;
    Ok(encode::answer(if updated.created { 201 } else { 200 }, &updated.object, kind, chosen, &ctx))
}

/// The sort of a patch, if its options fit.
///
/// # Errors
/// 415, 422
pub(crate) fn way(admitted: &Admitted<'_>, ctx: &Ctx) -> Result<Type, ApiError> {
    let way = Type::parse(admitted.call.headers.get("content-type").unwrap_or_default())?;
    let mut problems = Problems::default();
    if way == Type::Apply && admitted.options.text("fieldManager").is_empty() {
        problems.required(&Path::new("fieldManager"), "is required for apply patch");
    }
    if way != Type::Apply && ctx.force {
        problems.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    }
    if !problems.is_empty() {
        return Err(invalid_options("patch", &problems));
    }
    Ok(way)
}

/// The configuration to apply.
///
/// # Errors
/// 400
pub(crate) fn config(body: &[u8]) -> Result<Value, ApiError> {
    let json = decode::yaml_to_json(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: error converting YAML to JSON: {}", error.message)))?;
    Ok(trierarch_api::decode::parse(&json)?.0)
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
            let (patch, duplicates) = trierarch_api::decode::parse(body).map_err(|_ignored| ApiError::bad_request(json::NO_PATCH))?;
            if !patch.is_object() {
                let found = trierarch_api::decode::json_type(&patch);
                let why = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
                let before = if way == Type::Merge { "error decoding patch: " } else { "" };
                return Err(ApiError::bad_request(format!("{before}{why}")));
            }
            if ctx.validation == FieldValidation::Warn {
                duplicates.into_iter().for_each(|duplicate| ctx.warn(duplicate));
            } else if ctx.validation == FieldValidation::Strict && !duplicates.is_empty() {
                return Err(ApiError::bad_request(trierarch_api::decode::strict_error(&duplicates)));
            }
            patch
        }
        Type::Apply => config(body)?,
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
                let mut applied = apply::apply(kind, old, &parsed, &writer, ctx.force)?;
                identify(kind, &mut applied, namespace, name);
                return Ok(applied);
            }
        };
        decode::patched(ctx, kind, value)
    })
}

/// A configuration may leave out what the path says.
fn identify(kind: &Kind, object: &mut Value, namespace: &str, name: &str) {
    let metadata = metadata::of(object);
    if kind.namespaced_scope() && !metadata.contains_key("namespace") {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    if !metadata.contains_key("name") {
        metadata.insert("name".to_owned(), name.into());
    }
}

fn present(old: Option<&Value>) -> Result<&Value, ApiError> {
    old.ok_or_else(|| ApiError::internal("a patch needs an object"))
}
