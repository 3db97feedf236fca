//! What the actors of one agent share.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use trierarch_client::{Client, Reflector};
use trierarch_network::PodNetwork;
use trierarch_runtime::Runtime;

use super::downward::NodeFacts;
use super::events::Recorder;
use super::image_manager::ImageManager;
use super::quantity::{ResourceList, get_units};
use super::sources::{Reference, Sources, references};
use super::volumes::VolumeDirs;
use super::volumes::payload::{TokenRequest, token_requests};
use crate::clock;
use crate::config::AgentConfig;

/// How long a pod's start waits for the first copy of something it refers to.
const FIRST_COPY: Duration = Duration::from_secs(5);

/// Shared by all actors; never changes after the start, except inside its parts.
pub struct Context {
    /// What the agent was told.
    pub config: AgentConfig,
    /// Containers.
    pub runtime: Arc<Runtime>,
    /// Images.
    pub images: ImageManager,
    /// Events for users.
    pub events: Recorder,
    /// The pod network, once the node has a block of addresses.
    pub network: watch::Receiver<Option<Arc<PodNetwork>>>,
    /// All Services, for service links.
    pub services: Reflector<Service>,
    /// All EndpointSlices: who serves.
    pub slices: Reflector<EndpointSlice>,
    /// All Nodes, this one among them.
    pub nodes: Reflector<Node>,
    /// For HTTP probes and hooks; trusts every server, as kubelets do.
    pub http: reqwest::Client,
    /// What the node can allocate to pods.
    pub allocatable: ResourceList,
    /// Follows what pods refer to.
    pub watched: Watched,
    /// Kernel work for pods is done for a few of them at a time: more only get in each other's way, and in that of the heartbeat.
    pub turns: Semaphore,
    /// Where the node resolves names.
    pub node_resolver: trierarch_network::resolv::Resolver,
}

impl Context {
    /// The API client.
    pub fn client(&self) -> &Client {
        &self.config.client
    }

    /// Whether clients may be sent to a pod.
    pub fn serves(&self, pod: &Pod) -> bool {
        let (namespace, uid) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.uid.as_deref());
        crate::feeders::is_endpoint(&self.slices.objects(), namespace, uid)
    }

    /// A pod's directory.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.data_dir.join("pods").join(uid)
    }

    /// A pod's volumes.
    pub fn volume_dirs(&self, uid: &str) -> VolumeDirs {
        VolumeDirs { disk: self.pod_dir(uid).join("volumes"), memory: self.config.data_dir.join("memory").join(uid) }
    }

    /// A pod's logs.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.config.data_dir.join("logs").join(format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid)))
    }

    /// The node's addresses.
    pub fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }

    /// What pods may learn about the node and themselves.
    pub fn facts(&self, pod_ips: Vec<String>) -> NodeFacts {
        NodeFacts { host_ips: self.host_ips(), pod_ips, allocatable: self.allocatable.clone() }
    }

    /// Memory that the node offers.
    pub fn memory_bytes(&self) -> i64 {
        get_units(Some(&self.allocatable), "memory").unwrap_or(1 << 30)
    }
}

/// A local copy of one referenced object.
pub enum Followed {
    /// Of a ConfigMap.
    ConfigMap(Reflector<ConfigMap>),
    /// Of a Secret.
    Secret(Reflector<Secret>),
}

impl Followed {
    fn start(client: Client, namespace: &str, reference: &Reference) -> Self {
        match reference {
            Reference::ConfigMap(name) => Self::ConfigMap(Reflector::start(
                client,
                format!("/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{name}"),
            )),
            Reference::Secret(name) => Self::Secret(Reflector::start(
                client,
                format!("/api/v1/namespaces/{namespace}/secrets?fieldSelector=metadata.name%3D{name}"),
            )),
        }
    }

    async fn ready(&self) {
        match self {
            Self::ConfigMap(reflector) => reflector.ready().await,
            Self::Secret(reflector) => reflector.ready().await,
        }
    }

    /// Wakes at changes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match self {
            Self::ConfigMap(reflector) => reflector.changes(),
            Self::Secret(reflector) => reflector.changes(),
        }
    }
}

/// Copies of what pods refer to, shared between pods, dropped with the last of them.
#[derive(Default)]
pub struct Watched {
    objects: Mutex<HashMap<(String, Reference), Weak<Followed>>>,
}

impl Watched {
    fn follow(&self, client: &Client, namespace: &str, reference: &Reference) -> Arc<Followed> {
        let mut objects = self.objects.lock();
        objects.retain(|_, weak| weak.strong_count() > 0);
        let key = (namespace.to_owned(), reference.clone());
        if let Some(found) = objects.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        let fresh = Arc::new(Followed::start(client.clone(), namespace, reference));
        objects.insert(key, Arc::downgrade(&fresh));
        fresh
    }
}

