//! Requests that ask for another protocol: each comes first on a connection of its own and is passed through byte for byte.
//!
//! The HTTP library below the other routes reads raw bytes only after `Upgrade: websocket`, so such a request never reaches it: the
//! acceptor looks at the first head of every HTTP/1.1 connection and hands upgrades here.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use trierarch_api::{ApiError, Reason};

use crate::apiserver::ApiServer;
use crate::authenticate::{self, Headers as _, Peer};
use crate::clock::Deadline;
use crate::dispatch::{Admitted, Answer, Body, Call};
use crate::proxy::forward::Connection;
use crate::proxy::io::Rewound;
use crate::proxy::{agent, forward};
use crate::request::{Options, RequestInfo, percent};
use crate::watch;

const PATIENCE: Duration = Duration::from_secs(34);
const FRAME_BYTES_MAX: usize = 32 * 1024;

/// A parsed request head.
pub struct Head {
    /// Method.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; `None` when it is none of HTTP/1.1.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target, version) = (first.next()?, first.next()?, first.next()?);
        if version != "HTTP/1.1" {
            return None;
        }
        let headers = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())))
            .collect::<Option<Vec<_>>>()?;
        Some(Self { method: method.to_owned(), target: target.to_owned(), headers })
    }

    /// Whether it asks for another protocol below a resource that offers it.
    pub fn upgrades(&self) -> bool {
        let asks = self.headers.get("upgrade").is_some_and(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"))
            && self.headers.all("connection").iter().any(|value| value.to_ascii_lowercase().contains("upgrade"));
        asks && (self.target.starts_with("/api/") || self.target.starts_with("/apis/"))
    }
}

/// Serves an upgrade request on its own connection until either side ends it.
pub async fn serve<T>(server: Arc<ApiServer>, peer: Arc<Peer>, head: Head, rest: BytesMut, io: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Rewound::new(rest, io);
    let stopping = server.stopping.clone();
    let work = async {
        if let Err(error) = Box::pin(steps(&server, peer, head, &mut io)).await {
            let _ = io.write_all(&refusal(&error)).await;
            let _ = io.shutdown().await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stopping.cancelled() => {}
    }
}

fn refusal(error: &ApiError) -> Vec<u8> {
    let body = error.to_status().to_string();
    format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        error.reason.code(),
        error.reason.as_str(),
        body.len()
    )
    .into_bytes()
}

