//! One master: what starts in which order, and how it ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use jiff::{SignedDuration, Timestamp};
use trierarch_api::Registry;
use trierarch_apiserver::{ServiceAccountKeys, Settings};
use trierarch_client::JoinToken;
use trierarch_raft::{Store, StoreConfig};

use crate::bootstrap::{self, Facts};
use crate::identity::pki::{self, Pki};
use crate::identity::{Bundle, LEAF_LIFETIME, Names};
use crate::join::{self, Application, Door, Joiner, Membership};
use crate::leadership::{self, Parts};
use crate::raft_api::RaftApi;
use crate::registry;
use crate::replication::Replication;

/// How a master begins.
#[derive(Clone, Debug)]
pub enum Start {
    /// As the first of a new cluster. Does no harm when it is a member already.
    Init,
    /// By joining through one of these masters. Does no harm when it is a member already.
    Join {
        /// Base addresses.
        servers: Vec<String>,
        /// The server token.
        token: JoinToken,
    },
    /// As the member that it is.
    Resume,
}

/// What a master is told.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// Its name.
    pub name: String,
    /// Store and keys.
    pub data_dir: PathBuf,
    /// The content store of images.
    pub images_dir: PathBuf,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where peers are heard.
    pub peer_listen: SocketAddr,
    /// The address that others are told.
    pub advertise: IpAddr,
    /// Further addresses of the server's certificate.
    pub sans: Vec<IpAddr>,
    /// How it begins.
    pub start: Start,
    /// Addresses of pods.
    pub pod_cidr: (Ipv4Addr, u8),
    /// Addresses of Services.
    pub service_cidr: (Ipv4Addr, u8),
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// How long the certificates that it issues to itself are valid.
    pub certificate_lifetime: Duration,
    /// Silence after which a node counts as lost.
    pub node_grace: Duration,
    /// How long pods that say nothing about it stay bound to a lost node.
    pub toleration_seconds: i64,
    /// How long the store keeps old versions, for watches and reads of the past.
    pub history_retention: Duration,
    /// How many bytes of them.
    pub history_bytes_max: u64,
    /// It takes experiments with elections.
    pub experiments: bool,
    /// After how many entries the store takes a snapshot and purges the log before it, if not after the usual number.
    pub snapshot_after_entries: Option<u64>,
}

impl MasterConfig {
    fn api_address(&self) -> String {
        SocketAddr::new(self.advertise, self.listen.port()).to_string()
    }

    fn peer_address(&self) -> String {
        SocketAddr::new(self.advertise, self.peer_listen.port()).to_string()
    }

    fn application(&self, id: Option<u64>) -> Application {
        Application {
            name: self.name.clone(),
            peer_address: self.peer_address(),
            api_address: self.api_address(),
            id,
            nonce: String::new(),
            proof: String::new(),
        }
    }

    fn names(&self) -> Names {
        let mut addresses = vec![self.advertise, IpAddr::V4(Ipv4Addr::LOCALHOST), bootstrap::api_address(self.service_cidr).into()];
        addresses.extend(&self.sans);
        addresses.sort_unstable();
        addresses.dedup();
        let lifetime = self.certificate_lifetime.try_into().unwrap_or(LEAF_LIFETIME);
        Names { lifetime, ..Names::new(&self.name, addresses, &self.cluster_domain) }
    }

    fn store(&self, membership: &Membership, bundle: &Bundle, pki: &Pki) -> StoreConfig {
        let mut config = StoreConfig::new(membership.id, self.data_dir.join("store"));
        config.joined = membership.joined;
        config.cluster_id.clone_from(&bundle.cluster_id);
        config.peer_listen = self.peer_listen;
        config.peer_advertise = self.peer_address();
        config.api_advertise = self.api_address();
        config.tls = Some(pki.peers.clone());
        (config.history_retention, config.history_bytes_max) = (self.history_retention, self.history_bytes_max);
        config.snapshot_after_entries = self.snapshot_after_entries.unwrap_or(config.snapshot_after_entries);
        config
    }
}

/// Runs a master until SIGTERM or SIGINT.
///
/// # Errors
/// What keeps it from starting: keys, ports, a damaged store.
pub fn run(config: MasterConfig) -> anyhow::Result<()> {
    actix_rt::System::new().block_on(serve(config))
}

