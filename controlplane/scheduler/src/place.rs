//! Chooses the node for a pod, or says for each reason how many nodes refused it.

use std::collections::BTreeMap;

use crate::filters::{Prepared, Refusal, refuse, shortages};
use crate::pod::PodInfo;
use crate::scores::{Scratch, score};
use crate::snapshot::Nodes;

/// In clusters beyond this size not every node that fits is scored.
const SCORED_MIN: usize = 100;

/// What came of looking for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The index of its row.
    On(usize),
    /// Nowhere.
    Nowhere(Refused),
}

/// Why no node could take a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Nodes looked at.
    pub nodes: usize,
    /// Upstream's wording, and for how many nodes it holds.
    pub reasons: BTreeMap<String, usize>,
    /// Which kinds of refusal there were: says what events may help.
    pub kinds: Vec<Refusal>,
}

/// What is kept from pod to pod: buffers, and where the last search stopped.
#[derive(Default)]
pub struct Search {
    next: usize,
    candidates: Vec<usize>,
    scratch: Scratch,
}

impl Search {
    /// Chooses. The same nodes, pod, seed and history give the same answer.
    pub fn place(&mut self, pod: &PodInfo, nodes: &mut Nodes, seed: u64) -> Placement {
        nodes.prepare(pod);
        let nodes = &*nodes;
        let prepared = Prepared::of(pod, nodes);
        let rows = nodes.rows();
        let fits = |index: usize| rows[index].present && refuse(pod, &rows[index], index, &prepared).is_none();
        if let Some(index) = pod.nominated.as_ref().and_then(|name| nodes.index(name)).filter(|index| fits(*index)) {
            return Placement::On(index);
        }
        let enough = enough(rows.len());
        self.candidates.clear();
        let start = if rows.is_empty() { 0 } else { self.next % rows.len() };
        let mut looked_at = 0;
        for index in (start..rows.len()).chain(0..start) {
            looked_at += 1;
            if fits(index) {
                self.candidates.push(index);
                if self.candidates.len() >= enough {
                    break;
                }
            }
        }
        if looked_at < rows.len() {
            self.next = start + looked_at;
        }
        match self.candidates.as_slice() {
            [] => Placement::Nowhere(explain(pod, nodes, &prepared)),
            [only] => Placement::On(*only),
            several => {
                score(pod, nodes, several, &mut self.scratch);
                Placement::On(best(several, &self.scratch.totals, seed))
            }
        }
    }
}

/// How many nodes that fit are scored: all of a small cluster, a falling share of a large one.
fn enough(nodes: usize) -> usize {
    if nodes <= SCORED_MIN {
        return nodes.max(1);
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(SCORED_MIN)
}

/// Among equals the seed decides.
fn best(candidates: &[usize], totals: &[i64], seed: u64) -> usize {
    let top = totals.iter().copied().max().unwrap_or(0);
    let equals = || candidates.iter().zip(totals).filter(|(_, total)| **total == top).map(|(index, _)| *index);
    let count = equals().count();
    let pick = usize::try_from(mix(seed) % u64::try_from(count.max(1)).unwrap_or(1)).unwrap_or(0);
    equals().nth(pick).unwrap_or(candidates[0])
}

/// SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Asks every node why, which costs nothing while pods find places.
fn explain(pod: &PodInfo, nodes: &Nodes, prepared: &Prepared<'_>) -> Refused {
    let mut refused = Refused { nodes: nodes.count(), ..Refused::default() };
    for (index, row) in nodes.rows().iter().enumerate().filter(|(_, row)| row.present) {
        let Some(refusal) = refuse(pod, row, index, prepared) else { continue };
        if !refused.kinds.contains(&refusal) {
            refused.kinds.push(refusal);
        }
        let texts = if refusal == Refusal::Resources { shortages(pod, row) } else { vec![refusal.text().into_owned()] };
        for text in texts {
            *refused.reasons.entry(text).or_default() += 1;
        }
    }
    refused.kinds.sort_unstable();
    refused
}

impl Refused {
    /// Upstream's sentence, followed by what preemption has to say.
    pub fn message(&self, preemption: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counted: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        counted.sort();
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if !counted.is_empty() {
            message.push_str(&format!(" {}.", counted.join(", ")));
        }
        if !preemption.is_empty() {
            message.push_str(&format!(" {preemption}"));
        }
        message
    }
}
