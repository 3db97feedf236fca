//! Disks that fail, lie, are full or slow.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kube::api::PostParams;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use trierarch_integration::cluster::{Cluster, succeed};
use trierarch_integration::history::Answer;
use trierarch_integration::load::{ask_once, named};
use trierarch_integration::wait::{now, until};

use crate::{HEALED_WITHIN, LASTING, MASTERS, PATIENCE, SETTLED, World, at, lasted, under_load, unready};

/// How long a slow sync takes: several elections.
const SLOW: Duration = Duration::from_secs(1);
/// Less than the store wants to be free, and more than it writes meanwhile.
const NEARLY_FULL_BYTES: u64 = 30 << 20;
/// Room that nobody uses up.
const ROOM_BYTES: u64 = 512 << 20;
/// What a member says that must not start.
const DAMAGED: &str = "the data is damaged";
/// What it says when it can do without what is damaged.
const REBUILT: &str = "building it again from the whole log";

pub(crate) fn failed_sync(world: &mut World) -> Result<()> {
    let rounds = world.rounds(2, 20);
    under_load(world, "failed-sync", |world, load| {
        for round in 0..rounds {
            let (leader, follower) = world.leader_and_follower()?;
            let master = if round % 2 == 0 { leader } else { follower };
            let (pid, said) = (world.cluster.pid(master)?, world.cluster.log(master)?.len());
            let struck = now();
            world.machines.disk(master)?.fail_syncs("log/", 1);
            until("its end", PATIENCE, || {
                ensure!(
                    world.cluster.pid(master).ok() != Some(pid),
                    "{} syncs are still to fail",
                    world.machines.disk(master)?.failures_left()
                );
                Ok(())
            })?;
            let log = world.cluster.log(master)?;
            let log = log.get(said..).unwrap_or_default();
            for part in ["Raft has stopped on this member", "Input/output error", "the store has stopped"] {
                ensure!(log.contains(part), "{master} did not say {part:?}:\n{log}");
            }
            until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
            println!("     a sync of {master} failed: longest gap {} ms", load.longest_gap(struck, now()).as_millis());
            // what the system showed it after its start was not on the disk: it must not have counted on that
            world.cluster.settled(HEALED_WITHIN)?;
            world.machines.cut_power(&world.cluster, &[master], |_| 0)?;
            world.cluster.settled(HEALED_WITHIN)?;
        }
        Ok(())
    })
}

/// Kinds of files: what their paths hold.
const KINDS: [(&str, &str); 5] =
    [("log/entries", ".log"), ("state", ".sst"), ("state", ".blob"), ("log", "MANIFEST"), ("state", "MANIFEST")];
/// So many large objects are more than a member's state keeps in memory: there are files of all kinds.
const LARGE_OBJECTS: usize = 24;
const SMALL_OBJECTS: usize = 20;

pub(crate) fn flipped_bits(world: &mut World) -> Result<()> {
    for number in 0..LARGE_OBJECTS + SMALL_OBJECTS {
        let value = if number < LARGE_OBJECTS { hex(&mut world.random, 900_000) } else { "x".repeat(2000) };
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("flipped-{number}"), "labels": {"run": "flipped"}},
            "data": {"a": value},
        });
        world.cluster.create(&object)?;
    }
    let mut struck = BTreeSet::new();
    for round in 0..world.rounds(1, 10) {
        for kind in KINDS {
            let (leader, follower) = world.leader_and_follower()?;
            let said = world.cluster.log(follower)?.len();
            let Some((path, offset)) = flip(world, follower, kind)? else { continue };
            struck.insert(kind);
            let refused = outcome(world, follower, said)?;
            let how = if refused { "it did not start" } else { "it came back" };
            println!("     {follower}: a bit of {} at {offset} was flipped: {how}", path.display());
            if refused {
                world.machines.replace(&world.cluster, follower)?;
                world.cluster.settled(PATIENCE)?;
            }
            let (ours, theirs) = (content(&world.cluster, follower)?, content(&world.cluster, leader)?);
            ensure!(ours.len() == LARGE_OBJECTS + SMALL_OBJECTS, "{follower} serves {} objects", ours.len());
            ensure!(ours == theirs, "{follower} serves other objects than {leader}");
            // the beginning of a log is followed by records that were written later: it cannot be an unfinished write
            ensure!(refused || round > 0 || kind != KINDS[0], "{follower} started with a damaged log");
        }
    }
    ensure!(struck == BTreeSet::from(KINDS), "bits were flipped only in files of these kinds: {struck:?}");
    Ok(())
}

/// Text that does not get smaller by much when it is compressed.
fn hex(random: &mut StdRng, length: usize) -> String {
    (0..length).map(|_| char::from(b"0123456789abcdef"[random.random_range(0..16)])).collect()
}

