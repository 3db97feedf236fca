//! The verbs, one file each.

pub mod agent;
pub mod down;
pub mod image;
pub mod kubeconfig;
pub mod node;
pub mod node_init;
pub mod raft;
pub mod server;
pub mod supervise;
pub mod up;
