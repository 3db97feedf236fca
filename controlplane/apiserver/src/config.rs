//! What a server is told by the master process that starts it.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;

use actix_web::web;
use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;

use crate::apiserver::ApiServer;

/// Mounts more routes on the same port. Called once per worker, before the API's own routes; what it does not match goes to the API.
pub type Extra = Arc<dyn Fn(&mut web::ServiceConfig, &Arc<ApiServer>) + Send + Sync>;

/// Everything [`crate::serve`] needs beside the store and the rows.
#[derive(Clone)]
pub struct Config {
    /// Bound sockets. Port 0 is fine: [`crate::ServerHandle::addresses`] tells the real ones.
    pub listeners: Vec<Arc<TcpListener>>,
    /// Serves every connection; swap it when certificates rotate. [`crate::server::tls_config`] builds one that asks for client certificates.
    pub tls: Arc<ArcSwap<rustls::ServerConfig>>,
    /// The rest.
    pub settings: Settings,
    /// More routes.
    pub extra: Option<Extra>,
}

/// Facts of the cluster that requests are answered with.
#[derive(Clone)]
pub struct Settings {
    /// Authorities of client certificates: subject CN is the user, O the groups.
    pub client_ca: Vec<CertificateDer<'static>>,
    /// Authorities of front proxies, whose `X-Remote-*` headers are believed.
    pub front_proxy_ca: Vec<CertificateDer<'static>>,
    /// PEM of the cluster authority, for `kube-root-ca.crt` and the bootstrap discovery document.
    pub cluster_ca_pem: String,
    /// Service account tokens.
    pub service_account: ServiceAccountKeys,
    /// For connections to agents: presents the `kubelet-client` certificate and verifies against the cluster authority.
    pub agent_client: Arc<ArcSwap<rustls::ClientConfig>>,
    /// Addresses of Services.
    pub service_cidr: (Ipv4Addr, u8),
    /// Ports of Services of type NodePort.
    pub node_ports: RangeInclusive<u16>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// How long pods that say nothing about it stay on a node that is not ready or out of reach.
    pub toleration_seconds: i64,
    /// `host:port` under which clients reach this master, for discovery documents.
    pub advertise: String,
    /// Requests that read, in flight; more get 429.
    pub reads_inflight_max: usize,
    /// Requests that write, in flight; more get 429.
    pub writes_inflight_max: usize,
    /// Threads that serve connections.
    pub workers: usize,
}

/// Keys and names of service account tokens.
#[derive(Clone)]
pub struct ServiceAccountKeys {
    /// ES256 private key, PKCS#8 PEM.
    pub signing_key_pem: String,
    /// Public keys (SPKI PEM) whose tokens are believed; the signing key's own is among them.
    pub verification_keys_pem: Vec<String>,
    /// `iss`, an https URL such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// Audiences of the API server; the first is given to tokens that name none.
    pub audiences: Vec<String>,
}

impl Settings {
    /// Upstream's limits and this project's default networks around the given identities.
    pub fn new(service_account: ServiceAccountKeys, agent_client: Arc<ArcSwap<rustls::ClientConfig>>) -> Self {
        Self {
            client_ca: Vec::new(),
            front_proxy_ca: Vec::new(),
            cluster_ca_pem: String::new(),
            service_account,
            agent_client,
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            node_ports: 30_000..=32_767,
            cluster_domain: "cluster.local".to_owned(),
            toleration_seconds: 5,
            advertise: "127.0.0.1:6443".to_owned(),
            reads_inflight_max: 400,
            writes_inflight_max: 200,
            workers: 2,
        }
    }
}
