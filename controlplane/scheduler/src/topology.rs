//! How many pods of which sort each domain holds, counted as pods come and go instead of anew for every pod.

use std::collections::HashMap;

use trierarch_api::selector::LabelSelector;

use crate::pod::{PodInfo, PodTerm, Spread};
use crate::snapshot::NodeRow;

/// A node without the label.
const NONE: u32 = u32::MAX;
/// Sorts of pods that are counted at a time; beyond, all are forgotten and counted again when asked for.
const SORTS_MAX: usize = 64;

/// The domains of one label, numbered.
#[derive(Clone, Debug, Default)]
struct Topology {
    numbers: HashMap<String, u32>,
    of_row: Vec<u32>,
    /// Whether every present node has the label.
    complete: bool,
}

impl Topology {
    fn of(key: &str, rows: &[NodeRow]) -> Self {
        let mut topology = Self { complete: true, ..Self::default() };
        for row in rows {
            let number = match row.labels.get(key).filter(|_| row.present) {
                None => {
                    topology.complete &= !row.present;
                    NONE
                }
                Some(value) => match topology.numbers.get(value) {
                    Some(number) => *number,
                    None => {
                        let number = u32::try_from(topology.numbers.len()).unwrap_or(NONE);
                        topology.numbers.insert(value.clone(), number);
                        number
                    }
                },
            };
            topology.of_row.push(number);
        }
        topology
    }

    fn domain(&self, row: usize) -> Option<usize> {
        self.of_row.get(row).copied().filter(|number| *number != NONE).map(|number| number as usize)
    }
}

/// A sort of pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sort {
    topology_key: String,
    /// `None`: all.
    namespaces: Option<Vec<String>>,
    selector: LabelSelector,
    deleting_too: bool,
}

impl Sort {
    /// The pods that a spread constraint of this pod counts.
    pub(crate) fn spread(spread: &Spread, pod: &PodInfo) -> Self {
        Self {
            topology_key: spread.topology_key.clone(),
            namespaces: Some(vec![pod.id.namespace.clone()]),
            selector: spread.selector.clone(),
            deleting_too: false,
        }
    }

    /// The pods that an affinity term means.
    pub(crate) fn term(term: &PodTerm) -> Self {
        Self {
            topology_key: term.topology_key.clone(),
            namespaces: (!term.all_namespaces).then(|| term.namespaces.clone()),
            selector: term.selector.clone(),
            deleting_too: true,
        }
    }

    fn matches(&self, pod: &PodInfo) -> bool {
        (self.deleting_too || !pod.deleting)
            && self.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(&pod.id.namespace))
            && self.selector.matches(&pod.labels)
    }
}

/// The counts. They belong to one set of rows and labels; [`Index::forget`] when those change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    built: bool,
    topologies: HashMap<String, Topology>,
    /// Pods of a sort in each domain.
    members: HashMap<Sort, Vec<i64>>,
    /// Pods in each domain that refuse to be near to a sort.
    holders: HashMap<Sort, Vec<i64>>,
}

impl Index {
    /// Rows or their labels have changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Makes sure that what a pod's rules ask for is counted.
    pub(crate) fn prepare(&mut self, pod: &PodInfo, rows: &[NodeRow]) {
        if !self.built {
            self.forget();
            self.built = true;
            for (index, row) in rows.iter().enumerate() {
                for other in &row.pods {
                    self.count_holder(other, index, rows, 1);
                }
            }
        }
        let hard = pod.spread.iter().filter(|spread| spread.hard).map(|spread| Sort::spread(spread, pod));
        let sorts: Vec<Sort> = hard.chain(pod.away.iter().map(Sort::term)).collect();
        let missing = sorts.iter().filter(|sort| !self.members.contains_key(sort)).count();
        if missing > 0 && self.members.len() + missing > SORTS_MAX {
            self.members.clear();
        }
        for sort in sorts {
            if self.members.contains_key(&sort) {
                continue;
            }
            let topology = topology(&mut self.topologies, &sort.topology_key, rows);
            let mut counts = vec![0; topology.numbers.len()];
            for (index, row) in rows.iter().enumerate().filter(|(_, row)| !row.pods.is_empty()) {
                if let Some(domain) = topology.domain(index) {
                    let members = row.pods.iter().filter(|other| sort.matches(other)).count();
                    counts[domain] += i64::try_from(members).unwrap_or(i64::MAX);
                }
            }
            self.members.insert(sort, counts);
        }
    }

    /// A pod came to (1) or left (-1) a row.
    pub(crate) fn count(&mut self, pod: &PodInfo, row: usize, rows: &[NodeRow], change: i64) {
        if !self.built {
            return;
        }
        for (sort, counts) in &mut self.members {
            let domain = self.topologies.get(&sort.topology_key).and_then(|topology| topology.domain(row));
            if let Some(count) = domain.and_then(|domain| counts.get_mut(domain))
                && sort.matches(pod)
            {
                *count += change;
            }
        }
        self.count_holder(pod, row, rows, change);
    }

    fn count_holder(&mut self, pod: &PodInfo, row: usize, rows: &[NodeRow], change: i64) {
        for term in &pod.away {
            let sort = Sort::term(term);
            let topology = topology(&mut self.topologies, &sort.topology_key, rows);
            let Some(domain) = topology.domain(row) else { continue };
            let domains = topology.numbers.len();
            let counts = self.holders.entry(sort).or_insert_with(|| vec![0; domains]);
            counts[domain] += change;
        }
    }

    /// The domains of a sort with the number of its members, if it is counted.
    pub(crate) fn members(&self, sort: &Sort) -> Option<Counts<'_>> {
        Some(Counts { topology: self.topologies.get(&sort.topology_key)?, counts: self.members.get(sort)? })
    }

    /// Where somebody refuses to be near to this pod; `None` when that is not counted.
    pub(crate) fn refusing(&self, pod: &PodInfo) -> Option<Vec<Counts<'_>>> {
        let refusing = || {
            let mut refusing = Vec::new();
            for (sort, counts) in self.holders.iter().filter(|(sort, _)| sort.matches_any(pod)) {
                refusing.push(Counts { topology: self.topologies.get(&sort.topology_key)?, counts });
            }
            Some(refusing)
        };
        if self.built { refusing() } else { None }
    }
}

impl Sort {
    /// Whether a pod that is yet to come is of this sort.
    fn matches_any(&self, pod: &PodInfo) -> bool {
        self.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(&pod.id.namespace)) && self.selector.matches(&pod.labels)
    }
}

fn topology<'a>(topologies: &'a mut HashMap<String, Topology>, key: &str, rows: &[NodeRow]) -> &'a Topology {
    if !topologies.contains_key(key) {
        topologies.insert(key.to_owned(), Topology::of(key, rows));
    }
    &topologies[key]
}

/// Counts for each domain of a label.
#[derive(Clone, Copy)]
pub(crate) struct Counts<'a> {
    topology: &'a Topology,
    counts: &'a [i64],
}

impl Counts<'_> {
    /// How many there are in the domain of a row; `None` when the row is in none.
    pub(crate) fn at(&self, row: usize) -> Option<i64> {
        self.topology.domain(row).map(|domain| self.counts[domain])
    }

    /// The least of all domains, 0 when there are none.
    pub(crate) fn least(&self) -> i64 {
        self.counts.iter().copied().min().unwrap_or(0)
    }

    /// How many domains there are.
    pub(crate) fn domains(&self) -> i64 {
        i64::try_from(self.counts.len()).unwrap_or(i64::MAX)
    }

    /// Whether every node is in one.
    pub(crate) fn is_complete(&self) -> bool {
        self.topology.complete
    }
}
