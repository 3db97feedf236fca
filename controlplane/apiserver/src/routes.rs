//! From the HTTP library's request to a [`Call`], and from an [`Answer`] to its response.

use std::io::Write as _;
use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{FutureExt as _, StreamExt as _};
use trierarch_api::{ApiError, Reason};

use crate::apiserver::ApiServer;
use crate::authenticate::{self, Headers, Peer, TokenUser};
use crate::dispatch::{Answer, Body, Call, handle};
use crate::identity::User;
use crate::pipeline::decode::BODY_BYTES_MAX;
use crate::raft_access;
use crate::request::{Options, RequestInfo};

/// Smaller answers are not worth compressing.
const GZIP_BYTES_MIN: usize = 128 * 1024;

/// The API's own handler: everything that no extra route took.
pub(crate) async fn serve(request: HttpRequest, payload: web::Payload, server: web::Data<Arc<ApiServer>>) -> HttpResponse {
    let server = Arc::clone(&server);
    let gzip = request.headers().get_all("accept-encoding").any(|value| value.to_str().is_ok_and(|text| text.contains("gzip")));
    let answer = match read(payload).await {
        Ok(body) => {
            let call = Call {
                method: request.method().as_str().to_owned(),
                path: request.uri().path().to_owned(),
                query: request.uri().query().unwrap_or_default().to_owned(),
                headers: headers(&request),
                body,
                peer: peer(&request),
            };
            // one request that meets a bug must not take the worker's other connections with it
            std::panic::AssertUnwindSafe(handle(&server, call)).catch_unwind().await.unwrap_or_else(|_panic| {
                tracing::error!(path = request.uri().path(), "Caught a panic in a request");
                Answer::error(&ApiError::internal("the server met an error it did not expect"))
            })
        }
        Err(error) => Answer::error(&error),
    };
    respond(answer, gzip)
}

async fn read(mut payload: web::Payload) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| ApiError::bad_request(format!("error reading the body: {error}")))?;
        if body.len() + piece.len() > BODY_BYTES_MAX {
            return Err(ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {BODY_BYTES_MAX}")));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

fn headers(request: &HttpRequest) -> Vec<(String, String)> {
    let mut list: Vec<(String, String)> =
        request.headers().iter().filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))).collect();
    if Headers::get(&list, "host").is_none()
        && let Some(authority) = request.uri().authority()
    {
        list.push(("host".to_owned(), authority.to_string()));
    }
    list
}

fn peer(request: &HttpRequest) -> Arc<Peer> {
    request.conn_data::<Arc<Peer>>().cloned().unwrap_or_default()
}

fn respond(answer: Answer, gzip: bool) -> HttpResponse {
    let mut response = HttpResponse::build(StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    for (name, value) in &answer.headers {
        response.append_header((name.as_str(), value.as_str()));
    }
    match answer.body {
        Body::Stream(stream) => response.streaming(stream),
        Body::Full(bytes) if gzip && bytes.len() >= GZIP_BYTES_MIN => match compress(&bytes) {
            Some(small) => response.append_header(("content-encoding", "gzip")).append_header(("vary", "Accept-Encoding")).body(small),
            None => response.body(bytes),
        },
        Body::Full(bytes) => response.body(bytes),
    }
}

fn compress(bytes: &Bytes) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// Whether an extra route is guarded like the API's own documents: authentication and RBAC on its path.
pub(crate) fn guarded(path: &str) -> bool {
    path.starts_with("/raft/")
}

impl ApiServer {
    /// The caller of an extra route, which may also present `Authorization: Basic ANY:TOKEN`, as image clients do.
    ///
    /// # Errors
    /// 401 for credentials that are not valid.
    pub fn authenticate_http(&self, request: &HttpRequest) -> Result<User, ApiError> {
        use base64::Engine as _;
        let list = headers(request);
        if let Some(encoded) = Headers::get(&list, "authorization").and_then(|value| value.strip_prefix("Basic ")) {
            let plain =
                base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let token = plain.as_deref().and_then(|text| text.split_once(':')).map(|(_, password)| password.to_owned());
            return match token {
                Some(token) => self.authenticate_token(&token).map(|TokenUser { user, .. }| user),
                None => Err(authenticate::unauthorized()),
            };
        }
        authenticate::authenticate(self, &peer(request), &list)
    }

    /// The caller of an extra route, if RBAC lets it use the path (as a non-resource URL).
    ///
    /// # Errors
    /// 401, 403
    pub fn require_nonresource(&self, request: &HttpRequest) -> Result<User, ApiError> {
        let user = self.authenticate_http(request)?;
        let (method, path) = (request.method().as_str(), request.uri().path());
        let mut info = RequestInfo::parse(method, path, &Options::default());
        if let Some(verb) = raft_access::verb(method, path) {
            info.verb = verb.to_owned();
        }
        self.authorize(&user, &info)?;
        Ok(user)
    }
}

/// A refusal as a response, for extra routes.
pub fn refuse(error: &ApiError) -> HttpResponse {
    respond(Answer::error(error), false)
}
