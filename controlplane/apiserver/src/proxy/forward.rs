//! The `proxy` subresource of pods, Services and nodes: any HTTP request, passed on.

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyStream, Full};
use rand::RngExt as _;
use serde_json::Value;
use trierarch_api::{ApiError, GroupResource, IndexTerm, Reason, Snapshot as _};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::authenticate::Headers as _;
use crate::dispatch::{Admitted, Answer, Body};
use crate::proxy::agent::{self, AgentStream, Endpoint};
use crate::proxy::links::{Page, Place};
use crate::proxy::tunnel::{self, Tunnel};
use crate::request::RequestInfo;

const PODS: GroupResource = GroupResource::new("", "pods");
const SERVICES: GroupResource = GroupResource::new("", "services");
const SLICES: GroupResource = GroupResource::new("discovery.k8s.io", "endpointslices");

/// Headers that concern one connection only.
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"];

/// Where a proxied request goes.
#[derive(Debug, PartialEq, Eq)]
pub enum Backend {
    /// An address behind a node's agent.
    Tunnelled {
        /// Through whom.
        through: Endpoint,
        /// Whom.
        host: String,
        /// Where.
        port: u16,
        /// Over TLS, whose certificate nobody can verify.
        tls: bool,
    },
    /// The agent itself.
    Agent(Endpoint),
}

/// `[SCHEME:]NAME[:PORT]`
pub fn split_name(name: &str) -> Option<(&str, &str, &str)> {
    match name.split(':').collect::<Vec<_>>().as_slice() {
        [name] => Some(("", name, "")),
        [name, port] => Some(("", name, port)),
        [scheme @ ("http" | "https" | ""), name, port] => Some((scheme, name, port)),
        _ => None,
    }
}

/// Finds where a proxy request goes.
///
/// # Errors
/// 400, 404, 503
pub fn backend(snapshot: &StoreSnapshot, info: &RequestInfo) -> Result<Backend, ApiError> {
    let (scheme, name, port) = split_name(&info.name)
        .ok_or_else(|| ApiError::bad_request(format!("invalid {} request {:?}", info.resource.trim_end_matches('s'), info.name)))?;
    let tls = scheme == "https";
    match info.resource.as_str() {
        "nodes" => Ok(match port.parse::<u16>() {
            Ok(port) => {
                let endpoint = agent::endpoint(snapshot, name)?;
                if port == endpoint.port {
                    Backend::Agent(endpoint)
                } else {
                    Backend::Tunnelled { host: endpoint.address.to_string(), through: endpoint, port, tls }
                }
            }
            Err(_) => Backend::Agent(agent::endpoint(snapshot, name)?),
        }),
        "pods" => {
            let pod = snapshot.get(&PODS, &info.namespace, name).ok_or_else(|| ApiError::not_found(&PODS, name))?;
            let value = pod.value();
            let host = value["status"]["podIP"].as_str().unwrap_or_default().to_owned();
            if host.is_empty() {
                return Err(ApiError::new(Reason::ServiceUnavailable, "address not allowed: the pod has no address yet"));
            }
            let port = if port.is_empty() { first_port(&value) } else { named_port(&value, port) };
            let port = port.ok_or_else(|| ApiError::bad_request(format!("no port for pod {name:?} can be told")))?;
            let through = agent::endpoint(snapshot, value["spec"]["nodeName"].as_str().unwrap_or_default())?;
            Ok(Backend::Tunnelled { through, host, port, tls })
        }
        _ => service(snapshot, &info.namespace, name, port, tls),
    }
}

fn ports(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["containers"].as_array().into_iter().flatten().flat_map(|container| container["ports"].as_array().into_iter().flatten())
}

fn first_port(pod: &Value) -> Option<u16> {
    ports(pod).find_map(|port| port["containerPort"].as_u64()).and_then(|port| u16::try_from(port).ok()).or(Some(80))
}

fn named_port(pod: &Value, stated: &str) -> Option<u16> {
    stated.parse().ok().or_else(|| {
        ports(pod)
            .find(|port| port["name"] == stated)
            .and_then(|port| port["containerPort"].as_u64())
            .and_then(|port| u16::try_from(port).ok())
    })
}

