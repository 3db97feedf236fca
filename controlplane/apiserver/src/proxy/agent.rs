//! Connections to agents, and the endpoints of theirs that the API passes on.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, BodyStream, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use trierarch_api::{ApiError, GroupResource, Kind, Object, Path, Problems, Reason, Snapshot as _};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::dispatch::{Admitted, Answer, Body};
use crate::request::percent;

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");
const CONNECT: Duration = Duration::from_secs(5);
const PORT_DEFAULT: u16 = 10250;
/// How much of an agent's refusal is shown.
const REFUSAL_BYTES_MAX: usize = 4096;

/// A connection to an agent.
pub type AgentStream = TlsStream<TcpStream>;

/// Where an agent listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node's name.
    pub node: String,
    /// The node's internal address.
    pub address: IpAddr,
    /// The streaming port.
    pub port: u16,
}

/// The endpoint that a node's status tells.
///
/// # Errors
/// 404 without the node, 500 without an address.
pub fn endpoint(snapshot: &StoreSnapshot, node: &str) -> Result<Endpoint, ApiError> {
    let object = snapshot.get(&NODES, "", node).ok_or_else(|| ApiError::not_found(&NODES, node))?;
    endpoint_of(&object).ok_or_else(|| ApiError::internal(format!("no preferred addresses found; known addresses: [] (node {node:?})")))
}

/// The endpoint in a node's status.
pub fn endpoint_of(node: &Object) -> Option<Endpoint> {
    let value = node.value();
    let addresses = value["status"]["addresses"].as_array()?;
    let of = |kind: &str| addresses.iter().find(|address| address["type"] == kind)?["address"].as_str()?.parse().ok();
    let address = of("InternalIP").or_else(|| of("ExternalIP"))?;
    let port = value["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|port| u16::try_from(port).ok());
    Some(Endpoint { node: node.name.clone(), address, port: port.filter(|port| *port > 0).unwrap_or(PORT_DEFAULT) })
}

/// Connects and shakes hands; the agent's certificate is verified for its address.
///
/// # Errors
/// 502-like: 503 with what failed.
pub async fn connect(server: &ApiServer, endpoint: &Endpoint) -> Result<AgentStream, ApiError> {
    let what = |error: &dyn std::fmt::Display| {
        let (address, port) = (endpoint.address, endpoint.port);
        ApiError::new(
            Reason::InternalError,
            format!("error dialing backend: dial tcp {address}:{port}: {error} (node {:?})", endpoint.node),
        )
    };
    let dial = async {
        let tcp = TcpStream::connect((endpoint.address, endpoint.port)).await?;
        tcp.set_nodelay(true)?;
        let connector = TlsConnector::from(server.settings.agent_client.load_full());
        connector.connect(ServerName::IpAddress(endpoint.address.into()), tcp).await
    };
    match tokio::time::timeout(CONNECT, dial).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(what(&error)),
        Err(_elapsed) => Err(what(&"i/o timeout")),
    }
}

/// Where a pod's container is: the node's endpoint and the container's name.
pub struct Located {
    /// `None` while the pod has no node.
    pub endpoint: Option<Endpoint>,
    /// The container.
    pub container: String,
}

/// Finds the container that a request is for.
///
/// # Errors
/// 404 without the pod, 400 for a container that is not in it.
pub fn locate(snapshot: &StoreSnapshot, namespace: &str, name: &str, container: &str) -> Result<Located, ApiError> {
    let pod = snapshot.get(&PODS, namespace, name).ok_or_else(|| ApiError::not_found(&PODS, name))?;
    let value = pod.value();
    let container = container_of(&value, name, container)?;
    let endpoint = match value["spec"]["nodeName"].as_str().unwrap_or_default() {
        "" => None,
        node => Some(endpoint(snapshot, node)?),
    };
    Ok(Located { endpoint, container })
}

