//! A master's own keys and certificates: issued from the bundle at each start and again before they expire, kept in memory.
//!
//! Only the bundle is on disk. What it signs costs 30 microseconds, so there is nothing to lose, to copy or to let expire.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use trierarch_raft::PeerTls;

use super::authority::{LEAF_LIFETIME, Leaf, LeafRequest, Usage};
use super::bundle::Bundle;
use super::presented::Presented;

/// Certificates are looked at at least so often: by the wall clock, which goes on while a machine sleeps.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Somebody must act when an authority has no more left than this: nothing renews those by itself.
const AUTHORITY_WARNING: SignedDuration = SignedDuration::from_hours(24 * 180);

/// What a master's certificates say.
#[derive(Clone, Debug)]
pub struct Names {
    /// The master's name.
    pub master: String,
    /// Addresses under which clients reach it, those of forwarders and the first Service address among them.
    pub addresses: Vec<IpAddr>,
    /// DNS names under which clients reach it.
    pub dns_names: Vec<String>,
    /// For how long they are valid.
    pub lifetime: SignedDuration,
}

impl Names {
    /// The names of a master: its own, its addresses, and those under which every pod knows the API.
    pub fn new(master: &str, addresses: Vec<IpAddr>, cluster_domain: &str) -> Self {
        let mut dns_names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
        dns_names.push(format!("kubernetes.default.svc.{cluster_domain}"));
        dns_names.push(master.to_owned());
        Self { master: master.to_owned(), addresses, dns_names, lifetime: LEAF_LIFETIME }
    }
}

/// Why a master has no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The bundle file cannot be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bundle file holds something else.
    #[error("{path} is damaged: restore it from another master or a backup")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Signing failed.
    #[error("cannot issue a certificate")]
    Issue(#[from] super::authority::AuthorityError),
    /// PEM that is none.
    #[error("unreadable PEM: {0}")]
    Pem(String),
    /// rustls refused it.
    #[error("unusable TLS configuration")]
    Tls(#[from] rustls::Error),
    /// The API server refused the configuration of its port.
    #[error(transparent)]
    Server(#[from] trierarch_apiserver::server::TlsError),
    /// No verifier of client certificates.
    #[error("unusable client authorities")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The TLS configurations of a master.
pub struct Pki {
    /// Shared secrets.
    pub bundle: Bundle,
    /// For the API port: presents the server certificate and asks for client certificates.
    pub server: Arc<ArcSwap<rustls::ServerConfig>>,
    /// For connections to agents, as `kubelet-client`.
    pub agents: Arc<ArcSwap<rustls::ClientConfig>>,
    /// Mutual TLS between peers: both sides show a certificate of the peer authority, and what this side shows is renewed in place.
    pub peers: PeerTls,
    presented_to_peers: Arc<Presented>,
    /// When this master's certificates were issued.
    issued: ArcSwap<Timestamp>,
    names: Names,
}

/// The user by which the API server reaches agents.
pub const AGENT_CLIENT: &str = "kubelet-client";

impl Pki {
    /// Issues everything anew.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn new(bundle: Bundle, names: Names, now: Timestamp) -> Result<Self, PkiError> {
        let presented_to_peers = Arc::new(Presented::new(peer_certificate(&bundle, &names, now)?));
        let for_agents = LeafRequest { lifetime: names.lifetime, ..LeafRequest::client(AGENT_CLIENT, Some("system:masters")) };
        Ok(Self {
            peers: peers(&bundle, &presented_to_peers)?,
            presented_to_peers,
            issued: ArcSwap::from_pointee(now),
            server: Arc::new(ArcSwap::from_pointee(server(&bundle, &names, now)?)),
            agents: Arc::new(ArcSwap::from_pointee(client(&bundle, &for_agents, now)?)),
            bundle,
            names,
        })
    }

    /// Replaces every certificate; connections keep theirs.
    ///
    /// # Errors
    /// [`PkiError`]; the old ones stay then.
    pub fn renew(&self, now: Timestamp) -> Result<(), PkiError> {
        let fresh = Self::new(self.bundle.clone(), self.names.clone(), now)?;
        self.server.store(fresh.server.load_full());
        self.agents.store(fresh.agents.load_full());
        self.presented_to_peers.replace(fresh.presented_to_peers.current());
        self.issued.store(Arc::new(now));
        Ok(())
    }

    /// Whether this master's certificates should be renewed by now.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= **self.issued.load() + self.names.lifetime * 2 / 3
    }

    /// How often to look whether they are due: often enough that a busy machine misses none.
    pub fn look_interval(&self) -> Duration {
        (self.names.lifetime / 12).try_into().unwrap_or(LOOK_INTERVAL_MAX).min(LOOK_INTERVAL_MAX)
    }

    /// How long this master's certificates are valid; negative once they have expired.
    pub fn left(&self, now: Timestamp) -> SignedDuration {
        (**self.issued.load() + self.names.lifetime).duration_since(now)
    }

    /// The authorities that expire soon, each with the days that it has left.
    ///
    /// # Errors
    /// [`PkiError`] for an unreadable one.
    pub fn expiring_authorities(&self, now: Timestamp) -> Result<Vec<(&'static str, i64)>, PkiError> {
        let all = [("peers", &self.bundle.peers), ("cluster", &self.bundle.cluster), ("front-proxy", &self.bundle.front_proxy)];
        let mut expiring = Vec::new();
        for (name, authority) in all {
            let left = expiry(&authority.certificate_pem)?.duration_since(now);
            if left < AUTHORITY_WARNING {
                expiring.push((name, left.as_hours() / 24));
            }
        }
        Ok(expiring)
    }
}

/// When a certificate expires.
fn expiry(pem: &str) -> Result<Timestamp, PkiError> {
    let der = certificate(pem)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| PkiError::Pem(e.to_string()))?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|e| PkiError::Pem(e.to_string()))
}

