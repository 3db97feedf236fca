//! The scheduler without its shell: hears of changes, decides, assumes, and says what to write.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, Snapshot};

use crate::cluster::PodId;
use crate::place::{Placement, Search};
use crate::pod::PodInfo;
use crate::preempt::preempt;
use crate::queue::{Hope, Queue};
use crate::snapshot::Nodes;

const PODS: GroupResource = GroupResource::new("", "pods");
const NODES: GroupResource = GroupResource::new("", "nodes");
const NAMESPACES: GroupResource = GroupResource::new("", "namespaces");

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods whose `spec.schedulerName` is this one are ours.
    pub scheduler_name: String,
    /// Decides among equals.
    pub seed: u64,
    /// Writes that may be under way at the same time.
    pub in_flight_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".to_owned(), seed: 0, in_flight_max: 256 }
    }
}

/// What is to be written for one pod.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It has a place. [`Core::bound`] reports how it went.
    Bind {
        /// The pod.
        pod: Arc<PodInfo>,
        /// The node.
        node: String,
    },
    /// It has none.
    Refuse {
        /// The pod.
        pod: Arc<PodInfo>,
        /// For its condition and its event.
        message: String,
        /// Where room is being made for it.
        nominate: Option<String>,
        /// Who has to go for that.
        victims: Vec<Arc<PodInfo>>,
    },
    /// Gates hold it back: its condition says so.
    Gate {
        /// The pod.
        pod: Arc<PodInfo>,
    },
}

/// The scheduler's state.
pub struct Core {
    config: Config,
    nodes: Nodes,
    queue: Queue,
    search: Search,
    /// Placed here, not yet heard of from the cluster.
    assumed: HashMap<String, Arc<PodInfo>>,
    gates_to_tell: Vec<Arc<PodInfo>>,
    decisions: u64,
    /// Room reserved on nodes for pods whose victims are leaving, by pod.
    nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
}

