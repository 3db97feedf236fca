//! Running pods: decisions as plain functions, and the actors that carry them out.

pub mod backoff;
pub mod container_spec;
pub mod downward;
pub mod env;
pub mod eviction;
pub mod expand;
pub mod hosts;
pub mod observed;
pub mod pod_actions;
pub mod pod_status;
pub mod probe;
pub mod qos;
pub mod quantity;
pub mod resources;
pub mod restart;
pub mod sources;
pub mod volumes;
pub mod actor;
pub mod context;
pub mod effects;
pub mod events;
pub mod handler;
pub mod image_manager;
pub mod messages;
pub mod prober;
pub mod worker;
