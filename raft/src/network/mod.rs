//! Peer traffic: framed messages over TCP, optionally in mutual TLS. One connection each for replication, heartbeats, snapshots and
//! requests to the leader, so that none of them waits behind another.

pub(crate) mod acquaintances;
pub(crate) mod callers;
pub(crate) mod client;
pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod messages;
pub(crate) mod outgoing;
pub(crate) mod pace;
pub(crate) mod server;
pub(crate) mod votes;
pub(crate) mod window;

#[cfg(test)]
mod tests;
