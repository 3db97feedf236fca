//! A server on port 0 over a one-member store, with certificates of its own.

#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod client;

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use trierarch_api::{GroupResource, Registry};
use trierarch_apiserver::{Config, Local, ServerHandle, ServiceAccountKeys, Settings, User, serve};
use trierarch_raft::{Store, StoreConfig};

/// A running server and what a client needs.
pub(crate) struct Standalone {
    /// The server.
    pub handle: ServerHandle,
    /// PEM of the authority.
    pub ca_pem: String,
    /// PEM of a client certificate in `system:masters`.
    pub admin_pem: String,
    /// Its key.
    pub admin_key_pem: String,
    /// DER of the authority.
    pub ca: CertificateDer<'static>,
    /// DER of the client certificate.
    pub admin: CertificateDer<'static>,
    /// Its key.
    pub admin_key: Vec<u8>,
    /// A certificate of the same administrator that is over, and its key.
    pub expired: (CertificateDer<'static>, Vec<u8>),
    /// One that another authority of the same name signed, and its key.
    pub forged: (CertificateDer<'static>, Vec<u8>),
    store: Store,
    to_be_stopped: ToBeStopped,
}

/// Fails a test that forgets to: a process that ends while a store still closes is aborted, though every test has passed.
struct ToBeStopped(bool);

impl Drop for ToBeStopped {
    fn drop(&mut self) {
        assert!(!self.0 || std::thread::panicking(), "a test must stop its server");
    }
}

fn leaf(name: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a valid name");
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    params.extended_key_usages.push(usage);
    params
}

fn authority() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Standalone {
    /// Starts on a port, 0 for any.
    pub(crate) async fn start(data_dir: &std::path::Path, port: u16) -> Self {
        let ca_params = authority();
        let ca_key = KeyPair::generate().expect("a key");
        let ca = ca_params.self_signed(&ca_key).expect("an authority");
        let issuer = Issuer::new(ca_params, ca_key);
        let sign = |params: CertificateParams| {
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &issuer).expect("a certificate");
            (certificate, key)
        };
        let (server_cert, server_key) = sign(leaf("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth));
        let (admin, admin_key) = sign(leaf("admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth));
        let mut over = leaf("admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth);
        over.not_before = rcgen::date_time_ymd(2020, 1, 1);
        over.not_after = rcgen::date_time_ymd(2021, 1, 1);
        let (expired, expired_key) = sign(over);
        let stranger = Issuer::new(authority(), KeyPair::generate().expect("a key"));
        let forged_key = KeyPair::generate().expect("a key");
        let forged = leaf("admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth);
        let forged = forged.signed_by(&forged_key, &stranger).expect("a certificate");
        let authorities = vec![ca.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let tls = trierarch_apiserver::server::tls_config(vec![server_cert.der().clone()], key, &authorities).expect("a TLS configuration");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let agent_client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let account_key = KeyPair::generate().expect("a key");
        let keys = ServiceAccountKeys {
            signing_key_pem: account_key.serialize_pem(),
            verification_keys_pem: vec![account_key.public_key_pem()],
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            audiences: vec!["https://kubernetes.default.svc.cluster.local".to_owned()],
        };
        let mut settings = Settings::new(keys, Arc::new(ArcSwap::from_pointee(agent_client)));
        // upstream's value; clusters of ours have their own
        settings.toleration_seconds = 300;
        settings.client_ca = authorities;
        settings.cluster_ca_pem = ca.pem();
        let store = Store::open(StoreConfig::new(1, data_dir)).await.expect("the store opens");
        store.initialize().await.expect("the store begins");
        let mut leadership = store.leadership();
        tokio::time::timeout(Duration::from_secs(10), leadership.wait_for(|leadership| leadership.established))
            .await
            .expect("a leader within ten seconds")
            .expect("the store lives");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a port");
        listener.set_nonblocking(true).expect("nonblocking");
        let config = Config { listeners: vec![Arc::new(listener)], tls: Arc::new(ArcSwap::from_pointee(tls)), settings, extra: None };
        let handle = serve(config, store.clone(), Arc::new(Registry::with_builtins())).expect("serves");
        let local = Local::new(Arc::clone(handle.api()), User::system("system:apiserver"));
        for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
            local.create(&GroupResource::new("", "namespaces"), "", json!({"metadata": {"name": name}})).await.expect("a namespace");
            local
                .create(&GroupResource::new("", "serviceaccounts"), name, json!({"metadata": {"name": "default"}}))
                .await
                .expect("an account");
        }
        trierarch_apiserver::authorize::bootstrap_policy::reconcile(&local).await.expect("default roles");
        Self {
            ca_pem: ca.pem(),
            admin_pem: admin.pem(),
            admin_key_pem: admin_key.serialize_pem(),
            ca: ca.der().clone(),
            admin: admin.der().clone(),
            admin_key: admin_key.serialize_der(),
            expired: (expired.der().clone(), expired_key.serialize_der()),
            forged: (forged.der().clone(), forged_key.serialize_der()),
            handle,
            store,
            to_be_stopped: ToBeStopped(true),
        }
    }

    /// Stops server and store.
    pub(crate) async fn stop(mut self) {
        self.to_be_stopped.0 = false;
        self.handle.stop().await;
        self.store.close().await;
    }

    /// A kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> Value {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": format!("https://{}", self.handle.addresses()[0]), "certificate-authority-data": encode(&self.ca_pem)}}],
            "users": [{"name": "t", "user": {"client-certificate-data": encode(&self.admin_pem), "client-key-data": encode(&self.admin_key_pem)}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
        })
    }
}