fn peer_certificate(bundle: &Bundle, names: &Names, now: Timestamp) -> Result<CertifiedKey, PkiError> {
    let request = LeafRequest {
        common_name: names.master.clone(),
        organization: Some("trierarch-peers".to_owned()),
        dns_names: names.dns_names.clone(),
        addresses: names.addresses.clone(),
        usage: Usage::Both,
        lifetime: names.lifetime,
    };
    let (chain, key) = pair(&bundle.peers.issue(&request, now)?)?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

fn peers(bundle: &Bundle, presented: &Arc<Presented>) -> Result<PeerTls, PkiError> {
    let authorities = roots(&[&bundle.peers.certificate_pem])?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities.clone()), provider()).build()?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::<Presented>::clone(presented));
    // every connection proves anew that its certificate is still valid
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_client_cert_resolver(Arc::<Presented>::clone(presented));
    client.resumption = rustls::client::Resumption::disabled();
    Ok(PeerTls { server: Arc::new(server), client: Arc::new(client) })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(authorities: &[&str]) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for pem in authorities {
        store.add(certificate(pem)?)?;
    }
    Ok(store)
}

/// The first certificate of a PEM text.
///
/// # Errors
/// [`PkiError::Pem`].
pub fn certificate(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::Pem(e.to_string()))
}

fn pair(leaf: &Leaf) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PkiError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(leaf.certificate_pem.as_bytes()).collect();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).map_err(|e| PkiError::Pem(e.to_string()))?;
    Ok((chain.map_err(|e| PkiError::Pem(e.to_string()))?, key))
}

fn server(bundle: &Bundle, names: &Names, now: Timestamp) -> Result<rustls::ServerConfig, PkiError> {
    let request = LeafRequest {
        common_name: "kube-apiserver".to_owned(),
        organization: None,
        dns_names: names.dns_names.clone(),
        addresses: names.addresses.clone(),
        usage: Usage::Server,
        lifetime: names.lifetime,
    };
    let (chain, key) = pair(&bundle.cluster.issue(&request, now)?)?;
    let authorities = [certificate(&bundle.cluster.certificate_pem)?, certificate(&bundle.front_proxy.certificate_pem)?];
    Ok(trierarch_apiserver::server::tls_config(chain, key, &authorities)?)
}

fn client(bundle: &Bundle, request: &LeafRequest, now: Timestamp) -> Result<rustls::ClientConfig, PkiError> {
    let (chain, key) = pair(&bundle.cluster.issue(request, now)?)?;
    Ok(rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(&[&bundle.cluster.certificate_pem])?)
        .with_client_auth_cert(chain, key)?)
}

/// Where a master keeps its bundle.
pub fn bundle_path(data_dir: &Path) -> PathBuf {
    data_dir.join("pki").join("bundle.json")
}

/// The bundle on disk, if there is one.
///
/// # Errors
/// [`PkiError`] when it is there but unreadable.
pub fn load_bundle(data_dir: &Path) -> Result<Option<Bundle>, PkiError> {
    let path = bundle_path(data_dir);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| PkiError::Damaged { path, source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path, source }),
    }
}

/// Writes the bundle so that only its owner reads it, completely or not at all.
///
/// # Errors
/// [`PkiError::File`].
pub fn save_bundle(data_dir: &Path, bundle: &Bundle) -> Result<(), PkiError> {
    let path = bundle_path(data_dir);
    let text = serde_json::to_vec(bundle).expect("a bundle is plain strings");
    write_private(&path, &text).map_err(|source| PkiError::File { path, source })
}

