//! The token with which a node asks the masters' registry: of an account that every node may ask tokens of, and that may nothing but pull.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trierarch_client::Client;
use trierarch_images::{Auth, RegistryOptions};

use crate::clock;

const PATH: &str = "/api/v1/namespaces/kube-system/serviceaccounts/image-puller/token";
/// How long a token is asked for.
const LIFETIME_SECONDS: i64 = 3600;
/// A token that ends sooner is not used for a pull any more.
const REST_MIN: SignedDuration = SignedDuration::from_mins(10);

/// Asks for tokens and keeps the last one.
pub struct PullToken {
    client: Client,
    last: tokio::sync::Mutex<Option<(String, Timestamp)>>,
}

impl PullToken {
    /// Tokens from the masters that this client reaches.
    pub fn new(client: Client) -> Self {
        Self { client, last: tokio::sync::Mutex::default() }
    }

    /// The options with credentials for the masters; without the masters while they give none.
    pub async fn authenticated(&self, options: &RegistryOptions) -> RegistryOptions {
        let mut options = options.clone();
        if options.mirrors.is_empty() {
            return options;
        }
        match self.token().await {
            Some(token) => options.mirrors.iter_mut().for_each(|mirror| mirror.auth = Auth::Bearer(token.clone())),
            None => options.mirrors.clear(),
        }
        options
    }

    async fn token(&self) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some(token) = usable(last.as_ref(), clock::now()) {
            return Some(token);
        }
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": LIFETIME_SECONDS},
        });
        match self.client.create::<Value>(PATH, &request).await {
            Ok(answer) => {
                *last = granted(&answer);
                usable(last.as_ref(), clock::now())
            }
            Err(error) => {
                tracing::warn!(%error, "The masters gave no token for pulling images");
                None
            }
        }
    }
}

/// The token of an answer, with its end.
fn granted(answer: &Value) -> Option<(String, Timestamp)> {
    let status = &answer["status"];
    Some((status["token"].as_str()?.to_owned(), status["expirationTimestamp"].as_str()?.parse().ok()?))
}

/// A token that lasts long enough for a pull.
fn usable(token: Option<&(String, Timestamp)>, now: Timestamp) -> Option<String> {
    token.filter(|(_, end)| *end > now + REST_MIN).map(|(token, _)| token.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let answer = json!({"status": {"token": "t", "expirationTimestamp": "2026-01-01T01:00:00Z"}});
        let token = granted(&answer);
        let at = |text: &str| usable(token.as_ref(), text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:49:00Z").as_deref(), Some("t"));
        assert_eq!(at("2026-01-01T00:51:00Z"), None);
        assert_eq!(usable(None, "2026-01-01T00:00:00Z".parse().unwrap()), None);
        assert_eq!(granted(&json!({"status": {}})), None);
    }
}
