//! The master process: identity, joining, and the wiring of store, API server, scheduler and controllers.
//!
//! It decides nothing about objects itself. Scheduler and controllers run on the Raft leader only, and every write of theirs is fenced by
//! the term in which they started.
//!
//! Begin with [`master`] (what starts in which order), then [`leadership`] (what runs on the leader), then [`identity`].

pub mod bootstrap;
pub mod clock;
pub mod disaster;
pub mod endpoints;
pub mod identity;
pub mod join;
pub mod leadership;
pub mod local;
pub mod master;
pub mod raft_api;
pub mod registry;
pub mod replication;
pub mod signer;
