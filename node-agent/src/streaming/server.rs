//! The streaming port: TLS with client certificates, then the kubelet's paths. Only the cluster's API servers come in.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerStatus as ApiContainerStatus, Pod};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use trierarch_client::Reflector;
use trierarch_runtime::{ContainerState, ContainerStatus};

use super::logs::{self, LogOptions};
use super::remote::{self, Wanted};
use super::{channels, spdy_session, websocket};
use crate::clock;
use crate::config::AgentConfig;
use crate::kubelet::context::Context;
use crate::kubelet::pod_status::container_id;
use crate::kubelet::runs;
use crate::run::AgentError;

/// Who may come in.
const CLIENTS: &[&str] = &["kubelet-client", "kube-apiserver-kubelet-client"];
/// How often a followed log file is looked at.
const FOLLOW: Duration = Duration::from_millis(50);

type Body = BoxBody<Bytes, Infallible>;

/// An open port with its TLS settings.
pub struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

/// Opens the streaming port.
///
/// # Errors
/// The address is taken, or the authority's certificate can't be read.
pub async fn bind(config: &AgentConfig) -> Result<Listener, AgentError> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&config.cluster_ca_pem).flatten() {
        roots.add(certificate).map_err(AgentError::Tls)?;
    }
    let verifier =
        WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| AgentError::Tls(rustls::Error::General(e.to_string())))?;
    let mut tls = rustls::ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(&config.serving));
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let address = config.streaming_address;
    let tcp = TcpListener::bind(address).await.map_err(|source| AgentError::Streaming { address, source })?;
    Ok(Listener { tcp, tls: TlsAcceptor::from(Arc::new(tls)) })
}

struct Server {
    context: Arc<Context>,
    pods: Reflector<Pod>,
}

/// Serves for ever.
pub async fn serve(context: Arc<Context>, pods: Reflector<Pod>, listener: Listener) {
    let server = Arc::new(Server { context, pods });
    loop {
        let Ok((tcp, from)) = listener.tcp.accept().await else { continue };
        let (tls, server) = (listener.tls.clone(), Arc::clone(&server));
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            let stream = match tokio::time::timeout(Duration::from_secs(10), tls.accept(tcp)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%from, %error, "Refused a connection"),
                Err(_) => return,
            };
            let allowed = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).is_some_and(|c| is_master(c));
            let service = hyper::service::service_fn(move |request| {
                let server = Arc::clone(&server);
                async move {
                    let answer = if allowed { server.answer(request).await } else { text(StatusCode::FORBIDDEN, "Forbidden") };
                    Ok::<_, Infallible>(answer)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%from, %error, "Lost a streaming connection");
            }
        });
    }
}

/// The certificate names an API server, or a member of `system:masters`.
fn is_master(certificate: &[u8]) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let subject = certificate.subject();
    let name = subject.iter_common_name().any(|cn| cn.as_str().is_ok_and(|cn| CLIENTS.contains(&cn)));
    name || subject.iter_organization().any(|o| o.as_str() == Ok("system:masters"))
}

fn text(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::from(message.into())).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn json_answer(value: &serde_json::Value) -> Response<Body> {
    let mut answer = text(StatusCode::OK, value.to_string());
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    answer
}

fn query_of(request: &Request<Incoming>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    query
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}

