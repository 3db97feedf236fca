//! What all masters share: three authorities, the service account key and the join secret. The first master makes it; others receive it
//! sealed under the join secret before they take part in Raft.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::authority::{Authority, AuthorityError};
use trierarch_client::token::{Admits, JoinToken};

/// The shared secrets of a cluster's masters.
#[derive(Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// Names the cluster; peers of another one are refused.
    pub cluster_id: String,
    /// Signs what masters show each other.
    pub peers: Authority,
    /// Signs servers' and clients' certificates; clients pin it.
    pub cluster: Authority,
    /// Signs the API server's identity towards extension API servers.
    pub front_proxy: Authority,
    /// ES256 key that signs service account tokens, PKCS #8 PEM.
    pub service_account_key_pem: String,
    /// The server join token.
    pub join_token: String,
}

/// Why a bundle cannot be made, sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// An authority could not be made.
    #[error("cannot make the cluster's authorities")]
    Authority(#[from] AuthorityError),
    /// A key could not be made.
    #[error("cannot make the service account key")]
    Key(#[from] rcgen::Error),
    /// The sealed text was not made with this secret, or was changed.
    #[error("the sealed bundle does not open with this token")]
    Sealed,
    /// It opened but holds something else.
    #[error("the bundle is unreadable")]
    Content(#[from] serde_json::Error),
    /// A certificate in it is unreadable.
    #[error("the authority in the bundle is unreadable: {0}")]
    Certificate(String),
}

impl Bundle {
    /// The bundle of a new cluster.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn create(now: Timestamp) -> Result<Self, BundleError> {
        let cluster = Authority::create("trierarch-cluster", now)?;
        let der =
            CertificateDer::from_pem_slice(cluster.certificate_pem.as_bytes()).map_err(|e| BundleError::Certificate(e.to_string()))?;
        Ok(Self {
            cluster_id: uuid::Uuid::new_v4().to_string(),
            peers: Authority::create("trierarch-peers", now)?,
            front_proxy: Authority::create("trierarch-front-proxy", now)?,
            service_account_key_pem: KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem(),
            join_token: JoinToken::generate(&der).to_string(),
            cluster,
        })
    }

    /// The token by which others join.
    pub fn token(&self) -> Option<JoinToken> {
        self.join_token.parse().ok()
    }

    /// Encrypts and authenticates the bundle under the token's secret (HKDF-SHA256, AES-256-GCM). A fresh salt gives each sealing its own
    /// key, so that the fixed nonce is used once per key.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn seal(&self, token: &JoinToken) -> Result<String, BundleError> {
        let salt: [u8; 32] = rand::random();
        let mut text = serde_json::to_vec(self)?;
        key(token, &salt)?
            .seal_in_place_append_tag(nonce(), ring::aead::Aad::from(AAD), &mut text)
            .map_err(|_opaque| BundleError::Sealed)?;
        Ok(STANDARD.encode([&salt[..], &text].concat()))
    }

    /// Opens what [`Bundle::seal`] made.
    ///
    /// # Errors
    /// [`BundleError::Sealed`] with another secret or a changed text.
    pub fn open(sealed: &str, token: &JoinToken) -> Result<Self, BundleError> {
        let mut bytes = STANDARD.decode(sealed).map_err(|_opaque| BundleError::Sealed)?;
        if token.admits != Admits::Server || bytes.len() < 32 {
            return Err(BundleError::Sealed);
        }
        let mut text = bytes.split_off(32);
        let plain =
            key(token, &bytes)?.open_in_place(nonce(), ring::aead::Aad::from(AAD), &mut text).map_err(|_opaque| BundleError::Sealed)?;
        Ok(serde_json::from_slice(plain)?)
    }
}

const AAD: &[u8] = b"trierarch bundle v1";

fn nonce() -> ring::aead::Nonce {
    ring::aead::Nonce::assume_unique_for_key([0; ring::aead::NONCE_LEN])
}

fn key(token: &JoinToken, salt: &[u8]) -> Result<ring::aead::LessSafeKey, BundleError> {
    let derived = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, salt).extract(token.secret.as_bytes());
    let material = derived.expand(&[AAD], &ring::aead::AES_256_GCM).map_err(|_opaque| BundleError::Sealed)?;
    Ok(ring::aead::LessSafeKey::new(ring::aead::UnboundKey::from(material)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_opens_with_its_token_only() {
        let now = "2026-11-22T12:00:00Z".parse().expect("a time");
        let bundle = Bundle::create(now).expect("created");
        let token = bundle.token().expect("a token");
        let sealed = bundle.seal(&token).expect("sealed");
        assert_ne!(sealed, bundle.seal(&token).expect("sealed"), "each sealing has its own salt");
        assert_eq!(Bundle::open(&sealed, &token).expect("opened").cluster_id, bundle.cluster_id);
        let other = Bundle::create(now).expect("created").token().expect("a token");
        assert!(Bundle::open(&sealed, &other).is_err());
        assert!(Bundle::open(&sealed, &token.for_agents()).is_err());
        let mut changed = STANDARD.decode(&sealed).expect("base64");
        changed[40] ^= 1;
        assert!(Bundle::open(&STANDARD.encode(changed), &token).is_err());
    }
}
