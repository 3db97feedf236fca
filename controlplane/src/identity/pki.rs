//! A master's own keys and certificates: issued from the bundle at each start and again before they expire, kept in memory.
//!
//! Only the bundle is on disk. What it signs costs 30 microseconds, so there is nothing to lose, to copy or to let expire.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use trierarch_raft::PeerTls;

use super::authority::{LEAF_LIFETIME, Leaf, LeafRequest, Usage};
use super::bundle::Bundle;

/// Certificates are renewed when this much of their life has passed.
pub const RENEWAL_AFTER: SignedDuration = SignedDuration::from_hours(LEAF_LIFETIME.as_hours() * 2 / 3);

/// What a master's certificates name.
#[derive(Clone, Debug)]
pub struct Names {
    /// The master's name.
    pub master: String,
    /// Addresses under which clients reach it, those of forwarders and the first Service address among them.
    pub addresses: Vec<IpAddr>,
    /// DNS names under which clients reach it.
    pub dns_names: Vec<String>,
}

impl Names {
    /// The names of a master: its own, its addresses, and those under which every pod knows the API.
    pub fn new(master: &str, addresses: Vec<IpAddr>, cluster_domain: &str) -> Self {
        let mut dns_names: Vec<String> =
            ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned).to_vec();
        dns_names.push(format!("kubernetes.default.svc.{cluster_domain}"));
        dns_names.push(master.to_owned());
        Self { master: master.to_owned(), addresses, dns_names }
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
    /// For connections to other masters' API, as this master.
    pub masters: Arc<ArcSwap<rustls::ClientConfig>>,
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
        Ok(Self {
            server: Arc::new(ArcSwap::from_pointee(server(&bundle, &names, now)?)),
            agents: Arc::new(ArcSwap::from_pointee(client(&bundle, &LeafRequest::client(AGENT_CLIENT, Some("system:masters")), now)?)),
            masters: Arc::new(ArcSwap::from_pointee(client(
                &bundle,
                &LeafRequest::client(&master_user(&names.master), Some("system:masters")),
                now,
            )?)),
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
        self.masters.store(fresh.masters.load_full());
        Ok(())
    }

    /// Mutual TLS between peers: both sides show a certificate of the peer authority.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn peers(&self, now: Timestamp) -> Result<PeerTls, PkiError> {
        let request = LeafRequest {
            common_name: self.names.master.clone(),
            organization: Some("trierarch-peers".to_owned()),
            dns_names: self.names.dns_names.clone(),
            addresses: self.names.addresses.clone(),
            usage: Usage::Both,
        };
        let leaf = self.bundle.peers.issue(&request, now)?;
        let authorities = roots(&[&self.bundle.peers.certificate_pem])?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities.clone()), provider()).build()?;
        let (chain, key) = pair(&leaf)?;
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        let (chain, key) = pair(&leaf)?;
        let client = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(authorities)
            .with_client_auth_cert(chain, key)?;
        Ok(PeerTls { server: Arc::new(server), client: Arc::new(client) })
    }
}

/// The user of a master towards other masters.
pub fn master_user(name: &str) -> String {
    format!("system:master:{name}")
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
    };
    let (chain, key) = pair(&bundle.cluster.issue(&request, now)?)?;
    let authorities = roots(&[&bundle.cluster.certificate_pem, &bundle.front_proxy.certificate_pem])?;
    // who shows no certificate may show a token, or stays anonymous
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider()).allow_unauthenticated().build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
        pki.peers(now).expect("peers");
    }
}
