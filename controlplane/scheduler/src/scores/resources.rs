//! Free room (LeastAllocated) and even use (BalancedAllocation) of CPU and memory.

use super::MAX;
use crate::pod::PodInfo;
use crate::snapshot::NodeRow;

/// The average share of CPU and memory that stays free.
pub(super) fn least_allocated(pod: &PodInfo, row: &NodeRow) -> i64 {
    let free = |used: i64, all: i64| if all <= 0 || used > all { 0 } else { (all - used) * MAX / all };
    let (cpu, memory) = (row.scored.0 + pod.scored.0, row.scored.1 + pod.scored.1);
    let (cpu, memory) = (free(cpu, row.allocatable.cpu_millis), free(memory, row.allocatable.memory_bytes));
    i64::midpoint(cpu, memory)
}

/// How alike the used shares of CPU and memory are.
pub(super) fn balanced(pod: &PodInfo, row: &NodeRow) -> i64 {
    // in units of 1/10000, so that no floating point is needed
    let share = |used: i64, all: i64| if all <= 0 { 10_000 } else { (i128::from(used) * 10_000 / i128::from(all)).clamp(0, 10_000) };
    let cpu = share(row.requested.cpu_millis + pod.request.cpu_millis, row.allocatable.cpu_millis);
    let memory = share(row.requested.memory_bytes + pod.request.memory_bytes, row.allocatable.memory_bytes);
    // the deviation of two shares is half their distance
    let deviation = (cpu - memory).abs() / 2;
    i64::try_from((10_000 - deviation) / 100).unwrap_or(0)
}
