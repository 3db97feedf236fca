//! Carrying out what [`super::pod_actions`] decided. Everything here may be repeated after a crash.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Secret};
use trierarch_network::apply::HostPort;
use trierarch_network::resolv::{DnsOverrides, DnsPolicy, PodDns, resolv_conf};
use trierarch_network::{NetnsRef, PodAttachment, Protocol};
use trierarch_runtime::spec::RootfsSpec;
use trierarch_runtime::{ContainerState, ContainerStatus, SandboxState};

use super::container_spec::{self, ImageDefaults};
use super::context::{Context, PodSources};
use super::env::{EnvInput, environment};
use super::handler;
use super::hosts::{hosts_file, pod_name};
use super::observed::{Attempt, Finished, SandboxRecord, Waiting};
use super::pod_actions::find_container;
use super::probe::Outcome as Probed;
use super::volumes::payload::PayloadInput;
use super::{resources, runs, volumes};
use crate::clock;

/// Most processes of a pod.
const POD_PIDS_MAX: i64 = 16_384;
/// A termination message is cut here.
const MESSAGE_BYTES_MAX: usize = 4096;
/// As much of the log stands in for a missing termination message.
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;
/// How soon a missing reference is looked for again.
const RETRY: SignedDuration = SignedDuration::from_secs(2);

/// Runs blocking work off the actors' thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

fn fresh_version() -> String {
    format!("{}", clock::now().as_nanosecond())
}

/// Follows the pod's references and makes its volumes.
///
/// # Errors
/// One text per volume, already worded for the event.
pub async fn set_up_volumes(context: &Arc<Context>, pod: &Arc<Pod>, old: Arc<PodSources>) -> Result<Arc<PodSources>, Vec<String>> {
    let sources = Arc::new(PodSources::of(context, pod, &old));
    let ((), renewed) = futures::future::join(sources.ready(context), sources.renew_tokens(context, pod)).await;
    if let Err(message) = renewed {
        return Err(vec![format!("MountVolume.SetUp failed for volume \"kube-api-access\" : {message}")]);
    }
    write_volumes(context, pod, &sources, true).await.map(|_| sources)
}

/// Writes the volumes' files; with `first`, makes what is not there yet, too.
///
/// # Errors
/// As [`set_up_volumes`].
pub async fn write_volumes(context: &Arc<Context>, pod: &Arc<Pod>, sources: &Arc<PodSources>, first: bool) -> Result<bool, Vec<String>> {
    let (context, pod, sources) = (Arc::clone(context), Arc::clone(pod), Arc::clone(sources));
    blocking(move || {
        let facts = context.facts(Vec::new());
        let (values, tokens) = (sources.sources(&context, &pod), sources.token_values());
        let input = PayloadInput { pod: &pod, sources: &values, facts: &facts, tokens: &tokens };
        let dirs = context.volume_dirs(&uid(&pod));
        if !first {
            return Ok(volumes::refresh(&dirs, &input, &fresh_version()));
        }
        volumes::set_up(&dirs, &input, &fresh_version(), resources::pod_memory_limit(&pod)).map_err(|problems| {
            problems.into_iter().map(|p| format!("MountVolume.SetUp failed for volume {:?} : {}", p.volume, p.message)).collect()
        })
    })
    .await
    .map_err(|e| vec![e])?
}

