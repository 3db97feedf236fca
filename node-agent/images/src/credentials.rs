//! Who we are to a registry: the forms of `~/.docker/config.json` and of pull secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use serde::Deserialize;

use crate::reference::Reference;

/// How to authenticate to one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    #[default]
    Anonymous,
    /// User name and password.
    Basic {
        /// User name.
        username: String,
        /// Password or access token.
        password: String,
    },
    /// A token sent as it is.
    Bearer(String),
}

/// Credentials by registry, from one or several configuration files; earlier ones win.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    /// Pattern (host, optional port and path, wildcards in the host) and credentials.
    entries: Vec<(String, Auth)>,
}

/// Why a credentials file was not understood.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not the JSON that is expected.
    #[error("parse registry credentials")]
    Parse(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keychain {
    /// No credentials.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds those of a `.dockerconfigjson` (`{"auths": {...}}`) or a legacy `.dockercfg` (the map itself).
    ///
    /// # Errors
    /// It is neither.
    pub fn add_docker_config(&mut self, json: &[u8]) -> Result<(), CredentialsError> {
        let file: ConfigFile = serde_json::from_slice(json)?;
        let auths = match file.auths {
            Some(auths) => auths,
            None => serde_json::from_slice::<BTreeMap<String, Entry>>(json).unwrap_or_default(),
        };
        self.entries.extend(auths.into_iter().filter_map(|(key, entry)| Some((pattern(&key), entry.auth()?))));
        // The most specific first; the order of files breaks ties because the sort is stable.
        Ok(())
    }

    /// Adds those of a file, if it exists.
    ///
    /// # Errors
    /// It exists and cannot be read.
    pub fn add_file(&mut self, path: &Path) -> Result<(), CredentialsError> {
        match std::fs::read(path) {
            Ok(json) => self.add_docker_config(&json),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(CredentialsError::Read { path: path.to_owned(), source }),
        }
    }

    /// Adds one entry.
    pub fn add(&mut self, host: &str, auth: Auth) {
        self.entries.push((pattern(host), auth));
    }

    /// All credentials that fit an image's repository, the most specific pattern first. A registry is asked with each in turn.
    pub fn lookup(&self, reference: &Reference) -> Vec<Auth> {
        let mut fitting: Vec<&(String, Auth)> = self.entries.iter().filter(|(pattern, _)| fits(pattern, reference)).collect();
        fitting.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        let mut auths: Vec<Auth> = Vec::new();
        for (_, auth) in fitting {
            if !auths.contains(auth) {
                auths.push(auth.clone());
            }
        }
        auths
    }
}

impl Entry {
    fn auth(self) -> Option<Auth> {
        if !self.registrytoken.is_empty() {
            return Some(Auth::Bearer(self.registrytoken));
        }
        let (username, password) = match self.auth.is_empty() {
            true => (self.username, self.password),
            false => {
                let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok()?;
                let text = String::from_utf8(decoded).ok()?;
                let (username, password) = text.split_once(':')?;
                (username.to_owned(), password.trim_end_matches('\0').to_owned())
            }
        };
        if !self.identitytoken.is_empty() {
            return Some(Auth::Basic { username: "<token>".to_owned(), password: self.identitytoken });
        }
        (!username.is_empty()).then_some(Auth::Basic { username, password })
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username}, ...)"),
            Self::Bearer(_) => f.write_str("Bearer(...)"),
        }
    }
}

/// Keys are hosts or URLs: `https://index.docker.io/v1/`, `gcr.io/project`, `*.example.com`.
fn pattern(key: &str) -> String {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// Spec: Kubernetes' rules for pull secrets: each part of the host may be a glob, the port must be equal, the path is a prefix.
fn fits(pattern: &str, reference: &Reference) -> bool {
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let split_port = |host: &str| -> (String, String) {
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (name.to_owned(), port.to_owned())
    };
    let ((pattern_name, pattern_port), (name, port)) = (split_port(host), split_port(reference.host()));
    let parts: Vec<&str> = pattern_name.split('.').collect();
    let host_parts: Vec<&str> = name.split('.').collect();
    pattern_port == port
        && parts.len() == host_parts.len()
        && parts.iter().zip(&host_parts).all(|(glob, text)| crate::build::glob::matches_component(glob.as_bytes(), text.as_bytes()))
        && reference.path().starts_with(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keychain(json: &str) -> Keychain {
        let mut keychain = Keychain::empty();
        keychain.add_docker_config(json.as_bytes()).unwrap();
        keychain
    }

    fn user_for(keychain: &Keychain, image: &str) -> Vec<String> {
        let auths = keychain.lookup(&Reference::parse(image).unwrap());
        auths
            .iter()
            .map(|auth| match auth {
                Auth::Basic { username, password } => format!("{username}:{password}"),
                Auth::Bearer(token) => token.clone(),
                Auth::Anonymous => "-".to_owned(),
            })
            .collect()
    }

    #[test]
    fn docker_files_are_understood() {
        // "me:secret"
        let keys = keychain(
            r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},"k.io":{"username":"u","password":"p"},"k.io/team":{"username":"t","password":"q"},
                "*.example.com":{"registrytoken":"tok"},"h:5000":{"identitytoken":"it","auth":"bWU6c2VjcmV0"}}}"#,
        );
        assert_eq!(user_for(&keys, "busybox"), ["me:secret"]);
        assert_eq!(user_for(&keys, "k.io/x"), ["u:p"]);
        assert_eq!(user_for(&keys, "k.io/team/x"), ["t:q", "u:p"]);
        assert_eq!(user_for(&keys, "a.example.com/x"), ["tok"]);
        assert!(user_for(&keys, "a.b.example.com/x").is_empty());
        assert!(user_for(&keys, "h:5001/x").is_empty());
        assert_eq!(user_for(&keys, "h:5000/x"), ["<token>:it"]);
        assert_eq!(user_for(&keychain(r#"{"k.io":{"username":"u","password":"p"}}"#), "k.io/x"), ["u:p"], "legacy form");
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Auth::Basic { username: "u".into(), password: "hidden".into() }), "Basic(u, ...)");
    }
}
