//! Lists: one snapshot, cut into pages that agree with each other, written straight from stored bytes where nothing must be looked at.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{BufMut as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trierarch_api::{
    ApiError, FieldSelector, IndexTerm, Kind, LabelSelector, Object, ObjectKey, Path, Problems, Snapshot as _, object, protobuf,
};
use trierarch_raft::Record;

use crate::apiserver::{StoreSnapshot, object_of, store_error};
use crate::dispatch::{Admitted, Answer};
use crate::negotiate::{Chosen, Encoding, Form};
use crate::pipeline::encode;
use crate::read;
use crate::request::Options;
use crate::table::{self, Include};

/// Which objects of a resource a client wants.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads `labelSelector` and `fieldSelector`.
    ///
    /// # Errors
    /// 400 for selectors that cannot be read and fields that cannot be selected by.
    pub fn parse(options: &Options, kind: &Kind) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(options.text("labelSelector")).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(options.text("fieldSelector")).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let empty = json!({});
        for term in fields.terms() {
            let known =
                matches!(term.field.as_str(), "metadata.name" | "metadata.namespace") || (kind.rules.field)(&empty, &term.field).is_some();
            if !known {
                return Err(ApiError::bad_request(unknown_field(kind, &term.field)));
            }
        }
        Ok(Self { labels, fields })
    }

    /// Whether it takes everything.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether it takes this one.
    pub fn matches(&self, object: &Object) -> bool {
        if !self.labels.matches(&object.labels) {
            return false;
        }
        self.fields.is_everything()
            || self.fields.matches(|field| match field {
                "metadata.name" => Some(object.name.clone()),
                "metadata.namespace" => Some(object.namespace.clone()),
                other => (object.kind.rules.field)(&object.value(), other),
            })
    }

    /// The only name it can take, if there is only one.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    fn node(&self) -> Option<&str> {
        self.fields.exact("spec.nodeName").filter(|node| !node.is_empty())
    }
}

/// Which fields a resource can be selected by, when it cannot be by this one.
fn unknown_field(kind: &Kind, field: &str) -> String {
    if kind.rules.own_fields {
        return format!("field label not supported: {field}");
    }
    format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}

/// Where the next page begins, and at which revision all pages are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continue {
    #[serde(rename = "v")]
    version: String,
    /// The revision of the first page.
    #[serde(rename = "rv")]
    pub revision: u64,
    /// The last key of the page before, below the resource.
    #[serde(rename = "start")]
    pub after: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl Continue {
    /// A position.
    pub fn new(revision: u64, after: &str) -> Self {
        Self { version: TOKEN_VERSION.to_owned(), revision, after: after.to_owned() }
    }

    /// The token as clients carry it.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads a token.
    ///
    /// # Errors
    /// 400 when it is none.
    pub fn decode(token: &str) -> Result<Self, ApiError> {
        let refuse = |why: &str| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|error| refuse(&error.to_string()))?;
        let read: Self = serde_json::from_slice(&bytes).map_err(|error| refuse(&error.to_string()))?;
        if read.version != TOKEN_VERSION {
            return Err(refuse(&format!("server does not recognize this encoded version {:?}", read.version)));
        }
        Ok(read)
    }
}

/// The records of a list, in order, and their revision.
struct Source {
    snapshot: StoreSnapshot,
    revision: u64,
    /// Records of the past, when the list is not of the present.
    past: Option<Vec<Arc<Record>>>,
    after: Option<Bytes>,
}

