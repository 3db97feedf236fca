//! What machines do to the store: power cuts, failing, lying, full and slow disks, broken links, a leader that stops. Under each fault clients
//! write; nothing acknowledged may be lost, what they saw must be linearizable, and the cluster must heal by itself within a bound.
//!
//! ```text
//! cargo test --package trierarch-integration --test store_faults -- [PART OF A STEP'S NAME] [--long] [--seed N]
//! ```
//!
//! The masters of the cluster keep their stores on file systems of `trierarch-faultfs`, and their machines boot anew when their power was
//! cut. The short form, which CI runs, plays each fault a few times; `--long` plays many. Settings: `KUBECTL`, `TRIERARCH_BINARY`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

mod away;
mod disks;
mod links;
mod machines;
mod power;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use trierarch_integration::cluster::{Cluster, fail};
use trierarch_integration::load::Load;
use trierarch_integration::steps::Steps;
use trierarch_integration::traces::Traces;
use trierarch_integration::wait::{now, until};

use crate::machines::Machines;

const NAME: &str = "flt";
const NETWORK: &str = "10.152.0.0";
const PORT: &str = "7552";
const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
/// How long a condition may take on a machine that is busy with other things. What is slower than this is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long everybody may wait for the cluster once nothing is broken any more. A voter that cannot tell what it has lost waits for 10 s.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// Clients that write meanwhile.
const CLIENTS: usize = 6;
/// Clients write as ever when each got so many acknowledgements.
const SETTLED: usize = 5;
/// How long a fault that lasts lasts at least: several elections.
const LASTING: Duration = Duration::from_secs(3);

/// What the steps share.
struct World {
    cluster: Cluster,
    machines: Machines,
    random: StdRng,
    long: bool,
}

/// What was asked for on the command line.
struct Options {
    long: bool,
    seed: u64,
    /// A part of the names of the steps that are to run.
    filter: Option<String>,
}

