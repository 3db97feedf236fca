//! Service account tokens: ES256 JWTs bound to an account, and to a pod, secret or node if asked for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use trierarch_api::{GroupResource, Snapshot};
use x509_parser::prelude::FromDer as _;

use crate::config::ServiceAccountKeys;
use crate::identity::User;

const ACCOUNTS: GroupResource = GroupResource::new("", "serviceaccounts");

/// The claims of a token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// For whom.
    #[serde(default)]
    pub aud: Audiences,
    /// Until when.
    pub exp: i64,
    /// Since when.
    pub iat: i64,
    /// By whom.
    pub iss: String,
    /// Its own id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io", default)]
    pub private: Private,
    /// From when.
    pub nbf: i64,
    /// Of whom.
    pub sub: String,
}

/// One audience or many.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Audiences(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Audiences {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(one) => Self(vec![one]),
            OneOrMany::Many(many) => Self(many),
        }
    }
}

/// Upstream's private claims.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Private {
    /// The account's namespace.
    #[serde(default)]
    pub namespace: String,
    /// The pod's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The account.
    #[serde(default)]
    pub serviceaccount: Reference,
    /// When a holder should have asked for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and uid.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// Uid.
    #[serde(default)]
    pub uid: String,
}

struct PublicKey {
    id: String,
    key: DecodingKey,
    x: String,
    y: String,
}

/// Signs and verifies.
pub struct TokenKeys {
    signing: EncodingKey,
    signing_id: String,
    public: Vec<PublicKey>,
    issuer: String,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The private key.
    #[error("the service account signing key is not an ES256 key in PKCS#8 PEM")]
    Signing(#[source] jsonwebtoken::errors::Error),
    /// A public key.
    #[error("a service account verification key is not a P-256 public key in PEM")]
    Verification,
    /// None.
    #[error("no service account verification key")]
    Missing,
}

impl TokenKeys {
    /// Reads the keys; the first verification key is the signing key's own.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn new(keys: &ServiceAccountKeys) -> Result<Self, KeyError> {
        // another user of the library in this process may have chosen already, and either choice is fine
        let _ = jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER.install_default();
        let signing = EncodingKey::from_ec_pem(keys.signing_key_pem.as_bytes()).map_err(KeyError::Signing)?;
        let public = keys.verification_keys_pem.iter().map(|pem| public_key(pem)).collect::<Result<Vec<_>, _>>()?;
        let signing_id = public.first().ok_or(KeyError::Missing)?.id.clone();
        Ok(Self { signing, signing_id, public, issuer: keys.issuer.clone() })
    }

    /// Signs claims.
    ///
    /// # Errors
    /// The library's text.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.signing_id.clone());
        jsonwebtoken::encode(&header, claims, &self.signing).map_err(|error| error.to_string())
    }

    /// The issuer of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The user of a token, if it is genuine, current, meant for one of the audiences, and what it is bound to still exists; and the
    /// audiences it shares with those asked for.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn verify(
        &self,
        snapshot: &dyn Snapshot,
        token: &str,
        audiences: &[String],
        now: jiff::Timestamp,
    ) -> Result<(User, Vec<String>), String> {
        let claims = self.claims(token)?;
        if claims.iss != self.issuer {
            return Err("the token has another issuer".to_owned());
        }
        let shared: Vec<String> = audiences.iter().filter(|wanted| claims.aud.0.contains(wanted)).cloned().collect();
        if shared.is_empty() {
            return Err(format!("the token is for other audiences: {:?}", claims.aud.0));
        }
        check_bound(snapshot, &claims, now)?;
        Ok((user_of(&claims), shared))
    }

    fn claims(&self, token: &str) -> Result<Claims, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_aud = false;
        rules.validate_nbf = true;
        rules.leeway = 0;
        let mut last = "no key for the token".to_owned();
        for key in self.public.iter().filter(|key| header.kid.as_ref().is_none_or(|kid| *kid == key.id)) {
            match jsonwebtoken::decode::<Claims>(token, &key.key, &rules) {
                Ok(data) => return Ok(data.claims),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    /// The JSON Web Key Set of `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .public
            .iter()
            .map(|key| json!({"use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256", "x": key.x, "y": key.y}))
            .collect();
        json!({ "keys": keys })
    }

    /// `/.well-known/openid-configuration`.
    pub fn configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn public_key(pem: &str) -> Result<PublicKey, KeyError> {
    let key = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_ignored| KeyError::Verification)?;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_ignored| KeyError::Verification)?;
    let (_, spki) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_ignored| KeyError::Verification)?;
    // an uncompressed point: 4, x, y
    let point = spki.subject_public_key.data.as_ref();
    if point.len() != 65 || point[0] != 4 {
        return Err(KeyError::Verification);
    }
    Ok(PublicKey {
        id: URL_SAFE_NO_PAD.encode(Sha256::digest(&block.contents)),
        key,
        x: URL_SAFE_NO_PAD.encode(&point[1..33]),
        y: URL_SAFE_NO_PAD.encode(&point[33..]),
    })
}

fn check_bound(snapshot: &dyn Snapshot, claims: &Claims, now: jiff::Timestamp) -> Result<(), String> {
    let private = &claims.private;
    // an object on its way out still counts for its grace period and a minute, so that what it holds can finish
    let exists = |resource: GroupResource, namespace: &str, wanted: &Reference| {
        let found = snapshot.get(&resource, namespace, &wanted.name).ok_or_else(|| format!("{resource} {:?} not found", wanted.name))?;
        if found.uid.0 != wanted.uid {
            return Err(format!("{resource} {:?} was replaced", wanted.name));
        }
        if found.deletion_timestamp.is_some_and(|at| now.as_second() > at.as_second() + 60) {
            return Err(format!("{resource} {:?} was deleted", wanted.name));
        }
        Ok(())
    };
    exists(ACCOUNTS, &private.namespace, &private.serviceaccount)?;
    if let Some(pod) = &private.pod {
        exists(GroupResource::new("", "pods"), &private.namespace, pod)?;
    }
    if let Some(secret) = &private.secret {
        exists(GroupResource::new("", "secrets"), &private.namespace, secret)?;
    }
    if let (Some(node), None) = (&private.node, &private.pod) {
        exists(GroupResource::new("", "nodes"), "", node)?;
    }
    Ok(())
}

/// The groups of a service account.
pub fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]
}

fn user_of(claims: &Claims) -> User {
    let private = &claims.private;
    let mut user = User {
        name: format!("system:serviceaccount:{}:{}", private.namespace, private.serviceaccount.name),
        uid: private.serviceaccount.uid.clone(),
        groups: service_account_groups(&private.namespace),
        ..User::default()
    };
    let mut set = |key: &str, value: &str| {
        user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    if !claims.jti.is_empty() {
        set("credential-id", &format!("JTI={}", claims.jti));
    }
    if let Some(pod) = &private.pod {
        set("pod-name", &pod.name);
        set("pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        set("node-name", &node.name);
        set("node-uid", &node.uid);
    }
    user
}