async fn steps<T>(server: &Arc<ApiServer>, peer: Arc<Peer>, mut head: Head, io: &mut T) -> Result<(), ApiError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    // browsers cannot set a header, so they hide the token among the sub-protocols
    take_protocol_token(&mut head);
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    let call = Call {
        method: head.method.clone(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: head.headers.clone(),
        body: Bytes::new(),
        peer,
    };
    let options = Options::parse(&call.query);
    let info = RequestInfo::parse(&call.method, &call.path, &options);
    let timer = server.metrics.start(&info);
    let user = authenticate::authenticate(server, &call.peer, &call.headers)?;
    server.authorize(&user, &info)?;
    let admitted = Admitted { server, call: &call, info: &info, options: &options, user: &user, deadline: Deadline::after(PATIENCE) };
    let websocket = head.headers.get("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
    timer.finish(101);
    match (info.resource.as_str(), info.subresource.as_str()) {
        ("pods", "exec" | "attach" | "portforward") => {
            let (endpoint, path) = streaming_path(&admitted).await?;
            let backend = agent::connect(server, &endpoint).await?;
            let host = format!("{}:{}", endpoint.address, endpoint.port);
            Box::pin(pass(io, backend, &head, &path, &host)).await
        }
        ("pods" | "services" | "nodes", "proxy") => {
            let snapshot = server.fresh_snapshot(admitted.deadline).await?;
            let backend = forward::backend(&snapshot, &info)?;
            let (connection, host) = forward::connect(server, &backend).await?;
            let target = forward::target(&info, &call.query);
            match connection {
                Connection::Tunnel(stream) => Box::pin(pass(io, *stream, &head, &target, &host)).await,
                Connection::Tls(stream) => Box::pin(pass(io, *stream, &head, &target, &host)).await,
                Connection::Agent(stream) => Box::pin(pass(io, *stream, &head, &target, &host)).await,
            }
        }
        ("pods", "log") if websocket => {
            let stream = agent::log_stream(&admitted).await?;
            frames(io, &head, &["binary.k8s.io", "base64.binary.k8s.io", ""], stream).await
        }
        (_, "") if websocket && info.verb == "watch" => {
            let kind = server.registry.by_resource(&info.group, &info.version, &info.resource).ok_or_else(ApiError::no_such_path)?;
            let (_json, lines) = watch::start(&admitted, &kind, false).await?;
            events(io, &head, lines).await
        }
        _ => Box::pin(answer_plainly(server, call, io)).await,
    }
}

/// An upgrade where none is offered is answered as if it had not been asked for.
async fn answer_plainly<T: AsyncWrite + Unpin>(server: &Arc<ApiServer>, call: Call, io: &mut T) -> Result<(), ApiError> {
    let answer: Answer = Box::pin(crate::dispatch::handle(server, call)).await;
    let Body::Full(body) = &answer.body else {
        return Err(ApiError::bad_request("unable to upgrade: this resource cannot be upgraded"));
    };
    let mut out = format!("HTTP/1.1 {} \r\nContent-Length: {}\r\nConnection: close\r\n", answer.code, body.len());
    for (name, value) in &answer.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let _ = io.write_all(out.as_bytes()).await;
    let _ = io.write_all(body).await;
    let _ = io.shutdown().await;
    Ok(())
}

/// `base64url.bearer.authorization.k8s.io.TOKEN` among the sub-protocols becomes a header.
fn take_protocol_token(head: &mut Head) {
    use base64::Engine as _;
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let Some(protocols) = head.headers.get("sec-websocket-protocol").map(str::to_owned) else { return };
    let (mut kept, mut token) = (Vec::new(), None);
    for protocol in protocols.split(',').map(str::trim) {
        match protocol.strip_prefix(PREFIX) {
            Some(encoded) => token = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok(),
            None => kept.push(protocol),
        }
    }
    let Some(token) = token.and_then(|bytes| String::from_utf8(bytes).ok()) else { return };
    let kept = kept.join(", ");
    head.headers.retain(|(name, _)| name != "sec-websocket-protocol" && name != "authorization");
    head.headers.push(("sec-websocket-protocol".to_owned(), kept));
    head.headers.push(("authorization".to_owned(), format!("Bearer {token}")));
}

/// The agent's endpoint and path for exec, attach and port-forward.
async fn streaming_path(admitted: &Admitted<'_>) -> Result<(agent::Endpoint, String), ApiError> {
    let info = admitted.info;
    let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
    let portforward = info.subresource == "portforward";
    let stated = admitted.options.text("container");
    let located = match agent::locate(&snapshot, &info.namespace, &info.name, stated) {
        Err(error) if portforward && error.reason == Reason::BadRequest => {
            // a port belongs to the pod, whichever container listens
            let pod = trierarch_api::GroupResource::new("", "pods");
            let object = trierarch_api::Snapshot::get(&snapshot, &pod, &info.namespace, &info.name).ok_or(error)?;
            let node = object.value()["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            agent::Located { endpoint: Some(agent::endpoint(&snapshot, &node)?), container: String::new() }
        }
        other => other?,
    };
    let endpoint = located.endpoint.ok_or_else(|| ApiError::bad_request(format!("pod {} does not have a host assigned", info.name)))?;
    let base = format!("{}/{}", percent::encode(&info.namespace), percent::encode(&info.name));
    let mut query = Vec::new();
    let path = match info.subresource.as_str() {
        "portforward" => {
            for ports in admitted.options.all("ports") {
                // the agent reads them one by one under its own name
                query.extend(ports.split(',').map(|port| format!("port={}", percent::encode(port))));
            }
            format!("/portForward/{base}")
        }
        which => {
            for (from, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if admitted.options.flag(from) {
                    query.push(format!("{to}=1"));
                }
            }
            query.extend(admitted.options.all("command").iter().map(|word| format!("command={}", percent::encode(word))));
            format!("/{which}/{base}/{}", percent::encode(&located.container))
        }
    };
    Ok((endpoint, if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }))
}

/// Sends the head on and then every byte in both directions; the backend's answer, refusals too, reaches the client as it is.
async fn pass<T, B>(client: &mut T, mut backend: B, head: &Head, target: &str, host: &str) -> Result<(), ApiError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut out = format!("{} {target} HTTP/1.1\r\nHost: {host}\r\n", head.method);
    for (name, value) in &head.headers {
        let drops = name == "host" || name == "authorization" || name.starts_with("impersonate-") || name.starts_with("x-remote-");
        if !drops {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    out.push_str("\r\n");
    let failed = |error: std::io::Error| ApiError::internal(format!("error dialing backend: {error}"));
    backend.write_all(out.as_bytes()).await.map_err(failed)?;
    backend.flush().await.map_err(failed)?;
    if let Err(error) = tokio::io::copy_bidirectional(client, &mut backend).await {
        tracing::debug!(error = %error, "Ended a stream to an agent");
    }
    let _ = backend.shutdown().await;
    let _ = client.shutdown().await;
    Ok(())
}

/// Answers the handshake, with the first of `offered` that the client names; which one, and the socket.
async fn accept<'a, T>(io: &'a mut T, head: &Head, offered: &[&'static str]) -> Result<(&'static str, WebSocketStream<&'a mut T>), ApiError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let key = head.headers.get("sec-websocket-key").ok_or_else(|| ApiError::bad_request("websocket: no Sec-WebSocket-Key"))?;
    let asked: Vec<&str> =
        head.headers.get("sec-websocket-protocol").unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty()).collect();
    let chosen =
        if asked.is_empty() { offered.iter().find(|each| each.is_empty()) } else { offered.iter().find(|each| asked.contains(*each)) };
    let chosen = *chosen.ok_or_else(|| ApiError::bad_request("websocket: none of the sub-protocols is supported"))?;
    let mut out = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        derive_accept_key(key.as_bytes())
    );
    if !chosen.is_empty() {
        out.push_str(&format!("Sec-WebSocket-Protocol: {chosen}\r\n"));
    }
    out.push_str("\r\n");
    let failed = |error: std::io::Error| ApiError::internal(error);
    io.write_all(out.as_bytes()).await.map_err(failed)?;
    io.flush().await.map_err(failed)?;
    Ok((chosen, WebSocketStream::from_raw_socket(io, Role::Server, None).await))
}

