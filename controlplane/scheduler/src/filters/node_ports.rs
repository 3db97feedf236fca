//! Host ports (NodePorts).

use crate::pod::PodInfo;
use crate::snapshot::NodeRow;

/// Whether a port that the pod needs is taken.
pub(super) fn conflict(pod: &PodInfo, row: &NodeRow) -> bool {
    pod.ports.iter().any(|port| row.ports.iter().any(|used| used.conflicts(port)))
}