/// The id and the bundle of this member: from disk, made anew, or from the cluster that it joins.
async fn identify(config: &MasterConfig) -> anyhow::Result<(Membership, Bundle, Option<Joiner>)> {
    let bundle = pki::load_bundle(&config.data_dir)?;
    let membership = join::load_membership(&config.data_dir)?;
    if let (Start::Join { token, .. }, Some(bundle)) = (&config.start, &bundle)
        && !token.pins(&pki::certificate(&bundle.cluster.certificate_pem)?)
    {
        bail!(
            "{} holds a member of another cluster than the one that the token is of: use another directory, or that cluster's token",
            config.data_dir.display()
        );
    }
    if let (Some(membership), Some(bundle)) = (&membership, &bundle)
        && membership.joined
    {
        return Ok((membership.clone(), bundle.clone(), None));
    }
    match &config.start {
        Start::Init => {
            let bundle = match bundle {
                Some(bundle) => bundle,
                None => Bundle::create(crate::clock::now())?,
            };
            pki::save_bundle(&config.data_dir, &bundle)?;
            Ok((Membership { id: 1, joined: false }, bundle, None))
        }
        Start::Join { servers, token } => {
            let joiner = Joiner::reach(servers.clone(), token.clone()).await?;
            let (id, bundle) = joiner.apply(config.application(membership.map(|member| member.id))).await?;
            pki::save_bundle(&config.data_dir, &bundle)?;
            let membership = Membership { id, joined: false };
            join::save_membership(&config.data_dir, &membership)?;
            Ok((membership, bundle, Some(joiner)))
        }
        Start::Resume => bail!("{} holds no member yet: start with --init, or with --join and a token", config.data_dir.display()),
    }
}

async fn serve(config: MasterConfig) -> anyhow::Result<()> {
    // the port first: a master that cannot be reached must not join
    let listener = TcpListener::bind(config.listen).with_context(|| format!("cannot listen on {}", config.listen))?;
    listener.set_nonblocking(true).context("cannot prepare the API's socket")?;
    let (membership, bundle, joiner) = identify(&config).await?;
    let pki = Arc::new(Pki::new(bundle.clone(), config.names(), crate::clock::now())?);
    let store = Store::open(config.store(&membership, &bundle, &pki)).await?;
    let served = serve_with(&store, listener, Identified { membership, bundle, joiner, pki }, config).await;
    store.close().await;
    served
}

/// What [`identify`] has found, and the certificates made from it.
struct Identified {
    membership: Membership,
    bundle: Bundle,
    joiner: Option<Joiner>,
    pki: Arc<Pki>,
}

/// Serves from an open store, which the caller closes however this ends.
async fn serve_with(store: &Store, listener: TcpListener, identified: Identified, config: MasterConfig) -> anyhow::Result<()> {
    let Identified { membership, bundle, joiner, pki } = identified;
    if !membership.joined {
        match &joiner {
            None => store.initialize().await?,
            Some(joiner) => joiner.become_member(config.application(Some(membership.id))).await?,
        }
        join::save_membership(&config.data_dir, &Membership { joined: true, ..membership })?;
    }
    let kinds = Arc::new(Registry::with_builtins());
    let token = bundle.token().context("the bundle's join token is damaged")?;
    let door = Door::new(store.clone(), bundle.clone(), token.clone());
    let settings = settings(&config, &bundle, &pki)?;
    let raft_api = RaftApi::new(store.clone(), bundle.clone(), config.experiments);
    let content = trierarch_images::Store::open(&config.images_dir).context("cannot open the content store of images")?;
    let images = trierarch_images::registry::Registry::new(content.clone(), trierarch_images::registry::RegistryConfig::default());
    let replication = Arc::new(Replication::new(content, store.clone(), Arc::clone(&pki.agents), bundle.cluster.certificate_pem.clone()));
    let repair = actix_rt::spawn(Arc::clone(&replication).repair());
    let server = trierarch_apiserver::serve(
        trierarch_apiserver::Config {
            listeners: vec![Arc::new(listener)],
            tls: Arc::clone(&pki.server),
            settings,
            extra: Some(Arc::new(move |routes, api| {
                door.mount(routes);
                registry::mount(routes, api, &images, &replication);
                replication.mount(routes, api);
                raft_api.mount(routes);
            })),
        },
        store.clone(),
        kinds,
    )
    .context("cannot serve the API")?;
    tracing::info!(node = config.name, address = %config.listen, "Serving the API");
    let parts = Parts {
        server: Arc::clone(server.api()),
        store: store.clone(),
        controllers: trierarch_controllers::Config {
            cluster_cidr: format!("{}/{}", config.pod_cidr.0, config.pod_cidr.1),
            root_ca_pem: bundle.cluster.certificate_pem.clone(),
            node_grace: config.node_grace,
            ..trierarch_controllers::Config::default()
        },
        authority: bundle.cluster.clone(),
        facts: Facts { service_cidr: config.service_cidr, token },
    };
    let leader = actix_rt::spawn(leadership::follow(parts));
    let renewal = actix_rt::spawn(renew(Arc::clone(&pki)));
    let failure = tokio::select! {
        outcome = wait_for_end() => {
            outcome?;
            None
        }
        // whoever started this process starts it again, from what is on the disk
        reason = store.stopped() => Some(reason),
    };
    tracing::info!("Ending");
    renewal.abort();
    repair.abort();
    // others take over before this one stops answering
    if store.leadership().borrow().established
        && let Err(error) = store.transfer_leadership(None).await
    {
        tracing::debug!(%error, "Could not hand leadership over");
    }
    server.stop().await;
    leader.abort();
    match failure {
        Some(reason) => bail!("the store has stopped: {reason}"),
        None => Ok(()),
    }
}

