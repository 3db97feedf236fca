//! An object is canonical JSON bytes with its hot metadata parsed once.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::RwLock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::{GroupResource, Kind};

/// An object's `metadata.uid`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Uid(pub String);

/// Names an object in the store: resource, namespace (empty if cluster-scoped) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Resource under which it is stored.
    pub resource: GroupResource,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectKey {
    /// The key of an object of this resource.
    pub fn new(resource: GroupResource, namespace: &str, name: &str) -> Self {
        Self { resource, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Layout: `GROUP/PLURAL/NAMESPACE/NAME`, the namespace empty when cluster-scoped. Slashes occur in no part, so prefixes of whole
    /// parts select exactly a resource or one of its namespaces.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(format!("{}/{}/{}/{}", self.resource.group, self.resource.resource, self.namespace, self.name))
    }

    /// The prefix of all objects of a resource, or of those in one namespace.
    pub fn prefix(resource: &GroupResource, namespace: Option<&str>) -> Bytes {
        Bytes::from(match namespace {
            Some(namespace) => format!("{}/{}/{namespace}/", resource.group, resource.resource),
            None => format!("{}/{}/", resource.group, resource.resource),
        })
    }

    /// Reads [`ObjectKey::to_bytes`] back.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(bytes).ok()?.splitn(4, '/');
        let (group, resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            resource: GroupResource { group: group.to_owned().into(), resource: resource.to_owned().into() },
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Owner's `apiVersion`.
    #[serde(default)]
    pub api_version: String,
    /// Owner's kind.
    #[serde(default)]
    pub kind: String,
    /// Owner's name.
    #[serde(default)]
    pub name: String,
    /// Owner's uid.
    #[serde(default)]
    pub uid: Uid,
    /// Whether it manages this object.
    #[serde(default)]
    pub controller: Option<bool>,
    /// Whether foreground deletion of the owner waits for this object.
    #[serde(default)]
    pub block_owner_deletion: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct HotMetadata {
    name: String,
    namespace: String,
    uid: Uid,
    generation: i64,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    creation_timestamp: Option<jiff::Timestamp>,
    deletion_timestamp: Option<jiff::Timestamp>,
    finalizers: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
struct Hot {
    #[serde(default)]
    metadata: HotMetadata,
}

/// A stored object. Immutable and shared; what is parsed out of it is parsed at most once per type.
pub struct Object {
    /// Its row (of the stored version).
    pub kind: Arc<Kind>,
    /// `metadata.namespace`, empty if cluster-scoped.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: Uid,
    /// The revision of its last change: `metadata.resourceVersion`.
    pub resource_version: u64,
    /// `metadata.generation`, 0 if absent.
    pub generation: i64,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.ownerReferences`.
    pub owner_references: Vec<OwnerReference>,
    /// `metadata.creationTimestamp`.
    pub creation_timestamp: Option<jiff::Timestamp>,
    /// `metadata.deletionTimestamp`.
    pub deletion_timestamp: Option<jiff::Timestamp>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
    /// Canonical JSON (sorted keys) without `resourceVersion`.
    stored: Bytes,
    /// Where in `stored` the `resourceVersion` member belongs.
    split: u32,
    views: RwLock<Vec<(TypeId, Arc<dyn Any + Send + Sync>)>>,
    value: OnceLock<Arc<Value>>,
}

/// Bytes that are not a stored object.
#[derive(Debug, thiserror::Error)]
#[error("stored object is unreadable")]
pub struct DecodeError(#[from] serde_json::Error);

impl Object {
    /// Reads what [`encode`] wrote.
    ///
    /// # Errors
    /// [`DecodeError`] when the bytes are not JSON of an object.
    pub fn decode(kind: Arc<Kind>, stored: Bytes, split: u32, revision: u64) -> Result<Self, DecodeError> {
        let hot: Hot = serde_json::from_slice(&stored)?;
        let metadata = hot.metadata;
        Ok(Self {
            kind,
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            resource_version: revision,
            generation: metadata.generation,
            labels: metadata.labels.unwrap_or_default(),
            owner_references: metadata.owner_references.unwrap_or_default(),
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            finalizers: metadata.finalizers.unwrap_or_default(),
            stored,
            split,
            views: RwLock::default(),
            value: OnceLock::new(),
        })
    }

    /// An object made from JSON, as if stored at `revision`. For tests and for callers that hold no store.
    ///
    /// # Errors
    /// [`DecodeError`] when the metadata has wrong types.
    pub fn from_value(kind: Arc<Kind>, value: &Value, revision: u64) -> Result<Self, DecodeError> {
        let (stored, split) = encode(value);
        Self::decode(kind, stored, split, revision)
    }

    /// Its key in the store.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind.storage(), &self.namespace, &self.name)
    }

    /// The JSON that clients receive: head, `resourceVersion`, tail. Appends to `out` and copies once.
    pub fn write_json(&self, out: &mut BytesMut) {
        splice(&self.stored, self.split, self.resource_version, out);
    }

    /// [`Object::write_json`] into a buffer of its own.
    pub fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.stored.len() + 48);
        self.write_json(&mut out);
        out.freeze()
    }

    /// The whole object as JSON, with its `resourceVersion`; parsed at most once.
    pub fn value(&self) -> Arc<Value> {
        self.value
            .get_or_init(|| {
                let mut value: Value = serde_json::from_slice(&self.stored).unwrap_or_default();
                if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.insert("resourceVersion".to_owned(), Value::String(self.resource_version.to_string()));
                }
                Arc::new(value)
            })
            .clone()
    }

    /// The object as a typed struct (a `k8s-openapi` type); parsed at most once per type.
    ///
    /// # Errors
    /// When the object does not have that type's shape.
    pub fn view<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, DecodeError> {
        let wanted = TypeId::of::<T>();
        if let Some((_, found)) = self.views.read().iter().find(|(id, _)| *id == wanted)
            && let Ok(view) = Arc::clone(found).downcast::<T>()
        {
            return Ok(view);
        }
        let view: Arc<T> = Arc::new(serde_json::from_slice(&self.json())?);
        self.views.write().push((wanted, Arc::clone(&view) as Arc<dyn Any + Send + Sync>));
        Ok(view)
    }

    /// The owner that manages this object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}/{}@{}", self.kind.kind, self.namespace, self.name, self.resource_version)
    }
}

/// Canonical JSON without `metadata.resourceVersion`, and the offset where that member belongs in it. Keys are sorted, so it stands
/// before the first member of `metadata` whose name is greater.
pub fn encode(value: &Value) -> (Bytes, u32) {
    let mut out = Vec::with_capacity(512);
    let mut split = 0;
    out.push(b'{');
    if let Some(map) = value.as_object() {
        for (index, (key, member)) in map.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_json(&mut out, key);
            out.push(b':');
            match (key.as_str(), member.as_object()) {
                ("metadata", Some(metadata)) => split = encode_metadata(metadata, &mut out),
                _ => write_json(&mut out, member),
            }
        }
    }
    out.push(b'}');
    (Bytes::from(out), split)
}

fn encode_metadata(metadata: &serde_json::Map<String, Value>, out: &mut Vec<u8>) -> u32 {
    let mut split = None;
    let mut first = true;
    out.push(b'{');
    for (key, member) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        if split.is_none() && key.as_str() > "resourceVersion" {
            split = Some(out.len());
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_json(out, key);
        out.push(b':');
        write_json(out, member);
    }
    let split = split.unwrap_or(out.len());
    out.push(b'}');
    u32::try_from(split).unwrap_or(u32::MAX)
}

fn write_json(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(out, value).expect("JSON values with string keys always serialize into memory");
}

/// Writes `stored` with its `resourceVersion` in place.
pub fn splice(stored: &[u8], split: u32, revision: u64, out: &mut BytesMut) {
    let at = split as usize;
    let (head, tail) = stored.split_at(at.min(stored.len()));
    out.reserve(stored.len() + 48);
    out.put_slice(head);
    // the member stands after `{`, after a complete member, or before a `,`
    if head.last().is_some_and(|byte| *byte != b'{') {
        out.put_u8(b',');
    }
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_u8(b'"');
    if head.last() == Some(&b'{') && tail.first().is_some_and(|byte| *byte != b'}') {
        out.put_u8(b',');
    }
    out.put_slice(tail);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(metadata: Value) {
        let value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}});
        let (stored, split) = encode(&value);
        let mut out = BytesMut::new();
        splice(&stored, split, 42, &mut out);
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = json!("42");
        let read: Value = serde_json::from_slice(&out).expect("spliced bytes are JSON");
        assert_eq!(read, expected);
        assert_eq!(&out[..], serde_json::to_vec(&expected).expect("serializes").as_slice(), "keys stay sorted");
    }

    #[test]
    fn the_resource_version_is_spliced_in_order() {
        check(json!({}));
        check(json!({"name": "x"}));
        check(json!({"uid": "u"}));
        check(json!({"name": "x", "namespace": "y", "uid": "u"}));
        check(json!({"name": "x", "resourceVersion": "7", "uid": "u"}));
        check(json!({"resourceVersion": "7"}));
    }

    #[test]
    fn keys_round_trip_and_sort_by_namespace() {
        let key = ObjectKey::new(GroupResource::new("apps", "deployments"), "default", "web");
        assert_eq!(ObjectKey::parse(&key.to_bytes()), Some(key.clone()));
        assert!(key.to_bytes().starts_with(&ObjectKey::prefix(&key.resource, Some("default"))));
        let node = ObjectKey::new(GroupResource::new("", "nodes"), "", "n1");
        assert_eq!(ObjectKey::parse(&node.to_bytes()), Some(node));
    }
}
