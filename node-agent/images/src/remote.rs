//! How registries are reached: mirrors first, then the host in the image's name.

use std::sync::Once;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use crate::credentials::{Auth, Keychain};
use crate::reference::Reference;

/// A registry that is asked before the one in the image's name, with `?ns=HOST`, as containerd does it: for
/// `registry.k8s.io/pause:3.10` it gets `GET /v2/pause/manifests/3.10?ns=registry.k8s.io`.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// `https://10.0.0.1:6443` or `http://127.0.0.1:5000`.
    pub url: String,
    /// How to authenticate there.
    pub auth: Auth,
    /// The authority that signed its certificate, PEM; the system's otherwise.
    pub ca_pem: Option<Vec<u8>>,
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Asked first, in this order, for every host. The masters, on a node.
    pub mirrors: Vec<Mirror>,
    /// Hosts (`name:port`) that speak plain HTTP. Loopback hosts are tried with both.
    pub insecure_hosts: Vec<String>,
    /// Credentials for hosts.
    pub keychain: Keychain,
    /// Authorities trusted besides the system's, PEM.
    pub extra_ca_pem: Vec<Vec<u8>>,
    /// Ask mirrors only.
    pub mirrors_only: bool,
}

/// One way to ask for an image.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    https: bool,
    /// The mirror's `host:port`; `None` for the host in the name.
    mirror: Option<String>,
    auth: Auth,
    /// Trust this authority only.
    only_ca_pem: Option<Vec<u8>>,
    extra_ca_pem: Vec<Vec<u8>>,
    /// For messages.
    pub(crate) label: String,
}

/// What a failed request means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The registry answers that there is no such thing.
    NotFound,
    /// The registry wants other credentials.
    Denied,
    /// Worth another try: the connection broke, the server is overloaded.
    Transient,
    /// Anything else.
    Permanent,
}

/// An open connection to an endpoint, for one image.
pub(crate) struct Remote {
    pub(crate) client: oci_client::Client,
    pub(crate) auth: RegistryAuth,
    /// Names the image there.
    pub(crate) image: oci_client::Reference,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two pieces of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// All ways to ask for an image, in order: mirrors, then its host with each of our credentials.
pub(crate) fn endpoints(reference: &Reference, options: &RegistryOptions) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = options.mirrors.iter().map(|mirror| mirror_endpoint(mirror, options)).collect();
    if options.mirrors_only {
        return endpoints;
    }
    let mut auths = options.keychain.lookup(reference);
    if auths.is_empty() {
        auths.push(Auth::Anonymous);
    }
    let host = reference.host();
    let insecure = options.insecure_hosts.iter().any(|insecure| insecure == host);
    let schemes: &[bool] = match (insecure, is_loopback(host)) {
        (true, _) => &[false],
        (false, true) => &[true, false],
        (false, false) => &[true],
    };
    for https in schemes {
        for auth in &auths {
            endpoints.push(Endpoint {
                https: *https,
                mirror: None,
                auth: auth.clone(),
                only_ca_pem: None,
                extra_ca_pem: options.extra_ca_pem.clone(),
                label: host.to_owned(),
            });
        }
    }
    endpoints
}

fn mirror_endpoint(mirror: &Mirror, options: &RegistryOptions) -> Endpoint {
    let (https, authority) = match mirror.url.strip_prefix("http://") {
        Some(authority) => (false, authority),
        None => (true, mirror.url.strip_prefix("https://").unwrap_or(&mirror.url)),
    };
    let authority = authority.trim_end_matches('/').to_owned();
    Endpoint {
        https,
        label: authority.clone(),
        mirror: Some(authority),
        auth: mirror.auth.clone(),
        only_ca_pem: mirror.ca_pem.clone(),
        extra_ca_pem: options.extra_ca_pem.clone(),
    }
}

impl Endpoint {
    /// Prepares requests for this image. No connection is made yet.
    ///
    /// # Errors
    /// A certificate is unusable, or the system has none at all; the text says which.
    pub(crate) async fn connect(&self, reference: &Reference) -> Result<Remote, String> {
        install_crypto();
        let pem = |data: &Vec<u8>| Certificate { encoding: CertificateEncoding::Pem, data: data.clone() };
        let config = ClientConfig {
            protocol: if self.https { ClientProtocol::Https } else { ClientProtocol::Http },
            tls_certs_only: self.only_ca_pem.iter().map(pem).collect(),
            extra_root_certificates: self.extra_ca_pem.iter().map(pem).collect(),
            platform_resolver: None,
            use_monolithic_push: true,
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("trierarch/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // Reads the system's certificates from disk; the library panics where there are none at all.
        let client = match tokio::task::spawn_blocking(move || oci_client::Client::try_from(config)).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(crate::error::chain(&error)),
            Err(_panic) => return Err("no certificates of authorities found on this machine (install ca-certificates)".to_owned()),
        };
        let auth = match &self.auth {
            Auth::Anonymous => RegistryAuth::Anonymous,
            Auth::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
            Auth::Bearer(token) => RegistryAuth::Bearer(token.clone()),
        };
        let (host, path) = (reference.host().to_owned(), reference.path().to_owned());
        let mut image = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => oci_client::Reference::with_digest(host, path, digest.to_string()),
            (None, tag) => oci_client::Reference::with_tag(host, path, tag.unwrap_or(crate::DEFAULT_TAG).to_owned()),
        };
        if let Some(mirror) = &self.mirror {
            image.set_mirror_registry(mirror.clone());
        }
        client.store_auth_if_needed(image.resolve_registry(), &auth).await;
        Ok(Remote { client, auth, image })
    }
}