/// Makes namespaces, cgroup and network.
///
/// # Errors
/// Worded for the event; nothing is left behind.
pub async fn create_sandbox(context: &Arc<Context>, pod: &Arc<Pod>, attempt: u32) -> Result<SandboxRecord, String> {
    let id = format!("{}.{attempt}", uid(pod));
    let log_dir = context.log_dir(pod);
    let spec = container_spec::sandbox(pod, id.clone(), log_dir.clone(), &context.config.cluster_domain, POD_PIDS_MAX);
    let host_network = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    let runtime = Arc::clone(&context.runtime);
    let sandbox_id = id.clone();
    let turn = context.turns.acquire().await;
    let status = blocking(move || {
        fs::create_dir_all(&log_dir).map_err(|e| format!("cannot create {}: {e}", log_dir.display()))?;
        if let Ok(present) = runtime.sandbox(&sandbox_id) {
            if present.state == SandboxState::Ready {
                return Ok(present);
            }
            runtime.remove_sandbox(&sandbox_id).map_err(|e| e.to_string())?;
        }
        runtime.create_sandbox(spec).map_err(|e| e.to_string())
    })
    .await??;
    drop(turn);
    let ips = if host_network {
        context.host_ips()
    } else {
        match attach(context, pod, &id, status.netns_path).await {
            Ok(ip) => vec![ip],
            Err(message) => {
                let runtime = Arc::clone(&context.runtime);
                let cleaned = blocking(move || runtime.remove_sandbox(&id).map_err(|e| e.to_string())).await.and_then(|r| r);
                return Err(match cleaned {
                    Ok(()) => message,
                    Err(also) => format!("{message} (and clean-up failed: {also})"),
                });
            }
        }
    };
    write_pod_files(context, pod, &ips).await?;
    Ok(SandboxRecord { id, ips, ready: true, created_at: Some(clock::now()) })
}

async fn attach(context: &Context, pod: &Pod, id: &str, netns: Option<PathBuf>) -> Result<String, String> {
    let mut ready = context.network.clone();
    let wait = tokio::time::timeout(Duration::from_secs(30), ready.wait_for(Option::is_some)).await;
    let network = match wait {
        Ok(Ok(network)) => network.clone(),
        _ => None,
    }
    .ok_or("network is not ready: the node has no pod CIDR")?;
    let netns = netns.ok_or("the sandbox has no network namespace")?;
    let attachment = PodAttachment { id: id.to_owned(), netns: NetnsRef::Path(netns), host_ports: host_ports(pod) };
    network
        .attach(&attachment)
        .await
        .map(|address| address.ip.to_string())
        .map_err(|e| format!("failed to setup network for sandbox {id:?}: {e}"))
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let spec = pod.spec.clone().unwrap_or_default();
    let sidecars = spec.init_containers.iter().flatten().filter(|c| super::restart::is_sidecar(c));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()).filter(|ip: &std::net::Ipv4Addr| !ip.is_unspecified()),
                protocol: Protocol::from_kubernetes(port.protocol.as_deref().unwrap_or_default())?,
                host_port: u16::try_from(port.host_port.filter(|p| *p > 0)?).ok()?,
                container_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}

/// Writes the pod's `hosts` and `resolv.conf`.
async fn write_pod_files(context: &Arc<Context>, pod: &Arc<Pod>, ips: &[String]) -> Result<(), String> {
    let (context, pod, ips) = (Arc::clone(context), Arc::clone(pod), ips.to_vec());
    blocking(move || {
        let dir = context.pod_dir(&uid(&pod));
        let spec = pod.spec.clone().unwrap_or_default();
        let host_network = spec.host_network == Some(true);
        let node_hosts = host_network.then(|| fs::read_to_string("/etc/hosts").unwrap_or_default());
        let name = pod_name(&pod, &context.config.cluster_domain);
        let overrides = spec.dns_config.map(|dns| DnsOverrides {
            nameservers: dns.nameservers.unwrap_or_default(),
            searches: dns.searches.unwrap_or_default(),
            options: dns.options.unwrap_or_default().into_iter().map(|o| (o.name.unwrap_or_default(), o.value)).collect(),
        });
        let resolv = resolv_conf(&PodDns {
            policy: DnsPolicy::from_kubernetes(spec.dns_policy.as_deref().unwrap_or_default()),
            host_network,
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default(),
            overrides: overrides.as_ref(),
            cluster_domain: &context.config.cluster_domain,
            cluster_dns: &context.config.cluster_dns.to_string(),
            host: &context.node_resolver,
        });
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("etc-hosts"), hosts_file(&pod, &name, &ips, node_hosts.as_deref()))?;
            fs::write(dir.join("resolv.conf"), resolv)?;
            fs::write(dir.join("hostname"), format!("{}\n", name.node_name))
        };
        write().map_err(|e| format!("cannot write the pod's files in {}: {e}", dir.display()))
    })
    .await?
}

/// What became of a start.
pub enum Started {
    /// It runs (or has ended already).
    Yes(Box<Attempt>),
    /// It was made but could not start: the attempt counts.
    Failed(Box<Attempt>, Waiting),
    /// It was not made.
    No(Waiting),
}

