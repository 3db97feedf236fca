//! Client certificates: which authority vouches for it, and whom it names.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
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

/// Asks for a certificate of these authorities, and takes any whose key the client holds: a handshake that fails tells nobody why, so
/// what a certificate is worth is told by [`Authorities::peer`], and a worthless one is answered with 401.
///
/// # Errors
/// [`AuthorityError`] for a certificate that is none.
pub fn asking(authorities: &[CertificateDer<'static>]) -> Result<Option<Arc<dyn ClientCertVerifier>>, AuthorityError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(verifier(authorities)?
        .map(|strict| -> Arc<dyn ClientCertVerifier> { Arc::new(Asking { hints: strict.root_hint_subjects().to_vec(), provider }) }))
}

#[derive(Debug)]
struct Asking {
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Authorities {
    /// Of clients and of front proxies.
    ///
    /// # Errors
    /// [`AuthorityError`] for a certificate that is none.
    pub fn new(clients: &[CertificateDer<'static>], front_proxies: &[CertificateDer<'static>]) -> Result<Self, AuthorityError> {
        Ok(Self { clients: verifier(clients)?, front_proxies: verifier(front_proxies)? })
    }

    /// What a chain proves, whose first key the handshake has seen at work.
    pub fn peer(&self, chain: &[CertificateDer<'_>], now: jiff::Timestamp) -> Peer {
        let mut peer = Peer::default();
        let Some((leaf, intermediates)) = chain.split_first() else {
            return peer;
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        let verify = |by: &Option<Arc<dyn ClientCertVerifier>>| match by {
            Some(verifier) => verifier.verify_client_cert(leaf, intermediates, now).map(|_verified| ()).map_err(|error| error.to_string()),
            None => Err("no authority".to_owned()),
        };
        let named = subject(leaf);
        match (verify(&self.clients), named) {
            (Ok(()), Some(user)) => peer.user = Some(user),
            (Err(error), Some(user)) => match verify(&self.front_proxies) {
                Ok(()) => peer.front_proxy = Some(user.name),
                Err(_ignored) => {
                    tracing::debug!(name = user.name, error, "Refused a client certificate");
                    peer.refused = true;
                }
            },
            (_, None) => peer.refused = true,
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
