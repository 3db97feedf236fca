//! Running pods: decisions as plain functions, and the actors that carry them out.

pub mod actor;
pub mod backoff;
pub mod container_spec;
pub mod context;
pub mod downward;
pub mod effects;
pub mod env;
pub mod events;
pub mod eviction;
pub mod expand;
pub mod handler;
pub mod hosts;
pub mod image_manager;
pub mod messages;
pub mod observed;
pub mod pod_actions;
pub mod pod_status;
pub mod probe;
pub mod prober;
pub mod qos;
pub mod quantity;
pub mod resources;
pub mod restart;
pub mod sources;
pub mod volumes;
pub mod worker;
