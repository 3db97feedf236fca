//! The order of the steps for one request, whatever carried it here: who, how many, may they, which row, which verb.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde_json::Value;
use trierarch_api::{ApiError, Kind, Reason, Subresource, Verb, protobuf, schema};

use crate::apiserver::ApiServer;
use crate::authenticate::{self, Headers, Peer};
use crate::clock::Deadline;
use crate::identity::User;
use crate::negotiate::{self, Chosen};
use crate::pipeline::{Ctx, encode};
use crate::request::{Options, RequestInfo};
use crate::{delete, discovery, health, list, openapi, patch, read, subresource, watch, write};

/// How long a request may take unless it says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(34);
/// The longest time a request may ask for.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// A request, read completely.
pub struct Call {
    /// `GET` and so on.
    pub method: String,
    /// The path as it came.
    pub path: String,
    /// The query as it came, without `?`.
    pub query: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// What the connection proved.
    pub peer: Arc<Peer>,
}

/// What is sent back.
pub struct Answer {
    /// HTTP status code.
    pub code: u16,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Body,
}

/// The bytes of an answer.
pub enum Body {
    /// All of them.
    Full(Bytes),
    /// As they come.
    Stream(BoxStream<'static, Result<Bytes, std::io::Error>>),
}

impl Answer {
    /// A complete answer.
    pub fn full(code: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { code, headers: vec![("content-type".to_owned(), content_type.to_owned())], body: Body::Full(body.into()) }
    }

    /// A JSON document.
    pub fn json(code: u16, value: &Value) -> Self {
        Self::full(code, "application/json", encode::to_bytes(value))
    }

    /// Plain text.
    pub fn text(code: u16, text: impl Into<String>) -> Self {
        Self::full(code, "text/plain; charset=utf-8", text.into())
    }

    /// A document in the form the client asked for.
    pub fn document(code: u16, value: &Value, chosen: Chosen) -> Self {
        Self::full(code, chosen.content_type(), encode::write(value, chosen))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same refusal as protobuf, for clients that would rather read that.
    fn in_protobuf_if(mut self, wanted: bool, error: &ApiError) -> Self {
        if wanted && let Some(bytes) = protobuf::to_bytes(&error.to_status()) {
            self.body = Body::Full(bytes.into());
            for (_, value) in self.headers.iter_mut().filter(|(name, _)| name == "content-type") {
                protobuf::MEDIA_TYPE.clone_into(value);
            }
        }
        self
    }

    /// The body, when it is complete.
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.body {
            Body::Full(bytes) => Some(bytes),
            Body::Stream(_) => None,
        }
    }

    /// A refusal.
    pub fn error(error: &ApiError) -> Self {
        if !error.detail.is_empty() {
            match error.reason {
                Reason::InternalError => tracing::error!(error = error.detail, "Failed a request"),
                _ => tracing::debug!(error = error.detail, reason = ?error.reason, "Refused a request"),
            }
        }
        let answer = Self::json(error.reason.code(), &error.to_status());
        match error.retry_after_seconds {
            Some(seconds) => answer.header("retry-after", seconds.to_string()),
            None => answer,
        }
    }
}

/// A request that passed authentication and authorization.
pub struct Admitted<'a> {
    /// The server.
    pub server: &'a Arc<ApiServer>,
    /// The request.
    pub call: &'a Call,
    /// What it is about.
    pub info: &'a RequestInfo,
    /// Its query.
    pub options: &'a Options,
    /// Who asks.
    pub user: &'a User,
    /// Until when.
    pub deadline: Deadline,
}

impl Admitted<'_> {
    /// `User-Agent`
    pub fn user_agent(&self) -> &str {
        self.call.headers.get("user-agent").unwrap_or_default()
    }

    /// The answer's form.
    ///
    /// # Errors
    /// 406
    pub fn choose(&self, transforms: bool) -> Result<Chosen, ApiError> {
        let accept = self.call.headers.get("accept");
        let has_protobuf = accept.is_some_and(|accept| accept.contains(protobuf::MEDIA_TYPE))
            && self
                .server
                .registry
                .by_resource(&self.info.group, &self.info.version, &self.info.resource)
                .is_some_and(|kind| schema::named(&schema::table_name(&kind)).is_some());
        negotiate::choose(accept, self.options, self.user_agent(), transforms, has_protobuf)
    }

    /// The facts of a write.
    ///
    /// # Errors
    /// 400 for options that make no sense.
    pub fn ctx(&self) -> Result<Ctx, ApiError> {
        Ctx::new(self.user.clone(), self.user_agent(), &self.info.verb, self.options, self.deadline)
    }
}

