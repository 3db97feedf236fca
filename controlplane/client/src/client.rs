//! Requests: one HTTP/2 connection per master, the next master when one does not answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use trierarch_api::{ApiError, Reason};

/// Where a bearer token comes from; asked before each request, so that it may rotate.
pub type TokenSource = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// How to reach the masters.
#[derive(Clone)]
pub struct Config {
    /// Base addresses, such as `https://10.131.0.11:6443`, tried in turn.
    pub servers: Vec<String>,
    /// Trust and identity (see [`crate::tls::config`]).
    pub tls: Arc<rustls::ClientConfig>,
    /// Bearer token, if the identity is not a certificate.
    pub token: Option<TokenSource>,
    /// `User-Agent`.
    pub user_agent: String,
    /// How long a request that names no time may take.
    pub timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused, with a `Status`.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No server answered. Whether a write was carried out is unknown unless `unsent`.
    #[error("cannot reach {server}: {reason}")]
    Transport {
        /// Which address.
        server: String,
        /// Why.
        reason: String,
        /// The request never left.
        unsent: bool,
    },
    /// The answer is not what it should be.
    #[error("unreadable answer: {0}")]
    Decode(String),
    /// The configuration cannot be used.
    #[error("unusable client configuration: {0}")]
    Config(String),
}

impl Error {
    /// The reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Api(error) => Some(error.reason),
            _ => None,
        }
    }

    /// A 404 from the server.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some(Reason::NotFound)
    }

    /// A 409 that says the object changed.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Some(Reason::Conflict)
    }
}

/// The forms of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// One request.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// HTTP method; empty means GET.
    pub method: http::Method,
    /// Path and query, such as `/api/v1/pods?limit=5`.
    pub path: String,
    /// `Content-Type` of the body.
    pub content_type: Option<String>,
    /// `Accept`; JSON if absent.
    pub accept: Option<String>,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Bytes>,
    /// Instead of the client's default; `None` and streaming: no limit.
    pub timeout: Option<Duration>,
}

impl Request {
    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// A request with a JSON body.
    pub fn json(method: http::Method, path: impl Into<String>, body: &Value) -> Self {
        Self {
            method,
            path: path.into(),
            content_type: Some("application/json".to_owned()),
            body: Some(Bytes::from(body.to_string())),
            ..Self::default()
        }
    }
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: http::StatusCode,
    /// Headers (`Warning` among them).
    pub headers: http::HeaderMap,
    /// Body.
    pub body: Bytes,
}

struct Inner {
    config: Config,
    http: reqwest::Client,
    current: AtomicUsize,
}

/// A client. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

impl Client {
    /// A client of these servers. Opens no connection yet.
    ///
    /// # Errors
    /// [`Error::Config`] without servers or with unusable TLS.
    pub fn new(config: Config) -> Result<Self, Error> {
        if config.servers.is_empty() {
            return Err(Error::Config("no server address".to_owned()));
        }
        let mut tls = (*config.tls).clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .user_agent(config.user_agent.clone())
            .connect_timeout(Duration::from_secs(3))
            .pool_idle_timeout(Duration::from_secs(90))
            .http2_keep_alive_interval(Duration::from_secs(2))
            .http2_keep_alive_timeout(Duration::from_secs(3))
            .http2_keep_alive_while_idle(false)
            .http2_adaptive_window(true)
            .build()
            .map_err(|e| Error::Config(chain(&e)))?;
        Ok(Self(Arc::new(Inner { config, http, current: AtomicUsize::new(0) })))
    }

    /// How it was configured.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The server that is asked first at the moment.
    pub fn server(&self) -> &str {
        let servers = &self.0.config.servers;
        &servers[self.0.current.load(Ordering::Relaxed) % servers.len()]
    }

    /// The next request begins with the next server.
    pub fn next_server(&self) {
        self.0.current.fetch_add(1, Ordering::Relaxed);
    }

    async fn send(&self, request: &Request, timeout: Option<Duration>) -> Result<reqwest::Response, Error> {
        let mut last = None;
        for _ in 0..self.0.config.servers.len() {
            let server = self.server().to_owned();
            match self.send_to(&server, request, timeout).await {
                Err(Error::Transport { server, reason, unsent }) => {
                    self.next_server();
                    let repeatable = unsent || request.method == http::Method::GET;
                    last = Some(Error::Transport { server, reason, unsent });
                    if !repeatable {
                        break;
                    }
                }
                other => return other,
            }
        }
        Err(last.unwrap_or_else(|| Error::Config("no server address".to_owned())))
    }

