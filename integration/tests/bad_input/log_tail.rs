//! Damage at the end of a master's log.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use trierarch_integration::cluster::Cluster;
use trierarch_integration::wait::until;

use crate::{PATIENCE, World, settled, store_dir, up_to_date};

/// Kills a master as a crash does, and changes its disk before the supervisor starts it again.
fn killed(cluster: &Cluster, master: &str, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let supervisor = Pid::from_raw(cluster.pid("supervisor")?);
    let pid = cluster.pid(master)?;
    kill(supervisor, Signal::SIGSTOP)?;
    let changed = kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(Into::into).and_then(|()| {
        until("its end", PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("gone", |(_, rest)| rest.get(..1).unwrap_or_default());
            ensure!(["gone", "Z"].contains(&state), "{stat}");
            Ok(())
        })?;
        change()
    });
    kill(supervisor, Signal::SIGCONT)?;
    changed
}

/// The file that a master's log was written to last, and its length.
fn newest_log(data_dir: &Path, master: &str) -> Result<(PathBuf, u64)> {
    let mut found: Vec<(PathBuf, u64)> = Vec::new();
    for entry in std::fs::read_dir(store_dir(data_dir, master).join("log"))? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "log") && entry.metadata()?.len() > 0 {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    // the names are numbers that grow
    found.sort();
    found.pop().context("the log has no file")
}

/// Kills a follower that has a log to lose, and does `strike` to the file that was written to last, whose length it is told.
fn struck(world: &mut World, strike: impl FnOnce(&std::fs::File, u64) -> Result<()>) -> Result<&'static str> {
    settled(&world.cluster)?;
    for _ in 0..3 {
        world.write(100)?;
    }
    let follower = world.follower()?;
    up_to_date(&world.cluster, follower)?;
    killed(&world.cluster, follower, || {
        let (path, length) = newest_log(world.cluster.data_dir(), follower)?;
        strike(&std::fs::OpenOptions::new().read(true).write(true).open(path)?, length)
    })?;
    Ok(follower)
}

pub(crate) fn torn(world: &mut World) -> Result<()> {
    struck(world, |file, length| Ok(file.set_len(length.saturating_sub(7))?))?;
    world.write(100)?;
    settled(&world.cluster)
}

pub(crate) fn damaged(world: &mut World) -> Result<()> {
    let follower = struck(world, |file, length| {
        let mut tail = [0_u8; 32];
        file.read_exact_at(&mut tail, length - 32)?;
        tail.iter_mut().for_each(|byte| *byte ^= 0xff);
        file.write_all_at(&tail, length - 32)?;
        Ok(())
    })?;
    until("its refusal to start", PATIENCE, || {
        let log = world.cluster.log(follower)?;
        ensure!(log.contains("the data is damaged") && log.contains("empty directory"), "it logged\n{}", last_lines(&log));
        Ok(())
    })?;
    world.write(100)?;
    // as the message says: its directory is kept, and it begins again with an empty one
    let directory = world.cluster.data_dir().join("masters").join(follower);
    std::fs::rename(&directory, directory.with_extension("damaged"))?;
    settled(&world.cluster)?;
    world.write(100)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
