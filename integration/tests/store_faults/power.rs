//! Power cuts.

use anyhow::{Result, ensure};
use rand::RngExt as _;
use trierarch_integration::load::Load;
use trierarch_integration::wait::{now, until};

use crate::{MASTERS, PATIENCE, SETTLED, World, under_load};

/// How much of what was not synced has reached the disk.
#[derive(Clone, Copy, Debug)]
enum Keep {
    Nothing,
    /// Up to any byte of each file.
    Some,
    Everything,
}

/// Torn ends are the richest case.
const KEEPS: [Keep; 4] = [Keep::Some, Keep::Nothing, Keep::Some, Keep::Everything];

pub(crate) fn of_one(world: &mut World) -> Result<()> {
    let rounds = world.rounds(3, 60);
    under_load(world, "power-one", |world, load| {
        for (round, keep) in (0..rounds).zip(KEEPS.into_iter().cycle()) {
            let (leader, follower) = world.leader_and_follower()?;
            cut(world, load, &[if round % 2 == 0 { leader } else { follower }], keep)?;
        }
        Ok(())
    })
}

pub(crate) fn of_all(world: &mut World) -> Result<()> {
    let rounds = world.rounds(2, 60);
    under_load(world, "power-all", |world, load| {
        for (_, keep) in (0..rounds).zip(KEEPS.into_iter().cycle()) {
            world.cluster.settled(PATIENCE)?;
            cut(world, load, &MASTERS, keep)?;
        }
        Ok(())
    })
}

/// Cuts the power of some masters at a moment that the dice choose, and waits until everybody writes again.
fn cut(world: &mut World, load: &Load, masters: &[&str], keep: Keep) -> Result<()> {
    let (first, more) = (masters[0], world.random.random_range(0..60));
    let begin = world.machines.disk(first)?.syncs();
    until("further syncs", PATIENCE, || {
        let syncs = world.machines.disk(first)?.syncs();
        ensure!(syncs >= begin + more, "{syncs}, {begin} before");
        Ok(())
    })?;
    let struck = now();
    let random = &mut world.random;
    let torn = world.machines.cut_power(&world.cluster, masters, |most| match keep {
        Keep::Nothing => 0,
        Keep::Some => random.random_range(0..=most),
        Keep::Everything => most,
    })?;
    until("every client writes again", PATIENCE, || load.everybody_wrote(SETTLED, struck))?;
    println!(
        "     power cut of {}: {} bytes were not synced, {} are kept; longest gap {} ms",
        masters.join(", "),
        torn.unsynced,
        torn.kept,
        load.longest_gap(struck, now()).as_millis()
    );
    Ok(())
}
