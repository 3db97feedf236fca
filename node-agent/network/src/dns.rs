//! Cluster DNS: [`zone`] knows the names, [`answer`] decides, [`server`] listens and forwards.

pub mod answer;
mod forward;
pub mod server;
pub mod zone;