/// Sorts an error of the registry client.
pub(crate) fn classify(error: &OciDistributionError) -> Failure {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => Failure::NotFound,
        OciDistributionError::RegistryError { envelope, .. } => {
            let codes: Vec<&OciErrorCode> = envelope.errors.iter().map(|error| &error.code).collect();
            if codes.iter().any(|code| {
                matches!(
                    code,
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown | OciErrorCode::NotFound
                )
            }) {
                Failure::NotFound
            } else if codes.iter().any(|code| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied)) {
                Failure::Denied
            } else if codes.iter().any(|code| matches!(code, OciErrorCode::Toomanyrequests)) {
                Failure::Transient
            } else {
                Failure::Permanent
            }
        }
        OciDistributionError::ServerError { code, .. } => match code {
            404 => Failure::NotFound,
            401 | 403 => Failure::Denied,
            408 | 429 | 500.. => Failure::Transient,
            _ => Failure::Permanent,
        },
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => Failure::Denied,
        OciDistributionError::RequestError(error) => match error.status().map(|status| status.as_u16()) {
            Some(404) => Failure::NotFound,
            Some(401 | 403) => Failure::Denied,
            Some(code) if code < 500 && code != 429 => Failure::Permanent,
            // Nobody listens, or no such host: waiting here helps nobody, the caller comes back by itself.
            None if error.is_connect() => Failure::Permanent,
            _ => Failure::Transient,
        },
        OciDistributionError::IoError(_) => Failure::Transient,
        _ => Failure::Permanent,
    }
}

/// Before the next attempt: 0.5 s, 1 s, 2 s, 4 s.
pub(crate) fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(500) * 2_u32.pow(attempt.saturating_sub(1).min(4))
}

fn is_loopback(host: &str) -> bool {
    let name = host.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or_else(|| host.split(':').next().unwrap_or(host));
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// TLS needs a process-wide provider; a program that has chosen one keeps it.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // A lost race means that another thread has installed one.
            let _other_won = rustls::crypto::ring::default_provider().install_default();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(image: &str, options: &RegistryOptions) -> Vec<String> {
        endpoints(&Reference::parse(image).unwrap(), options)
            .iter()
            .map(|endpoint| format!("{}{} {:?}", if endpoint.https { "https://" } else { "http://" }, endpoint.label, endpoint.auth))
            .collect()
    }

    #[test]
    fn mirrors_come_first_and_loopback_is_tried_both_ways() {
        let mirror = |url: &str| Mirror { url: url.to_owned(), auth: Auth::Bearer("t".into()), ca_pem: None };
        let mut options = RegistryOptions { insecure_hosts: vec!["lab:5000".into()], ..RegistryOptions::default() };
        assert_eq!(labels("busybox", &options), ["https://docker.io Anonymous"]);
        assert_eq!(labels("lab:5000/a", &options), ["http://lab:5000 Anonymous"]);
        assert_eq!(labels("127.0.0.1:5000/a", &options), ["https://127.0.0.1:5000 Anonymous", "http://127.0.0.1:5000 Anonymous"]);
        assert_eq!(labels("[::1]:5000/a", &options).len(), 2);
        options.mirrors = vec![mirror("https://m1:6443/"), mirror("http://m2")];
        options.keychain.add("docker.io", Auth::Basic { username: "u".into(), password: "p".into() });
        assert_eq!(
            labels("busybox", &options),
            ["https://m1:6443 Bearer(...)", "http://m2 Bearer(...)", "https://docker.io Basic(u, ...)"]
        );
        options.mirrors_only = true;
        assert_eq!(labels("busybox", &options).len(), 2);
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        let waits: Vec<u64> = [1, 2, 3, 4, 5, 50].iter().map(|attempt| u64::try_from(backoff(*attempt).as_millis()).unwrap()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 8000]);
    }
}