/// Answers a list.
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(true)?;
    let include = Include::parse(admitted.options)?;
    admitted.options.integer("timeoutSeconds")?;
    if admitted.options.get("sendInitialEvents").is_some() {
        let mut problems = Problems::default();
        problems.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        return Err(crate::pipeline::invalid_options("list", &problems));
    }
    let selection = Selection::parse(admitted.options, kind)?;
    let limit = usize::try_from(admitted.options.integer("limit")?.unwrap_or(0).max(0)).unwrap_or(usize::MAX);
    let storage = kind.storage();
    let namespace = Some(admitted.info.namespace.as_str()).filter(|namespace| !namespace.is_empty() && kind.namespaced_scope());
    let prefix = ObjectKey::prefix(&storage, namespace);
    let whole = ObjectKey::prefix(&storage, None);
    let source = source(admitted, &prefix, &whole).await?;
    let page = cut(admitted, kind, &source, &prefix, namespace, &selection, limit);
    let mut list_meta = json!({ "resourceVersion": source.revision.to_string() });
    if let Some(last) = page.last_key.filter(|_| page.more) {
        let after = String::from_utf8_lossy(last.strip_prefix(&whole[..]).unwrap_or(&last)).into_owned();
        list_meta["continue"] = json!(Continue::new(source.revision, &after).encode());
        if let Some(remaining) = page.remaining.filter(|remaining| *remaining > 0) {
            list_meta["remainingItemCount"] = json!(remaining);
        }
    }
    let body = write(&page.items, admitted, kind, chosen, include, &list_meta);
    Ok(Answer::full(200, chosen.content_type(), body))
}