/// Undoes percent encoding and `+`.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let hex: Vec<u8> = bytes.by_ref().take(2).collect();
                let value = std::str::from_utf8(&hex).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
                match value {
                    Some(value) => out.push(value),
                    None => out.extend(std::iter::once(b'%').chain(hex)),
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return tunnel(request).await;
        }
        let path = request.uri().path().to_owned();
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz"] => text(StatusCode::OK, "ok"),
            ["pods"] => {
                let items: Vec<_> = self.pods.objects().values().map(|p| serde_json::to_value(&**p).unwrap_or_default()).collect();
                json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
            }
            ["stats", "summary"] => super::stats::summary(&self.context, &self.pods)
                .await
                .map_or_else(|e| text(StatusCode::INTERNAL_SERVER_ERROR, e), |v| json_answer(&v)),
            ["metrics"] => text(StatusCode::OK, super::stats::metrics(&self.context, &self.pods)),
            ["metrics", "resource"] => match super::stats::summary(&self.context, &self.pods).await {
                Ok(summary) => text(StatusCode::OK, super::stats::resource_metrics(&summary)),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
            },
            ["containerLogs", namespace, pod, container] => self.logs(namespace, pod, container, &request).await,
            ["exec" | "attach" | "run", namespace, pod, rest @ ..] => {
                let container = rest.last().copied().unwrap_or_default();
                let attach = parts[0] == "attach";
                self.remote(namespace, pod, container, attach, request).await
            }
            ["portForward", namespace, pod, ..] => self.forward(namespace, pod, request).await,
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(namespace, name)
    }

    /// The runs of a container, newest first.
    fn runs(&self, pod: &Pod, container: &str) -> Vec<ContainerStatus> {
        runs::of_container(self.context.runtime.list_containers(), pod.metadata.uid.as_deref().unwrap_or_default(), container)
    }

    async fn logs(&self, namespace: &str, name: &str, container: &str, request: &Request<Incoming>) -> Response<Body> {
        let Some(pod) = self.pod(namespace, name) else { return text(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist")) };
        let options = match LogOptions::parse(&query_of(request), clock::now()) {
            Ok(options) => options,
            Err(error) => return text(StatusCode::BAD_REQUEST, error),
        };
        let runs = self.runs(&pod, container);
        let known = pod.spec.as_ref().and_then(|s| crate::kubelet::pod_actions::find_container(s, container)).is_some();
        if !known {
            return text(StatusCode::BAD_REQUEST, format!("container {container:?} in pod {name:?} is not available"));
        }
        let run = if options.previous { previous(runs, status_of(&pod, container)) } else { runs.into_iter().next() };
        let Some(run) = run else {
            let message = if options.previous {
                format!("previous terminated container {container:?} in pod {name:?} not found")
            } else {
                waiting_message(&pod, container)
            };
            return text(StatusCode::BAD_REQUEST, message);
        };
        let Some(path) = run.log_path.clone() else { return text(StatusCode::OK, "") };
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            if let Err(error) = send_log(&context, &run.id, &path, options, sender).await {
                tracing::debug!(path = %path.display(), %error, "Could not read a log");
            }
        });
        let stream = tokio_stream(receiver).map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(stream)));
        answer.headers_mut().insert("content-type", http::HeaderValue::from_static("text/plain"));
        answer
    }

    async fn remote(&self, namespace: &str, name: &str, container: &str, attach: bool, request: Request<Incoming>) -> Response<Body> {
        let Some(pod) = self.pod(namespace, name) else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
        let running = self.runs(&pod, container).into_iter().find(|c| c.state == ContainerState::Running);
        let Some(running) = running else { return text(StatusCode::NOT_FOUND, format!("container not found ({container:?})")) };
        let mut wanted = Wanted::parse(&query_of(&request));
        if attach {
            wanted.command.clear();
            wanted.tty = running.spec.tty;
        } else if wanted.command.is_empty() {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
        }
        let runtime = Arc::clone(&self.context.runtime);
        match upgrade_of(request.headers()) {
            Some(Upgrade::WebSocket { key, offered }) => {
                let Some(dialect) = channels::Dialect::choose(&offered) else {
                    return text(StatusCode::BAD_REQUEST, format!("unable to upgrade: no supported sub-protocol in {offered:?}"));
                };
                let answer = websocket_answer(&key, dialect.protocol);
                tokio::spawn(async move {
                    match hyper::upgrade::on(request).await {
                        Ok(upgraded) => {
                            websocket::carry(websocket::accept(upgraded).await, remote::start(runtime, running.id, wanted), dialect).await
                        }
                        Err(error) => tracing::debug!(%error, "Could not upgrade a connection"),
                    }
                });
                answer
            }
            Some(Upgrade::Spdy { offered }) => {
                let Some(protocol) = offered.iter().find(|p| spdy_session::REMOTE_PROTOCOLS.contains(&p.as_str())).cloned() else {
                    return text(
                        StatusCode::FORBIDDEN,
                        format!(
                            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server supports {:?}",
                            spdy_session::REMOTE_PROTOCOLS
                        ),
                    );
                };
                let answer = spdy_answer(&protocol);
                tokio::spawn(async move {
                    match hyper::upgrade::on(request).await {
                        Ok(upgraded) => {
                            spdy_session::carry(TokioIo::new(upgraded), wanted.clone(), move || remote::start(runtime, running.id, wanted))
                                .await
                        }
                        Err(error) => tracing::debug!(%error, "Could not upgrade a connection"),
                    }
                });
                answer
            }
            None => text(StatusCode::BAD_REQUEST, "Upgrade request required"),
        }
    }

    async fn forward(&self, namespace: &str, name: &str, request: Request<Incoming>) -> Response<Body> {
        let Some(pod) = self.pod(namespace, name) else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let sandbox = self
            .context
            .runtime
            .list_sandboxes()
            .into_iter()
            .find(|s| s.id.starts_with(&format!("{uid}.")) && s.state == trierarch_runtime::SandboxState::Ready);
        let Some(sandbox) = sandbox else { return text(StatusCode::NOT_FOUND, format!("pod not found ({name:?})")) };
        let query = query_of(&request);
        // A pod's loopback is reachable from inside its namespace only, so every connection is made there.
        let dial = move |port: u16| super::dial::loopback(sandbox.netns_path.clone(), port);
        match upgrade_of(request.headers()) {
            Some(Upgrade::WebSocket { key, offered }) => {
                let ours: &[&'static str] = &["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io"];
                let Some(protocol) = channels::choose(offered.split(','), ours) else {
                    return text(StatusCode::BAD_REQUEST, format!("unable to upgrade: no supported sub-protocol in {offered:?}"));
                };
                let ports: Vec<u16> = query
                    .iter()
                    .filter(|(n, _)| n == "ports" || n == "port")
                    .flat_map(|(_, v)| v.split(',').filter_map(|p| p.parse().ok()).collect::<Vec<_>>())
                    .collect();
                let answer = websocket_answer(&key, protocol);
                tokio::spawn(async move {
                    let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
                    let socket = websocket::accept(upgraded).await;
                    if protocol.starts_with("SPDY") {
                        spdy_session::forward(super::tunnel::byte_stream(socket), dial).await;
                    } else {
                        websocket::forward_channels(socket, ports, async move |port| dial(port).await).await;
                    }
                });
                answer
            }
            Some(Upgrade::Spdy { .. }) => {
                let answer = spdy_answer("portforward.k8s.io");
                tokio::spawn(async move {
                    if let Ok(upgraded) = hyper::upgrade::on(request).await {
                        spdy_session::forward(TokioIo::new(upgraded), dial).await;
                    }
                });
                answer
            }
            None => text(StatusCode::BAD_REQUEST, "Upgrade request required"),
        }
    }
}