fn waiting(reason: &str, message: impl Into<String>, after: SignedDuration) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into(), retry_at: Some(clock::now() + after) }
}

/// Pulls the image if needed, makes the container, starts it and runs its postStart hook.
pub async fn start_container(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    name: &str,
    attempt: i32,
    sandbox: &SandboxRecord,
    sources: &Arc<PodSources>,
    cancelled: tokio::sync::oneshot::Receiver<()>,
) -> Started {
    let Some(container) = pod.spec.as_ref().and_then(|s| find_container(s, name)) else {
        return Started::No(waiting("CreateContainerConfigError", "the container is not in the spec", RETRY));
    };
    let values = sources.sources(context, pod);
    let pull_secrets: Vec<Secret> =
        pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).filter_map(|r| values.secrets.get(&r.name).cloned()).collect();
    // A pull may take long and a deletion must not wait for it; what comes after is quick and finishes.
    let image = tokio::select! {
        image = context.images.ensure(pod, &container, &pull_secrets) => image,
        Ok(()) = cancelled => Err(waiting("ContainerCreating", "", RETRY)),
    };
    let image = match image {
        Ok(image) => image,
        Err(waiting) => return Started::No(waiting),
    };
    let turn = context.turns.acquire().await;
    let made = {
        let (context, pod, container, sandbox) = (Arc::clone(context), Arc::clone(pod), container.clone(), sandbox.clone());
        blocking(move || {
            let id = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
            create(&context, &pod, &container, &Making { id, attempt, sandbox: &sandbox, sources: &values, image: &image })
        })
        .await
    };
    let mut made = match made.and_then_ok() {
        Ok(made) => made,
        Err(problem) => {
            context.events.pod(pod, Some(name), true, "Failed", format!("Error: {}", problem.message));
            return Started::No(problem);
        }
    };
    context.events.pod(pod, Some(name), false, "Created", "Container created");
    let runtime = Arc::clone(&context.runtime);
    let id = made.id.clone();
    let began = blocking(move || runtime.start_container(&id).map_err(|e| (e.start_error().map(|s| s.exit_code()), e.to_string()))).await;
    drop(turn);
    match began {
        Ok(Ok(status)) => {
            made.started_at = status.started_at.map(clock::timestamp).or_else(|| Some(clock::now()));
            context.events.pod(pod, Some(name), false, "Started", "Container started");
        }
        Ok(Err((_, message))) => {
            context.events.pod(pod, Some(name), true, "Failed", format!("Error: {message}"));
            let now = clock::now();
            made.finished = Some(Finished {
                id: made.id.clone(),
                exit_code: 128,
                reason: "StartError".to_owned(),
                message: message.clone(),
                started_at: Some(Timestamp::UNIX_EPOCH),
                finished_at: Some(now),
                signal: None,
            });
            return Started::Failed(Box::new(made), Waiting { reason: "RunContainerError".to_owned(), message, retry_at: None });
        }
        Err(message) => return Started::No(waiting("RunContainerError", message, RETRY)),
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
        && let Err(message) = run_hook(context, pod, &container, &made.id, hook, sandbox, None).await
    {
        context.events.pod(pod, Some(name), true, "FailedPostStartHook", "PostStartHook failed");
        tracing::info!(container = name, error = message, "Ended a container whose postStart hook failed");
        kill(context, pod, name, &made.id, 30, "FailedPostStartHook", sandbox).await;
    }
    Started::Yes(Box::new(made))
}

/// Flattens a join error into a waiting state.
trait AndThenOk<T> {
    fn and_then_ok(self) -> Result<T, Waiting>;
}

impl<T> AndThenOk<T> for Result<Result<T, Waiting>, String> {
    fn and_then_ok(self) -> Result<T, Waiting> {
        match self {
            Ok(inner) => inner,
            Err(message) => Err(waiting("CreateContainerError", message, RETRY)),
        }
    }
}

/// What a further run of a container is made with.
struct Making<'a> {
    id: String,
    attempt: i32,
    sandbox: &'a SandboxRecord,
    sources: &'a super::sources::Sources,
    image: &'a trierarch_images::Image,
}

