//! Which cluster a command talks to: kubeconfig files with what the flags say instead, or the configuration inside a pod.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use trierarch_client::kubeconfig::{self, KubeConfig};
use trierarch_client::{Client, tls};

use super::globals::Globals;

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Without `--request-timeout` a request has no limit of its own; a server that is silent for so long is dead.
const LONGEST_REQUEST: Duration = Duration::from_secs(24 * 3600);

/// A client and the namespace it works in.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The namespace of the flags, else of the context, else `default`.
    pub namespace: String,
}

/// The files that are read: the flag's alone, else those of `KUBECONFIG`, else `~/.kube/config`.
pub fn paths(globals: &Globals) -> Vec<PathBuf> {
    globals.kubeconfig.clone().map_or_else(kubeconfig::default_paths, |path| vec![path])
}

/// The client that flags and files describe.
///
/// # Errors
/// In kubectl's words when a context, cluster or user does not exist.
pub fn connect(globals: &Globals) -> anyhow::Result<Connection> {
    if let Some(path) = &globals.kubeconfig
        && !path.exists()
    {
        bail!("stat {}: no such file or directory", path.display());
    }
    let files = kubeconfig::load(&paths(globals))?;
    let empty = files.clusters.is_empty() && files.contexts.is_empty() && files.current_context.is_empty();
    if empty && globals.server.is_none() {
        if globals.context.is_some() {
            bail!("context {:?} does not exist", globals.context.as_deref().unwrap_or_default());
        }
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(SERVICE_ACCOUNT).join("token").exists() {
            return in_cluster(globals);
        }
    }
    let mut chosen = choose(files, globals)?;
    if let Some(user) = chosen.users.first_mut()
        && user.user.token.is_none()
        && let Some(token) = plugin_token(globals, &user.name)?
    {
        user.user.token = Some(token);
    }
    let resolved = chosen.resolve(Some("chosen"), &user_agent())?;
    let namespace = globals.namespace.clone().unwrap_or(resolved.namespace);
    finish(resolved.config, namespace, globals)
}

fn finish(mut config: trierarch_client::Config, namespace: String, globals: &Globals) -> anyhow::Result<Connection> {
    let limit = globals.request_limit()?;
    config.timeout = if limit.is_zero() { LONGEST_REQUEST } else { limit };
    Ok(Connection { client: Client::new(config)?, namespace })
}

fn user_agent() -> String {
    format!("kubectl/{} (linux) trierarch/{}", trierarch_api::VERSION, env!("CARGO_PKG_VERSION"))
}

/// One context named `chosen`, with one cluster and one user: the files' with the flags' words over them.
fn choose(files: KubeConfig, globals: &Globals) -> anyhow::Result<KubeConfig> {
    let wanted = globals.context.as_deref().unwrap_or(&files.current_context);
    let context = files.contexts.iter().find(|entry| entry.name == wanted).map(|entry| entry.context.clone());
    if context.is_none() && !wanted.is_empty() {
        match &globals.context {
            Some(name) => bail!("context {name:?} does not exist"),
            None if globals.server.is_none() => bail!("current-context: {wanted:?} does not exist"),
            None => {}
        }
    }
    let context = context.unwrap_or_default();
    let cluster_name = globals.cluster.clone().unwrap_or(context.cluster);
    let mut cluster = match files.clusters.iter().find(|entry| entry.name == cluster_name) {
        Some(entry) => entry.cluster.clone(),
        None if globals.cluster.is_some() => bail!("cluster {cluster_name:?} does not exist"),
        None => kubeconfig::Cluster::default(),
    };
    let user_name = globals.user.last().cloned().unwrap_or(context.user);
    let mut user = match files.users.iter().find(|entry| entry.name == user_name) {
        Some(entry) => entry.user.clone(),
        None if !globals.user.is_empty() => bail!("auth info {user_name:?} does not exist"),
        None => kubeconfig::User::default(),
    };
    if let Some(server) = &globals.server {
        cluster.server = if server.contains("://") { server.clone() } else { format!("http://{server}") };
    }
    if cluster.server.is_empty() {
        cluster.server = "http://localhost:8080".to_owned();
    }
    if let Some(authority) = &globals.certificate_authority {
        cluster.certificate_authority_data = None;
        cluster.certificate_authority = Some(authority.clone());
    }
    // an address without TLS has nobody to trust
    if globals.insecure_skip_tls_verify || cluster.server.starts_with("http://") {
        cluster.insecure_skip_tls_verify = true;
    }
    if let Some(token) = &globals.token {
        user = kubeconfig::User { token: Some(token.clone()), ..kubeconfig::User::default() };
    }
    if let (Some(certificate), Some(key)) = (&globals.client_certificate, &globals.client_key) {
        user.client_certificate_data = None;
        user.client_key_data = None;
        user.client_certificate = Some(certificate.clone());
        user.client_key = Some(key.clone());
    }
    Ok(KubeConfig {
        api_version: "v1".to_owned(),
        kind: "Config".to_owned(),
        clusters: vec![kubeconfig::NamedCluster { name: cluster_name.clone(), cluster }],
        contexts: vec![kubeconfig::NamedContext {
            name: "chosen".to_owned(),
            context: kubeconfig::Context { cluster: cluster_name, user: user_name.clone(), namespace: context.namespace },
        }],
        current_context: "chosen".to_owned(),
        users: vec![kubeconfig::NamedUser { name: user_name, user }],
    })
}

