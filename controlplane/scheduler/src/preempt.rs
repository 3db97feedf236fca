//! Which pods of lower priority would have to go so that a pod finds a place (`Spec:` "Pod Priority and Preemption").

use std::sync::Arc;

use crate::filters::{Prepared, refuse};
use crate::pod::PodInfo;
use crate::snapshot::Nodes;

/// Nodes that are tried in a large cluster.
const TRIED_MAX: usize = 100;

/// Where room can be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// Name of the node.
    pub node: String,
    /// Who has to go, most important first.
    pub victims: Vec<Arc<PodInfo>>,
}

/// The best place to make room, or what users are told.
///
/// # Errors
/// Upstream's text when there is none.
pub fn preempt(pod: &PodInfo, nodes: &mut Nodes) -> Result<Preemption, String> {
    let total = nodes.count();
    let refuse_all = |why: &str| Err(format!("preemption: 0/{total} nodes are available: {total} {why}."));
    if !pod.may_preempt {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if let Some(name) = &pod.nominated
        && let Some(row) = nodes.index(name).map(|index| &nodes.rows()[index])
        && row.pods.iter().any(|other| other.deleting && other.priority < pod.priority)
    {
        return Err("preemption: not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    nodes.prepare(pod);
    let (mut hopeless, mut without_victims) = (0, 0);
    let mut best: Option<(Vec<i64>, Preemption)> = None;
    let mut tried = 0;
    let helpful: Vec<usize> = {
        let prepared = Prepared::of(pod, nodes);
        let may_help = |index: &usize| {
            let row = &nodes.rows()[*index];
            row.present && refuse(pod, row, *index, &prepared).is_some_and(super::filters::Refusal::preemption_may_help)
        };
        (0..nodes.rows().len()).filter(may_help).collect()
    };
    hopeless += total - helpful.len();
    for index in helpful {
        if tried >= TRIED_MAX && best.is_some() {
            break;
        }
        let Some(victims) = victims(pod, index, nodes) else {
            without_victims += 1;
            continue;
        };
        tried += 1;
        let cost = cost(&victims);
        if best.as_ref().is_none_or(|(least, _)| cost < *least) {
            best = Some((cost, Preemption { node: nodes.rows()[index].name.clone(), victims }));
        }
    }
    match best {
        Some((_, preemption)) => Ok(preemption),
        None if total == 0 => Err(String::new()),
        None if hopeless == total => refuse_all("Preemption is not helpful for scheduling"),
        None if hopeless == 0 => refuse_all("No preemption victims found for incoming pod"),
        None => Err(format!(
            "preemption: 0/{total} nodes are available: {without_victims} No preemption victims found for incoming pod, \
             {hopeless} Preemption is not helpful for scheduling."
        )),
    }
}

/// The fewest, least important pods of a node whose absence lets the pod in. The nodes are the same afterwards.
fn victims(pod: &PodInfo, index: usize, nodes: &mut Nodes) -> Option<Vec<Arc<PodInfo>>> {
    let name = nodes.rows()[index].name.clone();
    let mut lower: Vec<Arc<PodInfo>> = nodes.rows()[index].pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    // most important, and among equals oldest, first: these are put back first
    lower.sort_by(|left, right| right.priority.cmp(&left.priority).then(left.created.cmp(&right.created)).then(left.id.cmp(&right.id)));
    for victim in &lower {
        nodes.unplace(&victim.id);
    }
    let fits = |nodes: &Nodes| refuse(pod, &nodes.rows()[index], index, &Prepared::of(pod, nodes)).is_none();
    let mut victims = Vec::new();
    let possible = fits(nodes);
    for candidate in lower {
        nodes.place(&name, Arc::clone(&candidate));
        if possible && !fits(nodes) {
            nodes.unplace(&candidate.id);
            victims.push(candidate);
        }
    }
    for victim in &victims {
        nodes.place(&name, Arc::clone(victim));
    }
    (possible && !victims.is_empty()).then_some(victims)
}

/// Lowest highest priority, then lowest sum of priorities, then fewest victims, then the youngest of the most important.
fn cost(victims: &[Arc<PodInfo>]) -> Vec<i64> {
    let highest = victims.iter().map(|victim| i64::from(victim.priority)).max().unwrap_or(0);
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1).sum();
    let important = victims.iter().filter(|victim| i64::from(victim.priority) == highest);
    let earliest = important.filter_map(|victim| victim.created).min().map_or(0, |time| -time.as_second());
    vec![highest, sum, i64::try_from(victims.len()).unwrap_or(i64::MAX), earliest]
}