    async fn send_to(&self, server: &str, request: &Request, timeout: Option<Duration>) -> Result<reqwest::Response, Error> {
        let url = format!("{}{}", server.trim_end_matches('/'), request.path);
        let mut builder = self.0.http.request(request.method.clone(), &url);
        builder = builder.header("Accept", request.accept.as_deref().unwrap_or("application/json"));
        if let Some(content_type) = &request.content_type {
            builder = builder.header("Content-Type", content_type);
        }
        for (name, value) in &request.headers {
            builder = builder.header(name, value);
        }
        if let Some(token) = self.0.config.token.as_ref().and_then(|source| source()) {
            builder = builder.bearer_auth(token);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        if let Some(timeout) = timeout {
            builder = builder.timeout(timeout);
        }
        builder.send().await.map_err(|e| Error::Transport { server: server.to_owned(), unsent: e.is_connect(), reason: chain(&e) })
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// [`Error::Transport`] when no server answers.
    pub async fn raw(&self, request: Request) -> Result<Response, Error> {
        let timeout = request.timeout.unwrap_or(self.0.config.timeout);
        let answer = self.send(&request, Some(timeout)).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body =
            answer.bytes().await.map_err(|e| Error::Transport { server: self.server().to_owned(), reason: chain(&e), unsent: false })?;
        Ok(Response { status, headers, body })
    }

    /// [`Client::raw`], with every status of 400 and above as [`Error::Api`].
    ///
    /// # Errors
    /// [`Error::Api`] and [`Error::Transport`].
    pub async fn request(&self, request: Request) -> Result<Response, Error> {
        let response = self.raw(request).await?;
        if response.status.as_u16() < 400 { Ok(response) } else { Err(refusal(response.status, &response.body)) }
    }

    /// Sends a request and returns its body as it comes.
    ///
    /// # Errors
    /// [`Error::Api`] and [`Error::Transport`]; later ones come as `std::io::Error` in the stream.
    pub async fn stream(
        &self,
        request: Request,
    ) -> Result<impl Stream<Item = Result<Bytes, std::io::Error>> + Send + Unpin + use<>, Error> {
        let timeout = request.timeout;
        let answer = self.send(&request, timeout).await?;
        let status = answer.status();
        if status.as_u16() >= 400 {
            let body = answer.bytes().await.unwrap_or_default();
            return Err(refusal(status, &body));
        }
        Ok(Box::pin(answer.bytes_stream().map_err(|e| std::io::Error::other(chain(&e)))))
    }

    async fn value<T: DeserializeOwned>(&self, request: Request) -> Result<T, Error> {
        let response = self.request(request).await?;
        serde_json::from_slice(&response.body).map_err(|e| Error::Decode(e.to_string()))
    }

    /// Reads the object at a path.
    ///
    /// # Errors
    /// As [`Client::request`], or [`Error::Decode`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.value(Request::get(path)).await
    }

    /// Creates an object in the collection at a path; returns what was stored.
    ///
    /// # Errors
    /// As [`Client::request`], or [`Error::Decode`].
    pub async fn create<T: DeserializeOwned>(&self, path: &str, object: &Value) -> Result<T, Error> {
        self.value(Request::json(http::Method::POST, path, object)).await
    }

    /// Replaces the object at a path; returns what was stored.
    ///
    /// # Errors
    /// As [`Client::request`], or [`Error::Decode`].
    pub async fn replace<T: DeserializeOwned>(&self, path: &str, object: &Value) -> Result<T, Error> {
        self.value(Request::json(http::Method::PUT, path, object)).await
    }

    /// Patches the object at a path; returns what was stored.
    ///
    /// # Errors
    /// As [`Client::request`], or [`Error::Decode`].
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, kind: PatchKind, patch: &Value) -> Result<T, Error> {
        let mut request = Request::json(http::Method::PATCH, path, patch);
        request.content_type = Some(kind.content_type().to_owned());
        self.value(request).await
    }

    /// Deletes the object (or collection) at a path; `options` is a `DeleteOptions`.
    ///
    /// # Errors
    /// As [`Client::request`], or [`Error::Decode`].
    pub async fn delete(&self, path: &str, options: Option<&Value>) -> Result<Value, Error> {
        let mut request = Request { method: http::Method::DELETE, path: path.to_owned(), ..Request::default() };
        if let Some(options) = options {
            request.content_type = Some("application/json".to_owned());
            request.body = Some(Bytes::from(options.to_string()));
        }
        self.value(request).await
    }
}

fn refusal(status: http::StatusCode, body: &[u8]) -> Error {
    let parsed: Value = serde_json::from_slice(body).unwrap_or_default();
    if parsed["kind"] == "Status" {
        return Error::Api(ApiError::from_status(&parsed, status.as_u16()));
    }
    let mut error = ApiError::from_status(&Value::Null, status.as_u16());
    error.message = String::from_utf8_lossy(body).trim().to_owned();
    if error.message.is_empty() {
        error.message = status.to_string();
    }
    Error::Api(error)
}

/// The error of the handshake, which travels inside those of the connection.
fn handshake<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    error.downcast_ref().or_else(|| handshake(error.downcast_ref::<std::io::Error>()?.get_ref()?))
}

/// What other clients of Kubernetes say about a server whose certificate has expired, if that is the error.
fn expired(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let tls = handshake(error)?;
    let rustls::Error::InvalidCertificate(rustls::CertificateError::ExpiredContext { time, not_after }) = tls else { return None };
    let show = |time: &rustls_pki_types::UnixTime| {
        let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX)
    };
    Some(format!(
        "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time {} is after {}",
        show(time),
        show(not_after)
    ))
}

/// An error with everything below it: reqwest keeps the reason in its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(why) = expired(inner) {
            return why;
        }
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_certificate_reads_as_with_other_clients() {
        let time = |seconds| rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let why = rustls::CertificateError::ExpiredContext { time: time(1_795_653_727), not_after: time(1_609_459_200) };
        let error = std::io::Error::other(std::io::Error::other(rustls::Error::InvalidCertificate(why)));
        let expected = "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: \
                        current time 2026-11-26T00:42:07Z is after 2021-01-01T00:00:00Z";
        assert_eq!(expired(&error).as_deref(), Some(expected));
        assert_eq!(expired(&std::io::Error::other("else")), None);
    }
}
