//! Places pods on nodes.

pub mod cluster;

pub use cluster::{Notice, PodId, SchedulerCluster};
