//! How a pod leaves its Services before its containers are told to end, so that no request meets a closed door.
//!
//! 1. A pod that serves is deleted. Its agent holds the signal back, for [`HOLD_MAX`] at most.
//! 2. EndpointSlices say that the endpoint is terminating; every node's rules stop to send new connections there.
//! 3. Every agent says in [`APPLIED`] on its node's Lease which revision of EndpointSlices its rules show.
//! 4. Once all living nodes have, the leader puts [`LEFT`] on the pod, and its agent goes on.

use std::time::Duration;

/// On a node's Lease: the revision up to which the node's rules follow EndpointSlices.
pub const APPLIED: &str = "trierarch.io/services-applied";
/// On a pod that is being deleted: no node sends it new connections any more.
pub const LEFT: &str = "trierarch.io/endpoints-left";
/// An agent waits no longer than this for [`LEFT`].
pub const HOLD_MAX: Duration = Duration::from_secs(5);