impl Core {
    /// An empty one.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            nodes: Nodes::default(),
            queue: Queue::default(),
            search: Search::default(),
            assumed: HashMap::new(),
            gates_to_tell: Vec::new(),
            decisions: 0,
            nominated: BTreeMap::new(),
        }
    }

    /// Forgets everything but what is assumed, and looks at the whole cluster.
    pub fn resync(&mut self, view: &dyn Snapshot, now: Timestamp) {
        self.nodes = Nodes::default();
        self.queue = Queue::default();
        for node in view.list(&NODES, None) {
            self.nodes.set_node(&node);
        }
        let assumed = std::mem::take(&mut self.assumed);
        for pod in view.list(&PODS, None) {
            match assumed.get(&pod.uid.0) {
                Some(info) if info.node.is_some() && PodInfo::of(&pod).node.is_none() => self.assume(Arc::clone(info)),
                _ => self.pod_changed(None, Some(&pod), now),
            }
        }
    }

    /// One object changed.
    pub fn changed(&mut self, change: &Change, now: Timestamp) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        if change.resource == PODS {
            self.pod_changed(old, new, now);
        } else if change.resource == NODES {
            match (old, new) {
                (_, Some(node)) => {
                    self.nodes.set_node(node);
                    if old.is_none_or(|old| node_offers_other(old, node)) {
                        self.queue.hope(Hope::Node, now);
                    }
                }
                (Some(node), None) => self.nodes.remove_node(&node.name),
                (None, None) => {}
            }
        } else if change.resource == NAMESPACES {
            // a namespace selector may now select another one
            self.queue.hope(Hope::PodCame, now);
        }
    }

    fn pod_changed(&mut self, old: Option<&Object>, new: Option<&Object>, now: Timestamp) {
        let Some(pod) = new else {
            if let Some(old) = old {
                self.forget(&PodInfo::of(old).id, now);
            }
            return;
        };
        // a pod of the same name that came later is another one
        if let Some(old) = old.filter(|old| old.uid != pod.uid) {
            self.forget(&PodInfo::of(old).id, now);
        }
        let info = PodInfo::of(pod);
        if info.takes_room() {
            self.queue.remove(&info.id.uid);
            self.nominated.remove(&info.id.uid);
            self.assumed.remove(&info.id.uid);
            let came = !self.nodes.is_placed(&info.id) || old.is_some_and(|old| old.labels != pod.labels);
            let node = info.node.clone().unwrap_or_default();
            self.nodes.place(&node, Arc::new(info));
            if came {
                self.queue.hope(Hope::PodCame, now);
            }
        } else if info.finished || info.deleting {
            self.forget(&info.id, now);
        } else if info.scheduler == self.config.scheduler_name && !self.assumed.contains_key(&info.id.uid) {
            let pod = Arc::new(info);
            if pod.gated && old.is_none() {
                self.gates_to_tell.push(Arc::clone(&pod));
            }
            self.queue.upsert(pod, now);
        }
    }

    fn forget(&mut self, id: &PodId, now: Timestamp) {
        self.queue.remove(&id.uid);
        self.assumed.remove(&id.uid);
        let freed = self.nodes.unplace(id);
        let released = self.nominated.remove(&id.uid).is_some();
        if freed || released {
            self.queue.hope(Hope::PodLeft, now);
        }
    }

    /// What to write next, if a pod can be tried now.
    pub fn next(&mut self, now: Timestamp) -> Option<Effect> {
        if let Some(pod) = self.gates_to_tell.pop() {
            return Some(Effect::Gate { pod });
        }
        let (pod, _) = self.queue.pop(now)?;
        self.decisions = self.decisions.wrapping_add(1);
        let seed = self.config.seed ^ self.decisions;
        let reserved = self.reserve_for(&pod);
        let placement = self.search.place(&pod, &mut self.nodes, seed);
        let effect = match placement {
            Placement::On(index) => {
                let node = self.nodes.rows()[index].name.clone();
                self.release(reserved);
                self.nominated.remove(&pod.id.uid);
                let placed = Arc::new(PodInfo { node: Some(node.clone()), ..PodInfo::clone(&pod) });
                self.assume(placed);
                Effect::Bind { pod, node }
            }
            Placement::Nowhere(refused) => {
                let helpful = refused.kinds.iter().any(|kind| kind.preemption_may_help());
                let result = if helpful || refused.nodes > 0 { preempt(&pod, &mut self.nodes) } else { Err(String::new()) };
                self.release(reserved);
                let (message, nominate, victims) = match result {
                    Ok(found) => {
                        self.nominated.insert(pod.id.uid.clone(), (found.node.clone(), Arc::clone(&pod)));
                        (refused.message(""), Some(found.node), found.victims)
                    }
                    Err(why) => (refused.message(&why), None, Vec::new()),
                };
                self.queue.refused(&pod.id.uid, refused.kinds, now);
                Effect::Refuse { pod, message, nominate, victims }
            }
        };
        Some(effect)
    }

    /// Room that is being made for pods at least as important counts as taken. Says what to take back.
    fn reserve_for(&mut self, pod: &PodInfo) -> Vec<PodId> {
        let others: Vec<(String, Arc<PodInfo>)> = self
            .nominated
            .iter()
            .filter(|(uid, (_, other))| **uid != pod.id.uid && other.priority >= pod.priority)
            .map(|(_, reserved)| reserved.clone())
            .collect();
        let mut reserved = Vec::new();
        for (node, other) in others {
            if self.nodes.index(&node).is_some() && !self.nodes.is_placed(&other.id) {
                reserved.push(other.id.clone());
                self.nodes.place(&node, other);
            }
        }
        reserved
    }

    fn release(&mut self, reserved: Vec<PodId>) {
        for id in reserved {
            self.nodes.unplace(&id);
        }
    }

    fn assume(&mut self, pod: Arc<PodInfo>) {
        self.assumed.insert(pod.id.uid.clone(), Arc::clone(&pod));
        let node = pod.node.clone().unwrap_or_default();
        self.nodes.place(&node, pod);
    }

    /// A bind has ended.
    pub fn bound(&mut self, pod: &Arc<PodInfo>, succeeded: bool, now: Timestamp) {
        if succeeded {
            self.queue.remove(&pod.id.uid);
            return;
        }
        // it may have been bound all the same: then the cluster says so
        if self.assumed.remove(&pod.id.uid).is_some() {
            self.nodes.unplace(&pod.id);
            self.queue.hope(Hope::PodLeft, now);
            self.queue.failed(&pod.id.uid, now);
        }
    }

    /// Whether something can be decided now.
    pub fn is_ready(&self) -> bool {
        !self.gates_to_tell.is_empty() || self.queue.is_ready()
    }

    /// When to look again even if nothing changes.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.queue.next_due()
    }

    /// The nodes as the scheduler sees them, assumed pods included.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Pods that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// Heartbeats and conditions change no pod's chances.
fn node_offers_other(old: &Object, new: &Object) -> bool {
    let (before, after) = (old.value(), new.value());
    old.labels != new.labels
        || before["spec"]["taints"] != after["spec"]["taints"]
        || before["spec"]["unschedulable"] != after["spec"]["unschedulable"]
        || before["status"]["allocatable"] != after["status"]["allocatable"]
}
