//! Bootstrap tokens: `ID.SECRET`, kept as Secrets in `kube-system` (`Spec:` Kubernetes "Authenticating with Bootstrap Tokens").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use trierarch_api::{GroupResource, Snapshot};

use crate::identity::User;

const SECRETS: GroupResource = GroupResource::new("", "secrets");
const DEFAULT_GROUP: &str = "system:bootstrappers";

/// A token's two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Public.
    pub id: String,
    /// Not.
    pub secret: String,
}

/// The parts of a token that has this form: six and sixteen characters of `a-z0-9`.
pub fn parts(token: &str) -> Option<Parts> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (plain(id, 6) && plain(secret, 16)).then(|| Parts { id: id.to_owned(), secret: secret.to_owned() })
}

/// The user of a token, if its Secret exists, matches, is meant for authentication and has not expired.
///
/// # Errors
/// Why not, for the log.
pub fn user(snapshot: &dyn Snapshot, token: &Parts, now: jiff::Timestamp) -> Result<User, String> {
    let name = format!("bootstrap-token-{}", token.id);
    let secret = snapshot.get(&SECRETS, "kube-system", &name).ok_or("no such bootstrap token")?;
    if secret.deletion_timestamp.is_some() {
        return Err("the bootstrap token is being deleted".to_owned());
    }
    let value = secret.value();
    if value["type"] != "bootstrap.kubernetes.io/token" {
        return Err("the secret is no bootstrap token".to_owned());
    }
    let field = |name: &str| field(&value, name);
    if !same(field("token-secret").as_bytes(), token.secret.as_bytes()) || field("token-id") != token.id {
        return Err("the bootstrap token does not match".to_owned());
    }
    let expiration = field("expiration");
    if !expiration.is_empty() && expiration.parse::<jiff::Timestamp>().map_err(|_ignored| "unreadable expiration")? <= now {
        return Err("the bootstrap token has expired".to_owned());
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication".to_owned());
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for group in field("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return Err(format!("the group {group:?} is not a bootstrap group"));
        }
        groups.push(group.to_owned());
    }
    Ok(User { name: format!("system:bootstrap:{}", token.id), groups, ..User::default() })
}

fn field(secret: &Value, name: &str) -> String {
    secret["data"][name]
        .as_str()
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_form_is_a_bootstrap_token() {
        assert!(parts("abcdef.0123456789abcdef").is_some());
        for other in ["abcdef.0123456789abcde", "abcde.0123456789abcdef", "ABCDEF.0123456789abcdef", "a.b.c", "eyJ.eyJ.sig"] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
