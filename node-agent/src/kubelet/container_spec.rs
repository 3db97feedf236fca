//! From a pod, a container and an image to what the runtime is asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext, VolumeMount};
use trierarch_runtime::spec::{
    Capabilities, ContainerSpec, LogRotation, Mount, MountKind, NetworkMode, Propagation, ReadOnly, RootfsSpec, SandboxSpec, Seccomp, User,
};

use super::env::ConfigError;
use super::expand::{expand, expand_strict};
use super::{hosts, qos, resources, runs, volumes};

/// What an image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
    /// `User`.
    pub user: String,
    /// `StopSignal`.
    pub stop_signal: Option<String>,
}

/// Everything a container is made from.
pub struct Input<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// One of its containers.
    pub container: &'a Container,
    /// The runtime's id for the new run.
    pub id: String,
    /// How many runs there were.
    pub attempt: i32,
    /// What the image says.
    pub image: &'a ImageDefaults,
    /// The image's layers with a fresh writable one.
    pub rootfs: RootfsSpec,
    /// Its environment, without the image's.
    pub env: &'a [(String, String)],
    /// Host paths of the pod's volumes.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// Managed files to mount: host path by path in the container.
    pub files: &'a [(PathBuf, String)],
    /// The runtime's id of the container whose processes an ephemeral one sees.
    pub processes_of: Option<String>,
    /// For `oom_score_adj`.
    pub node_memory_bytes: i64,
    /// Where local seccomp profiles are.
    pub seccomp_dir: &'a Path,
    /// Resolves names in the image's `/etc/passwd` and `/etc/group`.
    pub resolve_user: &'a dyn Fn(&str) -> Result<User, String>,
}

/// The container, ready for the runtime.
///
/// # Errors
/// What becomes `CreateContainerConfigError`.
pub fn build(input: &Input<'_>) -> Result<ContainerSpec, ConfigError> {
    let container = input.container;
    let spec = input.pod.spec.as_ref().ok_or_else(|| ConfigError("the pod has no spec".to_owned()))?;
    let own = container.security_context.clone().unwrap_or_default();
    let shared = spec.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let user = user(input, &own, &shared)?;
    let lookup = |name: &str| input.env.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let mounts = mounts(input, &lookup)?;
    let stop_signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()).or_else(|| input.image.stop_signal.clone());
    let mut env: Vec<String> = input.image.env.iter().filter(|e| !shadowed(e, input.env)).cloned().collect();
    env.push(format!("HOSTNAME={}", hosts::pod_name(input.pod, "").hostname));
    env.extend(input.env.iter().map(|(name, value)| format!("{name}={value}")));
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    Ok(ContainerSpec {
        id: input.id.clone(),
        name: container.name.clone(),
        rootfs: RootfsSpec { read_only: own.read_only_root_filesystem == Some(true), ..input.rootfs.clone() },
        mounts,
        args: command(container, input.image, &lookup)?,
        env,
        cwd: container.working_dir.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| input.image.working_dir.clone()),
        user,
        capabilities: capabilities(&own),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        seccomp: seccomp(own.seccomp_profile.as_ref().or(shared.seccomp_profile.as_ref()), privileged, input.seccomp_dir)?,
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        privileged,
        oom_score_adj: Some(qos::oom_score_adj(
            qos::of_pod(input.pod),
            container,
            input.node_memory_bytes,
            spec.priority_class_name.as_deref() == Some("system-node-critical"),
        )),
        resources: resources::of_container(container.resources.as_ref()),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        log_path: PathBuf::from(format!("{}/{}.log", container.name, input.attempt)),
        log_rotation: LogRotation::default(),
        stop_signal: stop_signal.as_deref().and_then(signal_number),
        processes_of: input.processes_of.clone(),
        labels: BTreeMap::from([
            (runs::POD_UID.to_owned(), input.pod.metadata.uid.clone().unwrap_or_default()),
            (runs::CONTAINER_NAME.to_owned(), container.name.clone()),
        ]),
        ..ContainerSpec::default()
    })
}

fn shadowed(image: &str, env: &[(String, String)]) -> bool {
    let name = image.split('=').next().unwrap_or_default();
    name == "HOSTNAME" || env.iter().any(|(n, _)| n == name)
}

/// Program and arguments: `command` replaces the entry point and drops `Cmd`; `args` replaces `Cmd`.
fn command(container: &Container, image: &ImageDefaults, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, ConfigError> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|a| expand(a, lookup)).collect() };
    let (command, args) = (expanded(&container.command), expanded(&container.args));
    let all = match (command.is_empty(), args.is_empty()) {
        (true, true) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
        (true, false) => [image.entrypoint.clone(), args].concat(),
        (false, _) => [command, args].concat(),
    };
    if all.is_empty() { Err(ConfigError("no command specified".to_owned())) } else { Ok(all) }
}

