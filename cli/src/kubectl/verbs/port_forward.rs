//! `port-forward`: local ports that lead into a pod.
//!
//! `Spec:` KEP-4006, `SPDY/3.1+portforward.k8s.io` and `v4.channel.k8s.io`/`v5`: over a WebSocket each connection is a socket of its own.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use trierarch_client::Client;
use trierarch_client::upgrade::Frame;

use crate::kubectl::discovery::escape;
use crate::kubectl::duration;
use crate::kubectl::errors::Usage;
use crate::kubectl::output::{line, note};
use crate::kubectl::pods;
use crate::kubectl::session::Session;

const PROTOCOLS: &[&str] = &["v4.channel.k8s.io", "portforward.k8s.io"];
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Each channel begins with the port, in two bytes.
const HEADER: usize = 2;
const READ_MAX: usize = 32 * 1024;
/// A client that has said everything gets its answer; after so long without a byte there is none to come.
const ANSWER_PAUSE: Duration = Duration::from_secs(10);

/// Arguments of `port-forward`.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  kubectl port-forward web-1 8080:80           127.0.0.1:8080 leads to port 80 of a pod
  kubectl port-forward svc/web 8080:http       to the pod behind a Service's port
  kubectl port-forward deploy/web :80          from any free port
  kubectl port-forward --address 0.0.0.0 web-1 80")]
pub struct Args {
    /// POD or TYPE/NAME, then LOCAL:REMOTE, :REMOTE or PORT
    #[arg(value_name = "WHAT")]
    pub words: Vec<String>,
    /// Addresses to listen on
    #[arg(long, default_value = "localhost", value_delimiter = ',')]
    pub address: Vec<String>,
    /// How long to wait for a pod
    #[arg(long, default_value = "1m")]
    pub pod_running_timeout: String,
}

/// A pair of ports.
#[derive(Debug, PartialEq, Eq)]
struct Pair {
    local: u16,
    remote: u16,
}

/// Carries it out; ends with the user's patience or the pod.
///
/// # Errors
/// In kubectl's words.
pub async fn run(session: &Session, args: Args) -> anyhow::Result<()> {
    session.refuse_impersonation("port-forward")?;
    let Some((word, ports)) = args.words.split_first().filter(|(_, ports)| !ports.is_empty()) else {
        return Err(
            Usage { verb: "port-forward", message: "error: TYPE/NAME and list of ports are required for port-forward".to_owned() }.into()
        );
    };
    let patience = duration::parse(&args.pod_running_timeout)?;
    let owner = pods::object(session, word).await?;
    let pod = pods::one(session, word, patience).await?;
    if pod["status"]["phase"] != "Running" {
        pods::until_running(session, &pod, patience, false).await.with_context(|| {
            format!(
                "unable to forward port because pod is not running. Current status={}",
                pod["status"]["phase"].as_str().unwrap_or_default()
            )
        })?;
    }
    let service = (owner.resource.plural == "services").then_some(&owner.object);
    let pairs: Vec<Pair> = ports.iter().map(|text| pair(text, &pod, service)).collect::<anyhow::Result<_>>()?;
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/portforward",
        escape(&session.namespace),
        escape(pod["metadata"]["name"].as_str().unwrap_or_default())
    );
    let mut listeners = tokio::task::JoinSet::new();
    for pair in pairs {
        let mut bound = 0;
        for address in addresses(&args.address) {
            match TcpListener::bind((address.as_str(), pair.local)).await {
                Ok(listener) => {
                    bound += 1;
                    let port = listener.local_addr()?.port();
                    let shown = if address.contains(':') { format!("[{address}]") } else { address };
                    line(format!("Forwarding from {shown}:{port} -> {}", pair.remote))?;
                    listeners.spawn(accept(session.client.clone(), path.clone(), listener, port, pair.remote));
                }
                Err(error) => note(format!(
                    "Unable to listen on port {}: Listeners failed to create with the following errors: [unable to create listener: Error listen tcp {address}:{}: {error}]",
                    pair.local, pair.local
                )),
            }
        }
        if bound == 0 {
            bail!("unable to listen on any of the requested ports: [{{{} {}}}]", pair.local, pair.remote);
        }
    }
    // a pod that is gone needs no listeners
    let gone = async {
        let uid = pod["metadata"]["uid"].as_str();
        let discovery = session.discovery().await?;
        let target = crate::kubectl::select::Found {
            resource: discovery.resource("pods")?,
            namespace: Some(session.namespace.clone()),
            name: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            object: Value::Null,
            source: None,
        };
        crate::kubectl::waiting::until_gone(session, &target, uid, Duration::from_secs(365 * 24 * 3600)).await
    };
    tokio::select! {
        outcome = gone => {
            outcome?;
            bail!("lost connection to pod")
        }
        ended = listeners.join_next() => {
            if let Some(outcome) = ended {
                outcome??;
            }
            Ok(())
        }
    }
}

fn addresses(given: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    for address in given {
        if address == "localhost" {
            all.push("127.0.0.1".to_owned());
            all.push("::1".to_owned());
        } else {
            all.push(address.clone());
        }
    }
    all
}

