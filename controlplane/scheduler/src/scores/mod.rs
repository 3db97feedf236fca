//! How good a node is for a pod, among those that can take it. Every score is 0 to 100 and has upstream's weight.

mod image_locality;
mod neighbours;
mod resources;
mod spreading;
mod taints;

use crate::pod::PodInfo;
use crate::snapshot::Nodes;

const MAX: i64 = 100;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_SPREADING: i64 = 2;
const WEIGHT_NEIGHBOURS: i64 = 2;

/// Buffers that are reused from pod to pod.
#[derive(Default)]
pub struct Scratch {
    /// The sum for each candidate, in the candidates' order.
    pub totals: Vec<i64>,
    raw: Vec<i64>,
}

/// Scores the candidates (indices of rows) into `scratch.totals`.
pub fn score(pod: &PodInfo, nodes: &Nodes, candidates: &[usize], scratch: &mut Scratch) {
    let rows = nodes.rows();
    scratch.totals.clear();
    scratch.totals.extend(candidates.iter().map(|index| {
        let row = &rows[*index];
        resources::least_allocated(pod, row) + resources::balanced(pod, row) + image_locality::score(pod, row)
    }));
    if candidates.iter().any(|index| rows[*index].taints.iter().any(|taint| taint.effect == "PreferNoSchedule")) {
        fill(scratch, candidates, |index| taints::intolerable(pod, &rows[index]));
        add_less_is_better(scratch, WEIGHT_TAINTS);
    } else {
        scratch.totals.iter_mut().for_each(|total| *total += WEIGHT_TAINTS * MAX);
    }
    if !pod.node_preferred.is_empty() {
        fill(scratch, candidates, |index| {
            let terms = pod.node_preferred.iter();
            terms.filter(|(_, term)| crate::filters::matches_term(term, &rows[index])).map(|(weight, _)| weight).sum()
        });
        add_more_is_better(scratch, WEIGHT_NODE_AFFINITY);
    }
    if spreading::prepare(pod, nodes, candidates, &mut scratch.raw) {
        add_less_is_better(scratch, WEIGHT_SPREADING);
    }
    if neighbours::prepare(pod, nodes, candidates, &mut scratch.raw) {
        add_range(scratch, WEIGHT_NEIGHBOURS);
    }
}

fn fill(scratch: &mut Scratch, candidates: &[usize], value: impl Fn(usize) -> i64) {
    scratch.raw.clear();
    scratch.raw.extend(candidates.iter().map(|index| value(*index)));
}

fn add_more_is_better(scratch: &mut Scratch, weight: i64) {
    let max = scratch.raw.iter().copied().max().unwrap_or(0);
    if max > 0 {
        for (total, raw) in scratch.totals.iter_mut().zip(&scratch.raw) {
            *total += weight * (MAX * raw / max);
        }
    }
}

fn add_less_is_better(scratch: &mut Scratch, weight: i64) {
    let max = scratch.raw.iter().copied().max().unwrap_or(0);
    for (total, raw) in scratch.totals.iter_mut().zip(&scratch.raw) {
        *total += weight * if max > 0 { MAX * (max - raw) / max } else { MAX };
    }
}

fn add_range(scratch: &mut Scratch, weight: i64) {
    let (min, max) = (scratch.raw.iter().copied().min().unwrap_or(0), scratch.raw.iter().copied().max().unwrap_or(0));
    if max > min {
        for (total, raw) in scratch.totals.iter_mut().zip(&scratch.raw) {
            *total += weight * (MAX * (raw - min) / (max - min));
        }
    }
}
