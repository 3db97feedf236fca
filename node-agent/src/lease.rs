//! The node's Lease, renewed on a thread of its own: a node whose agent is busy, or whose machine is, is not a lost node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use trierarch_api::departure;
use trierarch_client::{Client, Error};

use crate::clock;
use crate::config::AgentConfig;

/// Priority of the thread above that of pods and of the agent's other threads.
const NICENESS: i32 = -10;
/// How long one renewal may take: longer, and the next one is better.
const RENEWAL_PATIENCE: Duration = Duration::from_secs(2);

/// A thread that renews the Lease. Dropping this ends it.
pub struct LeaseThread {
    _stop: oneshot::Sender<()>,
}

impl LeaseThread {
    /// Renews the Lease of `node` (as it is stored), and tells in it which revision of EndpointSlices the node's rules follow.
    ///
    /// # Errors
    /// When the thread or its connection cannot be made.
    pub fn start(config: &AgentConfig, node: Value, applied: watch::Receiver<Option<u64>>) -> std::io::Result<Self> {
        let mut own = config.client.config().clone();
        own.timeout = RENEWAL_PATIENCE;
        // connections belong to the runtime that opened them
        let client = Client::new(own).map_err(std::io::Error::other)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let lease = Lease { client, name: config.node_name.clone(), uid: node["metadata"]["uid"].clone(), heartbeat: config.heartbeat };
        let work = move || {
            // without the right to ask for it, the usual priority has to do
            let _without_the_right = rustix::process::setpriority_process(None, NICENESS);
            runtime.block_on(async {
                tokio::select! {
                    () = lease.keep(applied) => {}
                    _ = stopped => {}
                }
            });
        };
        std::thread::Builder::new().name("node-lease".to_owned()).spawn(work)?;
        Ok(Self { _stop: stop })
    }
}

/// What is renewed.
struct Lease {
    client: Client,
    name: String,
    /// The Node's uid.
    uid: Value,
    heartbeat: Duration,
}

impl Lease {
    /// Renews it for ever.
    async fn keep(&self, mut applied: watch::Receiver<Option<u64>>) {
        let mut known: Option<Value> = None;
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // somebody waits for this; without a sender there is nothing to tell any more
                Ok(()) = applied.changed() => {}
            }
            let rules = *applied.borrow_and_update();
            match self.renew(known.take(), rules).await {
                Ok(lease) => known = Some(lease),
                Err(error) => tracing::warn!(node = self.name, %error, "Could not renew the node's lease"),
            }
        }
    }

    /// Renews the Lease from its known form, or from what the masters have.
    async fn renew(&self, known: Option<Value>, rules: Option<u64>) -> Result<Value, Error> {
        const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let path = format!("{COLLECTION}/{}", self.name);
        let renewed = format!("{:.6}", clock::now());
        if let Some(mut lease) = known {
            tell(&mut lease, rules);
            lease["spec"]["renewTime"] = json!(renewed);
            return self.client.replace(&path, &lease).await;
        }
        let seconds = self.heartbeat.as_secs().max(1).saturating_mul(4).max(3);
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": seconds, "renewTime": renewed});
        match self.client.get::<Value>(&path).await {
            Ok(mut lease) => {
                tell(&mut lease, rules);
                for (field, value) in spec.as_object().into_iter().flatten() {
                    lease["spec"][field] = value.clone();
                }
                self.client.replace(&path, &lease).await
            }
            Err(error) if error.is_not_found() => {
                let owner = json!({"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self.uid});
                let mut lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": "kube-node-lease", "ownerReferences": [owner]},
                    "spec": spec,
                });
                tell(&mut lease, rules);
                self.client.create(COLLECTION, &lease).await
            }
            Err(error) => Err(error),
        }
    }
}

/// Writes down which revision of EndpointSlices the node's rules follow.
fn tell(lease: &mut Value, rules: Option<u64>) {
    if let Some(revision) = rules {
        lease["metadata"]["annotations"][departure::APPLIED] = json!(revision.to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::{Arc, mpsc};

    use super::*;

    /// A master that stores one Lease and passes on each renewal.
    fn master(listener: TcpListener, renewals: mpsc::Sender<Value>) {
        for stream in listener.incoming().flatten() {
            let renewals = renewals.clone();
            std::thread::spawn(move || while answer(&stream, &renewals).is_some() {});
        }
    }

    fn answer(mut stream: &TcpStream, renewals: &mpsc::Sender<Value>) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let (mut first, mut length) = (String::new(), 0);
        reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if first.starts_with("GET") {
            body = json!({"metadata": {"name": "n1"}, "spec": {}}).to_string().into_bytes();
        } else {
            renewals.send(serde_json::from_slice(&body).ok()?).ok()?;
        }
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len()).ok()?;
        stream.write_all(&body).ok()
    }

    #[tokio::test]
    async fn a_blocked_agent_is_no_lost_node() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("bound"));
        let (sender, renewals) = mpsc::channel();
        std::thread::spawn(move || master(listener, sender));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = Client::new(trierarch_client::Config {
            servers: vec![server],
            tls: Arc::new(tls),
            token: None,
            user_agent: "test".to_owned(),
            timeout: Duration::from_secs(10),
        });
        let serving = Arc::new(crate::bootstrap::ServingIdentity::default());
        let mut config = AgentConfig::new("n1", Ipv4Addr::LOCALHOST, client.expect("a client"), serving, Vec::new());
        config.heartbeat = Duration::from_millis(20);
        let (applied, applications) = watch::channel(None);
        let lease = LeaseThread::start(&config, json!({"metadata": {"uid": "u"}}), applications).expect("started");
        // nothing else runs on this thread, on which the agent's tasks would be
        for _ in 0..5 {
            let renewal = renewals.recv_timeout(Duration::from_secs(20)).expect("renewed while this thread is blocked");
            assert_eq!(renewal["spec"]["holderIdentity"], "n1");
        }
        applied.send_replace(Some(7));
        let told = renewals.iter().find(|renewal| renewal["metadata"]["annotations"][departure::APPLIED] == "7");
        assert!(told.is_some(), "it tells what the rules follow");
        drop(lease);
        // what was under way ends
        let after = (0..100).take_while(|_| renewals.recv_timeout(Duration::from_millis(500)).is_ok()).count();
        assert!(after < 100, "it is renewed after the end");
    }
}
