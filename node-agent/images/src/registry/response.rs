//! Answers and errors of the protocol. Spec: distribution-spec, "Error Codes".

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{Response, StatusCode};

use super::Body;
use crate::digest::Digest;
use crate::error::StoreError;

/// The header that names what was sent or stored.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A refusal: code of the specification, status, words for people.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn name_invalid(name: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("invalid repository name {name:?}"))
    }

    pub(super) fn digest_invalid(text: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", format!("{text:?} is not a sha256 digest, or the content has another one"))
    }

    pub(super) fn blob_unknown(digest: &Digest) -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("blob {digest} unknown to registry"))
    }

    pub(super) fn manifest_unknown(name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("manifest {name} unknown to registry"))
    }

    pub(super) fn manifest_invalid(problem: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", problem)
    }

    pub(super) fn upload_unknown() -> Self {
        Self::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub(super) fn unsupported() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is unsupported")
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "no such path in the distribution protocol")
    }

    /// Something here failed, not the client. The detail is for the log; the text says enough to act on.
    pub(super) fn internal(error: &dyn std::error::Error) -> Self {
        let text = crate::error::chain(error);
        tracing::error!(error = text, "Registry request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", text)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let body = serde_json::json!({ "errors": [{ "code": self.code, "message": self.message, "detail": null }] });
        json(self.status, &body)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::MissingBlob { digest } => Self::blob_unknown(&digest),
            StoreError::Corrupt { expected, .. } => Self::digest_invalid(expected.as_str()),
            StoreError::Invalid { source, .. } => Self::manifest_invalid(source.to_string()),
            StoreError::Unusable { problem, .. } => Self::manifest_invalid(problem),
            other => Self::internal(&other),
        }
    }
}

pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("a JSON value can be written");
    full(status, "application/json", bytes.into())
}

pub(super) fn full(status: StatusCode, content_type: &str, bytes: Bytes) -> Response<Body> {
    let mut response = empty(status);
    set(&mut response, CONTENT_LENGTH, &bytes.len().to_string());
    set(&mut response, CONTENT_TYPE, content_type);
    *response.body_mut() = Body::Full(bytes);
    response
}

/// No body, and the length said so unless there can be none.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::new()));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        set(&mut response, CONTENT_LENGTH, "0");
    }
    response
}

/// Sets a header; a value that can't be one (from a stored media type, say) is left out.
pub(super) fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
