//! Broken links, and a leader that stands still.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kube::api::PostParams;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use trierarch_integration::cluster::{fail, succeed};
use trierarch_integration::history::Answer;
use trierarch_integration::load::{Load, ask_once, named};
use trierarch_integration::network_faults::{BrokenLink, Direction};
use trierarch_integration::wait::{now, until};

use crate::{CLIENTS, HEALED_WITHIN, LASTING, MASTERS, PATIENCE, SETTLED, World, at, lasted, play, under_load, unready};

const DIRECTIONS: [Direction; 3] = [Direction::Both, Direction::In, Direction::Out];
/// A refusal that comes at once comes within this, a TLS handshake on a busy machine included.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Lost packets, in percent.
const LOST: u8 = 20;

/// The term that a master knows.
fn term(world: &World, master: &str) -> Result<u64> {
    Ok(world.cluster.raft_status()?[master]["term"].as_u64().unwrap_or(0))
}

pub(crate) fn cut_off_follower(world: &mut World) -> Result<()> {
    let rounds = world.rounds(1, 10);
    under_load(world, "cut-follower", |world, load| {
        for direction in (0..rounds).flat_map(|_| DIRECTIONS) {
            let (leader, follower) = world.leader_and_follower()?;
            let before = term(world, leader)?;
            let struck = now();
            let link = BrokenLink::isolate(&world.cluster, follower, direction)?;
            lasted(struck, LASTING)?;
            until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
            link.heal()?;
            let healed = now();
            let still = world.cluster.settled(HEALED_WITHIN)?;
            println!("     a follower cut off ({direction:?}) was back after {} ms", healed.elapsed().as_millis());
            // it asks before it campaigns, so nobody was disturbed
            ensure!(
                still == leader && term(world, leader)? == before,
                "{leader} led in term {before}, now {still} in {}",
                term(world, leader)?
            );
        }
        Ok(())
    })
}

pub(crate) fn cut_off_leader(world: &mut World) -> Result<()> {
    let rounds = world.rounds(1, 10);
    under_load(world, "cut-leader", |world, load| {
        for direction in (0..rounds).flat_map(|_| DIRECTIONS) {
            let (leader, follower) = world.leader_and_follower()?;
            let struck = now();
            let link = BrokenLink::isolate(&world.cluster, leader, direction)?;
            let (_, took) = until("another leader", PATIENCE, || {
                let status: Value = world.cluster.raft_status()?;
                let leads = MASTERS.iter().find(|master| **master != leader && status[**master]["role"] == "leader");
                ensure!(leads.is_some(), "{follower} says {}", status[follower]);
                Ok(())
            })?;
            until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
            let gap = load.longest_gap(struck, now());
            link.heal()?;
            let healed = now();
            world.cluster.settled(HEALED_WITHIN)?;
            println!(
                "     the leader cut off ({direction:?}): another one was seen after {} ms, longest gap {} ms; back after {} ms",
                took.as_millis(),
                gap.as_millis(),
                healed.elapsed().as_millis()
            );
        }
        Ok(())
    })
}

/// A load whose clients each keep to one master.
fn load_at_each(world: &World, label: &str) -> Result<Load> {
    world.cluster.settled(PATIENCE)?;
    let entrances = MASTERS.iter().map(|master| world.cluster.entrance(master)).collect::<Result<Vec<_>>>()?;
    Load::start_through(&entrances, label, CLIENTS)
}

