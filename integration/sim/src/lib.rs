//! A whole group of the store in one thread, with a network, disks and clocks that one seed decides: the same seed gives the same run, event
//! by event. The members are the real ones; only what [`trierarch_raft::environment`] names is simulated.
//!
//! Begin with [`run`] (the story of one seed), then [`member`] and [`network`] (the world), [`faults`] (what goes wrong), [`clients`] (who
//! asks for what), and [`invariants`] (what must hold whatever happens).

pub mod backups;
pub mod clients;
pub mod dice;
pub mod disk;
pub mod entropy;
pub mod event;
pub mod faults;
pub mod founding;
pub mod frames;
pub mod invariants;
pub mod lab;
pub mod machine;
pub mod member;
pub mod network;
pub mod pipe;
pub mod plan;
pub mod run;
pub mod trace;
pub mod watchers;
pub mod world;
