//! The messages of etcd's v3 protocol that are understood here, as prost structs: field numbers and types are the protocol's, unknown fields
//! are skipped. `Spec:` etcd API v3, `rpc.proto` and `kv.proto`.

pub mod cluster;
pub mod kv;
pub mod lease;
pub mod watch;

/// What every answer begins with.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ResponseHeader {
    /// Which cluster answered.
    #[prost(uint64, tag = "1")]
    pub cluster_id: u64,
    /// Which member answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
    /// The store's revision when it answered.
    #[prost(int64, tag = "3")]
    pub revision: i64,
    /// The raft term when it answered.
    #[prost(uint64, tag = "4")]
    pub raft_term: u64,
}
