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
}

/// Documents by path; forgotten when the rows change.
#[derive(Default)]
pub struct Documents {
    made: Mutex<(usize, HashMap<String, Arc<Document>>)>,
}

impl Documents {
    fn get(&self, rows: usize, path: &str, make: impl FnOnce() -> Option<Value>) -> Option<Arc<Document>> {
        let mut made = self.made.lock();
        if made.0 != rows {
            *made = (rows, HashMap::new());
        }
        if let Some(found) = made.1.get(path) {
            return Some(Arc::clone(found));
        }
        let bytes = encode::to_bytes(&make()?);
        let hash = hex::encode_upper(Sha256::digest(&bytes));
        let document = Arc::new(Document { bytes, hash });
        made.1.insert(path.to_owned(), Arc::clone(&document));
        Some(document)
    }
}

fn answer(admitted: &Admitted<'_>, document: &Document) -> Answer {
    let tag = format!("\"{}\"", document.hash);
    if admitted.call.headers.get("if-none-match").is_some_and(|known| known == tag) {
        return Answer::full(304, "application/json", Bytes::new()).header("etag", tag);
    }
    let immutable = admitted.options.get("hash").is_some_and(|hash| hash == document.hash);
    Answer::full(200, "application/json", document.bytes.clone())
        .header("etag", tag)
        .header("vary", "Accept")
        .header("cache-control", if immutable { "public, immutable" } else { "no-cache, private" })
}

/// `/openapi/v2`
pub(crate) fn v2(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let accept = admitted.call.headers.get("accept").unwrap_or("*/*");
    let json = negotiate::clauses(accept).iter().any(|clause| matches!(clause.media, "application/json" | "*/*" | "application/*"));
    if !json {
        return Err(negotiate::not_acceptable());
    }
    let server = admitted.server;
    let document = server
        .documents
        .get(server.registry.all().len(), "v2", || Some(openapi::v2(&server.registry)))
        .ok_or_else(ApiError::no_such_path)?;
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