fn service(snapshot: &StoreSnapshot, namespace: &str, name: &str, stated: &str, tls: bool) -> Result<Backend, ApiError> {
    let object = snapshot.get(&SERVICES, namespace, name).ok_or_else(|| ApiError::not_found(&SERVICES, name))?;
    let value = object.value();
    let listed = value["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let unavailable = || ApiError::new(Reason::ServiceUnavailable, format!("no endpoints available for service {name:?}"));
    let wanted = listed
        .iter()
        .find(|port| {
            let number = port["port"].as_u64().map(|number| number.to_string()).unwrap_or_default();
            if stated.is_empty() {
                listed.len() == 1 || port["name"].as_str().unwrap_or_default().is_empty()
            } else {
                port["name"] == stated || number == stated
            }
        })
        .ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, format!("no service port {stated:?} found for service {name:?}")))?;
    let port_name = wanted["name"].as_str().unwrap_or_default();
    let mut found: Vec<(String, String, u16)> = Vec::new();
    for slice in snapshot.by_term(&SLICES, Some(namespace), &IndexTerm::Service(name.to_owned())) {
        let slice = slice.value();
        let port = slice["ports"].as_array().into_iter().flatten().find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten().filter(|endpoint| endpoint["conditions"]["ready"] != false) {
            let node = endpoint["nodeName"].as_str().unwrap_or_default();
            for address in endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                found.push((address.to_owned(), node.to_owned(), port));
            }
        }
    }
    if found.is_empty() {
        return Err(unavailable());
    }
    let (host, node, port) = found.swap_remove(rand::rng().random_range(0..found.len()));
    let through = if node.is_empty() { tunnel::any_ready(snapshot)? } else { agent::endpoint(snapshot, &node)? };
    Ok(Backend::Tunnelled { through, host, port, tls })
}

/// A connection to a backend.
pub enum Connection {
    /// Through an agent.
    Tunnel(Box<Tunnel>),
    /// Through an agent, with TLS inside.
    Tls(Box<tokio_rustls::client::TlsStream<Tunnel>>),
    /// To the agent.
    Agent(Box<AgentStream>),
}

