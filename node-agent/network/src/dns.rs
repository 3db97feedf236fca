//! Cluster DNS: [`zone`] knows the names, [`answer`] decides, [`server`] listens and forwards.

pub mod answer;
pub mod server;
pub mod zone;
