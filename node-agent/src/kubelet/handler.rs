//! Talking to containers: the actions of probes and lifecycle hooks.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;
use trierarch_runtime::{Error as RuntimeError, ExecSpec};

use super::context::Context;
use super::probe::Outcome;

/// How much of an answer is shown.
const SHOWN_BYTES: usize = 10 * 1024;

/// Runs a command in a container.
pub async fn exec(context: &Context, container_id: &str, command: Vec<String>, timeout: Option<Duration>) -> Outcome {
    let runtime = context.runtime.clone();
    let id = container_id.to_owned();
    let done = tokio::task::spawn_blocking(move || runtime.exec_sync(&id, ExecSpec::command(command), timeout, SHOWN_BYTES)).await;
    match done {
        Ok(Ok(output)) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text).into_owned();
            if output.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
        }
        Ok(Err(RuntimeError::Timeout { .. })) => {
            Outcome::Failure(format!("command timed out after {}s", timeout.unwrap_or_default().as_secs()))
        }
        Ok(Err(error)) => match error.start_error() {
            Some(start) => Outcome::Error(format!("failed to exec in container: {}", start.message)),
            None => Outcome::Error(error.to_string()),
        },
        Err(error) => Outcome::Error(error.to_string()),
    }
}

/// The number of a container's port, given as number or name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse::<i32>() {
            Ok(number) => Some(number),
            Err(_) => container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port),
        },
    };
    number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or_else(|| match port {
        IntOrString::Int(n) => format!("invalid port number: {n}"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    })
}

/// Asks a web server.
pub async fn http_get(
    context: &Context,
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    timeout: Duration,
    agent: &str,
) -> Outcome {
    let port = match port(&action.port, container) {
        Ok(port) => port,
        Err(error) => return Outcome::Error(error),
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().unwrap_or_default();
    let url = format!("{scheme}://{host}:{port}/{}", path.trim_start_matches('/'));
    let mut request = context.http.get(&url).timeout(timeout).header("User-Agent", agent).header("Accept", "*/*");
    for header in action.http_headers.iter().flatten() {
        request = request.header(header.name.as_str(), header.value.as_str());
    }
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            if (200..400).contains(&status) {
                Outcome::Success
            } else {
                Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
            }
        }
        Err(error) if error.is_timeout() => {
            Outcome::Failure(format!("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                text = inner.to_string();
                source = inner.source();
            }
            Outcome::Failure(format!("Get {url:?}: {text}"))
        }
    }
}

/// Opens a connection.
pub async fn tcp(action: &TCPSocketAction, container: &Container, pod_ip: &str, timeout: Duration) -> Outcome {
    let port = match port(&action.port, container) {
        Ok(port) => port,
        Err(error) => return Outcome::Error(error),
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: connect: {error}")),
        Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Asks a gRPC server for its health (`grpc.health.v1.Health/Check`).
pub async fn grpc(action: &GRPCAction, pod_ip: &str, timeout: Duration) -> Outcome {
    let Ok(port) = u16::try_from(action.port) else { return Outcome::Error(format!("invalid port number: {}", action.port)) };
    let address = format!("{pod_ip}:{port}");
    match tokio::time::timeout(timeout, grpc_check(&address, action.service.as_deref().unwrap_or_default())).await {
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                _ => "SERVICE_UNKNOWN",
            };
            Outcome::Failure(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(text)) => Outcome::Failure(text),
        Err(_) => Outcome::Failure(format!("timeout: failed to connect service {address:?} within {timeout:?}: context deadline exceeded")),
    }
}

async fn grpc_check(address: &str, service: &str) -> Result<u64, String> {
    let lost = |error: &dyn std::fmt::Display| format!("timeout: failed to connect service {address:?}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|e| lost(&e))?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.map_err(|e| lost(&e))?;
    let driver = tokio::spawn(connection);
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        message.push(u8::try_from(service.len()).map_err(|e| e.to_string())?);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0, 0, 0, 0, u8::try_from(message.len()).map_err(|e| e.to_string())?];
    body.extend(message);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| lost(&e))?;
    let head_status = answer.headers().get("grpc-status").and_then(|s| s.to_str().ok()).map(str::to_owned);
    let collected = answer.into_body().collect().await.map_err(|e| lost(&e))?;
    let trailer = collected.trailers().and_then(|t| t.get("grpc-status")).and_then(|s| s.to_str().ok()).map(str::to_owned);
    driver.abort();
    match head_status.or(trailer).as_deref() {
        None | Some("0") => {}
        Some("12") => {
            return Err(format!("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {service}"));
        }
        Some(code) => return Err(format!("error: health rpc failed: rpc error: code = {code}")),
    }
    let bytes = collected.to_bytes();
    // Message: tag of field 1 as a varint, then the value, small enough for one byte.
    Ok(match bytes.get(5..) {
        Some([0x08, status, ..]) => u64::from(*status),
        _ => 0,
    })
}
