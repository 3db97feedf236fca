//! Places pods on nodes: pure decisions over rows of nodes, one actor around them.
//!
//! It refuses to know HTTP, the store or Raft: it hears `trierarch_api` changes and writes through [`cluster::SchedulerCluster`].
//!
//! Begin with [`core`] (what is heard and what comes out), then [`place`] (how one pod finds a node), then [`filters`] and [`scores`].

pub mod actor;
pub mod cluster;
pub mod core;
pub mod filters;
pub mod place;
pub mod pod;
pub mod preempt;
pub mod queue;
pub mod resources;
pub mod scores;
pub mod snapshot;
#[cfg(test)]
mod tests;
mod topology;

pub use actor::{Clock, Handle, Scheduler};
pub use cluster::{Notice, PodId, SchedulerCluster};
pub use core::{Config, Core, Effect};