fn in_cluster(globals: &Globals) -> anyhow::Result<Connection> {
    let folder = Path::new(SERVICE_ACCOUNT);
    let host = std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default();
    let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_unset| "443".to_owned());
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let authority = std::fs::read_to_string(folder.join("ca.crt")).context("cannot read the service account's authority")?;
    let token_path = folder.join("token");
    let namespace =
        std::fs::read_to_string(folder.join("namespace")).map_or_else(|_none| "default".to_owned(), |text| text.trim().to_owned());
    let config = trierarch_client::Config {
        servers: vec![format!("https://{host}:{port}")],
        tls: Arc::new(tls::config(&authority, None)?),
        token: Some(match globals.token.clone() {
            Some(token) => Arc::new(move || Some(token.clone())),
            None => Arc::new(move || std::fs::read_to_string(&token_path).ok().map(|text| text.trim().to_owned())),
        }),
        user_agent: user_agent(),
        timeout: LONGEST_REQUEST,
    };
    finish(config, globals.namespace.clone().unwrap_or(namespace), globals)
}

/// The token that a credential plugin prints (`Spec:` client.authentication.k8s.io ExecCredential), if the user names one.
fn plugin_token(globals: &Globals, user: &str) -> anyhow::Result<Option<String>> {
    let file = raw(&paths(globals))?;
    let entry = file["users"].as_array().into_iter().flatten().find(|entry| entry["name"] == user);
    let Some(plugin) = entry.map(|entry| &entry["user"]["exec"]).filter(|plugin| plugin.is_object()) else {
        return Ok(None);
    };
    let program = plugin["command"].as_str().context("exec: the user names no command")?;
    let info = json!({"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": {"interactive": false}});
    let mut command = Command::new(program);
    command.args(plugin["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for variable in plugin["env"].as_array().into_iter().flatten() {
        command.env(variable["name"].as_str().unwrap_or_default(), variable["value"].as_str().unwrap_or_default());
    }
    let output = command
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("exec: executable {program} not found"))?;
    if !output.status.success() {
        bail!("getting credentials: exec: executable {program} failed with {}", output.status);
    }
    let credential: Value = serde_json::from_slice(&output.stdout).context("getting credentials: the plugin printed no JSON")?;
    let token = credential["status"]["token"].as_str().context("getting credentials: the plugin gave no token")?;
    Ok(Some(token.to_owned()))
}

/// The merged files as they are written, with everything that a client does not need.
///
/// # Errors
/// When a file cannot be read.
pub fn raw(paths: &[PathBuf]) -> anyhow::Result<Value> {
    let mut merged = json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "contexts": [], "users": [], "current-context": "", "preferences": {}});
    for path in paths {
        let file = read(path)?;
        if merged["current-context"] == "" && file["current-context"].is_string() {
            merged["current-context"] = file["current-context"].clone();
        }
        for part in ["clusters", "contexts", "users"] {
            for entry in file[part].as_array().into_iter().flatten() {
                let known = merged[part].as_array().into_iter().flatten().any(|have| have["name"] == entry["name"]);
                if !known && let Some(list) = merged[part].as_array_mut() {
                    list.push(entry.clone());
                }
            }
        }
    }
    Ok(merged)
}

/// One file; an empty one if it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Value> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_yaml::from_str(&text).with_context(|| format!("error loading config file {:?}", path.display().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(json!({})),
        Err(error) => Err(error).with_context(|| format!("error loading config file {:?}", path.display().to_string())),
    }
}

/// Replaces a file as a whole, readable by its owner alone.
///
/// # Errors
/// The system's error with the path.
pub fn write(path: &Path, content: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let new = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .with_context(|| format!("cannot write {}", new.display()))?;
    file.write_all(super::print::yaml::text(content).as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> KubeConfig {
        serde_yaml::from_str(
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}]\n\
             clusters: [{name: c, cluster: {server: 'https://x:1'}}, {name: d, cluster: {server: 'https://y:1'}}]\nusers: [{name: u, user: {token: t}}]\n",
        )
        .expect("it is a kubeconfig")
    }

    #[test]
    fn flags_go_over_files() {
        let chosen = choose(files(), &Globals::default()).expect("the context is complete");
        assert_eq!((chosen.clusters[0].cluster.server.as_str(), chosen.users[0].user.token.as_deref()), ("https://x:1", Some("t")));
        let other = Globals { cluster: Some("d".to_owned()), token: Some("mine".to_owned()), ..Globals::default() };
        let chosen = choose(files(), &other).expect("the cluster exists");
        assert_eq!((chosen.clusters[0].cluster.server.as_str(), chosen.users[0].user.token.as_deref()), ("https://y:1", Some("mine")));
        let bare = Globals { server: Some("127.0.0.1:1".to_owned()), ..Globals::default() };
        assert_eq!(choose(files(), &bare).expect("an address is enough").clusters[0].cluster.server, "http://127.0.0.1:1");
    }

    #[test]
    fn what_does_not_exist_is_named() {
        let context = Globals { context: Some("zzz".to_owned()), ..Globals::default() };
        assert_eq!(choose(files(), &context).expect_err("no such context").to_string(), "context \"zzz\" does not exist");
        let user = Globals { user: vec!["zzz".to_owned()], ..Globals::default() };
        assert_eq!(choose(files(), &user).expect_err("no such user").to_string(), "auth info \"zzz\" does not exist");
    }

    #[test]
    fn files_are_merged_with_what_clients_do_not_need() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "users: [{name: u, user: {exec: {command: x}}}]\n").expect("written");
        std::fs::write(&two, "current-context: b\nusers: [{name: u, user: {token: no}}, {name: v, user: {}}]\n").expect("written");
        let merged = raw(&[one.clone(), two]).expect("both are readable");
        assert_eq!((merged["users"][0]["user"]["exec"]["command"].as_str(), merged["current-context"].as_str()), (Some("x"), Some("b")));
        write(&one, &merged).expect("it can be written");
        assert_eq!(read(&one).expect("it reads back"), merged);
    }
}