async fn source(admitted: &Admitted<'_>, prefix: &Bytes, whole: &Bytes) -> Result<Source, ApiError> {
    let options = admitted.options;
    let (version, matching, token) = (options.text("resourceVersion"), options.text("resourceVersionMatch"), options.text("continue"));
    if !token.is_empty() {
        if !version.is_empty() && version != "0" {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        if !matching.is_empty() {
            return Err(invalid(|at, problems| {
                if version.is_empty() {
                    problems.forbidden(at, "resourceVersionMatch is forbidden unless resourceVersion is provided");
                }
                problems.forbidden(at, "resourceVersionMatch is forbidden when continue is provided");
            }));
        }
        let token = Continue::decode(token)?;
        let mut after = whole.to_vec();
        after.extend_from_slice(token.after.as_bytes());
        return at(admitted, prefix, token.revision, Some(Bytes::from(after))).await;
    }
    match (version, matching) {
        ("", "") => {
            let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
            Ok(present(snapshot))
        }
        ("", _) => {
            Err(invalid(|at, problems| problems.forbidden(at, "resourceVersionMatch is forbidden unless resourceVersion is provided")))
        }
        ("0", "Exact") => {
            Err(invalid(|at, problems| problems.forbidden(at, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")))
        }
        ("0", _) => Ok(present(admitted.server.snapshot())),
        (version, "Exact") => at(admitted, prefix, parse_version(version)?, None).await,
        (version, "" | "NotOlderThan") => Ok(present(read::at_least(admitted, parse_version(version)?).await?)),
        (_, other) => Err(invalid(|at, problems| problems.not_supported(at, other, &["Exact", "NotOlderThan", ""]))),
    }
}

fn parse_version(text: &str) -> Result<u64, ApiError> {
    read::parse_version(text).map_err(|error| ApiError::bad_request(format!("invalid resource version: {}", error.message)))
}

/// 422 for `resourceVersionMatch`.
fn invalid(complain: impl FnOnce(&Path, &mut Problems)) -> ApiError {
    let mut problems = Problems::default();
    complain(&Path::new("resourceVersionMatch"), &mut problems);
    crate::pipeline::invalid_options("list", &problems)
}

fn present(snapshot: StoreSnapshot) -> Source {
    Source { revision: snapshot.revision(), snapshot, past: None, after: None }
}

async fn at(admitted: &Admitted<'_>, prefix: &Bytes, revision: u64, after: Option<Bytes>) -> Result<Source, ApiError> {
    let snapshot = read::at_least(admitted, revision).await?;
    if snapshot.revision() == revision {
        return Ok(Source { snapshot, revision, past: None, after });
    }
    let past = admitted.server.store.range_at(prefix, revision).await.map_err(|error| match error {
        trierarch_raft::StoreError::Compacted { .. } if after.is_some() => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
        ),
        other => store_error(&other),
    })?;
    Ok(Source { snapshot, revision, past: Some(past), after })
}

struct Page {
    items: Vec<Arc<Record>>,
    more: bool,
    remaining: Option<usize>,
    last_key: Option<Bytes>,
}

fn cut(
    admitted: &Admitted<'_>,
    kind: &Kind,
    source: &Source,
    prefix: &Bytes,
    namespace: Option<&str>,
    selection: &Selection,
    limit: usize,
) -> Page {
    let after = source.after.as_deref();
    let term =
        selection.node().filter(|_| kind.plural == "pods" && source.past.is_none()).map(|node| IndexTerm::Node(node.to_owned()).to_bytes());
    let one = match (selection.name(), namespace, kind.namespaced_scope()) {
        (Some(name), Some(namespace), true) => Some(ObjectKey::new(kind.storage(), namespace, name).to_bytes()),
        (Some(name), _, false) => Some(ObjectKey::new(kind.storage(), "", name).to_bytes()),
        _ => None,
    };
    let view = &source.snapshot.view;
    let records: Box<dyn Iterator<Item = Arc<Record>> + '_> = match (&source.past, &one, &term) {
        (Some(past), _, _) => Box::new(past.iter().filter(move |record| after.is_none_or(|after| record.key[..] > *after)).cloned()),
        (None, Some(key), _) => Box::new(view.get(key).into_iter()),
        (None, None, Some(term)) => {
            Box::new(view.by_term(term, prefix).filter(move |record| after.is_none_or(|after| record.key[..] > *after)).cloned())
        }
        (None, None, None) => Box::new(view.range(prefix, after).cloned()),
    };
    let all = selection.is_everything();
    let registry = &admitted.server.registry;
    let mut wanted = records.filter(|record| all || object_of(registry, record).is_some_and(|object| selection.matches(&object)));
    let items: Vec<Arc<Record>> = if limit == 0 { wanted.by_ref().collect() } else { wanted.by_ref().take(limit).collect() };
    let (more, remaining) = if limit == 0 || items.len() < limit {
        (false, None)
    } else if all {
        let rest = wanted.count();
        (rest > 0, Some(rest))
    } else {
        (wanted.next().is_some(), None)
    };
    let last_key = items.last().map(|record| record.key.clone());
    Page { items, more, remaining, last_key }
}

fn write(items: &[Arc<Record>], admitted: &Admitted<'_>, kind: &Arc<Kind>, chosen: Chosen, include: Include, list_meta: &Value) -> Bytes {
    let registry = &admitted.server.registry;
    let objects = || items.iter().filter_map(|record| object_of(registry, record));
    match chosen.form {
        Form::Object if chosen.encoding == Encoding::Json && !chosen.pretty => {
            let size: usize = items.iter().map(|record| record.value.len() + 48).sum();
            let mut out = BytesMut::with_capacity(size + 256);
            out.put_slice(
                format!("{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{list_meta},\"items\":[", kind.kind, kind.api_version())
                    .as_bytes(),
            );
            let splices = kind.stored_as.is_none();
            let mut first = true;
            for record in items {
                if !first {
                    out.put_u8(b',');
                }
                first = false;
                if splices {
                    object::splice(&record.value, record.split, record.revision, &mut out);
                } else if let Some(object) = object_of(registry, record) {
                    encode::append_json(&object, kind, &mut out);
                } else {
                    out.put_slice(b"{}");
                }
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        Form::Object if chosen.encoding == Encoding::Protobuf => {
            let items = objects().map(|object| encode::shared_value(&object, kind));
            let list = format!("{}List", kind.kind);
            Bytes::from(protobuf::list_to_bytes(&kind.api_version(), &list, list_meta, items).unwrap_or_default())
        }
        Form::Object => {
            let items: Vec<Value> = objects().map(|object| encode::value_of(&object, kind)).collect();
            encode::write(
                &json!({"kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(), "metadata": list_meta, "items": items}),
                chosen,
            )
        }
        Form::Metadata => {
            let items: Vec<Value> = objects().map(|object| encode::partial(&object)).collect();
            encode::write(
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": list_meta, "items": items}),
                chosen,
            )
        }
        Form::Table => {
            let now = crate::clock::now();
            let rows = objects().map(|object| table::row(kind, &encode::value_of(&object, kind), include, now)).collect();
            encode::write(&table::table(kind, rows, list_meta.clone(), true), chosen)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_round_trip_and_refuse_nonsense() {
        let token = Continue::new(42, "default/web-1");
        assert_eq!(Continue::decode(&token.encode()), Ok(token));
        assert!(Continue::decode("???").is_err());
        assert!(Continue::decode(&URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v9","rv":1,"start":"x"}"#)).is_err());
    }
}
