//! Certificates of a cluster on loopback: one authority, one certificate that every member and client shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use trierarch_raft::PeerTls;

/// What a gRPC server and client agree on when they connect.
pub const ALPN_H2: &[u8] = b"h2";

/// Three PEM files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// What is shown, signed by the authority.
    pub certificate: PathBuf,
    /// The key of it.
    pub key: PathBuf,
}

impl Identity {
    /// The files in `directory`.
    pub fn in_directory(directory: &Path) -> Self {
        Self { authority: directory.join("ca.pem"), certificate: directory.join("member.pem"), key: directory.join("member.key") }
    }

    /// Makes an authority and a certificate for 127.0.0.1, and writes them to `directory`.
    ///
    /// # Errors
    /// The directory is not writable.
    pub fn make(directory: &Path) -> anyhow::Result<Self> {
        let identity = Self::in_directory(directory);
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate()?;
        let authority = params.self_signed(&authority_key)?;
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?.signed_by(&key, &issuer)?;
        for (path, pem) in
            [(&identity.authority, authority.pem()), (&identity.certificate, certificate.pem()), (&identity.key, key.serialize_pem())]
        {
            std::fs::write(path, pem).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(identity)
    }

    /// For connections to a server of the cluster.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn client(&self, alpn: &[&[u8]]) -> anyhow::Result<Arc<ClientConfig>> {
        let (chain, key) = self.shown()?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// For accepted connections; demands a certificate of the same authority.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn server(&self, alpn: &[&[u8]]) -> anyhow::Result<Arc<ServerConfig>> {
        let (chain, key) = self.shown()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build()?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// For the members among themselves.
    ///
    /// # Errors
    /// A file is missing or unreadable.
    pub fn peers(&self) -> anyhow::Result<PeerTls> {
        Ok(PeerTls { server: self.server(&[])?, client: self.client(&[])? })
    }

    fn roots(&self) -> anyhow::Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority).with_context(|| format!("in {}", self.authority.display()))?)?;
        Ok(Arc::new(roots))
    }

    fn shown(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let certificate = CertificateDer::from_pem_file(&self.certificate).with_context(|| format!("in {}", self.certificate.display()))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| format!("in {}", self.key.display()))?;
        Ok((vec![certificate], key))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
