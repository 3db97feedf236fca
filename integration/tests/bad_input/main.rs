//! Mistakes and damage: each gets a clear error in Kubernetes' words, nothing is lost, nothing hangs, everything is cleaned up. One step for
//! each kind.
//!
//! The steps run in this order on one cluster whose masters keep their stores on small disks of their own. A word on the command line
//! chooses steps by a part of their name. Settings: `KUBECTL` (the client), `TRIERARCH_BINARY` (the program).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

mod certificates;
mod disk;
mod images;
mod log_tail;
mod manifests;
mod starting;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use trierarch_integration::cluster::Cluster;
use trierarch_integration::small_disk::SmallDisk;
use trierarch_integration::steps::Steps;
use trierarch_integration::traces::Traces;
use trierarch_integration::wait::{now, until};

const NAME: &str = "bi";
const NETWORK: &str = "10.131.79.0";
const PORT: &str = "16645";
const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
/// How long a condition may take on a machine that is busy with other things. What is slower than this is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the masters' certificates are valid.
const CERTIFICATE_SECONDS: u64 = 45;
/// The store keeps 48 MiB free; two write-ahead logs set aside 18 MiB each.
const DISK_MIB: u64 = 256;

/// What the steps share.
struct World {
    cluster: Cluster,
    disks: BTreeMap<&'static str, SmallDisk>,
    /// When the cluster began: the certificates from then have expired [`CERTIFICATE_SECONDS`] later.
    began: Instant,
    /// Every ConfigMap whose creation was acknowledged.
    acknowledged: Vec<String>,
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let data_dir = PathBuf::from("/var/tmp/trierarch-test").join(NAME);
    let (world, before) = match start(&data_dir) {
        Ok(started) => started,
        Err(error) => {
            println!("test up ... FAILED\n     {error:#}\ntest result: FAILED. 0 passed; 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::new(world);
    steps
        .step("a_second_up_is_refused", |world| starting::second_up(&world.cluster))
        .step("a_taken_port_is_named", |world| starting::taken_port(&world.cluster))
        .step("too_little_disk_is_named", |world| starting::too_little_disk(&world.cluster))
        .step("missing_root_rights_are_named", |world| starting::no_root_rights(&world.cluster))
        .step("an_impossible_number_of_masters_is_refused", |world| starting::two_masters(&world.cluster))
        .step("malformed_yaml_is_refused", |world| manifests::malformed(&world.cluster))
        .step("unknown_fields_are_refused", |world| manifests::unknown_fields(&world.cluster))
        .step("wrong_types_are_refused", |world| manifests::wrong_types(&world.cluster))
        .step("invalid_values_are_refused", |world| manifests::invalid_values(&world.cluster))
        .step("duplicate_names_are_refused", |world| manifests::duplicate_names(&world.cluster))
        .step("stale_resource_versions_are_refused", |world| manifests::stale_versions(&world.cluster))
        .step("unknown_names_and_callers_are_refused", |world| manifests::strangers(&world.cluster))
        .step("a_missing_image_is_reported", |world| images::missing(&world.cluster))
        .step("an_image_with_a_missing_layer_is_refused", |world| images::missing_layer(&world.cluster))
        .step("an_expired_client_certificate_is_refused", |world| certificates::expired_client(&world.cluster))
        .step("an_expired_server_certificate_is_named", |world| certificates::expired_server(&world.cluster))
        .step("a_node_whose_certificate_has_expired_joins_again", |world| certificates::expired_node(&world.cluster))
        .step("a_master_whose_disk_is_full_lets_others_lead", disk::full_on_the_leader)
        .step("full_disks_of_all_masters_refuse_writes_and_serve_reads", disk::full_everywhere)
        .step("a_master_without_a_single_free_block_comes_back", disk::not_a_single_block)
        .step("a_torn_end_of_the_log_loses_nothing", log_tail::torn)
        .step("a_damaged_log_is_named_and_can_be_replaced", log_tail::damaged)
        .step("masters_renew_their_certificates", certificates::renewed)
        .step("everything_acknowledged_is_there", everything_is_there)
        .always("down_leaves_nothing", |world| {
            world.disks.clear();
            world.cluster.down()?;
            before.compare(&Traces::of(NAME))
        });
    steps.finish()
}

/// Where a master keeps its store.
fn store_dir(data_dir: &Path, master: &str) -> PathBuf {
    data_dir.join("masters").join(master).join("store")
}

/// Removes what an earlier run may have left, and starts the cluster.
fn start(data_dir: &Path) -> Result<(World, Traces)> {
    for master in MASTERS {
        SmallDisk::detach(&store_dir(data_dir, master));
    }
    Cluster::remove_leftovers(data_dir)?;
    let before = Traces::of(NAME);
    let mut disks = BTreeMap::new();
    for master in MASTERS {
        let directory = store_dir(data_dir, master);
        std::fs::create_dir_all(&directory)?;
        disks.insert(master, SmallDisk::mount(&data_dir.join(format!("{master}.ext4")), DISK_MIB, &directory)?);
    }
    let began = now();
    let options = ["--network", NETWORK, "--port", PORT, "--nodes", "1", "--node-cpus", "1", "--node-memory", "1Gi", "--timeout", "120"];
    let settings = [("TRIERARCH_CERTIFICATE_SECONDS", CERTIFICATE_SECONDS.to_string())];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let cluster = Cluster::up_with(NAME, data_dir, &options, &settings)?;
    Ok((World { cluster, disks, began, acknowledged: Vec::new() }, before))
}

impl World {
    /// Creates a ConfigMap with `bytes` of data and remembers it when that is acknowledged.
    ///
    /// # Errors
    /// What kubectl printed.
    fn write(&mut self, bytes: usize) -> Result<()> {
        let name = format!("kept-{}", self.acknowledged.len());
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"kept": "yes"}}, "data": {"a": "x".repeat(bytes)},
        });
        match self.cluster.create(&object) {
            Ok(_) => {}
            // the answer to an earlier attempt was lost, its effect was not
            Err(error) if error.to_string().contains("already exists") => {}
            Err(error) => return Err(error),
        }
        self.acknowledged.push(name);
        Ok(())
    }

    fn disk(&self, master: &str) -> Result<&SmallDisk> {
        self.disks.get(master).with_context(|| format!("{master} has no disk"))
    }

    /// A master that does not lead.
    fn follower(&self) -> Result<&'static str> {
        let (leader, _) = until("a leader", PATIENCE, || self.cluster.leader())?;
        MASTERS.into_iter().find(|master| *master != leader).context("three masters have two followers")
    }
}

