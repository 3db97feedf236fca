//! The image registry on the API port: authentication and authorization here, the protocol in `trierarch_images::registry`.
//!
//! Who may what: anyone who has proved who he is may pull, nodes above all; pushing and deleting ask RBAC for `create` and `delete` on the non-resource
//! URL of the repository (`/v2/NAME/*`), which administrators have.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use trierarch_apiserver::{ApiServer, User};
use trierarch_images::registry::{Access, Body, Registry};

use crate::replication::{self, Replication};

/// Adds the routes.
pub fn mount(config: &mut web::ServiceConfig, api: &Arc<ApiServer>, registry: &Registry, replication: &Arc<Replication>) {
    config.service(
        web::scope("/v2")
            .app_data(web::Data::from(Arc::clone(api)))
            .app_data(web::Data::new(registry.clone()))
            .app_data(web::Data::from(Arc::clone(replication)))
            .default_service(web::to(serve)),
    );
}

/// What stands between a caller and an operation.
#[derive(Debug, PartialEq, Eq)]
enum Gate {
    /// Go on.
    Open,
    /// Say who you are first.
    Challenge,
    /// Ask RBAC.
    Policy,
}

fn gate(user: &User, access: Option<&Access>) -> Gate {
    let anonymous = user.in_group("system:unauthenticated");
    match access {
        // unknown paths get their 404 from the registry
        None => Gate::Open,
        Some(_) if anonymous => Gate::Challenge,
        Some(Access::Probe | Access::List | Access::Pull(_)) => Gate::Open,
        Some(Access::Push(_) | Access::Delete(_)) => Gate::Policy,
    }
}

/// What is to be done beside answering from this master's own content.
#[derive(Debug, PartialEq, Eq)]
enum Beyond {
    /// Nothing.
    Nothing,
    /// Ask other masters for a manifest that is not here.
    Find,
    /// Have a second master hold what was pushed before the push is acknowledged.
    Spread,
}

/// By whom and how a manifest was asked for, and what was answered. Blobs need nothing: they come with their manifest.
fn beyond(user: &User, method: &http::Method, status: http::StatusCode) -> Beyond {
    match *method {
        _ if replication::is_replica(user) => Beyond::Nothing,
        http::Method::GET | http::Method::HEAD if status == http::StatusCode::NOT_FOUND => Beyond::Find,
        http::Method::PUT if status == http::StatusCode::CREATED => Beyond::Spread,
        _ => Beyond::Nothing,
    }
}

async fn serve(
    request: HttpRequest,
    payload: web::Payload,
    api: web::Data<ApiServer>,
    registry: web::Data<Registry>,
    replication: web::Data<Replication>,
) -> HttpResponse {
    let user = match api.authenticate_http(&request) {
        Ok(user) => user,
        Err(_invalid) => return challenge(),
    };
    let method = http_method(request.method());
    let access = registry.access(&method, request.path(), Some(request.query_string()).filter(|query| !query.is_empty()));
    match gate(&user, access.as_ref()) {
        Gate::Open => {}
        Gate::Challenge => return challenge(),
        Gate::Policy => {
            if let Err(error) = api.require_nonresource(&request) {
                return denied(&error.message);
            }
        }
    }
    let image = registry.image_of(request.path(), Some(request.query_string()).filter(|query| !query.is_empty()));
    let response = match forwarded(&request, &method).body(payload) {
        Ok(forwarded) => registry.handle(forwarded).await,
        Err(error) => return HttpResponse::BadRequest().body(error.to_string()),
    };
    let Some(image) = image else { return answer(response) };
    match beyond(&user, &method, response.status()) {
        Beyond::Nothing => answer(response),
        Beyond::Find => match replication.find(&image).await {
            Some(_) => match forwarded(&request, &method).body(futures::stream::empty::<Result<bytes::Bytes, std::io::Error>>()) {
                Ok(again) => answer(registry.handle(again).await),
                Err(error) => HttpResponse::BadRequest().body(error.to_string()),
            },
            None => answer(response),
        },
        Beyond::Spread => {
            let digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse().ok());
            let Some(digest) = digest else { return answer(response) };
            match replication.into_inner().spread(&image, &digest).await {
                Ok(()) => answer(response),
                Err(error) => {
                    tracing::warn!(image = %image, error = format!("{error:#}"), "A push has reached one master only");
                    HttpResponse::ServiceUnavailable()
                        .json(serde_json::json!({"errors": [{"code": "UNAVAILABLE", "message": format!("{error:#}; push again")}]}))
                }
            }
        }
    }
}

/// The request in the registry's terms.
fn forwarded(request: &HttpRequest, method: &http::Method) -> http::request::Builder {
    let mut forwarded = http::Request::builder().method(method.clone()).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        forwarded = forwarded.header(name.as_str(), value.as_bytes());
    }
    forwarded
}

fn http_method(method: &actix_web::http::Method) -> http::Method {
    http::Method::from_bytes(method.as_str().as_bytes()).unwrap_or(http::Method::GET)
}

fn answer(response: http::Response<Body>) -> HttpResponse {
    let (parts, body) = response.into_parts();
    let status = actix_web::http::StatusCode::from_u16(parts.status.as_u16()).unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        builder.append_header((name.as_str(), value.as_bytes()));
    }
    match body {
        Body::Full(bytes) => builder.body(bytes),
        Body::Stream(stream) => builder.streaming(stream),
    }
}

/// Spec: distribution-spec, "Determining Support": clients answer a 401 with credentials, any user name with a bearer token as password.
fn challenge() -> HttpResponse {
    HttpResponse::Unauthorized()
        .append_header(("WWW-Authenticate", "Basic realm=\"trierarch\""))
        .append_header(("Docker-Distribution-Api-Version", "registry/2.0"))
        .json(serde_json::json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}))
}

fn denied(why: &str) -> HttpResponse {
    HttpResponse::Forbidden().json(serde_json::json!({"errors": [{"code": "DENIED", "message": why}]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_known_may_pull_and_rbac_decides_who_pushes() {
        let node = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
        let nobody = User::anonymous();
        let pull = Access::Pull("shop".to_owned());
        let push = Access::Push("shop".to_owned());
        assert_eq!(gate(&node, Some(&pull)), Gate::Open);
        assert_eq!(gate(&node, Some(&push)), Gate::Policy);
        assert_eq!(gate(&nobody, Some(&pull)), Gate::Challenge);
        assert_eq!(gate(&nobody, Some(&Access::Probe)), Gate::Challenge, "or clients would never send credentials");
        assert_eq!(gate(&nobody, None), Gate::Open);
    }

    #[test]
    fn pushes_are_spread_and_missing_images_looked_for() {
        use http::{Method, StatusCode};
        let admin = User::new("admin", &["system:masters", "system:authenticated"]);
        let replica = User::new("system:serviceaccount:kube-system:image-replicator", &["system:authenticated"]);
        assert_eq!(beyond(&admin, &Method::PUT, StatusCode::CREATED), Beyond::Spread);
        assert_eq!(beyond(&admin, &Method::PUT, StatusCode::BAD_REQUEST), Beyond::Nothing);
        assert_eq!(beyond(&admin, &Method::HEAD, StatusCode::NOT_FOUND), Beyond::Find);
        assert_eq!(beyond(&admin, &Method::GET, StatusCode::OK), Beyond::Nothing);
        assert_eq!(beyond(&replica, &Method::GET, StatusCode::NOT_FOUND), Beyond::Nothing, "or two masters would ask each other for ever");
    }
}