/// Makes a container; what was made for one that does not come to be is taken back.
fn create(context: &Context, pod: &Pod, container: &Container, making: &Making<'_>) -> Result<Attempt, Waiting> {
    make(context, pod, container, making).inspect_err(|_problem| {
        if let Err(error) = remove_files(context, pod, &container.name, &making.id) {
            tracing::warn!(container = container.name, error, "Could not remove what was made for a container");
        }
    })
}

fn make(context: &Context, pod: &Pod, container: &Container, making: &Making<'_>) -> Result<Attempt, Waiting> {
    let Making { id, attempt, sandbox, sources, image } = making;
    let (id, attempt) = (id.clone(), *attempt);
    let config_error = |message: String| waiting("CreateContainerConfigError", message, RETRY);
    let create_error = |message: String| waiting("CreateContainerError", message, RETRY);
    let pod_uid = uid(pod);
    let dirs = context.volume_dirs(&pod_uid);
    let paths: BTreeMap<String, PathBuf> =
        pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).map(|v| (v.name.clone(), dirs.path(v))).collect();
    let facts = context.facts(sandbox.ips.clone());
    let read_file = |volume: &str, path: &str| {
        let base = paths.get(volume).ok_or_else(|| format!("cannot find the volume {volume:?} referenced by FileKeyRef"))?;
        fs::read(base.join(path)).map_err(|e| format!("cannot read env file {path:?}: {e}"))
    };
    let env =
        environment(container, &EnvInput { pod, sources, facts: &facts, read_volume_file: &read_file }).map_err(|e| config_error(e.0))?;
    let lookup = |name: &str| env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    for mount in container.volume_mounts.iter().flatten() {
        if let (Some(path), Some(base)) = (container_spec::sub_path(mount, &lookup).map_err(|e| config_error(e.0))?, paths.get(&mount.name))
        {
            volumes::make_sub_path(base, &path).map_err(|e| {
                tracing::debug!(error = %e, "Could not prepare a subPath");
                config_error(format!("failed to prepare subPath for volumeMount {:?} of container {:?}", mount.name, container.name))
            })?;
        }
    }
    make_room(context, pod, &container.name);
    if attempt > 0
        && let Err(error) = context.runtime.update_sandbox_resources(&sandbox.id, &resources::of_pod(pod, POD_PIDS_MAX))
    {
        // The pod may have been resized since its sandbox was made.
        tracing::debug!(container = container.name, %error, "Could not bring a pod's limits up to date");
    }
    let layers = context.images.store().prepare(image).map_err(|e| create_error(trierarch_images::chain(&e)))?;
    let writable = context.config.data_dir.join("containers").join(&id);
    let rootfs = RootfsSpec::overlay(layers.lowerdirs(), writable.join("upper"), writable.join("work"));
    let image_config = image.config.config().clone().unwrap_or_default();
    let defaults = ImageDefaults {
        entrypoint: image_config.entrypoint().clone().unwrap_or_default(),
        cmd: image_config.cmd().clone().unwrap_or_default(),
        env: image_config.env().clone().unwrap_or_default(),
        working_dir: image_config.working_dir().clone().unwrap_or_default(),
        user: image_config.user().clone().unwrap_or_default(),
        stop_signal: image_config.stop_signal().clone(),
    };
    let pod_dir = context.pod_dir(&pod_uid);
    let own_dir = pod_dir.join("containers").join(&container.name);
    let message_file = own_dir.join(&id);
    let prepare = || -> std::io::Result<()> {
        fs::create_dir_all(&own_dir)?;
        fs::create_dir_all(&writable)?;
        fs::write(&message_file, b"")?;
        fs::set_permissions(&message_file, fs::Permissions::from_mode(0o666))
    };
    prepare().map_err(|e| create_error(format!("cannot prepare {}: {e}", own_dir.display())))?;
    let mut files: Vec<(PathBuf, String)> =
        [("etc-hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")]
            .into_iter()
            .map(|(file, at)| (pod_dir.join(file), at.to_owned()))
            .collect();
    files.push((message_file, container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned())));
    let user_rootfs = rootfs.clone();
    let processes_of = match target_container(pod, &container.name) {
        None => None,
        Some(target) => {
            let runs = runs::of_container(context.runtime.list_containers(), &pod_uid, target);
            let running = runs.into_iter().find(|run| run.state == ContainerState::Running);
            Some(running.ok_or_else(|| create_error(format!("target container {target:?} is not running")))?.id)
        }
    };
    let spec = container_spec::build(&container_spec::Input {
        pod,
        container,
        id: id.clone(),
        attempt,
        image: &defaults,
        rootfs,
        env: &env,
        volumes: &paths,
        files: &files,
        processes_of,
        node_memory_bytes: context.memory_bytes(),
        seccomp_dir: &context.config.data_dir.join("seccomp"),
        resolve_user: &|user| trierarch_runtime::users::resolve(&user_rootfs, user).map(|found| found.user).map_err(|e| e.to_string()),
    })
    .map_err(|e| config_error(e.0))?;
    let log_dir = context.log_dir(pod).join(&container.name);
    fs::create_dir_all(&log_dir).map_err(|e| create_error(format!("cannot create {}: {e}", log_dir.display())))?;
    let user = (
        i64::from(spec.user.uid),
        i64::from(spec.user.gid),
        spec.user.additional_gids.iter().map(|gid| i64::from(*gid)).collect::<Vec<_>>(),
    );
    let pin = trierarch_images::Pin { owner: context.config.node_name.clone(), id: id.clone(), manifest: image.manifest.clone() };
    context.images.store().pin(&pin).map_err(|e| create_error(trierarch_images::chain(&e)))?;
    if let Err(error) = context.images.store().mark_used(image, clock::system_now()) {
        tracing::debug!(%error, "Could not note the use of an image");
    }
    context.runtime.create_container(&sandbox.id, spec).map_err(|e| create_error(e.to_string()))?;
    Ok(Attempt {
        id,
        image_id: image.image_id(),
        image: shown_image(container, image),
        sandbox_id: sandbox.id.clone(),
        user: Some(user),
        resources: serde_json::to_value(container.resources.clone().unwrap_or_default()).ok(),
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        ..Attempt::default()
    })
}