pub(crate) fn leader_with_clients_only(world: &mut World) -> Result<()> {
    let (leader, follower) = world.leader_and_follower()?;
    world.cluster.kubectl(&["create", "configmap", "honest", "--from-literal=v=old"])?;
    let load = load_at_each(world, "honest")?;
    play(world, load, "honest", |world, load| {
        let cluster = &world.cluster;
        let (of_leader, of_follower) = (at(cluster, leader)?, at(cluster, follower)?);
        let struck = now();
        let link = BrokenLink::isolate(cluster, leader, Direction::Both)?;
        until("writes elsewhere", PATIENCE, || load.somebody_wrote(SETTLED, struck))?;
        until("a new value elsewhere", PATIENCE, || {
            cluster.kubectl(&[&of_follower, "patch", "configmap", "honest", "-p", r#"{"data":{"v":"new"}}"#])
        })?;
        // a read that may not be stale is no read here
        let entrance = cluster.entrance(leader)?;
        let read = ask_once(&entrance, async |api| api.get("honest").await)?;
        ensure!(read.undecided(), "{leader} answered {read:?}");
        until("a refusal at once that says who is missing", PATIENCE, || {
            let asked = now();
            let answer = ask_once(&entrance, async |api| api.create(&PostParams::default(), &named("honest-refused")).await)?;
            let Answer::Refused(why) = answer else { bail!("{leader} answered {answer:?}") };
            ensure!(why.starts_with("503 the store has no quorum") && why.contains("missing: member"), "{why}");
            ensure!(asked.elapsed() <= AT_ONCE, "it took {:?}", asked.elapsed());
            Ok(())
        })?;
        println!("     {leader} without peers refused at once what it could not do {} ms after the cut", struck.elapsed().as_millis());
        let error = unready(cluster, leader)?;
        ensure!(error.contains("missing: member"), "{error}");
        // who asks for any version gets what is here
        let local = cluster.kubectl(&[&of_leader, "get", "--raw", "/api/v1/namespaces/default/configmaps/honest?resourceVersion=0"])?;
        ensure!(local.contains(r#""v":"old""#) || local.contains(r#""v":"new""#), "{local}");
        link.heal()?;
        cluster.settled(HEALED_WITHIN)?;
        let value = succeed(&mut cluster.kubectl_command(&[&of_leader, "get", "configmap", "honest", "-o", "jsonpath={.data.v}"]))?;
        ensure!(value == "new", "{leader} says {value}");
        let error = fail(&mut cluster.kubectl_command(&[&of_leader, "get", "configmap", "honest-refused"]))?;
        ensure!(error.contains("NotFound"), "{error}");
        Ok(())
    })
}

pub(crate) fn paused_leader(world: &mut World) -> Result<()> {
    let rounds = world.rounds(1, 20);
    let load = load_at_each(world, "paused")?;
    play(world, load, "paused", |world, load| {
        for _ in 0..rounds {
            let (leader, _) = world.leader_and_follower()?;
            let pid = Pid::from_raw(world.cluster.pid(leader)?);
            let struck = now();
            kill(pid, Signal::SIGSTOP)?;
            let elsewhere =
                until("writes elsewhere", PATIENCE, || load.somebody_wrote(SETTLED, struck)).and_then(|_| lasted(struck, LASTING));
            kill(pid, Signal::SIGCONT)?;
            elsewhere?;
            let resumed = now();
            until("every client writes", HEALED_WITHIN, || load.everybody_wrote(SETTLED, resumed))?;
            println!("     {leader} stood still: everybody wrote again {} ms after it went on", resumed.elapsed().as_millis());
            world.cluster.settled(HEALED_WITHIN)?;
        }
        Ok(())
    })
}

pub(crate) fn lost_packets(world: &mut World) -> Result<()> {
    let rounds = world.rounds(1, 10);
    under_load(world, "lossy", |world, load| {
        for _ in 0..rounds {
            let (leader, _) = world.leader_and_follower()?;
            let peers: Vec<&str> = MASTERS.into_iter().filter(|master| *master != leader).collect();
            let struck = now();
            let link = BrokenLink::new(&world.cluster, leader, &peers, Direction::Both, LOST)?;
            lasted(struck, LASTING)?;
            until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
            let gap = load.longest_gap(struck, now());
            link.heal()?;
            let healed = now();
            world.cluster.settled(HEALED_WITHIN)?;
            let back = healed.elapsed().as_millis();
            println!("     {LOST} % of the leader's packets lost: longest gap {} ms; whole after {back} ms", gap.as_millis());
        }
        Ok(())
    })
}
