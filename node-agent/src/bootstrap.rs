//! How a node gets its names: a client certificate for `system:node:NAME` and a serving certificate, both by certificate signing requests
//! (`Spec:` Kubernetes "TLS bootstrapping"), renewed when two thirds of their life have passed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use trierarch_client::{Client, ClientIdentity, Config, Error, JoinToken, fetch_authority, tls};

const COLLECTION: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// How long an approval may take before the request is made anew.
const APPROVAL_PATIENCE: Duration = Duration::from_secs(20);
/// How long a watch may say nothing before the request is read again.
const WATCH_PATIENCE: Duration = Duration::from_secs(4);
/// How long to wait after a watch that did not begin.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// What a node needs to join.
#[derive(Clone)]
pub struct Join {
    /// Name of the node.
    pub node_name: String,
    /// Its addresses, for the serving certificate.
    pub addresses: Vec<IpAddr>,
    /// Base addresses of the masters.
    pub servers: Vec<String>,
    /// Pins the authority and admits the node; not needed once it has its certificate.
    pub token: Option<JoinToken>,
    /// Where keys and certificates are kept.
    pub pki_dir: PathBuf,
    /// `User-Agent` of the node's requests.
    pub user_agent: String,
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The masters refused or did not answer.
    #[error("cannot obtain a certificate from the masters")]
    Client(#[from] Error),
    /// A file could not be read or written.
    #[error("cannot use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No certificate and no token.
    #[error("this node has no certificate in {0} yet: give it a join token")]
    NoToken(PathBuf),
    /// A request could not be made.
    #[error("cannot make a certificate signing request")]
    Request(#[from] rcgen::Error),
    /// Somebody denied it.
    #[error("the certificate signing request was denied: {0}")]
    Denied(String),
    /// Nobody approved it in time.
    #[error("the certificate signing request {0} was not approved in time")]
    NotApproved(String),
    /// Certificate and key do not fit, or are unreadable.
    #[error("unusable certificate: {0}")]
    Unusable(String),
}

/// The node's serving certificate; none until the masters have signed the first.
#[derive(Debug, Default)]
pub struct ServingIdentity(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for ServingIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

/// The identity of a node that has joined.
#[derive(Clone)]
pub struct Identity {
    /// Speaks as `system:node:NAME`.
    pub client: Client,
    /// PEM of the cluster's authority.
    pub authority_pem: String,
    /// For the streaming server; filled by [`Identity::keep_serving_certificate`].
    pub serving: Arc<ServingIdentity>,
    join: Join,
    presented: Arc<ClientIdentity>,
}

impl Identity {
    /// Joins: reads what an earlier start left, or asks for it. Waits for masters that are not there yet.
    ///
    /// # Errors
    /// [`BootstrapError`]; a wrong pin, a missing token and a denial are final.
    pub async fn obtain(join: Join) -> Result<Self, BootstrapError> {
        std::fs::create_dir_all(&join.pki_dir).map_err(|source| BootstrapError::File { path: join.pki_dir.clone(), source })?;
        let authority_pem = authority(&join).await?;
        let (certificate, key) = match load(&join.pki_dir, "client")? {
            Some(pair) if remaining(&pair.0).is_some_and(|left| left.is_positive()) => pair,
            Some((expired, _)) => {
                let end = validity(&expired).map(|(_, end)| end.to_string());
                tracing::warn!(node = join.node_name, end, "The node's client certificate has expired, joining again with the token");
                first_certificate(&join, &authority_pem).await?
            }
            None => first_certificate(&join, &authority_pem).await?,
        };
        let presented = ClientIdentity::from_pem(&certificate, &key).map_err(|e| BootstrapError::Unusable(e.to_string()))?;
        let client = client(&join, &authority_pem, Some(Arc::clone(&presented)), None)?;
        let serving = Arc::new(ServingIdentity::default());
        if let Some((certificate, key)) = load(&join.pki_dir, "serving")?
            && remaining(&certificate).is_some_and(|left| left.is_positive())
        {
            serving.0.store(Some(Arc::new(certified(&certificate, &key)?)));
        }
        Ok(Self { client, authority_pem, serving, join, presented })
    }

    /// Renews the client certificate for ever. Failures are logged and tried again.
    pub async fn keep_client_certificate(self) {
        loop {
            wait_for_renewal(&self.join.pki_dir, "client").await;
            let renewed = async {
                let (certificate, key) = if has_expired(&self.join.pki_dir, "client") {
                    tracing::warn!(node = self.join.node_name, "The node's client certificate has expired, joining again with the token");
                    // no master was there to renew it in time
                    first_certificate(&self.join, &self.authority_pem).await?
                } else {
                    let (request, key) = signing_request(&self.join.node_name, &[], &[])?;
                    let certificate = signed(&self.client, &request, CLIENT_SIGNER, &["digital signature", "client auth"]).await?;
                    save(&self.join.pki_dir, "client", &certificate, &key)?;
                    (certificate, key)
                };
                self.presented.replace(&certificate, &key).map_err(|e| BootstrapError::Unusable(e.to_string()))
            };
            report("client", renewed.await).await;
        }
    }

    /// Asks for the serving certificate and renews it for ever. The node must have registered its addresses first: masters approve no others.
    pub async fn keep_serving_certificate(self) {
        loop {
            if self.serving.0.load().is_some() {
                wait_for_renewal(&self.join.pki_dir, "serving").await;
            }
            let renewed = async {
                let (request, key) =
                    signing_request(&self.join.node_name, std::slice::from_ref(&self.join.node_name), &self.join.addresses)?;
                let certificate = signed(&self.client, &request, SERVING_SIGNER, &["digital signature", "server auth"]).await?;
                let usable = certified(&certificate, &key)?;
                save(&self.join.pki_dir, "serving", &certificate, &key)?;
                self.serving.0.store(Some(Arc::new(usable)));
                Ok(())
            };
            report("serving", renewed.await).await;
        }
    }
}

async fn report(which: &str, outcome: Result<(), BootstrapError>) {
    match outcome {
        Ok(()) => tracing::info!(certificate = which, "Obtained a certificate"),
        Err(error) => {
            tracing::warn!(certificate = which, error = &error as &dyn std::error::Error, "Could not obtain a certificate, trying again");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

fn client(join: &Join, authority: &str, identity: Option<Arc<ClientIdentity>>, token: Option<String>) -> Result<Client, BootstrapError> {
    let config = tls::config(authority, identity).map_err(|e| BootstrapError::Unusable(e.to_string()))?;
    Ok(Client::new(Config {
        servers: join.servers.clone(),
        tls: Arc::new(config),
        token: token.map(|token| Arc::new(move || Some(token.clone())) as trierarch_client::TokenSource),
        user_agent: join.user_agent.clone(),
        timeout: Duration::from_secs(10),
    })?)
}

/// The pinned authority, from disk or from a master.
async fn authority(join: &Join) -> Result<String, BootstrapError> {
    let path = join.pki_dir.join("authority.pem");
    match std::fs::read_to_string(&path) {
        Ok(pem) => return Ok(pem),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(BootstrapError::File { path, source }),
    }
    let token = join.token.as_ref().ok_or_else(|| BootstrapError::NoToken(join.pki_dir.clone()))?;
    let pem = retry_while_unreachable(|| fetch_authority(&join.servers, token)).await?;
    write(&path, &pem)?;
    Ok(pem)
}

async fn first_certificate(join: &Join, authority: &str) -> Result<(String, String), BootstrapError> {
    let token = join.token.as_ref().ok_or_else(|| BootstrapError::NoToken(join.pki_dir.clone()))?;
    let client = client(join, authority, None, Some(token.bootstrap_token()))?;
    loop {
        let (request, key) = signing_request(&join.node_name, &[], &[])?;
        match signed(&client, &request, CLIENT_SIGNER, &["digital signature", "client auth"]).await {
            Ok(certificate) => {
                save(&join.pki_dir, "client", &certificate, &key)?;
                return Ok((certificate, key));
            }
            Err(error @ BootstrapError::NotApproved(_)) => tracing::warn!(%error, "Asking for a certificate again"),
            Err(error) => return Err(error),
        }
    }
}

/// Repeats while masters are not there yet, or answer that they cannot serve (elections, start-up).
async fn retry_while_unreachable<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let passing = match &error {
            Error::Transport { .. } => true,
            // a token that the masters do not know yet becomes known when the first leader has written it
            Error::Api(refused) => refused.reason.code() >= 500 || matches!(refused.reason.code(), 401 | 403 | 404 | 429),
            _ => false,
        };
        if !passing {
            return Err(error);
        }
        tracing::debug!(%error, "Masters are not ready yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn signing_request(node: &str, dns_names: &[String], addresses: &[IpAddr]) -> Result<(String, String), BootstrapError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(dns_names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    Ok((params.serialize_request(&key)?.pem()?, key.serialize_pem()))
}

/// Sends a request and waits for its certificate.
async fn signed(client: &Client, request: &str, signer: &str, usages: &[&str]) -> Result<String, BootstrapError> {
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {"request": STANDARD.encode(request), "signerName": signer, "usages": usages},
    });
    let created: Value = retry_while_unreachable(|| client.create(COLLECTION, &object)).await?;
    let name = created["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    tracing::info!(name, signer, "Asked for a certificate");
    let waiting = decided(client, &name, created["metadata"]["resourceVersion"].as_str().unwrap_or_default());
    tokio::time::timeout(APPROVAL_PATIENCE, waiting).await.unwrap_or(Err(BootstrapError::NotApproved(name)))
}

/// Waits for the outcome of a request. Watches, and asks again whenever a watch ends, fails or says nothing for a while: a change that one
/// master does not tell is not waited for in vain.
async fn decided(client: &Client, name: &str, created: &str) -> Result<String, BootstrapError> {
    let path = format!("{COLLECTION}/{name}");
    let mut version = created.to_owned();
    loop {
        if let Ok(Some(outcome)) = tokio::time::timeout(WATCH_PATIENCE, watched(client, name, &version)).await {
            return outcome;
        }
        let current: Value = retry_while_unreachable(|| client.get(&path)).await?;
        if let Some(outcome) = outcome(&current) {
            return outcome;
        }
        tracing::info!(name, "Still waiting for the certificate");
        version = current["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    }
}

/// The outcome that a watch tells; `None` when the watch ends before.
async fn watched(client: &Client, name: &str, version: &str) -> Option<Result<String, BootstrapError>> {
    let seconds = WATCH_PATIENCE.as_secs();
    let target = format!("{COLLECTION}?fieldSelector=metadata.name%3D{name}&resourceVersion={version}&timeoutSeconds={seconds}");
    let mut events = match client.watch(&target).await {
        Ok(events) => events,
        Err(error) => {
            tracing::debug!(name, %error, "Could not watch the certificate signing request");
            tokio::time::sleep(WATCH_PAUSE).await;
            return None;
        }
    };
    while let Some(Ok(event)) = events.next().await {
        if let Some(outcome) = outcome(event.object()) {
            return Some(outcome);
        }
    }
    None
}

/// What a request's status says: the certificate, a denial, or nothing yet.
fn outcome(request: &Value) -> Option<Result<String, BootstrapError>> {
    for condition in request["status"]["conditions"].as_array().into_iter().flatten() {
        if matches!(condition["type"].as_str(), Some("Denied" | "Failed")) {
            return Some(Err(BootstrapError::Denied(condition["message"].as_str().unwrap_or_default().to_owned())));
        }
    }
    let encoded = request["status"]["certificate"].as_str().filter(|text| !text.is_empty())?;
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Some(pem.ok_or_else(|| BootstrapError::Unusable("status.certificate is not base64 of PEM".to_owned())))
}

fn certified(certificate: &str, key: &str) -> Result<CertifiedKey, BootstrapError> {
    let unusable = |text: String| BootstrapError::Unusable(text);
    let chain = tls::certificates(certificate).map_err(|e| unusable(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| unusable(e.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|e| unusable(e.to_string()))
}

fn validity(certificate: &str) -> Option<(Timestamp, Timestamp)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let validity = pem.parse_x509().ok()?.validity().clone();
    Some((Timestamp::from_second(validity.not_before.timestamp()).ok()?, Timestamp::from_second(validity.not_after.timestamp()).ok()?))
}

fn remaining(certificate: &str) -> Option<SignedDuration> {
    validity(certificate).map(|(_, end)| end.duration_since(Timestamp::now()))
}

/// When a certificate is renewed: after two thirds of its life.
fn renewal(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    not_before + not_after.duration_since(not_before) * 2 / 3
}

fn has_expired(pki_dir: &Path, name: &str) -> bool {
    let left = load(pki_dir, name).ok().flatten().and_then(|(certificate, _)| remaining(&certificate));
    left.is_none_or(|left| !left.is_positive())
}

async fn wait_for_renewal(pki_dir: &Path, name: &str) {
    let due =
        load(pki_dir, name).ok().flatten().and_then(|(certificate, _)| validity(&certificate)).map(|(start, end)| renewal(start, end));
    let wait = due.map_or(SignedDuration::ZERO, |due| due.duration_since(Timestamp::now()));
    tokio::time::sleep(wait.try_into().unwrap_or_default()).await;
}

fn load(pki_dir: &Path, name: &str) -> Result<Option<(String, String)>, BootstrapError> {
    let read = |suffix: &str| {
        let path = pki_dir.join(format!("{name}.{suffix}"));
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BootstrapError::File { path, source }),
        }
    };
    Ok(read("pem")?.zip(read("key")?))
}

/// The key first: a certificate on disk always has its key.
fn save(pki_dir: &Path, name: &str, certificate: &str, key: &str) -> Result<(), BootstrapError> {
    write(&pki_dir.join(format!("{name}.key")), key)?;
    write(&pki_dir.join(format!("{name}.pem")), certificate)
}

fn write(path: &Path, text: &str) -> Result<(), BootstrapError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("new");
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| BootstrapError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_leaves_a_third_of_the_life() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(renewal(start, start + SignedDuration::from_hours(30)), start + SignedDuration::from_hours(20));
    }

    #[test]
    fn a_request_is_pending_signed_or_denied() {
        assert!(outcome(&json!({"status": {}})).is_none());
        assert!(outcome(&json!({"status": {"conditions": [{"type": "Approved"}]}})).is_none());
        let signed = json!({"status": {"conditions": [{"type": "Approved"}], "certificate": STANDARD.encode("PEM")}});
        assert_eq!(outcome(&signed).expect("an outcome").expect("signed"), "PEM");
        let denied = json!({"status": {"conditions": [{"type": "Denied", "message": "no"}]}});
        assert!(matches!(outcome(&denied), Some(Err(BootstrapError::Denied(why))) if why == "no"));
    }

    #[test]
    fn files_are_private_and_read_back() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(load(dir.path(), "client").expect("readable").is_none());
        save(dir.path(), "client", "certificate", "key").expect("written");
        assert_eq!(load(dir.path(), "client").expect("readable"), Some(("certificate".to_owned(), "key".to_owned())));
        let mode = std::fs::metadata(dir.path().join("client.key")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
