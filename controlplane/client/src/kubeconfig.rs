//! kubeconfig files: `KUBECONFIG`, `~/.kube/config`, `--kubeconfig`, contexts, and the in-cluster configuration of a pod.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Config, Error, TokenSource};
use crate::tls::{self, ClientIdentity};

/// The file's content, as far as a client needs it (`Spec:` client-go `clientcmd/api/v1`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeConfig {
    /// `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Config`.
    pub kind: String,
    /// Clusters by name.
    pub clusters: Vec<NamedCluster>,
    /// Contexts by name.
    pub contexts: Vec<NamedContext>,
    /// Which context is used.
    #[serde(rename = "current-context")]
    pub current_context: String,
    /// Users by name.
    pub users: Vec<NamedUser>,
}

/// A cluster with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedCluster {
    /// Name.
    pub name: String,
    /// Where and whom to trust.
    pub cluster: Cluster,
}

/// Where a cluster is and whom to trust.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Cluster {
    /// Base address.
    pub server: String,
    /// Authority, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Authority, a PEM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// Trust anyone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
}

/// A context with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedContext {
    /// Name.
    pub name: String,
    /// What it combines.
    pub context: Context,
}

/// A cluster, a user and a namespace.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Context {
    /// Cluster's name.
    pub cluster: String,
    /// User's name.
    pub user: String,
    /// Default namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A user with its name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NamedUser {
    /// Name.
    pub name: String,
    /// Credentials.
    pub user: User,
}

/// Credentials.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct User {
    /// Certificate, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Certificate, a PEM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// Key, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Key, a PEM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File of a bearer token, read again for each request.
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
}

/// A context resolved to what a client needs.
#[derive(Clone)]
pub struct Resolved {
    /// The client's configuration.
    pub config: Config,
    /// The context's namespace, `default` if it names none.
    pub namespace: String,
}

/// The files that are read when none is named: those of `KUBECONFIG`, else `~/.kube/config`.
pub fn default_paths() -> Vec<PathBuf> {
    match std::env::var_os("KUBECONFIG") {
        Some(list) if !list.is_empty() => std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect(),
        _ => std::env::var_os("HOME").map(|home| vec![Path::new(&home).join(".kube/config")]).unwrap_or_default(),
    }
}

/// Reads and merges files: the first that names a cluster, context, user or the current context wins. Missing files are passed over.
///
/// # Errors
/// [`Error::Config`] naming the file that is unreadable.
pub fn load(paths: &[PathBuf]) -> Result<KubeConfig, Error> {
    let mut merged = KubeConfig::default();
    for path in paths {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::Config(format!("{}: {error}", path.display()))),
        };
        let mut file: KubeConfig = serde_yaml::from_str(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        file.absolute(path.parent().unwrap_or(Path::new(".")));
        merged.absorb(file);
    }
    Ok(merged)
}

impl KubeConfig {
    fn absorb(&mut self, other: Self) {
        if self.current_context.is_empty() {
            self.current_context = other.current_context;
        }
        for entry in other.clusters {
            if !self.clusters.iter().any(|have| have.name == entry.name) {
                self.clusters.push(entry);
            }
        }
        for entry in other.contexts {
            if !self.contexts.iter().any(|have| have.name == entry.name) {
                self.contexts.push(entry);
            }
        }
        for entry in other.users {
            if !self.users.iter().any(|have| have.name == entry.name) {
                self.users.push(entry);
            }
        }
    }

    /// File names in a kubeconfig are relative to it.
    fn absolute(&mut self, folder: &Path) {
        let fix = |name: &mut Option<String>| {
            if let Some(text) = name {
                *text = folder.join(&*text).to_string_lossy().into_owned();
            }
        };
        for entry in &mut self.clusters {
            fix(&mut entry.cluster.certificate_authority);
        }
        for entry in &mut self.users {
            fix(&mut entry.user.client_certificate);
            fix(&mut entry.user.client_key);
            fix(&mut entry.user.token_file);
        }
    }