impl Options {
    /// From the words after the program's name; the standard runner's own options are ignored.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { long: false, seed: rand::random(), filter: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--long" => options.long = true,
                "--seed" => options.seed = words.next().and_then(|number| number.parse().ok()).context("--seed needs a number")?,
                other if other.starts_with('-') => {}
                _ => options.filter = options.filter.or(Some(word)),
            }
        }
        Ok(options)
    }
}

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this test needs root: it makes network namespaces, mounts and cgroups");
        return ExitCode::FAILURE;
    }
    let data_dir = PathBuf::from("/var/tmp/trierarch-test").join(NAME);
    let started = Options::read(std::env::args().skip(1)).and_then(|options| Ok((start(&data_dir, &options)?, options)));
    let ((world, before), options) = match started {
        Ok(started) => started,
        Err(error) => {
            println!("test up ... FAILED\n     {error:#}\ntest result: FAILED. 0 passed; 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("     --seed {} makes the same choices again", options.seed);
    let mut steps = Steps::chosen(world, options.filter);
    steps
        .step("power_cuts_of_one_machine_lose_nothing_acknowledged", power::of_one)
        .step("power_cuts_of_all_machines_lose_nothing_acknowledged", power::of_all)
        .step("a_failed_sync_ends_the_member_and_nobody_else", disks::failed_sync)
        .step("flipped_bits_are_noticed_and_never_served", disks::flipped_bits)
        .step("a_disk_without_room_holds_up_nobody", disks::full_on_the_leader)
        .step("full_disks_everywhere_are_read_only_and_recover", disks::full_everywhere)
        .step("a_slow_disk_holds_up_nobody", disks::slow)
        .step("a_cut_off_follower_is_missed_by_nobody", links::cut_off_follower)
        .step("a_cut_off_leader_is_replaced", links::cut_off_leader)
        .step("a_leader_with_clients_and_without_peers_is_honest", links::leader_with_clients_only)
        .step("a_leader_that_stood_still_serves_nothing_stale", links::paused_leader)
        .step("a_member_that_was_away_catches_up", away::catches_up)
        .step("lost_packets_slow_down_and_break_nothing", links::lost_packets)
        .always("down_leaves_nothing", |world| {
            world.machines.switch_off();
            world.cluster.down()?;
            before.compare(&Traces::of(NAME))
        });
    steps.finish()
}

/// Removes what an earlier run may have left, and starts the cluster.
fn start(data_dir: &Path, options: &Options) -> Result<(World, Traces)> {
    machines::enter_own_mounts()?;
    Cluster::remove_leftovers(data_dir)?;
    let before = Traces::of(NAME);
    let machines = Machines::new(data_dir)?;
    let up = ["--network", NETWORK, "--port", PORT, "--nodes", "1", "--node-cpus", "1", "--node-memory", "1Gi", "--timeout", "120"];
    let cluster = Cluster::up(NAME, data_dir, &up)?;
    Ok((World { cluster, machines, random: StdRng::seed_from_u64(options.seed), long: options.long }, before))
}

impl World {
    /// How often something is done.
    fn rounds(&self, short: u32, long: u32) -> u32 {
        if self.long { long } else { short }
    }

    /// Who leads a group that is whole, and somebody who follows.
    fn leader_and_follower(&self) -> Result<(&'static str, &'static str)> {
        let leader = self.cluster.settled(PATIENCE)?;
        let leader = MASTERS.into_iter().find(|master| *master == leader).context("a stranger leads")?;
        let follower = MASTERS.into_iter().find(|master| *master != leader).context("three masters have two followers")?;
        Ok((leader, follower))
    }
}

/// Lets clients write through the address that leads to all masters, lets something happen meanwhile, and judges what the clients saw.
fn under_load(world: &mut World, label: &str, happens: impl FnOnce(&mut World, &Load) -> Result<()>) -> Result<()> {
    world.cluster.settled(PATIENCE)?;
    let load = Load::start(&world.cluster.kubeconfig(), label, CLIENTS)?;
    play(world, load, label, happens)
}

/// The same with a load that has just begun.
fn play(world: &mut World, load: Load, label: &str, happens: impl FnOnce(&mut World, &Load) -> Result<()>) -> Result<()> {
    let began = now();
    until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, began))?;
    let happened = happens(world, &load);
    let over = now();
    let healed = happened.and_then(|()| {
        until("every client writes after it", HEALED_WITHIN, || load.everybody_wrote(SETTLED, over))?;
        world.cluster.settled(HEALED_WITHIN)
    });
    // what was lost may be why nothing goes on
    let longest = load.longest_gap(began, now());
    let findings = load.finish().context("the load")?;
    let judged = findings.judge();
    let judged = match (healed, judged) {
        (Ok(_), judged) => judged?,
        (Err(error), Ok(_)) => return Err(error),
        (Err(error), Err(wrong)) => return Err(error.context(format!("{wrong:#}"))),
    };
    println!("     longest gap of a writing client {} ms; {judged}", longest.as_millis());
    everywhere(&world.cluster, label, findings.history.created())
}

/// Each master by itself has everything that was acknowledged.
fn everywhere(cluster: &Cluster, label: &str, acknowledged: &BTreeSet<String>) -> Result<()> {
    for master in MASTERS {
        let listed = cluster.kubectl(&[&at(cluster, master)?, "get", "configmaps", "-l", &format!("run={label}"), "-o", "name"])?;
        let stored: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_prefix("configmap/")).collect();
        let lost: Vec<&String> = acknowledged.iter().filter(|name| !stored.contains(name.as_str())).collect();
        ensure!(lost.is_empty(), "acknowledged and lost on {master}: {lost:?}");
    }
    Ok(())
}

/// The option that makes kubectl ask one master.
fn at(cluster: &Cluster, master: &str) -> Result<String> {
    Ok(format!("--server={}", cluster.server(master)?))
}

/// What `/readyz` of a master says while it is not ready. kubectl shows such an answer only to those who ask for every answer.
fn unready(cluster: &Cluster, master: &str) -> Result<String> {
    fail(&mut cluster.kubectl_command(&[&at(cluster, master)?, "-v=8", "get", "--raw", "/readyz"]))
}

/// Waits until something has lasted for so long.
fn lasted(since: std::time::Instant, long: Duration) -> Result<()> {
    until("its end", PATIENCE, || {
        ensure!(since.elapsed() >= long, "it is not over");
        Ok(())
    })?;
    Ok(())
}