/// A token with the time when it should be replaced.
#[derive(Clone, Debug)]
pub struct Token {
    /// The JWT.
    pub value: String,
    /// Replace it from now on.
    pub renew_at: Timestamp,
}

/// What one pod refers to, followed for as long as this lives.
#[derive(Default)]
pub struct PodSources {
    /// By reference.
    pub followed: BTreeMap<Reference, Arc<Followed>>,
    /// Tokens issued for the pod.
    pub tokens: Mutex<BTreeMap<TokenRequest, Token>>,
}

impl PodSources {
    /// Follows everything the pod refers to; keeps what `old` follows already. [`Self::ready`] waits for the first copies.
    pub fn of(context: &Context, pod: &Pod, old: &PodSources) -> Self {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let followed: BTreeMap<Reference, Arc<Followed>> = references(pod)
            .into_keys()
            .map(|reference| {
                let known = old.followed.get(&reference).cloned();
                let followed = known.unwrap_or_else(|| context.watched.follow(context.client(), namespace, &reference));
                (reference, followed)
            })
            .collect();
        let tokens = Mutex::new(old.tokens.lock().clone());
        Self { followed, tokens }
    }

    /// Waits for the first copies, within limits.
    pub async fn ready(&self, context: &Context) {
        let all = futures::future::join_all(self.followed.values().map(|f| f.ready()));
        // A master that does not answer in time leaves the reference missing; the next attempt looks again.
        let _ = tokio::time::timeout(FIRST_COPY, futures::future::join(all, context.services.ready())).await;
    }

    /// The present values.
    pub fn sources(&self, context: &Context, pod: &Pod) -> Sources {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut out = Sources::default();
        for (reference, followed) in &self.followed {
            match (reference, followed.as_ref()) {
                (Reference::ConfigMap(name), Followed::ConfigMap(reflector)) => {
                    if let Some(found) = reflector.get(namespace, name) {
                        out.config_maps.insert(name.clone(), (*found).clone());
                    }
                }
                (Reference::Secret(name), Followed::Secret(reflector)) => {
                    if let Some(found) = reflector.get(namespace, name) {
                        out.secrets.insert(name.clone(), (*found).clone());
                    }
                }
                _ => {}
            }
        }
        let services = context.services.objects();
        let relevant = services.iter().filter(|((ns, name), _)| ns == namespace || (ns == "default" && name == "kubernetes"));
        out.services = relevant.map(|(_, service)| (**service).clone()).collect();
        out
    }

    /// Issues and renews the tokens that the pod's volumes want; says when to come again.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn renew_tokens(&self, context: &Context, pod: &Pod) -> Result<Option<Timestamp>, String> {
        let Some(spec) = &pod.spec else { return Ok(None) };
        let mut next: Option<Timestamp> = None;
        for wanted in token_requests(spec) {
            let now = clock::now();
            let valid = self.tokens.lock().get(&wanted).map(|t| t.renew_at).filter(|at| now < *at);
            let renew_at = match valid {
                Some(at) => at,
                None => {
                    let token = request_token(context, pod, &wanted, now).await?;
                    let at = token.renew_at;
                    self.tokens.lock().insert(wanted, token);
                    at
                }
            };
            next = Some(next.map_or(renew_at, |old| old.min(renew_at)));
        }
        Ok(next)
    }

    /// The tokens' values.
    pub fn token_values(&self) -> BTreeMap<TokenRequest, String> {
        self.tokens.lock().iter().map(|(wanted, token)| (wanted.clone(), token.value.clone())).collect()
    }
}

async fn request_token(context: &Context, pod: &Pod, wanted: &TokenRequest, now: Timestamp) -> Result<Token, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref()).filter(|n| !n.is_empty()).unwrap_or("default");
    let audiences: Vec<&str> = if wanted.audience.is_empty() { vec![] } else { vec![&wanted.audience] };
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {"name": account, "namespace": namespace},
        "spec": {"audiences": audiences, "expirationSeconds": wanted.expiration_seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}},
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let answer: Value = context.client().create(&path, &body).await.map_err(|e| format!("failed to fetch token: {e}"))?;
    let value = answer["status"]["token"].as_str().ok_or("failed to fetch token: the answer holds none")?.to_owned();
    let expires: Option<Timestamp> = answer["status"]["expirationTimestamp"].as_str().and_then(|t| t.parse().ok());
    let life = expires.map_or(SignedDuration::from_secs(wanted.expiration_seconds), |e| e.duration_since(now));
    // Replaced after four fifths of its life, and at least daily.
    let keep = (life / 5 * 4).min(SignedDuration::from_hours(24));
    Ok(Token { value, renew_at: now + keep })
}
