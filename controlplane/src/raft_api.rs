//! `/raft/v1`: what operators ask of the store on one master. Node-local, so that it answers without quorum; guarded by RBAC on non-resource URLs.

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use trierarch_raft::Store;

/// Adds the routes. The caller puts authentication and authorization around them.
pub fn mount(config: &mut web::ServiceConfig, store: &Store) {
    config.service(
        web::scope("/raft/v1")
            .app_data(web::Data::new(store.clone()))
            .route("/status", web::get().to(status))
            .route("/transfer", web::post().to(transfer)),
    );
}

async fn status(store: web::Data<Store>) -> HttpResponse {
    HttpResponse::Ok().json(store.status())
}

#[derive(Deserialize)]
struct Target {
    to: Option<u64>,
}

async fn transfer(store: web::Data<Store>, target: web::Query<Target>) -> HttpResponse {
    match store.transfer_leadership(target.to).await {
        Ok(()) => HttpResponse::Ok().json(serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})),
        Err(error) => {
            let refused = trierarch_apiserver::apiserver::store_error(&error);
            let code =
                actix_web::http::StatusCode::from_u16(refused.reason.code()).unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
            HttpResponse::build(code).json(refused.to_status())
        }
    }
}
