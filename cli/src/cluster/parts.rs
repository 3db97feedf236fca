//! How the parts of a cluster are made: a host's network, and the command lines of what runs there.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use trierarch_controlplane::identity::pki;
use trierarch_network::bridge::{Attachment, Bridge};
use trierarch_network::{NetnsRef, netns};

use super::topology::{API_PORT, Host, PEER_PORT, Topology};

/// Makes a host's network namespace and its link to the bridge.
///
/// # Errors
/// What the kernel refuses.
pub async fn attach(topology: &Topology, bridge: &Bridge, host: &Host) -> anyhow::Result<()> {
    let path = topology.netns(host);
    let failed = || format!("cannot make the network of {}", host.name);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(failed)?;
    }
    netns::create_netns(&path).with_context(failed)?;
    let attachment = Attachment { link: host.link.clone(), netns: NetnsRef::Path(path), interface: "eth0".to_owned(), ip: host.address };
    bridge.attach(attachment).await.with_context(failed)
}

/// This program as a part of the cluster, which writes to its log.
///
/// # Errors
/// The log cannot be written.
pub fn command(topology: &Topology, part: &str, program: &Path) -> anyhow::Result<Command> {
    let path = topology.log(part);
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    Ok(command)
}

/// A master: the first one begins the cluster, the others join it.
///
/// # Errors
/// As [`command`].
pub fn master(topology: &Topology, host: &Host, program: &Path) -> anyhow::Result<Command> {
    let mut command = command(topology, &host.name, program)?;
    command
        .arg("server")
        .args(["--name", &host.name])
        .arg("--data-dir")
        .arg(topology.master_dir(host))
        .arg("--images-dir")
        .arg(topology.images_dir())
        .args(["--listen", &format!("{}:{API_PORT}", host.address)])
        .args(["--peer-listen", &format!("{}:{PEER_PORT}", host.address)])
        .args(["--san", "127.0.0.1", "--san", &topology.gateway.to_string()])
        .arg("--token-file")
        .arg(topology.data_dir.join("token"));
    if topology.experiments {
        command.arg("--experiments");
    }
    let has_secrets = pki::load_bundle(&topology.master_dir(host)).is_ok_and(|bundle| bundle.is_some());
    match topology.masters.first() {
        // without the cluster's secrets it would begin another cluster
        Some(first) if first == host && has_secrets => command.arg("--init"),
        _ => command.args(
            topology
                .masters
                .iter()
                .filter(|other| *other != host)
                .flat_map(|other| ["--join".to_owned(), format!("https://{}:{API_PORT}", other.address)]),
        ),
    };
    Ok(command)
}