/// The options that make kubectl ask one master.
fn at(master: &str) -> Result<String> {
    let number: u8 = master.strip_prefix('m').and_then(|digits| digits.parse().ok()).context("masters are m1, m2, ...")?;
    let network = NETWORK.strip_suffix(".0").context("the network ends in 0")?;
    Ok(format!("--server=https://{network}.{}:6443", 10 + number))
}

fn everything_is_there(world: &mut World) -> Result<()> {
    world.cluster.settled(PATIENCE)?;
    // each master by itself, from its own copy
    for master in MASTERS {
        let stored = world.cluster.get(&[&at(master)?, "configmaps", "-l", "kept=yes"])?;
        let names: Vec<&str> =
            stored["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        let lost: Vec<&String> = world.acknowledged.iter().filter(|name| !names.contains(&name.as_str())).collect();
        ensure!(lost.is_empty(), "acknowledged and lost on {master}: {lost:?}");
    }
    until("the node Ready", PATIENCE, || node_is_ready(&world.cluster))?;
    Ok(())
}

fn node_is_ready(cluster: &Cluster) -> Result<()> {
    let node = cluster.kubectl(&["get", "node", "n1", "--no-headers"])?;
    ensure!(node.split_whitespace().nth(1) == Some("Ready"), "{node}");
    Ok(())
}

/// A text in an object, by JSON pointer.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