fn status_of<'p>(pod: &'p Pod, container: &str) -> Option<&'p ApiContainerStatus> {
    let lists = pod.status.iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses, &s.ephemeral_container_statuses]);
    lists.flatten().flatten().find(|s| s.name == container)
}

/// The run that `--previous` means: the one shown as last state, which is the newest one while its successor waits. `runs` are newest first.
fn previous(runs: Vec<ContainerStatus>, status: Option<&ApiContainerStatus>) -> Option<ContainerStatus> {
    let last = status.and_then(|s| s.last_state.as_ref()?.terminated.as_ref()?.container_id.clone());
    match last {
        Some(id) if runs.iter().any(|run| container_id(&run.id) == id) => runs.into_iter().find(|run| container_id(&run.id) == id),
        _ => runs.into_iter().nth(1),
    }
}

fn waiting_message(pod: &Pod, container: &str) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let reason = status_of(pod, container).and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
    match reason.as_deref() {
        Some("ErrImagePull") => format!("container {container:?} in pod {name:?} is waiting to start: image can't be pulled"),
        Some("ImagePullBackOff") => {
            format!("container {container:?} in pod {name:?} is waiting to start: trying and failing to pull image")
        }
        Some(reason) => format!("container {container:?} in pod {name:?} is waiting to start: {reason}"),
        None => format!("container {container:?} in pod {name:?} is waiting to start - no logs yet"),
    }
}

enum Upgrade {
    WebSocket { key: String, offered: String },
    Spdy { offered: Vec<String> },
}

fn upgrade_of(headers: &HeaderMap) -> Option<Upgrade> {
    let get = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let kind = get("upgrade").to_lowercase();
    if kind == "websocket" {
        let offered: Vec<String> =
            headers.get_all("sec-websocket-protocol").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
        return Some(Upgrade::WebSocket { key: get("sec-websocket-key"), offered: offered.join(",") });
    }
    if kind == "spdy/3.1" {
        let offered = headers.get_all("x-stream-protocol-version").iter().filter_map(|v| v.to_str().ok());
        return Some(Upgrade::Spdy { offered: offered.flat_map(|v| v.split(',')).map(|p| p.trim().to_owned()).collect() });
    }
    None
}