fn container_of(pod: &Value, name: &str, stated: &str) -> Result<String, ApiError> {
    let names = |which: &str| -> Vec<String> {
        pod["spec"][which].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let (regular, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if !stated.is_empty() {
        return if regular.iter().chain(&init).chain(&ephemeral).any(|each| each == stated) {
            Ok(stated.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {stated} is not valid for pod {name}")))
        };
    }
    if let [only] = regular.as_slice() {
        return Ok(only.clone());
    }
    if let Some(default) = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]
        .as_str()
        .filter(|each| regular.iter().any(|known| known == each))
    {
        return Ok(default.to_owned());
    }
    let mut why = format!("a container name must be specified for pod {name}, choose one of: [{}]", regular.join(" "));
    if !init.is_empty() {
        why = format!("{why} or one of the init containers: [{}]", init.join(" "));
    }
    if !ephemeral.is_empty() {
        why = format!("{why} or one of the ephemeral containers: [{}]", ephemeral.join(" "));
    }
    Err(ApiError::bad_request(why))
}

/// A raw stream of bytes as an agent sends them.
pub type Bytestream = futures::stream::BoxStream<'static, Result<Bytes, std::io::Error>>;

/// The stream of a container's log.
///
/// # Errors
/// What the agent refuses, as it says it.
pub async fn log_stream(admitted: &Admitted<'_>) -> Result<Bytestream, ApiError> {
    let (namespace, name) = (&admitted.info.namespace, &admitted.info.name);
    let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
    let located = locate(&snapshot, namespace, name, admitted.options.text("container"))?;
    let Some(endpoint) = located.endpoint else {
        return Ok(futures::stream::empty().boxed());
    };
    let query: Vec<String> = admitted
        .options
        .0
        .iter()
        .filter(|(key, _)| {
            matches!(
                key.as_str(),
                "follow" | "previous" | "sinceSeconds" | "sinceTime" | "timestamps" | "tailLines" | "limitBytes" | "stream"
            )
        })
        .map(|(key, value)| format!("{key}={}", percent::encode(value)))
        .collect();
    let path = format!("/containerLogs/{namespace}/{name}/{}?{}", percent::encode(&located.container), query.join("&"));
    let response = get(admitted.server, &endpoint, &path).await?;
    let code = response.status().as_u16();
    if code >= 300 {
        let body = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
        return Err(refusal(code, &text));
    }
    Ok(BodyStream::new(response.into_body())
        .filter_map(|frame| async move {
            match frame {
                Ok(frame) => frame.into_data().ok().map(Ok),
                Err(error) => Some(Err(std::io::Error::other(error))),
            }
        })
        .boxed())
}

/// `GET` of `pods/NAME/log`.
pub(crate) async fn log(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    check_log_options(admitted)?;
    let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
    let info = admitted.info;
    if locate(&snapshot, &info.namespace, &info.name, admitted.options.text("container"))?.endpoint.is_none() {
        // nothing has been said yet
        return Ok(Answer { code: 204, headers: Vec::new(), body: Body::Full(Bytes::new()) });
    }
    let stream = log_stream(admitted).await?;
    Ok(Answer { code: 200, headers: vec![("content-type".to_owned(), "text/plain".to_owned())], body: Body::Stream(stream) })
}

/// Problems of what is asked of a log.
fn check_log_options(admitted: &Admitted<'_>) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    for (field, least, why) in [
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
        ("sinceSeconds", 1, "must be greater than 0"),
    ] {
        if let Some(number) = admitted.options.integer(field)?.filter(|number| *number < least) {
            problems.invalid(&Path::new(field), number, why);
        }
    }
    if admitted.options.get("sinceSeconds").is_some() && admitted.options.get("sinceTime").is_some() {
        problems.forbidden(&Path::root(), "at most one of `sinceTime` or `sinceSeconds` may be specified");
    }
    let row = Kind::namespaced("", "v1", "PodLogOptions", "", "");
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(&row, &admitted.info.name, &problems)) }
}

/// An agent's refusal in the API's words.
pub fn refusal(code: u16, text: &str) -> ApiError {
    let reason = match code {
        400 => Reason::BadRequest,
        401 | 403 => Reason::Forbidden,
        404 => Reason::NotFound,
        503 => Reason::ServiceUnavailable,
        _ => Reason::InternalError,
    };
    ApiError::new(reason, if text.is_empty() { format!("the agent answered with status {code}") } else { text.to_owned() })
}

async fn get(server: &Arc<ApiServer>, endpoint: &Endpoint, path: &str) -> Result<hyper::Response<hyper::body::Incoming>, ApiError> {
    let stream = connect(server, endpoint).await?;
    let request = hyper::Request::get(path)
        .header("host", format!("{}:{}", endpoint.address, endpoint.port))
        .body(Full::<Bytes>::default())
        .map_err(ApiError::internal)?;
    send(stream, request).await
}

/// One request on a connection of its own.
///
/// # Errors
/// 500 with what the connection says.
pub async fn send<T>(stream: T, request: hyper::Request<Full<Bytes>>) -> Result<hyper::Response<hyper::body::Incoming>, ApiError>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %error, "Lost a connection to a backend");
        }
    });
    sender.send_request(request).await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_container_is_the_only_one_or_the_named_one() {
        let one = json!({"spec": {"containers": [{"name": "a"}]}});
        let two = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container_of(&one, "p", "").as_deref(), Ok("a"));
        assert_eq!(container_of(&two, "p", "i").as_deref(), Ok("i"));
        assert_eq!(container_of(&two, "p", "x").expect_err("no such").message, "container x is not valid for pod p");
        assert_eq!(
            container_of(&two, "p", "").expect_err("which").message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
    }
}
