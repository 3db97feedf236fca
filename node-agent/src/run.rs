//! How the agent's parts start and stop.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use actix::Actor;
use k8s_openapi::api::core::v1::{Node, Pod};
use nix::mount::{MsFlags, mount};
use tokio::sync::watch;
use trierarch_client::Reflector;
use trierarch_network::{DnsConfig, DnsServer, PodNetwork, PodNetworkConfig, ServiceRules, ServiceRulesConfig};
use trierarch_runtime::{Runtime, RuntimeConfig, RuntimeEvent};

use crate::config::AgentConfig;
use crate::kubelet::actor::Kubelet;
use crate::kubelet::context::{Context, Watched};
use crate::kubelet::events::Recorder;
use crate::kubelet::image_manager::ImageManager;
use crate::kubelet::messages::SandboxChanged;
use crate::kubelet::prober::Task;
use crate::kubelet::pull_token::PullToken;
use crate::kubelet::{resource_watch, sweep, volumes};
use crate::lease::LeaseThread;
use crate::{feeders, node_status};

/// Why the agent could not run. Errors of single pods never end it.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A directory of the agent could not be made.
    #[error("cannot prepare {path}")]
    Directory {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The container runtime could not start.
    #[error("cannot start the container runtime")]
    Runtime(#[source] trierarch_runtime::Error),
    /// The content store can't be used.
    #[error("cannot open the image store")]
    Images(#[source] trierarch_images::StoreError),
    /// The streaming port could not be opened.
    #[error("cannot serve {address}")]
    Streaming {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// TLS of the streaming port.
    #[error("cannot use the certificates of the streaming port")]
    Tls(#[source] rustls::Error),
}

/// Runs the node until `shutdown` completes. Pods stay; a later agent takes them over.
///
/// # Errors
/// What keeps the agent from starting at all.
pub async fn run(config: AgentConfig, shutdown: impl Future<Output = ()>) -> Result<(), AgentError> {
    // Another part of the process may have chosen the provider already; it is the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    for dir in ["pods", "containers", "logs", "memory", "runtime", "network"] {
        let path = config.data_dir.join(dir);
        std::fs::create_dir_all(&path).map_err(|source| AgentError::Directory { path, source })?;
    }
    let memory = config.data_dir.join("memory");
    if !volumes::is_mount_point(&memory).unwrap_or(false) {
        mount(Some("tmpfs"), &memory, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=755"))
            .map_err(|e| AgentError::Directory { path: memory, source: e.into() })?;
    }
    let runtime_config = RuntimeConfig {
        root_dir: config.data_dir.join("runtime"),
        cgroup_parent: config.cgroup_parent.clone(),
        sys: trierarch_runtime::sys::linux(),
    };
    let runtime = tokio::task::spawn_blocking(move || Runtime::new(runtime_config))
        .await
        .map_err(|e| AgentError::Directory { path: config.data_dir.clone(), source: std::io::Error::other(e) })?
        .map_err(AgentError::Runtime)?;
    let runtime = Arc::new(runtime);
    let store = trierarch_images::Store::open(&config.images_dir).map_err(AgentError::Images)?;
    let known: BTreeSet<String> = runtime.list_containers().into_iter().map(|container| container.id).collect();
    let (containers, swept, owner) = (config.data_dir.join("containers"), store.clone(), config.node_name.clone());
    // Before the first pod: a container that is being made is not known yet, either.
    let swept = tokio::task::spawn_blocking(move || sweep::sweep(&containers, &swept, &owner, &known)).await;
    if let Err(error) = swept {
        tracing::warn!(%error, "Could not look for what an earlier agent left");
    }
    let events = Recorder::start(config.client.clone(), config.node_name.clone());
    let http = reqwest::Client::builder()
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()
        .map_err(|e| AgentError::Directory { path: config.data_dir.clone(), source: std::io::Error::other(e) })?;
    let machine = node_status::read_machine(&config.data_dir);
    let resolver = trierarch_network::resolv::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
    let (network_up, network) = watch::channel(None);
    let services = Reflector::start(config.client.clone(), "/api/v1/services");
    let slices = Reflector::start(config.client.clone(), "/apis/discovery.k8s.io/v1/endpointslices");
    let nodes: Reflector<Node> = Reflector::start(config.client.clone(), "/api/v1/nodes");
    let pods: Reflector<Pod> =
        Reflector::start(config.client.clone(), format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", config.node_name));
    let context = Arc::new(Context {
        images: ImageManager::new(store, config.registries.clone(), PullToken::new(config.client.clone()), events.clone()),
        allocatable: node_status::capacity(&config, &machine),
        config: config.clone(),
        runtime,
        events,
        network,
        services,
        slices,
        nodes,
        http,
        watched: Watched::default(),
        turns: tokio::sync::Semaphore::new(turns()),
        node_resolver: resolver,
    });

    let mut tasks = vec![Task::spawn(crate::streaming::server::serve(
        Arc::clone(&context),
        pods.clone(),
        crate::streaming::server::bind(&config).await?,
    ))];
    tasks.push(Task::spawn(node(Arc::clone(&context), network_up)));
    let system = start_kubelet(Arc::clone(&context), pods);
    shutdown.await;
    system.stop();
    drop(tasks);
    Ok(())
}

/// As many pods are worked on at the same time.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) * 2
}

/// What stops the actors' thread.
struct KubeletThread {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl KubeletThread {
    fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The kubelet and its workers share one thread of their own.
fn start_kubelet(context: Arc<Context>, pods: Reflector<Pod>) -> KubeletThread {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let work = move || {
        actix::System::new().block_on(async move {
            // Subscribed before anything is looked at, so that no exit is missed.
            let events = context.runtime.events();
            pods.ready().await;
            context.nodes.ready().await;
            let kubelet = Kubelet::new(Arc::clone(&context), pods.clone()).start();
            let _watch = Task::spawn(resource_watch::watch(context, pods, kubelet.clone().recipient()));
            std::thread::spawn(move || {
                while let Ok(event) = events.recv() {
                    let (RuntimeEvent::ContainerExited { sandbox_id, .. } | RuntimeEvent::SandboxLost { sandbox_id }) = event else {
                        continue;
                    };
                    let mut change = Some(sandbox_id);
                    // An exit must not be lost: a full mailbox empties within milliseconds.
                    while let Some(sandbox_id) = change.take() {
                        if let Err(actix::dev::SendError::Full(again)) = kubelet.try_send(SandboxChanged { sandbox_id }) {
                            std::thread::park_timeout(std::time::Duration::from_millis(5));
                            change = Some(again.sandbox_id);
                        }
                    }
                }
            });
            // Refused when the agent's main task is gone, which also means: stop.
            let _ = stopped.await;
            actix::System::current().stop();
        });
    };
    let thread = std::thread::Builder::new().name("kubelet".to_owned()).spawn(work).ok();
    KubeletThread { stop: Some(stop), thread }
}

/// Registers the node, keeps its Lease and status, and brings the network up once the node has a block of addresses.
async fn node(context: Arc<Context>, network_up: watch::Sender<Option<Arc<PodNetwork>>>) {
    let config = context.config.clone();
    let node = node_status::register(&config).await;
    context.events.node(&config.node_name, false, "Starting", "Starting kubelet.");
    let (applied, applications) = watch::channel(None);
    let lease = LeaseThread::start(&config, node, applications)
        .inspect_err(|error| tracing::error!(node = config.node_name, %error, "Could not start the thread of the node's lease"));
    let status = Task::spawn(node_status::keep_status(Arc::clone(&context)));
    let nodes = &context.nodes;
    let rules = Task::spawn(service_rules(Arc::clone(&context), applied));
    let mut changes = nodes.changes();
    let mut network: Option<Arc<PodNetwork>> = None;
    let mut applied = Vec::new();
    let mut retry = tokio::time::interval(std::time::Duration::from_secs(2));
    loop {
        if network.is_none()
            && let Some(own) = nodes.get("", &config.node_name)
            && let Some(pod_cidr) = own.spec.as_ref().and_then(|s| s.pod_cidr.as_ref()).and_then(|c| c.parse().ok())
        {
            match open_network(&context, pod_cidr).await {
                Ok(opened) => {
                    network_up.send_replace(Some(Arc::clone(&opened)));
                    network = Some(opened);
                }
                Err(error) => tracing::error!(node = config.node_name, error, "Could not bring the pod network up"),
            }
        }
        let peers = feeders::peers(&nodes.objects(), &config.node_name);
        if let Some(network) = &network
            && peers != applied
        {
            match network.set_peers(&peers).await {
                Ok(()) => applied = peers,
                Err(error) => tracing::warn!(%error, "Could not set the routes to other nodes"),
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            // Something failed: look again.
            _ = retry.tick(), if network.is_none() || feeders::peers(&nodes.objects(), &config.node_name) != applied => {}
        }
    }
    drop((lease, status, rules));
}

async fn open_network(context: &Context, pod_cidr: trierarch_network::Cidr) -> Result<Arc<PodNetwork>, String> {
    let config = &context.config;
    let network = PodNetwork::open(PodNetworkConfig {
        node_ip: config.node_ip,
        pod_cidr,
        cluster_cidr: config.cluster_cidr,
        mtu: None,
        always_tunnel: false,
        state_dir: config.data_dir.join("network"),
    })
    .await
    .map_err(|e| e.to_string())?;
    let wanted: BTreeSet<String> = context.runtime.list_sandboxes().into_iter().filter(|s| s.netns_path.is_some()).map(|s| s.id).collect();
    let lost = network.reconcile(&wanted).await.map_err(|e| e.to_string())?;
    for id in lost {
        tracing::warn!(sandbox = id, "A pod of an earlier agent has no network any more");
    }
    Ok(Arc::new(network))
}

/// Keeps rules and names in line with Services and their endpoints. Tells which revision of EndpointSlices the rules follow when somebody
/// may wait for that.
async fn service_rules(context: Arc<Context>, applications: watch::Sender<Option<u64>>) {
    let (config, slices) = (&context.config, &context.slices);
    context.services.ready().await;
    slices.ready().await;
    let build = || Arc::new(feeders::snapshot(&context.services.objects(), &slices.objects(), &config.node_name));
    let (names, snapshots) = watch::channel(build());
    let upstreams = if config.dns_upstreams.is_empty() {
        let parsed = context.node_resolver.nameservers.iter().filter_map(|ip| ip.parse().ok());
        parsed.map(|ip: std::net::IpAddr| std::net::SocketAddr::new(ip, 53)).filter(|a| a.ip() != config.cluster_dns).collect()
    } else {
        config.dns_upstreams.clone()
    };
    let dns_config = DnsConfig {
        domain: config.cluster_domain.clone(),
        listen: std::net::SocketAddr::new(config.cluster_dns.into(), 53),
        upstreams,
        ..DnsConfig::default()
    };
    let mut dns = None;
    let rules = ServiceRules::new(ServiceRulesConfig {
        node_ips: vec![config.node_ip],
        cluster_cidr: config.cluster_cidr,
        service_cidr: config.service_cidr,
        local_ips: vec![config.cluster_dns],
    });
    let (mut service_changes, mut slice_changes) = (context.services.changes(), slices.changes());
    loop {
        service_changes.mark_unchanged();
        slice_changes.mark_unchanged();
        let version = slices.version();
        let snapshot = build();
        names.send_if_modified(|old| {
            let changed = **old != *snapshot;
            if changed {
                *old = Arc::clone(&snapshot);
            }
            changed
        });
        let applied = rules.apply(&snapshot).await;
        if let Err(error) = &applied {
            tracing::warn!(%error, "Could not apply the rules of Services");
        } else if applications.borrow().is_none() || feeders::somebody_leaves(&slices.objects()) {
            applications.send_if_modified(|told| told.replace(version) != Some(version));
        }
        if dns.is_none() {
            match DnsServer::start(dns_config.clone(), snapshots.clone()).await {
                Ok(server) => dns = Some(server),
                Err(error) => tracing::warn!(%error, "Could not start the DNS server"),
            }
        }
        let failed = applied.is_err() || dns.is_none();
        tokio::select! {
            changed = service_changes.changed() => if changed.is_err() { return },
            changed = slice_changes.changed() => if changed.is_err() { return },
            // What failed is tried again.
            () = tokio::time::sleep(std::time::Duration::from_secs(1)), if failed => {}
        }
    }
}
