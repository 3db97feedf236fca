//! The join token: it pins the cluster's authority and proves that its bearer may join.
//!
//! Form: `tri-KIND.HASH.ID.SECRET`, where KIND is `server` or `agent`, HASH the SHA-256 of the authority's DER in hexadecimal, ID six
//! and SECRET 32 (server) or 16 (agent) characters of `a-z0-9`. A server token yields the agent token, never the other way round. `ID.AGENT-SECRET` is
//! a bootstrap token (`Spec:` Kubernetes "Authenticating with Bootstrap Tokens").

use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 6;
const SERVER_SECRET_LENGTH: usize = 32;
const AGENT_SECRET_LENGTH: usize = 16;

/// What a token admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Masters and agents.
    Server,
    /// Agents only.
    Agent,
}

/// A parsed join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// What it admits.
    pub admits: Admits,
    /// SHA-256 of the authority's DER, in hexadecimal.
    pub authority_hash: String,
    /// Names the token; public.
    pub id: String,
    /// The secret part.
    pub secret: String,
}

/// Not a join token; the text says which part is wrong, and never shows the secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: {0}")]
pub struct TokenError(&'static str);

impl JoinToken {
    /// A new server token for the cluster whose authority has this DER.
    pub fn generate(authority_der: &[u8]) -> Self {
        let mut rng = rand::rng();
        let mut text = |length: usize| (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect::<String>();
        Self { admits: Admits::Server, authority_hash: hash(authority_der), id: text(ID_LENGTH), secret: text(SERVER_SECRET_LENGTH) }
    }

    /// The token that admits agents only. Derived by hashing, so that it gives the server's secret away to nobody.
    pub fn for_agents(&self) -> Self {
        match self.admits {
            Admits::Agent => self.clone(),
            Admits::Server => {
                let digest = Sha256::digest(format!("trierarch agent secret of {}.{}", self.id, self.secret));
                let secret =
                    digest.iter().take(AGENT_SECRET_LENGTH).map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect();
                Self { admits: Admits::Agent, secret, ..self.clone() }
            }
        }
    }

    /// The bearer token by which an agent authenticates until it has a certificate.
    pub fn bootstrap_token(&self) -> String {
        let agent = self.for_agents();
        format!("{}.{}", agent.id, agent.secret)
    }

    /// Whether this is the authority that the token pins.
    pub fn pins(&self, authority_der: &[u8]) -> bool {
        constant_time_eq(hash(authority_der).as_bytes(), self.authority_hash.as_bytes())
    }

    /// What a joining master shows instead of the secret: it binds the request to a nonce.
    pub fn proof(&self, nonce: &str, request: &str) -> String {
        hmac(self.secret.as_bytes(), format!("trierarch join\n{}\n{nonce}\n{request}", self.id).as_bytes())
    }

    /// Whether a proof is right, in constant time.
    pub fn proves(&self, nonce: &str, request: &str, proof: &str) -> bool {
        constant_time_eq(self.proof(nonce, request).as_bytes(), proof.as_bytes())
    }
}

/// Compares without telling by its duration where two texts differ.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

/// SHA-256 of an authority's DER in hexadecimal.
pub fn hash(authority_der: &[u8]) -> String {
    hex::encode(Sha256::digest(authority_der))
}

fn hmac(key: &[u8], message: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    hex::encode(ring::hmac::sign(&key, message))
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.admits {
            Admits::Server => "server",
            Admits::Agent => "agent",
        };
        write!(f, "tri-{kind}.{}.{}.{}", self.authority_hash, self.id, self.secret)
    }
}

impl std::str::FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let mut next = || parts.next().ok_or(TokenError("it has four parts, separated by dots"));
        let (kind, authority_hash, id, secret) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(TokenError("it has four parts, separated by dots"));
        }
        let admits = match kind {
            "tri-server" => Admits::Server,
            "tri-agent" => Admits::Agent,
            _ => return Err(TokenError("it begins with tri-server or tri-agent")),
        };
        if authority_hash.len() != 64 || !authority_hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError("its second part is a SHA-256 in hexadecimal"));
        }
        let length = if admits == Admits::Server { SERVER_SECRET_LENGTH } else { AGENT_SECRET_LENGTH };
        let of_alphabet = |text: &str| text.bytes().all(|byte| ALPHABET.contains(&byte));
        if id.len() != ID_LENGTH || secret.len() != length || !of_alphabet(id) || !of_alphabet(secret) {
            return Err(TokenError("its last parts are an id of 6 and a secret of 32 (server) or 16 (agent) characters of a-z and 0-9"));
        }
        Ok(Self { admits, authority_hash: authority_hash.to_owned(), id: id.to_owned(), secret: secret.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_pins_its_authority() {
        let token = JoinToken::generate(b"authority");
        assert_eq!(token.to_string().parse(), Ok(token.clone()));
        assert!(token.pins(b"authority") && !token.pins(b"another"));
        let agent = token.for_agents();
        assert_eq!(agent.to_string().parse(), Ok(agent.clone()));
        assert_eq!(token.bootstrap_token(), agent.bootstrap_token());
        assert_ne!(agent.secret, token.secret[..AGENT_SECRET_LENGTH]);
    }

    #[test]
    fn a_proof_holds_for_one_nonce_and_one_request() {
        let token = JoinToken::generate(b"authority");
        let proof = token.proof("n1", "m2");
        assert!(token.proves("n1", "m2", &proof));
        assert!(!token.proves("n2", "m2", &proof) && !token.proves("n1", "m3", &proof));
        assert!(!JoinToken::generate(b"authority").proves("n1", "m2", &proof));
    }

    #[test]
    fn what_is_not_a_token_is_refused_without_showing_it() {
        for text in ["", "tri-server", "tri-x.a.b.c", "tri-agent.zz.abcdef.0123456789abcdef", "tri-server.a.b.c.d"] {
            let error = text.parse::<JoinToken>().expect_err("refused");
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
    }
}
