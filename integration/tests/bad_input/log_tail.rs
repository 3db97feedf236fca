//! Damage at the end of a master's log.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use trierarch_integration::wait::until;

use crate::{PATIENCE, World, store_dir};

/// The file that a master's log was written to last, and how much of it was written.
fn newest_log(data_dir: &Path, master: &str) -> Result<(PathBuf, u64)> {
    let mut found: Vec<(PathBuf, u64)> = Vec::new();
    for entry in std::fs::read_dir(store_dir(data_dir, master).join("log/entries"))? {
        let path = entry?.path();
        // behind what was written, the file holds zeros
        let last = std::fs::read(&path)?.iter().rposition(|byte| *byte != 0);
        found.extend(last.map(|last| (path, last as u64 + 1)));
    }
    // the names are numbers that grow
    found.sort();
    found.pop().context("the log has no file")
}

/// Kills a follower that has a log to lose, and does `strike` to the file that was written to last, whose length it is told.
fn struck(world: &mut World, strike: impl FnOnce(&std::fs::File, u64) -> Result<()>) -> Result<&'static str> {
    world.cluster.settled(PATIENCE)?;
    for _ in 0..3 {
        world.write(100)?;
    }
    let follower = world.follower()?;
    world.cluster.up_to_date(follower, PATIENCE)?;
    world.cluster.crash(&[follower], || {
        let (path, length) = newest_log(world.cluster.data_dir(), follower)?;
        strike(&std::fs::OpenOptions::new().read(true).write(true).open(path)?, length)
    })?;
    Ok(follower)
}

pub(crate) fn torn(world: &mut World) -> Result<()> {
    struck(world, |file, length| Ok(file.set_len(length.saturating_sub(7))?))?;
    world.write(100)?;
    world.cluster.settled(PATIENCE)?;
    Ok(())
}

pub(crate) fn damaged(world: &mut World) -> Result<()> {
    let follower = struck(world, |file, length| {
        // not up to the last byte: that could be a write that was cut off
        let mut tail = [0_u8; 32];
        file.read_exact_at(&mut tail, length - 33)?;
        tail.iter_mut().for_each(|byte| *byte ^= 0xff);
        file.write_all_at(&tail, length - 33)?;
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
    world.cluster.settled(PATIENCE)?;
    world.write(100)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
