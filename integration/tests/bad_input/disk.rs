//! Full disks below the store.

use anyhow::{Result, ensure};
use trierarch_integration::cluster::{Cluster, fail};
use trierarch_integration::wait::until;

use crate::{MASTERS, PATIENCE, World, at, node_is_ready};

/// Less than the store wants to be free, and more than it writes meanwhile.
const NEARLY_FULL_MIB: u64 = 30;

/// What `/readyz` of a master says while it is not ready. kubectl shows such an answer only to those who ask for every answer.
fn unready(cluster: &Cluster, master: &str) -> Result<String> {
    fail(&mut cluster.kubectl_command(&[&at(master)?, "-v=8", "get", "--raw", "/readyz"]))
}

fn ready(cluster: &Cluster, master: &str) -> Result<()> {
    let answer = cluster.kubectl(&[&at(master)?, "get", "--raw", "/readyz"])?;
    ensure!(answer == "ok", "{answer}");
    Ok(())
}

pub(crate) fn full_on_the_leader(world: &mut World) -> Result<()> {
    let leader = world.cluster.settled(PATIENCE)?;
    let pid = world.cluster.pid(&leader)?;
    world.disk(&leader)?.fill(NEARLY_FULL_MIB)?;
    // a disk that nobody writes to is not looked at
    until("another leader", PATIENCE, || {
        world.write(10)?;
        let now = world.cluster.leader()?;
        ensure!(now != leader, "{now} still leads");
        Ok(())
    })?;
    until("its readiness to say so", PATIENCE, || {
        let error = unready(&world.cluster, &leader)?;
        ensure!(error.contains("the disk of") && error.contains("MiB left") && error.contains("make room"), "{error}");
        Ok(())
    })?;
    // through the full master, too: it sends writes to the leader
    world.cluster.kubectl(&[&at(&leader)?, "create", "configmap", "through-the-full-one"])?;
    world.cluster.kubectl(&[&at(&leader)?, "get", "configmap", "through-the-full-one"])?;
    world.write(10)?;
    world.disk(&leader)?.release()?;
    until("it ready again", PATIENCE, || ready(&world.cluster, &leader))?;
    ensure!(world.cluster.pid(&leader)? == pid, "it was started again");
    Ok(())
}

pub(crate) fn full_everywhere(world: &mut World) -> Result<()> {
    world.cluster.settled(PATIENCE)?;
    let pids: Vec<i32> = MASTERS.iter().map(|master| world.cluster.pid(master)).collect::<Result<_>>()?;
    for master in MASTERS {
        world.disk(master)?.fill(NEARLY_FULL_MIB)?;
    }
    let (refused, _) = until("a refused write", PATIENCE, || match world.write(10) {
        Ok(()) => anyhow::bail!("writes are still acknowledged"),
        Err(error) => Ok(format!("{error:#}")),
    })?;
    ensure!(refused.contains("the store is read-only: the disk of") && refused.contains("make room"), "{refused}");
    ensure!(refused.contains("ServiceUnavailable"), "{refused}");
    // each acknowledged one is read, by name and in a list, through any master
    for master in MASTERS {
        let stored = world.cluster.get(&[&at(master)?, "configmaps", "-l", "kept=yes"])?;
        ensure!(stored["items"].as_array().is_some_and(|items| items.len() == world.acknowledged.len()), "{stored}");
    }
    until("every master's readiness to say so", PATIENCE, || {
        for master in MASTERS {
            let error = unready(&world.cluster, master)?;
            ensure!(error.contains("make room"), "{master}: {error}");
        }
        Ok(())
    })?;
    for master in MASTERS {
        world.disk(master)?.release()?;
    }
    until("an acknowledged write", PATIENCE, || world.write(10))?;
    for master in MASTERS {
        until("every master ready", PATIENCE, || ready(&world.cluster, master))?;
    }
    until("the node Ready", PATIENCE, || node_is_ready(&world.cluster))?;
    let after: Vec<i32> = MASTERS.iter().map(|master| world.cluster.pid(master)).collect::<Result<_>>()?;
    ensure!(pids == after, "a master was started again: {pids:?}, then {after:?}");
    Ok(())
}

pub(crate) fn not_a_single_block(world: &mut World) -> Result<()> {
    world.cluster.settled(PATIENCE)?;
    let follower = world.follower()?;
    world.disk(follower)?.fill(0)?;
    // the others go on; this one takes what it is sent until a write fails
    until("the end of its part in the group", PATIENCE, || {
        world.write(400_000)?;
        let status = world.cluster.raft_status()?;
        ensure!(status[follower]["role"] == "shutdown", "{}", status[follower]);
        Ok(())
    })?;
    let error = unready(&world.cluster, follower)?;
    ensure!(error.contains("make room"), "{error}");
    // the address that leads to all masters may lead to this one, too, until its readiness was looked at
    until("an acknowledged write", PATIENCE, || world.write(10))?;
    world.disk(follower)?.release()?;
    world.cluster.settled(PATIENCE)?;
    Ok(())
}