/// Bytes as WebSocket messages, until they end or the client closes.
async fn frames<T>(io: &mut T, head: &Head, offered: &[&'static str], mut stream: agent::Bytestream) -> Result<(), ApiError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    use base64::Engine as _;
    let (protocol, mut socket) = accept(io, head, offered).await?;
    loop {
        tokio::select! {
            piece = stream.next() => match piece {
                Some(Ok(bytes)) => {
                    for part in bytes.chunks(FRAME_BYTES_MAX) {
                        let message = if protocol.starts_with("base64") {
                            Message::text(base64::engine::general_purpose::STANDARD.encode(part))
                        } else {
                            Message::binary(Bytes::copy_from_slice(part))
                        };
                        if socket.send(message).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                Some(Err(_)) | None => break,
            },
            message = socket.next() => if !matches!(message, Some(Ok(message)) if !message.is_close()) { break },
        }
    }
    let _ = socket.close(None).await;
    Ok(())
}

/// Watch events as WebSocket messages, one each.
async fn events<T>(io: &mut T, head: &Head, mut lines: futures::stream::BoxStream<'static, Bytes>) -> Result<(), ApiError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (_, mut socket) = accept(io, head, &["", "binary.k8s.io", "base64.binary.k8s.io"]).await?;
    loop {
        tokio::select! {
            piece = lines.next() => match piece {
                Some(piece) => {
                    for line in piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                        let text = String::from_utf8_lossy(line).into_owned();
                        if socket.send(Message::text(text)).await.is_err() {
                            return Ok(());
                        }
                    }
                }
                None => break,
            },
            message = socket.next() => if !matches!(message, Some(Ok(message)) if !message.is_close()) { break },
        }
    }
    let _ = socket.close(None).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_told_from_other_requests() {
        let check = |text: &str, expected: bool| {
            let head = Head::parse(text.replace('\n', "\r\n").as_bytes());
            assert_eq!(head.is_some_and(|head| head.upgrades()), expected, "{text}");
        };
        check("POST /api/v1/namespaces/a/pods/p/exec?command=ls HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: SPDY/3.1\n\n", true);
        check("GET /api/v1/namespaces/a/pods/p/exec HTTP/1.1\nconnection: keep-alive, Upgrade\nupgrade: websocket\n\n", true);
        check("GET /api/v1/namespaces/a/pods HTTP/1.1\nHost: x\n\n", false);
        check("GET /v2/ HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n", false);
        check("GET / HTTP/1.0\n\n", false);
    }

    #[test]
    fn a_token_among_the_protocols_becomes_a_header() {
        let mut head = Head {
            method: "GET".into(),
            target: "/".into(),
            headers: vec![("sec-websocket-protocol".into(), "base64url.bearer.authorization.k8s.io.YWJj, v4.channel.k8s.io".into())],
        };
        take_protocol_token(&mut head);
        assert_eq!(head.headers.get("authorization"), Some("Bearer abc"));
        assert_eq!(head.headers.get("sec-websocket-protocol"), Some("v4.channel.k8s.io"));
    }
}
