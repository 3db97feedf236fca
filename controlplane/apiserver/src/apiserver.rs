//! The server without its sockets: what handlers, the in-process client and extra routes share.

use std::any::Any;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use trierarch_api::{ApiError, GroupResource, IndexTerm, Object, ObjectKey, Reason, Registry, Snapshot};
use trierarch_raft::{Record, Store, StoreError, View};

use crate::authenticate::token::{KeyError, TokenKeys};
use crate::authenticate::x509::{Authorities, AuthorityError};
use crate::authorize::{self, Decision};
use crate::clock::{self, Deadline};
use crate::config::Settings;
use crate::flow::Flow;
use crate::identity::User;
use crate::metrics::Metrics;
use crate::request::RequestInfo;

/// The API of one master.
pub struct ApiServer {
    pub(crate) store: Store,
    pub(crate) registry: Arc<Registry>,
    pub(crate) settings: Settings,
    pub(crate) tokens: TokenKeys,
    pub(crate) authorities: Authorities,
    pub(crate) flow: Flow,
    pub(crate) metrics: Metrics,
    pub(crate) documents: crate::openapi::Documents,
    pub(crate) quota_lines: crate::pipeline::quota::Lines,
    pub(crate) stopping: CancellationToken,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Service account keys.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Client authorities.
    #[error(transparent)]
    Authorities(#[from] AuthorityError),
    /// Sockets.
    #[error("cannot serve")]
    Listen(#[from] std::io::Error),
}

impl ApiServer {
    /// A server over a store and rows.
    ///
    /// # Errors
    /// [`SetupError`] when keys or certificates are unusable.
    pub fn new(settings: Settings, store: Store, registry: Arc<Registry>) -> Result<Arc<Self>, SetupError> {
        Ok(Arc::new(Self {
            tokens: TokenKeys::new(&settings.service_account)?,
            authorities: Authorities::new(&settings.client_ca, &settings.front_proxy_ca)?,
            flow: Flow::new(settings.reads_inflight_max, settings.writes_inflight_max),
            metrics: Metrics::default(),
            documents: crate::openapi::Documents::default(),
            quota_lines: crate::pipeline::quota::Lines::default(),
            stopping: CancellationToken::new(),
            store,
            registry,
            settings,
        }))
    }

    /// The store below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The rows.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The current state as this master knows it.
    pub fn snapshot(&self) -> StoreSnapshot {
        StoreSnapshot::new(self.store.view(), Arc::clone(&self.registry))
    }

    /// A state that holds every write acknowledged anywhere before the call.
    ///
    /// # Errors
    /// 503 or 504.
    pub async fn fresh_snapshot(&self, deadline: Deadline) -> Result<StoreSnapshot, ApiError> {
        let view = self.store.linearizable_view(deadline.left()).await.map_err(|error| store_error(&error))?;
        Ok(StoreSnapshot::new(view, Arc::clone(&self.registry)))
    }

    /// Whether a user may.
    pub fn decide(&self, user: &User, info: &RequestInfo) -> Decision {
        authorize::decide(&self.snapshot(), user, info, clock::now())
    }

    /// As [`ApiServer::decide`].
    ///
    /// # Errors
    /// 403 with upstream's wording.
    pub fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), ApiError> {
        match self.decide(user, info) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(authorize::forbidden(user, info, &reason)),
        }
    }
}

/// A store's failure as the API words it.
pub fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Unavailable(why) => ApiError::unavailable(format!("the store has no quorum: {why}")),
        StoreError::OutcomeUnknown => ApiError::new(
            Reason::Timeout,
            "Timeout: request did not complete within the allotted time; it is unknown whether it took effect",
        ),
        StoreError::TooLarge { asked, current } => too_large_resource_version(*asked, *current),
        StoreError::RequestTooLarge { limit_bytes, .. } => {
            ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit_bytes}"))
        }
        StoreError::Compacted { .. } => expired(),
        StoreError::ReadOnly(why) => ApiError::unavailable(format!("the store is read-only: {why}")),
        StoreError::Closed => ApiError::unavailable("the server is shutting down"),
    }
}

/// 410 for a list or watch position that is no longer kept.
pub fn expired() -> ApiError {
    ApiError::expired("The resourceVersion for the provided list or watch is too old.")
}

/// 504 for a revision that is not applied here yet.
pub fn too_large_resource_version(asked: u64, current: u64) -> ApiError {
    ApiError {
        causes: vec![trierarch_api::status::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after_seconds: Some(1),
        ..ApiError::new(Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {current}"))
    }
}

/// All objects at one revision, over the store's view.
#[derive(Clone)]
pub struct StoreSnapshot {
    /// The bytes.
    pub view: View,
    registry: Arc<Registry>,
}

impl StoreSnapshot {
    /// Over a view.
    pub fn new(view: View, registry: Arc<Registry>) -> Self {
        Self { view, registry }
    }

    /// The object of a record.
    pub fn object(&self, record: &Arc<Record>) -> Option<Arc<Object>> {
        object_of(&self.registry, record)
    }
}

/// The object of a record, parsed at most once per process; `None` (and a line in the log) when the bytes are no object.
pub fn object_of(registry: &Registry, record: &Record) -> Option<Arc<Object>> {
    let parsed = record.parsed.get_or_init(|| match parse(registry, record) {
        Ok(object) => Arc::new(object) as Arc<dyn Any + Send + Sync>,
        Err(error) => {
            tracing::error!(key = %String::from_utf8_lossy(&record.key), error, "Found an unreadable object");
            Arc::new(Unreadable)
        }
    });
    Arc::clone(parsed).downcast::<Object>().ok()
}

struct Unreadable;

fn parse(registry: &Registry, record: &Record) -> Result<Object, String> {
    let key = ObjectKey::parse(&record.key).ok_or("the key is no object's")?;
    let kind = registry.by_storage(&key.resource).ok_or("no such kind")?;
    Object::decode(kind, record.value.clone(), record.split, record.revision).map_err(|error| error.to_string())
}

impl Snapshot for StoreSnapshot {
    fn revision(&self) -> u64 {
        self.view.revision()
    }

    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let record = self.view.get(&ObjectKey::new(resource.clone(), namespace, name).to_bytes())?;
        self.object(&record)
    }

    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let prefix = ObjectKey::prefix(resource, namespace);
        self.view.range(&prefix, None).filter_map(|record| self.object(record)).collect()
    }

    fn by_term(&self, resource: &GroupResource, namespace: Option<&str>, term: &IndexTerm) -> Vec<Arc<Object>> {
        let prefix = ObjectKey::prefix(resource, namespace);
        self.view.by_term(&term.to_bytes(), &prefix).filter_map(|record| self.object(record)).collect()
    }
}
