//! Containers without a cluster: those of `run`, and those in which a build's RUN steps happen.

pub mod builder;
pub mod engine;
pub mod log;
pub mod network;
pub mod options;
pub mod streams;
