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
    /// Counts how often the master stopped serving: connections from before are cut, so that clients go to another one.
    cuts: watch::Sender<u64>,
}

/// What a look at a master showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Ready,
    /// It says that it is not.
    NotReady,
    Silent,
}

/// What the looks at a master have shown.
#[derive(Debug, Default)]
struct Looks {
    silent: u32,
    /// Its connections were cut since it was last ready.
    has_cut: bool,
}

impl Looks {
    /// Whether its connections are to be cut now. One that says that it is not ready keeps them while no other one is: it may still serve
    /// reads.
    fn take(&mut self, look: Look, is_another_ready: bool) -> bool {
        self.silent = if look == Look::Silent { self.silent.saturating_add(1) } else { 0 };
        let cuts = match look {
            Look::Ready => false,
            Look::NotReady => is_another_ready,
            Look::Silent => self.silent >= SILENT_LOOKS,
        };
        let cuts_now = cuts && !self.has_cut;
        self.has_cut = look != Look::Ready && (self.has_cut || cuts);
        cuts_now
    }
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
            .map(|address| Backend { address: *address, ready: AtomicBool::new(true), cuts: watch::Sender::new(0) })
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
    let mut looks = Looks::default();
    loop {
        ticks.tick().await;
        let look = match client.raw(Request::get("/readyz")).await {
            Ok(answer) if answer.status.is_success() => Look::Ready,
            Ok(_) => Look::NotReady,
            Err(_) => Look::Silent,
        };
        let ready = look == Look::Ready;
        if backend.ready.swap(ready, Ordering::Relaxed) != ready {
            tracing::info!(master = %backend.address, ready, "Master changed its readiness");
        }
        let is_another_ready = backends.iter().enumerate().any(|(other, backend)| other != index && backend.ready.load(Ordering::Relaxed));
        if looks.take(look, is_another_ready) {
            backend.cuts.send_modify(|count| *count += 1);
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
                    let mut cuts = backend.cuts.subscribe();
                    // ends with either side, or when the master stops serving; a broken connection is the client's to notice
                    tokio::select! {
                        _ended = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cuts.changed() => {}
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
    use super::Look::{NotReady, Ready, Silent};
    use super::{Looks, order};

    /// After which of these looks connections are cut, each with whether another master is ready then.
    fn cuts(looks: &[(super::Look, bool)]) -> Vec<usize> {
        let mut seen = Looks::default();
        (0..).zip(looks).filter(|(_, (look, is_another_ready))| seen.take(*look, *is_another_ready)).map(|(number, _)| number).collect()
    }

    #[test]
    fn connections_are_cut_once_when_another_master_serves() {
        assert_eq!(cuts(&[(Ready, true), (NotReady, true), (NotReady, true), (Silent, true), (Silent, true)]), [1]);
        // nobody is ready: this one may still serve reads, until another one is
        assert_eq!(cuts(&[(NotReady, false), (NotReady, false), (NotReady, true)]), [2]);
        // a busy one may miss a question
        assert_eq!(cuts(&[(Silent, true), (Ready, true), (Silent, false), (Silent, false)]), [3]);
        assert_eq!(cuts(&[(NotReady, true), (Ready, true), (NotReady, true)]), [0, 2]);
    }

    #[test]
    fn ready_masters_come_first_and_take_turns() {
        assert_eq!(order(&[true, true, true], 1), [1, 2, 0]);
        assert_eq!(order(&[true, false, true], 1), [2, 0, 1]);
        assert_eq!(order(&[false, false], 3), [1, 0]);
        assert_eq!(order(&[], 0), Vec::<usize>::new());
    }
}