fn user(input: &Input<'_>, own: &SecurityContext, shared: &PodSecurityContext) -> Result<User, ConfigError> {
    let id = |value: i64| u32::try_from(value).map_err(|_too_large| ConfigError(format!("invalid id {value}")));
    let wanted = own.run_as_user.or(shared.run_as_user);
    let group = own.run_as_group.or(shared.run_as_group);
    let image_user = input.image.user.as_str();
    let describe = || {
        let meta = &input.pod.metadata;
        let (name, namespace, uid) = (&meta.name, &meta.namespace, &meta.uid);
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        (format!("{}_{}({})", text(name), text(namespace), text(uid)), input.container.name.clone())
    };
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) {
        let (pod, container) = describe();
        let image_uid = image_user.split(':').next().unwrap_or_default();
        match wanted {
            Some(0) => {
                return Err(ConfigError(format!("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")));
            }
            Some(_) => {}
            None if image_uid.is_empty() || image_uid == "0" => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})"
                )));
            }
            None if image_uid.parse::<u32>().is_err() => {
                return Err(ConfigError(format!(
                    "container has runAsNonRoot and image has non-numeric user ({image_uid}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
                )));
            }
            None => {}
        }
    }
    let mut user = match wanted {
        Some(uid) => (input.resolve_user)(&uid.to_string()).map_err(ConfigError)?,
        None => (input.resolve_user)(image_user).map_err(ConfigError)?,
    };
    if let Some(group) = group {
        user.gid = id(group)?;
    }
    if shared.supplemental_groups_policy.as_deref() == Some("Strict") {
        user.additional_gids.clear();
    }
    for extra in shared.supplemental_groups.iter().flatten().chain(&shared.fs_group) {
        user.additional_gids.push(id(*extra)?);
    }
    // The primary group is one of the groups, as `id` shows it.
    user.additional_gids.push(user.gid);
    user.additional_gids.sort_unstable();
    user.additional_gids.dedup();
    Ok(user)
}

fn capabilities(own: &SecurityContext) -> Capabilities {
    let caps = own.capabilities.clone().unwrap_or_default();
    Capabilities::Default { add: caps.add.unwrap_or_default(), drop: caps.drop.unwrap_or_default() }
}

fn seccomp(profile: Option<&SeccompProfile>, privileged: bool, dir: &Path) -> Result<Seccomp, ConfigError> {
    match profile.map(|p| p.type_.as_str()) {
        _ if privileged => Ok(Seccomp::Unconfined),
        Some("RuntimeDefault") => Ok(Seccomp::RuntimeDefault),
        Some("Localhost") => {
            let path = dir.join(profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default());
            std::fs::read_to_string(&path)
                .map(Seccomp::Profile)
                .map_err(|e| ConfigError(format!("cannot load seccomp profile {}: {e}", path.display())))
        }
        _ => Ok(Seccomp::Unconfined),
    }
}

fn mounts(input: &Input<'_>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Mount>, ConfigError> {
    let mut out = Vec::new();
    let declared = input.container.volume_mounts.as_deref().unwrap_or_default();
    let at = |path: &str| declared.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
    for (source, destination) in input.files.iter().filter(|(_, d)| !at(d)) {
        out.push(Mount::bind(source, destination));
    }
    for mount in declared {
        out.push(volume_mount(mount, input, lookup)?);
    }
    // Outer mounts first, so that they do not hide inner ones.
    out.sort_by_key(|m| m.destination.components().count());
    Ok(out)
}

/// The path below its volume that a mount shows, after expansion.
///
/// # Errors
/// References that are unknown, or a path that leads elsewhere.
pub fn sub_path(mount: &VolumeMount, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, ConfigError> {
    let path = match (&mount.sub_path, &mount.sub_path_expr) {
        (_, Some(text)) if !text.is_empty() => expand_strict(text, lookup).map_err(|missing| {
            ConfigError(format!("missing value for {}", missing.iter().map(|m| format!("{m:?}")).collect::<Vec<_>>().join(", ")))
        })?,
        (Some(text), _) if !text.is_empty() => text.clone(),
        _ => return Ok(None),
    };
    if path.starts_with('/') {
        return Err(ConfigError(format!("error SubPath `{path}` must not be an absolute path")));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(ConfigError(format!("unable to provision SubPath `{path}`: must not contain '..'")));
    }
    Ok(Some(path))
}

fn volume_mount(mount: &VolumeMount, input: &Input<'_>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Mount, ConfigError> {
    let source = input
        .volumes
        .get(&mount.name)
        .ok_or_else(|| ConfigError(format!("cannot find volume {:?} to mount into container {:?}", mount.name, input.container.name)))?;
    let path = sub_path(mount, lookup)?;
    // What comes from the API is not for containers to write.
    let from_api = input.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).any(|v| v.name == mount.name && volumes::from_api(v));
    let read_only = match (mount.read_only == Some(true) || from_api, mount.recursive_read_only.as_deref()) {
        (false, _) => ReadOnly::No,
        (true, Some("Enabled" | "IfPossible")) => ReadOnly::Recursive,
        (true, _) => ReadOnly::Yes,
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    let mut out = Mount::bind(source, &mount.mount_path);
    if let Some(path) = path {
        out = out.with_subpath(path);
    }
    if let MountKind::Bind { read_only: r, propagation: p, .. } = &mut out.kind {
        (*r, *p) = (read_only, propagation);
    }
    Ok(out)
}

/// The number of a signal's name.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let full = if name.starts_with("SIG") { name.to_owned() } else { format!("SIG{name}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// The pod's shared part.
pub fn sandbox(pod: &Pod, id: String, log_dir: PathBuf, cluster_domain: &str, pids_limit: i64) -> SandboxSpec {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let sysctls = spec.security_context.and_then(|s| s.sysctls).unwrap_or_default();
    SandboxSpec {
        id,
        hostname: if host_network && spec.hostname_override.is_none() {
            String::new()
        } else {
            hosts::pod_name(pod, cluster_domain).node_name
        },
        network: if host_network { NetworkMode::Host } else { NetworkMode::New },
        share_process_namespace: spec.share_process_namespace == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        sysctls: sysctls.into_iter().map(|s| (s.name.replace('/', "."), s.value)).collect(),
        cgroup: resources::cgroup_path(pod),
        resources: resources::of_pod(pod, pids_limit),
        log_dir,
        labels: BTreeMap::from([(runs::POD_UID.to_owned(), pod.metadata.uid.clone().unwrap_or_default())]),
        ..SandboxSpec::default()
    }
}

#[cfg(test)]
#[path = "container_spec_tests.rs"]
mod tests;