fn settings(config: &MasterConfig, bundle: &Bundle, pki: &Pki) -> anyhow::Result<Settings> {
    let public = rcgen::KeyPair::from_pem(&bundle.service_account_key_pem).context("the service account key is damaged")?.public_key_pem();
    let issuer = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let keys = ServiceAccountKeys {
        signing_key_pem: bundle.service_account_key_pem.clone(),
        verification_keys_pem: vec![public],
        audiences: vec![issuer.clone()],
        issuer,
    };
    Ok(Settings {
        client_ca: vec![pki::certificate(&bundle.cluster.certificate_pem)?],
        front_proxy_ca: vec![pki::certificate(&bundle.front_proxy.certificate_pem)?],
        cluster_ca_pem: bundle.cluster.certificate_pem.clone(),
        service_cidr: config.service_cidr,
        cluster_domain: config.cluster_domain.clone(),
        toleration_seconds: config.toleration_seconds,
        advertise: config.api_address(),
        ..Settings::new(keys, Arc::clone(&pki.agents))
    })
}

/// How often to warn about the same authority.
const WARNING_INTERVAL: SignedDuration = SignedDuration::from_hours(24);

/// Renews what this master presents before it expires, and warns of what nobody renews by itself; for ever.
async fn renew(pki: Arc<Pki>) {
    let mut warned: Option<Timestamp> = None;
    loop {
        let now = crate::clock::now();
        if pki.is_due(now) {
            match pki.renew(now) {
                Ok(()) => tracing::info!("Renewed this master's certificates"),
                Err(error) => {
                    let days_left = pki.left(now).as_hours() / 24;
                    tracing::error!(
                        days_left,
                        error = &error as &dyn std::error::Error,
                        "Could not renew this master's certificates, trying again"
                    );
                }
            }
        }
        if warned.is_none_or(|at| now.duration_since(at) >= WARNING_INTERVAL) {
            warned = Some(now);
            match pki.expiring_authorities(now) {
                Ok(expiring) => expiring.into_iter().for_each(|(authority, days_left)| {
                    tracing::warn!(authority, days_left, "An authority of the cluster expires soon");
                }),
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "Could not look at the cluster's authorities"),
            }
        }
        tokio::time::sleep(pki.look_interval()).await;
    }
}

async fn wait_for_end() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(dir: &Path, start: Start) -> MasterConfig {
        MasterConfig {
            name: "m2".to_owned(),
            data_dir: dir.to_owned(),
            images_dir: dir.join("images"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: Ipv4Addr::LOCALHOST.into(),
            sans: Vec::new(),
            start,
            pod_cidr: (Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_domain: "cluster.local".to_owned(),
            certificate_lifetime: Duration::from_secs(3600),
            node_grace: Duration::from_secs(3),
            toleration_seconds: 5,
            history_retention: Duration::from_secs(3600),
            history_bytes_max: 256 << 20,
            experiments: false,
            snapshot_after_entries: None,
        }
    }

    #[tokio::test]
    async fn a_directory_of_another_cluster_is_not_joined() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let now = crate::clock::now();
        let bundle = Bundle::create(now).expect("created");
        pki::save_bundle(dir.path(), &bundle).expect("written");
        join::save_membership(dir.path(), &Membership { id: 2, joined: true }).expect("written");
        // nobody is asked: what is on the disk decides
        let joining = |token: JoinToken| config(dir.path(), Start::Join { servers: vec!["https://127.0.0.1:1".to_owned()], token });
        let other = Bundle::create(now).expect("created").token().expect("a token");
        let error = identify(&joining(other)).await.err().expect("refused");
        assert!(error.to_string().contains("another cluster"), "{error}");
        let (membership, ..) = identify(&joining(bundle.token().expect("a token"))).await.expect("it is this cluster's");
        assert_eq!(membership.id, 2);
    }

    /// A process that ends while RocksDB still closes a database is aborted, whatever it wanted to say with its status.
    #[test]
    fn a_master_that_cannot_start_closes_its_store() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("images"), "not a directory").expect("written");
        let error = run(config(dir.path(), Start::Init)).expect_err("it needs a place for images");
        assert!(error.to_string().contains("content store of images"), "{error:#}");
        let reopened = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
            let mut config = StoreConfig::new(1, dir.path().join("store"));
            config.cluster_id = pki::load_bundle(dir.path()).expect("readable").expect("written").cluster_id;
            let store = Store::open(config).await?;
            store.close().await;
            Ok::<(), trierarch_raft::OpenError>(())
        });
        reopened.expect("nothing holds its files any more");
    }
}