/// Connects to a backend; the host to name in requests.
///
/// # Errors
/// 503
pub async fn connect(server: &ApiServer, backend: &Backend) -> Result<(Connection, String), ApiError> {
    match backend {
        Backend::Agent(endpoint) => {
            let stream = agent::connect(server, endpoint).await?;
            Ok((Connection::Agent(Box::new(stream)), format!("{}:{}", endpoint.address, endpoint.port)))
        }
        Backend::Tunnelled { through, host, port, tls } => {
            let tunnel = tunnel::open(server, through, host, *port).await?;
            let name = format!("{host}:{port}");
            if !tls {
                return Ok((Connection::Tunnel(Box::new(tunnel)), name));
            }
            let server_name = rustls_pki_types::ServerName::try_from(host.clone()).map_err(ApiError::internal)?;
            let connector = tokio_rustls::TlsConnector::from(unverified::client_config());
            let stream = connector
                .connect(server_name, tunnel)
                .await
                .map_err(|error| ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: {error}")))?;
            Ok((Connection::Tls(Box::new(stream)), name))
        }
    }
}

/// Passes a request on and its answer back.
pub(crate) async fn request(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let (info, call) = (admitted.info, admitted.call);
    if info.rest.is_empty() && matches!(call.method.as_str(), "GET" | "HEAD") {
        // relative links in the answer need a directory to be relative to
        let query = if call.query.is_empty() { String::new() } else { format!("?{}", call.query) };
        return Ok(Answer::full(301, "text/plain", Bytes::new()).header("location", format!("{}/{query}", call.path)));
    }
    let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
    let backend = backend(&snapshot, info)?;
    let (connection, host) = connect(admitted.server, &backend).await?;
    let target = target(info, &call.query);
    let mut request = hyper::Request::builder().method(call.method.as_str()).uri(&target).header("host", &host);
    for (name, value) in &call.headers {
        let drops = HOP_BY_HOP.contains(&name.as_str())
            || matches!(name.as_str(), "host" | "authorization" | "content-length" | "accept-encoding")
            || name.starts_with("impersonate-")
            || name.starts_with("x-remote-");
        if !drops {
            request = request.header(name.as_str(), value.as_str());
        }
    }
    request = request
        .header("x-forwarded-uri", &call.path)
        .header("x-forwarded-host", call.headers.get("host").unwrap_or_default())
        .header("x-forwarded-proto", "https");
    if let Some(address) = call.peer.address {
        request = request.header("x-forwarded-for", address.ip().to_string());
    }
    let request = request.body(Full::new(call.body.clone())).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let response = match connection {
        Connection::Tunnel(stream) => agent::send(stream, request).await?,
        Connection::Tls(stream) => agent::send(stream, request).await?,
        Connection::Agent(stream) => agent::send(stream, request).await?,
    };
    let base = call.path.strip_suffix(info.rest.as_str()).unwrap_or(&call.path).to_owned();
    let own_name = call.headers.get("host").unwrap_or_default().to_owned();
    Ok(answer(response, Place { base, hosts: vec![host, own_name] }))
}

/// The path and query at the backend.
pub fn target(info: &RequestInfo, query: &str) -> String {
    let path = if info.rest.is_empty() { "/" } else { &info.rest };
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn answer(response: hyper::Response<hyper::body::Incoming>, place: Place) -> Answer {
    let code = response.status().as_u16();
    let redirects = response.headers().contains_key("location");
    let is_page = !redirects && is_page(response.headers());
    let mut headers = Vec::new();
    for (name, value) in response.headers() {
        // rewriting changes a page's length
        if HOP_BY_HOP.contains(&name.as_str()) || (is_page && name == "content-length") {
            continue;
        }
        let Ok(value) = value.to_str() else { continue };
        let value = if name == "location" { place.rewrite(value) } else { value.to_owned() };
        headers.push((name.as_str().to_owned(), value));
    }
    let pieces = BodyStream::new(response.into_body()).filter_map(|frame| async move {
        match frame {
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(std::io::Error::other(error))),
        }
    });
    let stream = if is_page {
        let page = Page::new(place);
        // the end of the body is a piece of its own, so that what is left follows
        let pieces = pieces.map(Some).chain(futures::stream::iter([None]));
        let rewritten = pieces.scan(page, |page, piece| {
            std::future::ready(Some(match piece {
                Some(piece) => piece.map(|piece| Bytes::from(page.push(&piece))),
                None => Ok(Bytes::from(page.finish())),
            }))
        });
        rewritten.filter(|piece| std::future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty))).boxed()
    } else {
        pieces.boxed()
    };
    Answer { code, headers, body: Body::Stream(stream) }
}

fn is_page(headers: &hyper::HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text("content-type").split(';').next().unwrap_or_default().trim() == "text/html" && text("content-encoding").is_empty()
}

/// TLS to pods: upstream does not verify it either, since pods have no names that an authority could vouch for.
mod unverified {
    use std::sync::{Arc, OnceLock};

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    struct Anyone(Arc<CryptoProvider>);

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    pub(super) fn client_config() -> Arc<ClientConfig> {
        static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        Arc::clone(CONFIG.get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .expect("ring's provider knows TLS 1.2 and 1.3")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
                .with_no_client_auth();
            Arc::new(config)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_carry_scheme_and_port() {
        for (name, expected) in [
            ("web", Some(("", "web", ""))),
            ("web:80", Some(("", "web", "80"))),
            ("https:web:443", Some(("https", "web", "443"))),
            ("http:web:", Some(("http", "web", ""))),
            ("ftp:web:21", None),
        ] {
            assert_eq!(split_name(name), expected, "{name}");
        }
    }

    #[test]
    fn ports_are_found_by_name_and_number() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"name": "web", "containerPort": 8080}]}]}});
        assert_eq!(first_port(&pod), Some(8080));
        assert_eq!(named_port(&pod, "web"), Some(8080));
        assert_eq!(named_port(&pod, "9"), Some(9));
        assert_eq!(named_port(&pod, "other"), None);
    }
}
