//! What a new user does, from `up` to `down`, with the real kubectl: each step is a test.
//!
//! The steps run in this order on one cluster. A word on the command line chooses steps by a part of their name (`up` and `down` always
//! run). Settings: `KUBECTL` (the client), `TRIERARCH_BINARY` (the program), `TRIERARCH_KEEP` (leave the cluster up).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

mod daily;
mod faults;
mod shop;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use trierarch_integration::cluster::{Cluster, fail};
use trierarch_integration::steps::Steps;
use trierarch_integration::traces::Traces;
use trierarch_integration::traffic::Traffic;

const NAME: &str = "ut";
const NETWORK: &str = "10.131.77.0";
const PORT: &str = "16643";
const NODES: [&str; 2] = ["n1", "n2"];
/// How long a condition may take on a machine that is busy with other things. What is slower than this is broken.
const PATIENCE: Duration = Duration::from_secs(180);

/// What the steps share.
struct World {
    cluster: Cluster,
    /// Clients on both nodes that have asked the shop ever since it ran.
    traffic: Option<Traffic>,
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let data_dir = PathBuf::from("/var/tmp/trierarch-test").join(NAME);
    let (cluster, before) = match start(&data_dir) {
        Ok(started) => started,
        Err(error) => {
            println!("test up ... FAILED\n     {error:#}\ntest result: FAILED. 0 passed; 1 failed");
            return ExitCode::FAILURE;
        }
    };
    let mut steps = Steps::new(World { cluster, traffic: None });
    steps
        .step("two_nodes_are_ready", |world| two_nodes_are_ready(&world.cluster))
        .step("a_second_up_is_refused", |world| a_second_up_is_refused(&world.cluster))
        .step("the_shop_is_built_and_pushed", |world| shop::is_built_and_pushed(&world.cluster))
        .step("the_shop_runs_on_both_nodes", |world| shop::runs_on_both_nodes(&world.cluster))
        .step("a_watcher_sees_pods_come", |world| daily::a_watcher_sees_pods_come(&world.cluster))
        .step("both_containers_share_volume_and_localhost", |world| shop::containers_share_volume_and_localhost(&world.cluster))
        .step("the_service_reaches_every_replica_from_both_nodes", |world| shop::service_reaches_every_replica(&world.cluster))
        .step("clients_on_both_nodes_begin_to_ask", |world| {
            world.traffic = Some(Traffic::start(&world.cluster, &NODES, PATIENCE)?);
            Ok(())
        })
        .step("exec_carries_streams_and_exit_codes", |world| daily::exec(&world.cluster))
        .step("logs_are_read_and_followed", |world| daily::logs(&world.cluster))
        .step("describe_tells_the_story", |world| daily::describe(&world.cluster))
        .step("port_forward_reaches_a_pod_and_a_service", |world| daily::port_forward(&world.cluster))
        .step("scale_label_and_annotate", |world| daily::scale_and_label(&world.cluster))
        .step("a_rollout_is_followed_undone_and_restarted", |world| daily::rollout(&world.cluster))
        .step("no_request_was_dropped_by_rollouts", faults::no_request_was_dropped)
        .step("a_deleted_pod_is_replaced", |world| daily::delete_pod(&world.cluster))
        .step("mistakes_with_the_shop_are_refused", |world| daily::mistakes(&world.cluster))
        .step("killed_agents_find_their_containers_again", faults::killed_agents_find_their_containers);
    for round in 1..=5 {
        steps.step(&format!("the_leader_is_killed_{round}_of_5"), move |world| faults::leader_is_killed(world, round));
    }
    steps.step("a_stopped_node_is_replaced", faults::stopped_node_is_replaced).step("deleting_the_shop_leaves_no_pod", daily::delete_all);
    if std::env::var_os("TRIERARCH_KEEP").is_some() {
        println!("kept: export KUBECONFIG={}/kubeconfig", data_dir.display());
        let (code, world) = steps.report();
        std::mem::forget(world);
        return code;
    }
    steps.always("down_leaves_nothing", move |world| {
        world.cluster.down()?;
        before.compare(&Traces::of(NAME))
    });
    steps.finish()
}

/// Removes what an earlier run may have left, and starts the cluster.
fn start(data_dir: &Path) -> Result<(Cluster, Traces)> {
    Cluster::remove_leftovers(data_dir)?;
    let before = Traces::of(NAME);
    let options = ["--network", NETWORK, "--port", PORT, "--node-cpus", "2", "--node-memory", "2Gi", "--timeout", "120"];
    Ok((Cluster::up(NAME, data_dir, &options)?, before))
}

fn two_nodes_are_ready(cluster: &Cluster) -> Result<()> {
    let table = cluster.kubectl(&["get", "nodes", "-o", "wide"])?;
    ensure!(table.lines().filter(|line| line.split_whitespace().nth(1) == Some("Ready")).count() == 2, "{table}");
    for part in ["INTERNAL-IP", "CONTAINER-RUNTIME", "10.131.77.21", "10.131.77.22", "trierarch://", "v1.37.2"] {
        ensure!(table.contains(part), "{part} is missing in\n{table}");
    }
    Ok(())
}

fn a_second_up_is_refused(cluster: &Cluster) -> Result<()> {
    let error = fail(&mut cluster.trierarch(&["up", "--name", NAME]))?;
    ensure!(error.contains("is up already"), "{error}");
    two_nodes_are_ready(cluster)
}
