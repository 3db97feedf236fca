//! OpenAPI documents, made once from the rows and kept.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use trierarch_api::{ApiError, openapi};

use crate::apiserver::ApiServer;
use crate::authenticate::Headers as _;
use crate::dispatch::{Admitted, Answer};
use crate::negotiate;
use crate::pipeline::encode;

/// A document and its hash.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    hash: String,
    media: &'static str,
}

const JSON: &str = "application/json";
/// What kubectl before 1.28 asks for.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// An older name of it, which is no valid media type.
const GNOSTIC_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Documents by path; forgotten when the rows change.
#[derive(Default)]
pub struct Documents {
    made: Mutex<(usize, HashMap<String, Arc<Document>>)>,
}

impl Documents {
    fn get(&self, rows: usize, path: &str, make: impl FnOnce() -> Option<Value>) -> Option<Arc<Document>> {
        self.get_bytes(rows, path, JSON, || make().map(|value| encode::to_bytes(&value)))
    }

    fn get_bytes(&self, rows: usize, path: &str, media: &'static str, make: impl FnOnce() -> Option<Bytes>) -> Option<Arc<Document>> {
        let mut made = self.made.lock();
        if made.0 != rows {
            *made = (rows, HashMap::new());
        }
        if let Some(found) = made.1.get(path) {
            return Some(Arc::clone(found));
        }
        let bytes = make()?;
        let hash = hex::encode_upper(Sha256::digest(&bytes));
        let document = Arc::new(Document { bytes, hash, media });
        made.1.insert(path.to_owned(), Arc::clone(&document));
        Some(document)
    }
}

fn answer(admitted: &Admitted<'_>, document: &Document) -> Answer {
    let tag = format!("\"{}\"", document.hash);
    if admitted.call.headers.get("if-none-match").is_some_and(|known| known == tag) {
        return Answer::full(304, document.media, Bytes::new()).header("etag", tag);
    }
    let immutable = admitted.options.get("hash").is_some_and(|hash| hash == document.hash);
    Answer::full(200, document.media, document.bytes.clone())
        .header("etag", tag)
        .header("vary", "Accept")
        .header("cache-control", if immutable { "public, immutable" } else { "no-cache, private" })
}

/// `/openapi/v2`
pub(crate) fn v2(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let accept = admitted.call.headers.get("accept").unwrap_or("*/*");
    let server = admitted.server;
    let rows = server.registry.all().len();
    let media = negotiate::clauses(accept).iter().find_map(|clause| match clause.media {
        JSON | "*/*" | "application/*" => Some(JSON),
        GNOSTIC | GNOSTIC_OLD => Some(GNOSTIC),
        _ => None,
    });
    let document = match media {
        Some(GNOSTIC) => server
            .documents
            .get_bytes(rows, "v2 protobuf", GNOSTIC, || Some(openapi::gnostic::encode(&openapi::v2(&server.registry)).into())),
        Some(_) => server.documents.get(rows, "v2", || Some(openapi::v2(&server.registry))),
        None => return Err(negotiate::not_acceptable()),
    };
    let document = document.ok_or_else(ApiError::no_such_path)?;
    Ok(answer(admitted, &document))
}

/// `/openapi/v3`: the documents there are, with the hashes under which they never change.
pub(crate) fn v3_index(server: &ApiServer) -> Result<Answer, ApiError> {
    let rows = server.registry.all().len();
    let mut paths = Map::new();
    for (path, group, version) in openapi::v3_paths(&server.registry) {
        if let Some(document) = server.documents.get(rows, &path, || openapi::v3(&server.registry, &group, &version)) {
            paths.insert(path.clone(), json!({ "serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.hash) }));
        }
    }
    Ok(Answer::json(200, &json!({ "paths": paths })))
}

/// `/openapi/v3/...`
pub(crate) fn v3(admitted: &Admitted<'_>, path: &str) -> Result<Answer, ApiError> {
    let server = admitted.server;
    let found = openapi::v3_paths(&server.registry).into_iter().find(|(known, _, _)| known == path);
    let (_, group, version) = found.ok_or_else(ApiError::no_such_path)?;
    let document = server
        .documents
        .get(server.registry.all().len(), path, || openapi::v3(&server.registry, &group, &version))
        .ok_or_else(ApiError::no_such_path)?;
    Ok(answer(admitted, &document))
}
