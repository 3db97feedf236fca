//! The controllers of a master: one folder each, decisions apart from the one shell that performs them.
//!
//! A controller says which keys there are, which of them a change concerns, and what to do about one ([`runner::Controller`]). It holds
//! no client and no queue; [`runner`] does the rest. This crate refuses to know HTTP, the store or Raft: it reads
//! `trierarch_api::Snapshot` and writes through [`cluster::Cluster`].
//!
//! Begin with [`manager`] (what is started), then [`action`] (what a plan may contain), then any controller's `plan.rs`.

use std::sync::Arc;

use jiff::Timestamp;

pub mod action;
pub mod clock;
pub mod cluster;
pub mod deployment;
pub mod events;
pub mod fake;
pub mod manager;
mod names;
pub mod perform;
mod pod_facts;
pub mod replica_set;
pub mod resources;
pub mod runner;
pub mod work_queue;

pub use action::{Action, Plan, Report};
pub use clock::Clock;
pub use cluster::{Cluster, DeleteOptions, Notice, PatchKind, Propagation};
pub use manager::{Config, Handle, Manager};
pub use runner::{Context, Controller};

/// Every controller. `elected_at` is when this master began to lead: silence before that is nobody's fault.
pub fn all(_cluster: &Arc<dyn Cluster>, _config: &Config, _elected_at: Timestamp) -> Vec<Arc<dyn Controller>> {
    Vec::new()
}