    /// What a client needs to use a context (the current one if none is named).
    ///
    /// # Errors
    /// [`Error::Config`] in kubectl's words when the context, cluster or user is missing.
    pub fn resolve(&self, context: Option<&str>, user_agent: &str) -> Result<Resolved, Error> {
        let name = context.unwrap_or(&self.current_context);
        if name.is_empty() && self.clusters.is_empty() {
            return Err(Error::Config("no configuration has been provided, try setting KUBECONFIG or --kubeconfig".to_owned()));
        }
        let chosen = self
            .contexts
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| &entry.context)
            .ok_or_else(|| Error::Config(format!("context {name:?} does not exist")))?;
        let cluster = self
            .clusters
            .iter()
            .find(|entry| entry.name == chosen.cluster)
            .map(|entry| &entry.cluster)
            .ok_or_else(|| Error::Config(format!("cluster {:?} does not exist", chosen.cluster)))?;
        let empty = User::default();
        let user = self.users.iter().find(|entry| entry.name == chosen.user).map_or(&empty, |entry| &entry.user);
        let identity = user.identity()?;
        let tls = if cluster.insecure_skip_tls_verify {
            tls::insecure(identity)
        } else {
            let authority = material(cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref())?
                .ok_or_else(|| Error::Config(format!("cluster {:?} names no certificate-authority", chosen.cluster)))?;
            tls::config(&authority, identity)
        }
        .map_err(|e| Error::Config(e.to_string()))?;
        Ok(Resolved {
            config: Config {
                servers: vec![cluster.server.clone()],
                tls: Arc::new(tls),
                token: user.token_source(),
                user_agent: user_agent.to_owned(),
                timeout: Duration::from_secs(60),
            },
            namespace: chosen.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned()),
        })
    }
}

impl User {
    fn identity(&self) -> Result<Option<Arc<ClientIdentity>>, Error> {
        let certificate = material(self.client_certificate_data.as_deref(), self.client_certificate.as_deref())?;
        let key = material(self.client_key_data.as_deref(), self.client_key.as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                ClientIdentity::from_pem(&certificate, &key).map(Some).map_err(|e| Error::Config(e.to_string()))
            }
            (None, None) => Ok(None),
            _ => Err(Error::Config("client-certificate and client-key must be given together".to_owned())),
        }
    }

    fn token_source(&self) -> Option<TokenSource> {
        if let Some(token) = self.token.clone().filter(|token| !token.is_empty()) {
            return Some(Arc::new(move || Some(token.clone())));
        }
        let path = PathBuf::from(self.token_file.clone()?);
        Some(Arc::new(move || std::fs::read_to_string(&path).ok().map(|text| text.trim().to_owned())))
    }
}

fn material(data: Option<&str>, file: Option<&str>) -> Result<Option<String>, Error> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim()).map_err(|e| Error::Config(e.to_string()))?;
        return String::from_utf8(bytes).map(Some).map_err(|e| Error::Config(e.to_string()));
    }
    match file.filter(|file| !file.is_empty()) {
        Some(path) => std::fs::read_to_string(path).map(Some).map_err(|e| Error::Config(format!("{path}: {e}"))),
        None => Ok(None),
    }
}

/// A client of the cluster that these files' current context names.
///
/// # Errors
/// [`Error::Config`].
pub fn client(paths: &[PathBuf], context: Option<&str>, user_agent: &str) -> Result<(Client, String), Error> {
    let resolved = load(paths)?.resolve(context, user_agent)?;
    Ok((Client::new(resolved.config)?, resolved.namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_wins_and_paths_are_relative_to_their_file() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let one = folder.path().join("one");
        let two = folder.path().join("two");
        std::fs::write(
            &one,
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}]\nusers: [{name: u, user: {tokenFile: t}}]\n",
        )
        .expect("written");
        std::fs::write(
            &two,
            "current-context: b\nclusters: [{name: c, cluster: {server: 'https://x:1', insecure-skip-tls-verify: true}}]\nusers: [{name: u, user: {token: no}}]\n",
        )
        .expect("written");
        let merged = load(&[one, folder.path().join("missing"), two]).expect("both files are readable");
        assert_eq!(merged.current_context, "a");
        assert_eq!(merged.users[0].user.token_file.as_deref(), folder.path().join("t").to_str());
        let resolved = merged.resolve(None, "test").expect("the context is complete");
        assert_eq!((resolved.namespace.as_str(), resolved.config.servers[0].as_str()), ("shop", "https://x:1"));
        std::fs::write(folder.path().join("t"), "secret\n").expect("written");
        assert_eq!(resolved.config.token.and_then(|source| source()), Some("secret".to_owned()));
        assert!(merged.resolve(Some("zzz"), "test").is_err());
    }
}
