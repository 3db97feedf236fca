//! The server side of the OCI distribution protocol over the content store, free of any HTTP framework.
//!
//! Spec: OCI distribution-spec v1.1. Naming: a request with `?ns=HOST` (what containerd sends to mirrors) is about `HOST/PATH`; without it, a path
//! whose first part has a dot is a full name (`/v2/registry.k8s.io/pause/...`), and any other belongs to this registry itself
//! (`RegistryConfig::own_host`).

mod content;
mod listing;
mod response;
mod route;
mod uploads;

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use http::header::HeaderName;
use http::{HeaderValue, Method, Response, StatusCode};

use self::response::Refusal;
use self::route::{Query, Route};
use crate::error::StoreError;
use crate::reference::Reference;
use crate::store::Store;

/// How names without a host are stored.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// `docker push MASTER:6443/app:v1` becomes `OWN_HOST/app:v1`.
    pub own_host: String,
    /// Other spellings of it in `?ns=`: the addresses (`host:port`) under which clients reach the API.
    pub aliases: Vec<String>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { own_host: "registry.cluster.local".to_owned(), aliases: Vec::new() }
    }
}

/// A registry over a store. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    store: Store,
    config: Arc<RegistryConfig>,
}

/// The body of an answer.
pub enum Body {
    /// Known at once; maybe empty.
    Full(Bytes),
    /// Read from a file piece by piece. `Content-Length` is set.
    Stream(Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>),
}

/// What a request wants to do, for authorization before `handle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// `GET /v2/`: is anyone there?
    Probe,
    /// `GET /v2/_catalog`.
    List,
    /// Read this repository.
    Pull(String),
    /// Write to this repository.
    Push(String),
    /// Delete from this repository.
    Delete(String),
}

impl Registry {
    /// A registry over this store.
    pub fn new(store: Store, config: RegistryConfig) -> Self {
        Self { store, config: Arc::new(config) }
    }

    /// What a request wants; `None` if it is nothing this protocol knows (`handle` answers 404 then).
    pub fn access(&self, method: &Method, path: &str, query: Option<&str>) -> Option<Access> {
        Route::parse(path, &Query::parse(query), &self.config).map(|route| route.access(method))
    }

    /// The image that a manifest's path names; `None` for every other path.
    pub fn image_of(&self, path: &str, query: Option<&str>) -> Option<Reference> {
        match Route::parse(path, &Query::parse(query), &self.config)? {
            Route::Manifest(repository, selector) => repository.image(&selector),
            _ => None,
        }
    }

    /// Answers a request whose path begins with `/v2/`. The body is read only where the protocol has one; its stream need not be `Send`.
    /// Answers to `HEAD` have no body and the `Content-Length` of what `GET` would send.
    pub async fn handle<B, E>(&self, request: http::Request<B>) -> Response<Body>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let head = request.method() == Method::HEAD;
        let outcome = self.answer(request).await;
        let mut response = outcome.unwrap_or_else(Refusal::into_response);
        response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        if head {
            *response.body_mut() = Body::Full(Bytes::new());
        }
        response
    }

    async fn answer<B, E>(&self, request: http::Request<B>) -> Result<Response<Body>, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let (parts, body) = request.into_parts();
        let query = Query::parse(parts.uri.query());
        let route = Route::parse(parts.uri.path(), &query, &self.config).ok_or_else(Refusal::not_found)?;
        let (method, headers) = (&parts.method, &parts.headers);
        let reads = matches!(*method, Method::GET | Method::HEAD);
        match &route {
            Route::BadName(name) => Err(Refusal::name_invalid(name)),
            Route::Probe if reads => Ok(response::json(StatusCode::OK, &serde_json::json!({}))),
            Route::Catalog if reads => self.catalog(&query).await,
            Route::Tags(repository) if reads => self.tags(repository, &query).await,
            Route::Referrers(_, digest) if reads => self.referrers(digest, &query).await,
            Route::Manifest(repository, selector) => match *method {
                _ if reads => self.manifest(repository, selector, method == Method::HEAD).await,
                Method::PUT => self.put_manifest(repository, selector, headers, body).await,
                Method::DELETE => self.delete_manifest(repository, selector).await,
                _ => Err(Refusal::unsupported()),
            },
            Route::Blob(_, digest) if reads => self.blob(digest, method, headers).await,
            Route::Uploads(repository) if *method == Method::POST => self.start_upload(repository, &query, body).await,
            Route::Upload(repository, id) => match *method {
                Method::GET => self.upload_status(repository, id),
                Method::PATCH => self.upload_chunk(repository, id, headers, body).await,
                Method::PUT => self.finish_upload(repository, id, &query, headers, body).await,
                Method::DELETE => self.cancel_upload(id),
                _ => Err(Refusal::unsupported()),
            },
            // Blobs are shared by all repositories: they go when no manifest needs them.
            _ => Err(Refusal::unsupported()),
        }
    }
}

/// Runs file system work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Refusal::from),
        Err(error) => Err(Refusal::internal(&error)),
    }
}

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

#[cfg(test)]
mod tests;
