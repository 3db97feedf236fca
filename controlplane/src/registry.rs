//! The image registry on the API port: authentication and authorization here, the protocol in `trierarch_images::registry`.
//!
//! Who may what: anyone who has proved who he is may pull, nodes above all; pushing and deleting ask RBAC for `create` and `delete` on the non-resource
//! URL of the repository (`/v2/NAME/*`), which administrators have.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use trierarch_apiserver::{ApiServer, User};
use trierarch_images::registry::{Access, Body, Registry};

/// Adds the routes.
pub fn mount(config: &mut web::ServiceConfig, api: &Arc<ApiServer>, registry: &Registry) {
    config.service(
        web::scope("/v2")
            .app_data(web::Data::from(Arc::clone(api)))
            .app_data(web::Data::new(registry.clone()))
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

async fn serve(request: HttpRequest, payload: web::Payload, api: web::Data<ApiServer>, registry: web::Data<Registry>) -> HttpResponse {
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
    let mut forwarded = http::Request::builder().method(method).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        forwarded = forwarded.header(name.as_str(), value.as_bytes());
    }
    match forwarded.body(payload) {
        Ok(forwarded) => answer(registry.handle(forwarded).await),
        Err(error) => HttpResponse::BadRequest().body(error.to_string()),
    }
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
}
