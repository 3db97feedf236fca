//! The part of etcd's v3 gRPC API that Kubernetes and `etcdctl` need, on top of the replicated store: a proof that the store is a real one,
//! and the way to measure it beside etcd. For tests only.
//!
//! Begin with [`messages`] (the protocol), then [`keys`] and [`versions`] (how etcd's keys live in the store), [`transaction`] (what a request
//! does, pure), then the services: [`kv`], [`watch`], [`lease`], [`cluster`]. [`methods`] and [`server`] put them on the network, [`member`]
//! is one process of a group.

pub mod cluster;
pub mod facade;
pub mod keys;
pub mod kv;
pub mod lease;
pub mod leases;
pub mod member;
pub mod messages;
pub mod methods;
pub mod problem;
pub mod range;
pub mod server;
pub mod tls;
pub mod transaction;
pub mod versions;
pub mod watch;

mod clock;
