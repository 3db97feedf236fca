//! The node agent: runs the pods that the masters bind to this node, and tells the masters how they are.
//!
//! It reaches masters only through the Kubernetes API ([`trierarch_client`]), containers only through [`trierarch_runtime`], images only through
//! [`trierarch_images`] and links, rules and names only through [`trierarch_network`]. It decides nothing about placement and keeps no
//! state that could not be had again, except one small record per pod beside the pod's volumes.
//!
//! Begin with [`kubelet::pod_actions`] (what to do next for a pod), then [`kubelet::pod_status`] (what to report), then [`kubelet::worker`]
//! (who does it), then [`mod@run`] (how the parts start).

pub mod bootstrap;
pub mod clock;
pub mod config;
pub mod feeders;
pub mod kubelet;
pub mod lease;
pub mod node_status;
pub mod run;
pub mod streaming;

pub use config::AgentConfig;
pub use run::{AgentError, run};
