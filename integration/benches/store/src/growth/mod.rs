//! Ours alone, as it grows: what a member needs by the number of objects, how soon it is back, and what a group costs that has nothing to do.
//!
//! Each part has a group of its own: [`sizes`], [`install`] (a new member receives everything), [`history`] (many revisions: start and
//! compaction), [`away`] (a member that missed much), [`idle`]. [`page`] shows what they brought; [`cluster`] is what all of them use.

use std::time::Duration;

pub mod away;
pub mod cluster;
pub mod history;
pub mod idle;
pub mod install;
pub mod page;
pub mod sizes;
pub mod writing;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Scale {
    /// How many objects, one group after the other.
    pub objects: Vec<u64>,
    /// Objects of [`Scale::install_value_bytes`] that a new member receives.
    pub install_objects: u64,
    /// Bytes of each of them.
    pub install_value_bytes: usize,
    /// Objects whose history grows.
    pub history_objects: u64,
    /// How often each of them is written.
    pub history_rounds: u64,
    /// Writes that a member misses.
    pub missed: u64,
    /// How long writes are measured before something happens.
    pub quiet: Duration,
    /// How long a group has nothing to do.
    pub idle: Duration,
}

impl Scale {
    /// What is published.
    pub fn whole() -> Self {
        Self {
            objects: vec![1_000, 100_000, 1_000_000],
            install_objects: 65_536,
            install_value_bytes: 16 << 10,
            history_objects: 100_000,
            history_rounds: 10,
            missed: 100_000,
            quiet: Duration::from_secs(10),
            idle: Duration::from_secs(600),
        }
    }

    /// So little that every part is over in seconds.
    pub fn quick() -> Self {
        Self {
            objects: vec![1_000, 5_000],
            install_objects: 2_000,
            history_objects: 2_000,
            history_rounds: 5,
            missed: 20_000,
            quiet: Duration::from_secs(2),
            idle: Duration::from_secs(5),
            ..Self::whole()
        }
    }
}
