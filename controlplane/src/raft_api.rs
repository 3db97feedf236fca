//! `/raft/v1`: what operators ask of the store on one master. Node-local, so that it answers without quorum; guarded by RBAC on non-resource
//! URLs, with the verbs of [`trierarch_apiserver::raft_access`]. Whatever changes something is logged with who asked for it.

use std::sync::Arc;

use actix_web::body::SizedStream;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use trierarch_api::ApiError;
use trierarch_apiserver::{User, routes};
use trierarch_raft::{Store, StoreError};

use crate::identity::Bundle;

mod experiments;
mod gather;

/// Chunks of a backup that wait for a slow reader.
const CHUNKS_WAITING_MAX: usize = 4;
/// How long a change of the members may take.
const CHANGE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// What the routes answer from.
pub struct RaftApi {
    store: Store,
    bundle: Bundle,
    /// This master takes experiments.
    experiments: bool,
}

impl RaftApi {
    /// Answers for this member of the cluster whose secrets these are. `experiments`: it takes them.
    pub fn new(store: Store, bundle: Bundle, experiments: bool) -> Arc<Self> {
        Arc::new(Self { store, bundle, experiments })
    }

    /// Adds the routes. The caller puts authentication and authorization around them.
    pub fn mount(self: &Arc<Self>, config: &mut web::ServiceConfig) {
        config.service(
            web::scope("/raft/v1")
                .app_data(web::Data::from(Arc::clone(self)))
                .route("/status", web::get().to(status))
                .route("/events", web::get().to(events))
                .route("/backup", web::get().to(backup))
                .route("/transfer", web::post().to(transfer))
                .route("/step-down", web::post().to(step_down))
                .route("/campaign", web::post().to(campaign))
                .route("/remove", web::post().to(remove))
                .configure(experiments::mount),
        );
    }
}

async fn status(api: web::Data<RaftApi>) -> HttpResponse {
    HttpResponse::Ok().json(api.store.status())
}

/// Server-sent events: one JSON text each, named as what happened.
async fn events(api: web::Data<RaftApi>) -> HttpResponse {
    let happenings = api.store.happenings();
    let stream = futures::stream::unfold(happenings, |mut happenings| async {
        let happening = happenings.recv().await?;
        let data = serde_json::to_string(&happening).unwrap_or_default();
        Some((format!("data: {data}\n\n"), happenings))
    });
    let chunks = gather::gather(stream).map(Ok::<_, std::io::Error>);
    HttpResponse::Ok().content_type("text/event-stream").insert_header(("cache-control", "no-store")).streaming(chunks)
}

/// The whole backup. Beside the state it holds the cluster's authorities and keys, sealed under the join token.
async fn backup(request: HttpRequest, api: web::Data<RaftApi>) -> HttpResponse {
    let sealed = match api.bundle.token().map(|token| api.bundle.seal(&token)) {
        Some(Ok(sealed)) => Bytes::from(sealed),
        Some(Err(error)) => return routes::refuse(&ApiError::internal(error)),
        None => return routes::refuse(&ApiError::internal("the bundle's join token is damaged")),
    };
    let backup = match api.store.backup(sealed).await {
        Ok(backup) => backup,
        Err(error) => return refused(&error),
    };
    let (header, total_bytes) = (backup.header(), backup.total_bytes());
    tracing::info!(user = caller(&request), revision = header.revision, bytes = total_bytes, "A backup was taken");
    let (chunks, queued) = tokio::sync::mpsc::channel(CHUNKS_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        for chunk in backup {
            // whoever asked may have gone
            if chunks.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    let stream = futures::stream::unfold(queued, |mut queued| async { queued.recv().await.map(|chunk| (chunk, queued)) });
    HttpResponse::Ok().content_type("application/octet-stream").body(SizedStream::new(total_bytes, Box::pin(stream)))
}

#[derive(Deserialize)]
struct Target {
    to: Option<u64>,
}

async fn transfer(request: HttpRequest, api: web::Data<RaftApi>, target: web::Query<Target>) -> HttpResponse {
    tracing::info!(user = caller(&request), to = target.to, "Asked to hand leadership over");
    answer(api.store.transfer_leadership(target.to).await)
}

async fn step_down(request: HttpRequest, api: web::Data<RaftApi>) -> HttpResponse {
    tracing::info!(user = caller(&request), "Asked to step down");
    answer(api.store.step_down().await)
}

async fn campaign(request: HttpRequest, api: web::Data<RaftApi>) -> HttpResponse {
    tracing::info!(user = caller(&request), "Asked to campaign");
    answer(api.store.campaign().await)
}

#[derive(Deserialize)]
struct Removed {
    id: u64,
}

async fn remove(request: HttpRequest, api: web::Data<RaftApi>, removed: web::Query<Removed>) -> HttpResponse {
    tracing::info!(user = caller(&request), member = removed.id, "Asked to remove a member");
    answer(api.store.remove_member(removed.id, CHANGE_PATIENCE).await)
}

/// The authenticated caller's name, as the guard of these routes has left it.
fn caller(request: &HttpRequest) -> String {
    request.extensions().get::<User>().map_or_else(String::new, |user| user.name.clone())
}

fn answer(outcome: Result<(), StoreError>) -> HttpResponse {
    match outcome {
        Ok(()) => HttpResponse::Ok().json(serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})),
        Err(error) => refused(&error),
    }
}

/// What is refused is told in the store's own words: here it is about members, not about objects.
fn refused(error: &StoreError) -> HttpResponse {
    match error {
        StoreError::Unavailable(reason) => routes::refuse(&ApiError::unavailable(reason.clone())),
        other => routes::refuse(&trierarch_apiserver::apiserver::store_error(other)),
    }
}