/// Writes a file that only its owner reads, completely or not at all.
///
/// # Errors
/// What the file system says.
pub fn write_private(path: &Path, content: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_on_disk_is_private_and_damage_is_named() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(load_bundle(dir.path()).expect("nothing there").is_none());
        let now = "2026-11-22T12:00:00Z".parse().expect("a time");
        let bundle = Bundle::create(now).expect("created");
        save_bundle(dir.path(), &bundle).expect("written");
        assert_eq!(load_bundle(dir.path()).expect("readable").expect("there").join_token, bundle.join_token);
        let path = bundle_path(dir.path());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").expect("written");
        let error = load_bundle(dir.path()).err().expect("damaged");
        assert!(error.to_string().contains("bundle.json is damaged"), "{error}");
        let names = Names::new("m1", vec!["127.0.0.1".parse().expect("an address")], "cluster.local");
        let pki = Pki::new(bundle, names, now).expect("issued");
        pki.renew(now).expect("renewed");
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn issued(at: Timestamp) -> Pki {
        let names = Names::new("m1", vec!["127.0.0.1".parse().expect("an address")], "cluster.local");
        Pki::new(Bundle::create(at).expect("created"), names, at).expect("issued")
    }

    #[test]
    fn renewal_comes_before_expiry_and_authorities_warn() {
        let start = time("2026-01-01T00:00:00Z");
        let pki = issued(start);
        assert!(!pki.is_due(time("2026-08-01T00:00:00Z")));
        let due = time("2026-09-15T00:00:00Z");
        assert!(pki.is_due(due) && pki.left(due) > SignedDuration::from_hours(24 * 90));
        pki.renew(due).expect("renewed");
        assert!(!pki.is_due(due));
        assert!(pki.left(time("2027-09-16T00:00:00Z")).is_negative());
        assert!(pki.expiring_authorities(due).expect("readable").is_empty());
        // ten years, of which 3,652 days have passed but for 100
        let late = start + SignedDuration::from_hours(24 * 3550);
        let names: Vec<_> = pki.expiring_authorities(late).expect("readable");
        assert_eq!(names, [("peers", 100), ("cluster", 100), ("front-proxy", 100)]);
    }

    /// Both ends' opinion of a handshake.
    async fn shake(client: Arc<rustls::ClientConfig>, server: Arc<rustls::ServerConfig>) -> (std::io::Result<()>, std::io::Result<()>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (near, far) = tokio::io::duplex(64 << 10);
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").expect("an address");
        let accepting = async {
            let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
            stream.write_all(b"x").await?;
            stream.shutdown().await
        };
        let connecting = async {
            let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
            // a server that refuses the client's certificate says so only after the handshake
            stream.read_exact(&mut [0]).await.map(drop)
        };
        tokio::join!(connecting, accepting)
    }

    #[tokio::test]
    async fn expired_certificates_are_refused_until_they_are_renewed() {
        let now = crate::clock::now();
        // in use when it was renewed: the configurations that the store and the servers hold stay the same
        let pki = issued(now - SignedDuration::from_hours(24 * 366));
        let held = pki.peers.clone();
        let both = |config: &PeerTls| (Arc::clone(&config.client), Arc::clone(&config.server));
        let (client, server) = both(&held);
        assert!(shake(client, server).await.0.expect_err("expired").to_string().contains("xpired"));
        assert!(shake(pki.agents.load_full(), pki.server.load_full()).await.0.is_err());
        pki.renew(now).expect("renewed");
        let (client, server) = both(&held);
        let (near, far) = shake(client, server).await;
        near.expect("the client is content");
        far.expect("the server is content");
        shake(pki.agents.load_full(), pki.server.load_full()).await.0.expect("the server reaches agents");
    }

    #[tokio::test]
    async fn a_peer_of_another_cluster_or_one_that_expired_is_refused() {
        let now = crate::clock::now();
        let ours = issued(now);
        let theirs = issued(now);
        let (_, refused) = shake(Arc::clone(&theirs.peers.client), Arc::clone(&ours.peers.server)).await;
        refused.expect_err("another authority");
        // the same authority, but the certificate has run out: the server notices
        let names = Names::new("m2", vec!["127.0.0.1".parse().expect("an address")], "cluster.local");
        let late = Pki::new(ours.bundle.clone(), names, now - SignedDuration::from_hours(24 * 366)).expect("issued");
        let (_, refused) = shake(Arc::clone(&late.peers.client), Arc::clone(&ours.peers.server)).await;
        assert!(refused.expect_err("expired").to_string().contains("xpired"));
        // cluster certificates open no peer's door, nor the other way round
        let (_, refused) = shake(ours.agents.load_full(), Arc::clone(&ours.peers.server)).await;
        refused.expect_err("signed by the cluster's authority, not by the peers'");
    }
}
