//! The store beside etcd: the same closed loop, from one client process, against three members of each, in turns.
//!
//! Begin with [`rows`] (what is measured), then [`rounds`] (how one figure comes about), [`systems`] (what is measured against what), then
//! [`codec`] (how a client speaks to each), and [`member`] for the server that puts the store's native side on the network. [`growth`] measures
//! ours alone, from a thousand objects to a million.

pub mod ask;
pub mod clock;
pub mod codec;
pub mod floor;
pub mod group;
pub mod growth;
pub mod keeping;
pub mod member;
pub mod protocol;
pub mod relay;
pub mod report;
pub mod rounds;
pub mod rows;
pub mod systems;
pub mod traffic;
pub mod usage;
pub mod watching;
