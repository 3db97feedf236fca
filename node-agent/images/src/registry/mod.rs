//! The server side of the OCI distribution protocol over the content store, free of any HTTP framework.
//!
//! Spec: OCI distribution-spec v1.1. Naming: a request with `?ns=HOST` (what containerd sends to mirrors) is about `HOST/PATH`; without it, a path
//! whose first part has a dot is a full name (`/v2/registry.k8s.io/pause/...`), and any other belongs to this registry itself
//! (`RegistryConfig::own_host`).

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;

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
    _store: Store,
    _config: RegistryConfig,
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
        Self { _store: store, _config: config }
    }

    /// What a request wants; `None` if it is nothing this protocol knows (`handle` answers 404 then).
    pub fn access(&self, _method: &http::Method, _path: &str, _query: Option<&str>) -> Option<Access> {
        unimplemented!("in work")
    }

    /// Answers a request whose path begins with `/v2/`. The body is read only where the protocol has one; its stream need not be `Send`.
    pub async fn handle<B, E>(&self, _request: http::Request<B>) -> http::Response<Body>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        unimplemented!("in work")
    }
}
