//! Pod and Service addresses are reached through an agent: `CONNECT host:port` on its streaming port.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use trierarch_api::{ApiError, GroupResource, Reason, Snapshot as _};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::proxy::agent::{self, AgentStream, Endpoint};
use crate::proxy::io::{Rewound, read_head};

const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to an address in the pod network.
pub type Tunnel = Rewound<AgentStream>;

/// Opens a tunnel through a node's agent.
///
/// # Errors
/// 503 with what the agent says.
pub async fn open(server: &ApiServer, through: &Endpoint, host: &str, port: u16) -> Result<Tunnel, ApiError> {
    let mut stream = agent::connect(server, through).await?;
    let failed = |why: &dyn std::fmt::Display| {
        ApiError::new(Reason::ServiceUnavailable, format!("error trying to reach service: dial tcp {host}:{port}: {why}"))
    };
    let talk = async {
        stream.write_all(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n").as_bytes()).await?;
        stream.flush().await?;
        read_head(&mut stream).await
    };
    let head = tokio::time::timeout(PATIENCE, talk).await.map_err(|_elapsed| failed(&"i/o timeout"))?;
    let (length, mut buffer) = head.map_err(|error| failed(&error))?.ok_or_else(|| failed(&"the agent closed the connection"))?;
    let head = String::from_utf8_lossy(&buffer[..length]).into_owned();
    let code = head.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0);
    let rest = buffer.split_off(length);
    if code != 200 {
        let text = String::from_utf8_lossy(&rest).trim().to_owned();
        return Err(failed(&if text.is_empty() { format!("the agent answered with status {code}") } else { text }));
    }
    Ok(Rewound::new(rest, stream))
}

/// A node whose agent is ready, for addresses that belong to none.
///
/// # Errors
/// 503 when there is none.
pub fn any_ready(snapshot: &StoreSnapshot) -> Result<Endpoint, ApiError> {
    let ready = |node: &std::sync::Arc<trierarch_api::Object>| {
        let value = node.value();
        value["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    snapshot
        .list(&GroupResource::new("", "nodes"), None)
        .iter()
        .filter(|node| ready(node))
        .find_map(|node| agent::endpoint_of(node))
        .ok_or_else(|| ApiError::new(Reason::ServiceUnavailable, "no node is ready to reach the pod network through"))
}