/// Answers a request.
pub async fn handle(server: &Arc<ApiServer>, call: Call) -> Answer {
    let options = Options::parse(&call.query);
    let info = RequestInfo::parse(&call.method, &call.path, &options);
    let timer = server.metrics.start(&info);
    let answer = match Box::pin(steps(server, &call, &options, &info)).await {
        Ok(answer) => answer,
        Err(error) => {
            Answer::error(&error).in_protobuf_if(info.is_resource && negotiate::prefers_protobuf(call.headers.get("accept")), &error)
        }
    };
    timer.finish(answer.code);
    answer
}

async fn steps(server: &Arc<ApiServer>, call: &Call, options: &Options, info: &RequestInfo) -> Result<Answer, ApiError> {
    let user = authenticate::authenticate(server, &call.peer, &call.headers)?;
    let _place =
        if info.long_running() || user.in_group(crate::identity::MASTERS) { None } else { Some(server.flow.enter(info.writes())?) };
    server.authorize(&user, info)?;
    let deprecated = server.registry.by_resource(&info.group, &info.version, &info.resource).map_or("", |kind| kind.rules.deprecated);
    let deadline = Deadline::after(timeout(options)?);
    let admitted = Admitted { server, call, info, options, user: &user, deadline };
    if !info.is_resource {
        return Box::pin(document(&admitted)).await;
    }
    let answer = Box::pin(resource(&admitted)).await;
    if deprecated.is_empty() {
        return answer;
    }
    let answer = answer.unwrap_or_else(|error| Answer::error(&error));
    Ok(answer.header("warning", format!("299 - \"{deprecated}\"")))
}

fn timeout(options: &Options) -> Result<Duration, ApiError> {
    match options.get("timeout").filter(|text| !text.is_empty()) {
        None => Ok(TIMEOUT_DEFAULT),
        Some(text) => {
            let asked = go_duration(text).ok_or_else(|| {
                ApiError::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))
            })?;
            Ok(if asked.is_zero() { TIMEOUT_DEFAULT } else { asked.min(TIMEOUT_MAX) })
        }
    }
}

/// `1m30s`, `500ms`, `10` (seconds are not implied: no unit is an error, except for zero).
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(amount * seconds).ok()?;
        rest = &rest[unit_end..];
    }
    Some(total)
}

/// Everything that is no resource.
async fn document(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let path = admitted.info.path.trim_end_matches('/');
    let server = admitted.server;
    if admitted.call.method != "GET" && admitted.call.method != "HEAD" {
        return Ok(no_such_page());
    }
    match path {
        "" => Ok(discovery::paths(server)),
        "/version" => Ok(discovery::version()),
        "/healthz" | "/livez" | "/readyz" => Ok(health::all(server, path, admitted.options).await),
        "/metrics" => Ok(server.metrics.answer(server)),
        "/api" => discovery::api(admitted),
        "/apis" => discovery::apis(admitted),
        "/openapi/v2" => openapi::v2(admitted),
        "/openapi/v3" => openapi::v3_index(server),
        "/openid/v1/jwks" => Ok(Answer::full(200, "application/jwk-set+json", encode::to_bytes(&server.tokens.jwks()))
            .header("cache-control", "public, max-age=3600")),
        "/.well-known/openid-configuration" => {
            Ok(Answer::json(200, &server.tokens.configuration()).header("cache-control", "public, max-age=3600"))
        }
        _ => {
            if let Some((which, check)) = path.rsplit_once('/').filter(|(which, _)| matches!(*which, "/healthz" | "/livez" | "/readyz")) {
                return health::one(server, which, check).await;
            }
            if let Some(rest) = path.strip_prefix("/openapi/v3/") {
                return openapi::v3(admitted, rest);
            }
            match path.split('/').collect::<Vec<_>>().as_slice() {
                ["", "api", "v1"] => discovery::resources(admitted, "", "v1"),
                ["", "apis", group] => discovery::group(admitted, group),
                ["", "apis", group, version] => discovery::resources(admitted, group, version),
                ["", "api", ..] => Err(ApiError::no_such_path()),
                _ => Ok(no_such_page()),
            }
        }
    }
}