fn switching(kind: &str) -> Response<Body> {
    let mut answer = Response::new(Full::new(Bytes::new()).boxed());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert("connection", http::HeaderValue::from_static("Upgrade"));
    if let Ok(kind) = http::HeaderValue::from_str(kind) {
        headers.insert("upgrade", kind);
    }
    answer
}

fn websocket_answer(key: &str, protocol: &'static str) -> Response<Body> {
    let mut answer = switching("websocket");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    if let Ok(accept) = http::HeaderValue::from_str(&accept) {
        answer.headers_mut().insert("sec-websocket-accept", accept);
    }
    if !protocol.is_empty() {
        answer.headers_mut().insert("sec-websocket-protocol", http::HeaderValue::from_static(protocol));
    }
    answer
}

fn spdy_answer(protocol: &str) -> Response<Body> {
    let mut answer = switching("SPDY/3.1");
    if let Ok(protocol) = http::HeaderValue::from_str(protocol) {
        answer.headers_mut().insert("x-stream-protocol-version", protocol);
    }
    answer
}

/// `CONNECT host:port`: a connection from the node's namespace. The answer tells whether there is one, so dialling comes first.
async fn tunnel(request: Request<Incoming>) -> Response<Body> {
    let Some(target) = request.uri().authority().map(|a| a.as_str().to_owned()) else {
        return text(StatusCode::BAD_REQUEST, "CONNECT needs host:port");
    };
    let mut tcp = match tokio::time::timeout(Duration::from_secs(10), TcpStream::connect(&target)).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return text(StatusCode::BAD_GATEWAY, format!("dial tcp {target}: {error}")),
        Err(_) => return text(StatusCode::GATEWAY_TIMEOUT, format!("dial tcp {target}: i/o timeout")),
    };
    let _ = tcp.set_nodelay(true);
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut tcp).await;
        }
    });
    Response::new(Full::new(Bytes::new()).boxed())
}

fn tokio_stream(receiver: tokio::sync::mpsc::Receiver<Bytes>) -> impl futures::Stream<Item = Bytes> {
    futures::stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|chunk| (chunk, receiver)) })
}

/// Sends a log file, and what is appended while it is followed.
async fn send_log(
    context: &Context,
    id: &str,
    path: &std::path::Path,
    options: LogOptions,
    sender: tokio::sync::mpsc::Sender<Bytes>,
) -> std::io::Result<()> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut pending = Vec::new();
    let mut left = options.limit_bytes.unwrap_or(usize::MAX);
    if let Some(lines) = options.tail_lines {
        let mut all = Vec::new();
        file.read_to_end(&mut all).await?;
        pending = all.split_off(logs::tail_start(&all, lines));
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut over = false;
    loop {
        let whole = pending.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut out = Vec::new();
        pending[..whole].split(|b| *b == b'\n').for_each(|line| logs::render(line, &options, &mut out));
        pending.drain(..whole);
        out.truncate(left);
        left -= out.len();
        if !out.is_empty() && sender.send(Bytes::from(out)).await.is_err() {
            return Ok(());
        }
        if left == 0 {
            return Ok(());
        }
        let count = file.read(&mut buffer).await?;
        if count > 0 {
            pending.extend_from_slice(&buffer[..count]);
            continue;
        }
        if !options.follow || over {
            return Ok(());
        }
        if sender.is_closed() {
            return Ok(());
        }
        // A rotated log goes on in a new file under the same name.
        let rotated = match (tokio::fs::metadata(path).await, file.metadata().await) {
            (Ok(now), Ok(held)) => now.ino() != held.ino(),
            _ => false,
        };
        if rotated {
            file = tokio::fs::File::open(path).await?;
            continue;
        }
        // Once the container has ended, one more read finds all there is.
        over = context.runtime.container(id).map_or(true, |c| c.state == ContainerState::Exited);
        if !over {
            tokio::time::sleep(FOLLOW).await;
            let at = file.stream_position().await?;
            file.seek(std::io::SeekFrom::Start(at)).await?;
        }
    }
}
