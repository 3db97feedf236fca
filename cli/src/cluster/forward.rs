//! The one address that leads to the living masters: a TCP forwarder that knows them all and asks each whether it is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use trierarch_client::{Client, Config, Request};

/// How often a master is asked whether it is ready.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections to a master are cut when it has not answered so often: a busy one may miss one question.
const SILENT_LOOKS: u32 = 2;
/// How long it may take to answer. A master that is stopped accepts connections, and never answers.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

struct Backend {
    address: SocketAddr,
    ready: AtomicBool,
    /// Counts how often the master stopped answering: connections from before are cut, so that clients go to another one.
    silences: watch::Sender<u64>,
}

/// A running forwarder. Dropping it stops it.
pub struct Forwarder {
    stop: CancellationToken,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Forwarder {
    /// Forwards what comes to `listener` to one of the masters that are ready, in turn. `tls` trusts the cluster's authority.
    pub fn start(listener: TcpListener, masters: &[SocketAddr], tls: Arc<rustls::ClientConfig>) -> Self {
        let stop = CancellationToken::new();
        let backends: Arc<[Backend]> = masters
            .iter()
            .map(|address| Backend { address: *address, ready: AtomicBool::new(true), silences: watch::Sender::new(0) })
            .collect();
        for index in 0..backends.len() {
            tokio::spawn(stop.clone().run_until_cancelled_owned(probe(Arc::clone(&backends), index, Arc::clone(&tls))));
        }
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, backends)));
        Self { stop }
    }
}

async fn probe(backends: Arc<[Backend]>, index: usize, tls: Arc<rustls::ClientConfig>) {
    let backend = &backends[index];
    let config = Config {
        servers: vec![format!("https://{}", backend.address)],
        tls,
        token: None,
        user_agent: "trierarch-forwarder".to_owned(),
        timeout: ANSWER_PATIENCE,
    };
    let client = match Client::new(config) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "Cannot probe a master");
            return;
        }
    };
    let mut ticks = tokio::time::interval(PROBE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent_looks = 0_u32;
    loop {
        ticks.tick().await;
        let answer = client.raw(Request::get("/readyz")).await;
        let ready = answer.as_ref().is_ok_and(|answer| answer.status.is_success());
        if backend.ready.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(master = %backend.address, ready, "Master changed its readiness");
        }
        silent_looks = if answer.is_err() { silent_looks + 1 } else { 0 };
        if silent_looks == SILENT_LOOKS {
            backend.silences.send_modify(|count| *count += 1);
        }
    }
}

async fn accept(listener: TcpListener, backends: Arc<[Backend]>) {
    let next = AtomicUsize::new(0);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let first = next.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(forward(client, Arc::clone(&backends), first));
                }
                Err(error) => {
                    // out of descriptors and the like: others must close first
                    tracing::warn!(%error, "Could not accept a connection");
                    tokio::time::sleep(PATIENCE / 10).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The order in which masters are tried: those that are ready first, each group in turn from `first`.
fn order(ready: &[bool], first: usize) -> Vec<usize> {
    let turn = (0..ready.len()).map(|offset| (first + offset) % ready.len());
    let (mut good, bad): (Vec<_>, Vec<_>) = turn.partition(|index| ready[*index]);
    good.extend(bad);
    good
}

async fn forward(mut client: TcpStream, backends: Arc<[Backend]>, first: usize) {
    let ready: Vec<bool> = backends.iter().map(|backend| backend.ready.load(Ordering::Relaxed)).collect();
    for index in order(&ready, first) {
        let backend = &backends[index];
        match tokio::time::timeout(PATIENCE, TcpStream::connect(backend.address)).await {
            Ok(Ok(mut server)) => {
                // small frames of exec and watch must not wait for each other
                let prepared = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
                if prepared.is_ok() {
                    let mut silences = backend.silences.subscribe();
                    // ends with either side, or when the master stops answering; a broken connection is the client's to notice
                    tokio::select! {
                        _ended = copy_bidirectional(&mut client, &mut server) => {}
                        _ = silences.changed() => {}
                    }
                }
                return;
            }
            _ => backend.ready.store(false, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn ready_masters_come_first_and_take_turns() {
        assert_eq!(order(&[true, true, true], 1), [1, 2, 0]);
        assert_eq!(order(&[true, false, true], 1), [2, 0, 1]);
        assert_eq!(order(&[false, false], 3), [1, 0]);
        assert_eq!(order(&[], 0), Vec::<usize>::new());
    }
}