/// Kills a master and flips a bit in the first half of what its largest file of a kind holds, if it has one.
fn flip(world: &mut World, master: &str, (folder, part): (&str, &str)) -> Result<Option<(PathBuf, u64)>> {
    let mut flipped = None;
    let random = &mut world.random;
    world.cluster.crash(&[master], || {
        let mut disk = world.machines.disk(master)?;
        // a killed process leaves what it wrote to the system, which writes it some time later
        disk.cut_power(|most| most);
        let is_one = |path: &Path| path.starts_with(folder) && path.to_string_lossy().contains(part);
        let largest = disk.stored_files().into_iter().filter(|(path, size)| is_one(path) && *size > 100).max_by_key(|(_, size)| *size);
        if let Some((path, size)) = largest {
            let offset = random.random_range(0..size / 2);
            disk.flip(&path, offset, 1 << random.random_range(0..8))?;
            flipped = Some((path, offset));
        }
        Ok(())
    })?;
    Ok(flipped)
}

/// Whether a master refuses to start, or takes part again.
fn outcome(world: &World, master: &str, said: usize) -> Result<bool> {
    let (refused, _) = until("its start or its refusal", PATIENCE, || {
        let log = world.cluster.log(master)?;
        // a damaged state is built again from the whole log, which is told with what was wrong
        if log.get(said..).unwrap_or_default().lines().any(|line| line.contains(DAMAGED) && !line.contains(REBUILT)) {
            return Ok(true);
        }
        let status = world.cluster.raft_status()?[master].clone();
        ensure!(matches!(status["role"].as_str(), Some("leader" | "follower")), "{master} says {status}");
        Ok(false)
    })?;
    // it may have started and noticed later
    if !refused {
        world.cluster.settled(PATIENCE)?;
    }
    Ok(refused)
}

/// What a master serves of the objects of this step.
fn content(cluster: &Cluster, master: &str) -> Result<Vec<Value>> {
    let listed = cluster.get(&[&at(cluster, master)?, "configmaps", "-l", "run=flipped"])?;
    Ok(listed["items"].as_array().context("a list has items")?.clone())
}

pub(crate) fn full_on_the_leader(world: &mut World) -> Result<()> {
    under_load(world, "full-one", |world, load| {
        let (leader, _) = world.leader_and_follower()?;
        let struck = now();
        let used = world.machines.disk(leader)?.used_bytes();
        world.machines.disk(leader)?.set_capacity(used);
        until("another leader", PATIENCE, || {
            let new = world.cluster.leader()?;
            ensure!(new != leader, "{new} still leads");
            Ok(())
        })?;
        until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
        until("its readiness to say so", PATIENCE, || {
            let error = unready(&world.cluster, leader)?;
            ensure!(error.contains("the disk of") && error.contains("make room"), "{error}");
            Ok(())
        })?;
        world.machines.disk(leader)?.set_capacity(ROOM_BYTES);
        world.cluster.settled(HEALED_WITHIN)?;
        Ok(())
    })
}

pub(crate) fn full_everywhere(world: &mut World) -> Result<()> {
    under_load(world, "full-all", |world, load| {
        let began = now();
        let pids: Vec<i32> = MASTERS.iter().map(|master| world.cluster.pid(master)).collect::<Result<_>>()?;
        for master in MASTERS {
            let mut disk = world.machines.disk(master)?;
            let used = disk.used_bytes();
            disk.set_capacity(used + NEARLY_FULL_BYTES);
        }
        let entrance = world.cluster.entrance(MASTERS[0])?;
        let (refused, _) = until("a refused write", PATIENCE, || {
            let tried = named(&format!("too-much-{}", now().duration_since(began).as_millis()));
            match ask_once(&entrance, async |api| api.create(&PostParams::default(), &tried).await)? {
                Answer::Refused(why) => Ok(why),
                other => bail!("writes are still answered: {other:?}"),
            }
        })?;
        ensure!(refused.starts_with("503 the store is read-only: the disk of") && refused.contains("make room"), "{refused}");
        for master in MASTERS {
            world.cluster.kubectl(&[&at(&world.cluster, master)?, "get", "configmap", "kube-root-ca.crt"])?;
        }
        for master in MASTERS {
            world.machines.disk(master)?.set_capacity(ROOM_BYTES);
        }
        let room = now();
        until("every client writes", HEALED_WITHIN, || load.everybody_wrote(SETTLED, room))?;
        println!("     everybody wrote again {} ms after there was room", room.elapsed().as_millis());
        world.cluster.settled(HEALED_WITHIN)?;
        let after: Vec<i32> = MASTERS.iter().map(|master| world.cluster.pid(master)).collect::<Result<_>>()?;
        ensure!(pids == after, "a master was started again: {pids:?}, then {after:?}");
        Ok(())
    })
}

pub(crate) fn slow(world: &mut World) -> Result<()> {
    under_load(world, "slow", |world, load| {
        let (leader, follower) = world.leader_and_follower()?;
        for (master, what) in [(follower, "a follower"), (leader, "the leader")] {
            world.machines.disk(master)?.slow_syncs(SLOW);
            let struck = now();
            lasted(struck, LASTING)?;
            until("every client writes", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
            let gap = load.longest_gap(struck, now());
            world.machines.disk(master)?.slow_syncs(Duration::ZERO);
            println!("     each sync of {what} took {} ms: longest gap {} ms", SLOW.as_millis(), gap.as_millis());
            world.cluster.settled(HEALED_WITHIN)?;
        }
        // leadership can still be given away
        succeed(&mut world.cluster.trierarch(&["raft", "transfer"]))?;
        Ok(())
    })
}
