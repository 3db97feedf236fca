//! What controllers and the scheduler read: all objects at one revision, found by key or by index term.

use std::sync::Arc;

use crate::kind::GroupResource;
use crate::object::{Object, Uid};

/// A term under which an object is found without a scan.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IndexTerm {
    /// Objects with this uid among their `ownerReferences`.
    Owner(Uid),
    /// Pods with this `spec.nodeName`.
    Node(String),
    /// EndpointSlices with this `kubernetes.io/service-name` label.
    Service(String),
}

impl IndexTerm {
    /// The term as the store keeps it.
    pub fn to_bytes(&self) -> bytes::Bytes {
        bytes::Bytes::from(match self {
            Self::Owner(uid) => format!("o/{}", uid.0),
            Self::Node(name) => format!("n/{name}"),
            Self::Service(name) => format!("s/{name}"),
        })
    }

    /// The terms of an object, from its JSON.
    pub fn of(object: &serde_json::Value) -> Vec<bytes::Bytes> {
        let mut terms = Vec::new();
        let metadata = &object["metadata"];
        for owner in metadata["ownerReferences"].as_array().into_iter().flatten() {
            if let Some(uid) = owner["uid"].as_str() {
                terms.push(Self::Owner(Uid(uid.to_owned())).to_bytes());
            }
        }
        if object["kind"] == "Pod"
            && let Some(node) = object["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())
        {
            terms.push(Self::Node(node.to_owned()).to_bytes());
        }
        if let Some(service) = metadata["labels"]["kubernetes.io/service-name"].as_str() {
            terms.push(Self::Service(service.to_owned()).to_bytes());
        }
        terms.sort();
        terms.dedup();
        terms
    }
}

/// All objects at one revision.
pub trait Snapshot: Send + Sync {
    /// Which revision.
    fn revision(&self) -> u64;
    /// One object; `namespace` is empty for cluster-scoped kinds.
    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The objects of a resource in key order, of one namespace or of all.
    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Object>>;
    /// The objects of a resource under a term, in key order, of one namespace or of all.
    fn by_term(&self, resource: &GroupResource, namespace: Option<&str>, term: &IndexTerm) -> Vec<Arc<Object>>;
}

/// One change of one object, as the control plane's parts hear of it. It means "look again": the objects are for filtering only.
#[derive(Clone)]
pub struct Change {
    /// Which resource.
    pub resource: GroupResource,
    /// At which revision.
    pub revision: u64,
    /// The version before, unless it was created.
    pub old: Option<Arc<Object>>,
    /// The version after, unless it was deleted.
    pub new: Option<Arc<Object>>,
}