fn pair(text: &str, pod: &Value, service: Option<&Value>) -> anyhow::Result<Pair> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let wanted = match service {
        Some(service) => service_target(service, remote)?,
        None => remote.to_owned(),
    };
    let number = match wanted.parse::<u16>() {
        Ok(0) => bail!("remote port must be > 0"),
        Ok(number) => number,
        Err(_name) => named_port(pod, &wanted).with_context(|| {
            format!(
                "error parsing remote port {wanted:?}: Pod {:?} does not have a named port",
                pod["metadata"]["name"].as_str().unwrap_or_default()
            )
        })?,
    };
    let local = match local {
        "" => 0,
        text if text == remote && text.parse::<u16>().is_err() => number,
        text => text.parse().map_err(|error| anyhow::anyhow!("error parsing local port {text:?}: {error}"))?,
    };
    Ok(Pair { local, remote: number })
}

/// The pod's port behind a Service's.
fn service_target(service: &Value, port: &str) -> anyhow::Result<String> {
    let entry = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry["name"] == port || entry["port"].as_u64().is_some_and(|number| port.parse() == Ok(number)));
    let Some(entry) = entry else {
        bail!("Service {} does not have a service port {port}", service["metadata"]["name"].as_str().unwrap_or_default());
    };
    if service["spec"]["clusterIP"] == "None" {
        return Ok(entry["port"].to_string());
    }
    Ok(match &entry["targetPort"] {
        Value::String(name) => name.clone(),
        Value::Number(number) if number.as_u64() != Some(0) => number.to_string(),
        _ => entry["port"].to_string(),
    })
}

fn named_port(pod: &Value, name: &str) -> Option<u16> {
    pod["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .find(|port| port["name"] == name)
        .and_then(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
}

async fn accept(client: Client, path: String, listener: TcpListener, local: u16, remote: u16) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        line(format!("Handling connection for {local}"))?;
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move {
            if let Err(error) = forward(&client, &path, stream, remote).await {
                note(format!("error: an error occurred forwarding {local} -> {remote}: {error:#}"));
            }
        });
    }
}

/// One connection: data both ways until one side has nothing more to say.
async fn forward(client: &Client, path: &str, mut stream: TcpStream, port: u16) -> anyhow::Result<()> {
    let (socket, _) = client.websocket(&format!("{path}?ports={port}"), PROTOCOLS).await?;
    let (mut send, mut receive) = socket.split();
    let (mut read, mut write) = stream.split();
    let mut skipped = [false; 2];
    let mut buffer = vec![0; READ_MAX];
    let mut reading = true;
    loop {
        let limit = if reading { Duration::from_secs(365 * 24 * 3600) } else { ANSWER_PAUSE };
        tokio::select! {
            message = tokio::time::timeout(limit, receive.next()) => {
                let Ok(message) = message else { break };
                let data = match message {
                    None | Some(Ok(Frame::Close(_))) => break,
                    Some(Ok(Frame::Binary(data))) => data,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => return Err(error.into()),
                };
                let Some((&channel, mut bytes)) = data.split_first() else { continue };
                if let Some(skipped) = skipped.get_mut(usize::from(channel))
                    && !std::mem::replace(skipped, true)
                {
                    bytes = bytes.get(HEADER..).unwrap_or_default();
                }
                if bytes.is_empty() {
                    continue;
                }
                match channel {
                    DATA => write.write_all(bytes).await?,
                    ERROR => bail!("{}", String::from_utf8_lossy(bytes)),
                    _ => {}
                }
            }
            count = read.read(&mut buffer), if reading => {
                let count = count?;
                if count == 0 {
                    // the protocol has no half-closed connection: the answer still comes, then the other side closes
                    reading = false;
                    continue;
                }
                let mut data = Vec::with_capacity(count + 1);
                data.push(DATA);
                data.extend_from_slice(&buffer[..count]);
                send.send(Frame::Binary(data.into())).await?;
            }
        }
    }
    // whoever is still there is told; whoever is not need not be
    let _gone = write.shutdown().await;
    let _closed = send.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_pairs() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]}});
        let check = |text: &str, local, remote| assert_eq!(pair(text, &pod, None).expect(text), Pair { local, remote });
        check("80", 80, 80);
        check("8000:80", 8000, 80);
        check(":80", 0, 80);
        check("9000:http", 9000, 8080);
        check("http", 8080, 8080);
        assert!(pair("80:zzz", &pod, None).is_err() && pair("0:0", &pod, None).is_err() && pair("x:80", &pod, None).is_err());
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}]}});
        assert_eq!(pair("7000:80", &pod, Some(&service)).expect("a port"), Pair { local: 7000, remote: 8080 });
        assert_eq!(pair("7000:web", &pod, Some(&service)).expect("a port"), Pair { local: 7000, remote: 8080 });
        assert_eq!(pair("81", &pod, Some(&service)).expect_err("none").to_string(), "Service s does not have a service port 81");
        assert_eq!(addresses(&["localhost".to_owned()]), ["127.0.0.1", "::1"]);
    }
}
