//! The part of etcd's v3 gRPC API that Kubernetes and `etcdctl` need, on top of the replicated store: a proof that the store is a real one,
//! and the way to measure it beside etcd. For tests only.
//!
//! Begin with [`messages`] (the protocol), then [`member`] (one process of a group).

pub mod member;
pub mod messages;
pub mod tls;