/// The container whose processes an ephemeral one is to see; nothing where all of the pod share them anyway.
fn target_container<'p>(pod: &'p Pod, name: &str) -> Option<&'p str> {
    let spec = pod.spec.as_ref()?;
    if spec.share_process_namespace == Some(true) || spec.host_pid == Some(true) {
        return None;
    }
    let own = spec.ephemeral_containers.iter().flatten().find(|c| c.name == name)?;
    own.target_container_name.as_deref().filter(|target| !target.is_empty())
}

/// Removes runs of a container that nobody asks for any more; what can't be removed now goes with the pod.
fn make_room(context: &Context, pod: &Pod, name: &str) {
    let runs = runs::of_container(context.runtime.list_containers(), &uid(pod), name);
    for run in runs::superseded(&runs) {
        if let Err(error) = forget(context, pod, name, run) {
            tracing::debug!(container = run.id, error, "Could not remove an old run of a container");
        }
    }
}

/// The writable layer, the pin and the termination message of a container.
fn remove_files(context: &Context, pod: &Pod, name: &str, id: &str) -> Result<(), String> {
    remove_dir(&context.config.data_dir.join("containers").join(id))?;
    context.images.store().unpin(&context.config.node_name, id).map_err(|e| trierarch_images::chain(&e))?;
    match fs::remove_file(context.pod_dir(&uid(pod)).join("containers").join(name).join(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Ends a run if need be and removes all that is left of it.
pub fn forget(context: &Context, pod: &Pod, name: &str, run: &ContainerStatus) -> Result<(), String> {
    context.runtime.remove_container(&run.id).map_err(|e| e.to_string())?;
    remove_files(context, pod, name, &run.id)?;
    let Some((dir, file)) = run.log_path.as_ref().and_then(|path| Some((path.parent()?, path.file_name()?.to_str()?))) else {
        return Ok(());
    };
    // Rotated logs are called like the log with a suffix.
    let rotated = format!("{file}.");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let own = entry.file_name();
        if own.to_str().is_some_and(|own| own == file || own.starts_with(&rotated)) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn shown_image(container: &Container, image: &trierarch_images::Image) -> String {
    let asked = container.image.clone().unwrap_or_default();
    let parsed = trierarch_images::Reference::parse(&asked).map(|r| r.to_string()).unwrap_or_else(|_| asked.clone());
    let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
    if names.contains(&parsed) { parsed } else { names.into_iter().next().unwrap_or(parsed) }
}

/// Runs a lifecycle hook.
///
/// # Errors
/// What went wrong, for the log.
pub async fn run_hook(
    context: &Context,
    pod: &Pod,
    container: &Container,
    id: &str,
    hook: &LifecycleHandler,
    sandbox: &SandboxRecord,
    limit: Option<Duration>,
) -> Result<(), String> {
    let host_network = pod.spec.as_ref().is_some_and(|s| s.host_network == Some(true));
    let ip = if host_network { context.config.node_ip.to_string() } else { sandbox.ips.first().cloned().unwrap_or_default() };
    let outcome = if let Some(exec) = &hook.exec {
        handler::exec(context, id, exec.command.clone().unwrap_or_default(), limit).await
    } else if let Some(get) = &hook.http_get {
        handler::http_get(context, get, container, &ip, limit.unwrap_or(Duration::from_secs(30)), "kube-lifecycle/1.37").await
    } else if let Some(sleep) = &hook.sleep {
        let asked = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        // The hook is the wait: what it asks for is time itself.
        tokio::time::sleep(limit.map_or(asked, |l| asked.min(l))).await;
        Probed::Success
    } else {
        Probed::Success
    };
    match outcome {
        Probed::Success => Ok(()),
        Probed::Failure(message) | Probed::Error(message) => Err(message),
    }
}

/// Ends a container: preStop hook, signal, the rest of the grace period, kill.
pub async fn kill(context: &Arc<Context>, pod: &Arc<Pod>, name: &str, id: &str, grace_seconds: i64, reason: &str, sandbox: &SandboxRecord) {
    let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
    let began = clock::instant_now();
    let container = pod.spec.as_ref().and_then(|s| find_container(s, name));
    if let Some(container) = &container
        && let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref())
        && !grace.is_zero()
    {
        let hooked = tokio::time::timeout(grace, run_hook(context, pod, container, id, hook, sandbox, Some(grace))).await;
        if !matches!(hooked, Ok(Ok(()))) {
            context.events.pod(pod, Some(name), true, "FailedPreStopHook", "PreStopHook failed");
        }
    }
    // After a hook there are always 2 s for the signal itself; a grace of 0 kills at once.
    let left = if grace.is_zero() { Duration::ZERO } else { grace.saturating_sub(began.elapsed()).max(Duration::from_secs(2).min(grace)) };
    let runtime = Arc::clone(&context.runtime);
    let target = id.to_owned();
    let done = blocking(move || runtime.stop_container(&target, None, left).map_err(|e| e.to_string())).await.and_then(|r| r);
    if let Err(error) = done {
        tracing::warn!(container = name, reason, error, "Could not end a container");
    }
}

/// How a container is now, as far as the runtime knows; `None` when it knows nothing of it.
pub fn finished(context: &Context, pod: &Pod, name: &str, status: &ContainerStatus) -> Option<Finished> {
    if status.state != ContainerState::Exited {
        return None;
    }
    let exit = status.exit?;
    let container = pod.spec.as_ref().and_then(|s| find_container(s, name));
    let reason = match (exit.oom_killed, exit.lost, exit.code) {
        (true, _, _) => "OOMKilled",
        (_, true, _) => "ContainerStatusUnknown",
        (_, _, 0) => "Completed",
        _ => "Error",
    };
    Some(Finished {
        id: status.id.clone(),
        exit_code: exit.code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message: termination_message(context, pod, name, container.as_ref(), status, exit.code),
        started_at: status.started_at.map(clock::timestamp),
        finished_at: Some(clock::timestamp(exit.finished_at)),
    })
}

fn termination_message(
    context: &Context,
    pod: &Pod,
    name: &str,
    container: Option<&Container>,
    status: &ContainerStatus,
    code: i32,
) -> String {
    let file = context.pod_dir(&uid(pod)).join("containers").join(name).join(&status.id);
    let mut bytes = fs::read(file).unwrap_or_default();
    bytes.truncate(MESSAGE_BYTES_MAX);
    if !bytes.is_empty() || code == 0 || container.and_then(|c| c.termination_message_policy.as_deref()) != Some("FallbackToLogsOnError") {
        return String::from_utf8_lossy(&bytes).into_owned();
    }
    let Some(log) = status.log_path.as_ref().and_then(|path| fs::read(path).ok()) else { return String::new() };
    crate::streaming::logs::last_text(&log, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX)
}

/// Changes a running container's limits.
///
/// # Errors
/// What the kernel said.
pub async fn resize(
    context: &Arc<Context>,
    pod: &Arc<Pod>,
    name: &str,
    id: &str,
    sandbox: &str,
) -> Result<Option<serde_json::Value>, String> {
    let Some(container) = pod.spec.as_ref().and_then(|s| find_container(s, name)) else { return Ok(None) };
    let own = resources::of_container(container.resources.as_ref());
    let all = resources::of_pod(pod, POD_PIDS_MAX);
    let (runtime, id, sandbox) = (Arc::clone(&context.runtime), id.to_owned(), sandbox.to_owned());
    blocking(move || {
        // Raise the pod before the container and lower it after; doing both twice covers either direction.
        let first = runtime.update_sandbox_resources(&sandbox, &all);
        runtime.update_container_resources(&id, &own).map_err(|e| e.to_string())?;
        first.or_else(|_| runtime.update_sandbox_resources(&sandbox, &all)).map_err(|e| e.to_string())
    })
    .await??;
    Ok(serde_json::to_value(container.resources.unwrap_or_default()).ok())
}

/// Gives a sandbox back: network, namespaces. Containers' records and logs stay until the pod goes.
///
/// # Errors
/// Worth retrying.
pub async fn stop_sandbox(context: &Arc<Context>, id: &str) -> Result<(), String> {
    let network = context.network.borrow().clone();
    if let Some(network) = network {
        network.detach(id).await.map_err(|e| e.to_string())?;
    }
    let (runtime, id) = (Arc::clone(&context.runtime), id.to_owned());
    let _turn = context.turns.acquire().await;
    blocking(move || runtime.stop_sandbox(&id).or_else(ignore_unknown)).await?.map_err(|e| e.to_string())
}

fn ignore_unknown(error: trierarch_runtime::Error) -> trierarch_runtime::Result<()> {
    match error {
        trierarch_runtime::Error::SandboxNotFound { .. } => Ok(()),
        other => Err(other),
    }
}

/// Removes everything of the pod from the node, its record last.
///
/// # Errors
/// Worth retrying.
pub async fn clean_up(context: &Arc<Context>, pod: &Arc<Pod>) -> Result<(), String> {
    let (context, pod) = (Arc::clone(context), Arc::clone(pod));
    let network = context.network.borrow().clone();
    let prefix = format!("{}.", uid(&pod));
    if let Some(network) = network {
        for address in network.list().into_iter().filter(|a| a.id.starts_with(&prefix)) {
            network.detach(&address.id).await.map_err(|e| e.to_string())?;
        }
    }
    let holder = Arc::clone(&context);
    let _turn = holder.turns.acquire().await;
    blocking(move || {
        let containers: Vec<String> =
            context.runtime.list_containers().into_iter().filter(|c| c.sandbox_id.starts_with(&prefix)).map(|c| c.id).collect();
        for sandbox in context.runtime.list_sandboxes().into_iter().filter(|s| s.id.starts_with(&prefix)) {
            context.runtime.remove_sandbox(&sandbox.id).map_err(|e| e.to_string())?;
        }
        for id in containers {
            let writable = context.config.data_dir.join("containers").join(&id);
            remove_dir(&writable)?;
            context.images.store().unpin(&context.config.node_name, &id).map_err(|e| trierarch_images::chain(&e))?;
        }
        volumes::tear_down(&context.volume_dirs(&uid(&pod))).map_err(|e| e.to_string())?;
        remove_dir(&context.log_dir(&pod))?;
        remove_dir(&context.pod_dir(&uid(&pod)))
    })
    .await?
}

fn remove_dir(path: &std::path::Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("cannot remove {}: {error}", path.display())),
        _ => Ok(()),
    }
}