/// Everything below a group and version.
async fn resource(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let info = admitted.info;
    let Some(kind) = admitted.server.registry.by_resource(&info.group, &info.version, &info.resource) else {
        // POST .../bindings is the old name of a pod's binding
        if info.group.is_empty() && info.resource == "bindings" && info.verb == "create" {
            return Box::pin(subresource::binding::legacy(admitted)).await;
        }
        let known = admitted.server.registry.all().iter().any(|row| row.group == info.group);
        return if known { Err(ApiError::no_such_path()) } else { Ok(no_such_page()) };
    };
    if kind.namespaced_scope() {
        let across = matches!(info.verb.as_str(), "list" | "watch") || (info.verb == "create" && kind.verbs == Verb::CREATE_ONLY);
        if info.namespace.is_empty() && !across {
            // upstream has no such route
            return Err(if info.name.is_empty() { method_not_allowed() } else { ApiError::no_such_path() });
        }
    } else if !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(ApiError::no_such_path());
    }
    if !info.subresource.is_empty() {
        let Some(which) = kind.subresources.iter().copied().find(|each| each.as_str() == info.subresource) else {
            return Err(ApiError::no_such_path());
        };
        return Box::pin(sub(admitted, &kind, which)).await;
    }
    let verb = Verb::ALL.iter().copied().find(|verb| verb.as_str() == info.verb).ok_or_else(method_not_allowed)?;
    let of_collection = match verb {
        Verb::Create | Verb::DeleteCollection => true,
        Verb::Delete | Verb::Get | Verb::Patch | Verb::Update => false,
        // a list or watch may be limited to one object by a selector, or by the path of the older watch
        Verb::List | Verb::Watch => info.name.is_empty(),
    };
    if of_collection != info.name.is_empty() || admitted.call.method == "HEAD" {
        return Err(method_not_allowed());
    }
    if !kind.allows(verb) {
        return Err(method_not_allowed());
    }
    match verb {
        Verb::Create if kind.verbs == Verb::CREATE_ONLY => crate::authorize::review::create(admitted, &kind),
        Verb::Create => Box::pin(write::create_request(admitted, &kind)).await,
        Verb::Get => Box::pin(read::get_request(admitted, &kind)).await,
        Verb::List => Box::pin(list::request(admitted, &kind)).await,
        Verb::Watch => Box::pin(watch::request(admitted, &kind)).await,
        Verb::Update => Box::pin(write::update_request(admitted, &kind, None)).await,
        Verb::Patch => Box::pin(patch::request(admitted, &kind, None)).await,
        Verb::Delete => Box::pin(delete::request(admitted, &kind)).await,
        Verb::DeleteCollection => Box::pin(delete::collection_request(admitted, &kind)).await,
    }
}

async fn sub(admitted: &Admitted<'_>, kind: &Arc<Kind>, which: Subresource) -> Result<Answer, ApiError> {
    let verb = admitted.info.verb.as_str();
    match (which, verb) {
        (Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval, "get") => {
            Box::pin(read::get_request(admitted, kind)).await
        }
        (
            Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval | Subresource::Finalize,
            "update",
        ) => Box::pin(write::update_request(admitted, kind, Some(which))).await,
        (Subresource::Status | Subresource::EphemeralContainers | Subresource::Resize | Subresource::Approval, "patch") => {
            Box::pin(patch::request(admitted, kind, Some(which))).await
        }
        (Subresource::Scale, "get" | "update" | "patch") => Box::pin(subresource::scale::request(admitted, kind)).await,
        (Subresource::Binding, "create") => Box::pin(subresource::binding::request(admitted)).await,
        (Subresource::Eviction, "create") => Box::pin(subresource::eviction::request(admitted, kind)).await,
        (Subresource::Token, "create") => Box::pin(subresource::token::request(admitted)).await,
        (Subresource::Log, "get") => Box::pin(crate::proxy::agent::log(admitted)).await,
        (Subresource::Exec | Subresource::Attach | Subresource::PortForward, "get" | "create") => {
            let pod = read::object(admitted, kind).await?;
            if pod.value()["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
                return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", pod.name)));
            }
            Err(ApiError::bad_request("Upgrade request required"))
        }
        (Subresource::Proxy, _) => Box::pin(crate::proxy::forward::request(admitted)).await,
        _ => Err(method_not_allowed()),
    }
}

/// 404 of a path that nothing below was ever registered for.
fn no_such_page() -> Answer {
    Answer::full(404, "text/plain; charset=utf-8", "404 page not found\n")
}

/// 405, as upstream says it for a path that exists.
pub fn method_not_allowed() -> ApiError {
    ApiError::new(Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, expected) in [
            ("0", Some(0)),
            ("10s", Some(10_000)),
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("10", None),
            ("soon", None),
        ] {
            assert_eq!(go_duration(text), expected.map(Duration::from_millis), "{text}");
        }
    }
}
