//! Client certificates: which authority vouches for it, and whom it names.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::authenticate::Peer;
use crate::identity::User;

/// The authorities that vouch for clients.
pub struct Authorities {
    clients: Option<Arc<dyn ClientCertVerifier>>,
    front_proxies: Option<Arc<dyn ClientCertVerifier>>,
}

/// An authority's certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("authority certificate is not usable: {0}")]
pub struct AuthorityError(String);

/// A verifier for any of the authorities; `None` without one.
///
/// # Errors
/// [`AuthorityError`] for a certificate that is none.
pub fn verifier(authorities: &[CertificateDer<'static>]) -> Result<Option<Arc<dyn ClientCertVerifier>>, AuthorityError> {
    if authorities.is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| AuthorityError(error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|error| AuthorityError(error.to_string()))?;
    Ok(Some(verifier))
}

impl Authorities {
    /// Of clients and of front proxies.
    ///
    /// # Errors
    /// [`AuthorityError`] for a certificate that is none.
    pub fn new(clients: &[CertificateDer<'static>], front_proxies: &[CertificateDer<'static>]) -> Result<Self, AuthorityError> {
        Ok(Self { clients: verifier(clients)?, front_proxies: verifier(front_proxies)? })
    }

    /// What a chain, already accepted by the handshake, proves.
    pub fn peer(&self, chain: &[CertificateDer<'_>], now: jiff::Timestamp) -> Peer {
        let mut peer = Peer::default();
        let Some((leaf, intermediates)) = chain.split_first() else {
            return peer;
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        let vouches = |by: &Option<Arc<dyn ClientCertVerifier>>| {
            by.as_ref().is_some_and(|verifier| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
        };
        let Some(user) = subject(leaf) else {
            return peer;
        };
        if vouches(&self.clients) {
            peer.user = Some(user);
        } else if vouches(&self.front_proxies) {
            peer.front_proxy = Some(user.name);
        }
        peer
    }
}

/// The subject as a user: CN is the name, each O a group.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = parsed.subject().iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned)).collect();
    (!name.is_empty()).then(|| User { name, groups, ..User::default() })
}
