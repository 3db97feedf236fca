//! Running pods: decisions as plain functions, and the actors that carry them out.

pub mod backoff;
pub mod downward;
pub mod env;
pub mod expand;
pub mod observed;
pub mod pod_actions;
pub mod pod_status;
pub mod qos;
pub mod quantity;
pub mod restart;
pub mod sources;
