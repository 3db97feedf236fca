//! A cluster in memory for tests: uids, versions, generations, finalizers and grace as the API server does them, no admission.
//! What plans write is decoded strictly, defaulted and validated by the kinds' own rules; what a test adds is only defaulted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trierarch_api::decode::{self, FieldValidation};
use trierarch_api::snapshot::Change;
use trierarch_api::{ApiError, GroupResource, IndexTerm, Kind, Object, ObjectKey, Problems, Registry, Snapshot, Subresource};

use crate::action::{Action, Plan, Report};
use crate::cluster::{Cluster, DeleteOptions, Notice, PatchKind, Propagation};
use crate::events::seconds;

const SUBSCRIBER_BUFFER: usize = 1024;

/// The objects at one revision.
#[derive(Clone, Default)]
pub struct FakeView {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    revision: u64,
}

impl Snapshot for FakeView {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.get(&ObjectKey::new(resource.clone(), namespace, name)).cloned()
    }

    fn list(&self, resource: &GroupResource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.objects
            .range(ObjectKey::new(resource.clone(), namespace.unwrap_or_default(), "")..)
            .take_while(|(key, _)| key.resource == *resource && namespace.is_none_or(|namespace| key.namespace == namespace))
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    fn by_term(&self, resource: &GroupResource, namespace: Option<&str>, term: &IndexTerm) -> Vec<Arc<Object>> {
        let wanted = term.to_bytes();
        self.list(resource, namespace).into_iter().filter(|object| IndexTerm::of(&object.value()).contains(&wanted)).collect()
    }
}

struct State {
    view: FakeView,
    subscribers: Vec<mpsc::Sender<Notice>>,
    next_uid: u64,
    /// What the next creates fail with.
    refusals: Vec<ApiError>,
}

/// A cluster in memory.
pub struct FakeCluster {
    registry: Arc<Registry>,
    state: Mutex<State>,
    now: Mutex<Timestamp>,
    reports: Mutex<Vec<Report>>,
}

impl Default for FakeCluster {
    fn default() -> Self {
        Self {
            registry: Arc::new(Registry::with_builtins()),
            state: Mutex::new(State { view: FakeView::default(), subscribers: Vec::new(), next_uid: 1, refusals: Vec::new() }),
            now: Mutex::new(Timestamp::from_second(1_800_000_000).expect("a valid time")),
            reports: Mutex::new(Vec::new()),
        }
    }
}

impl FakeCluster {
    /// An empty cluster.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// The cluster's time.
    pub fn now(&self) -> Timestamp {
        *self.now.lock()
    }

    /// Lets time pass.
    pub fn advance(&self, time: std::time::Duration) {
        let mut now = self.now.lock();
        *now = now.saturating_add(time).unwrap_or(*now);
    }

    /// The next creates fail with these, last one first.
    pub fn refuse_creates(&self, errors: Vec<ApiError>) {
        self.state.lock().refusals = errors;
    }

    /// The objects now.
    pub fn view(&self) -> FakeView {
        self.state.lock().view.clone()
    }

    /// What users were told by plans performed with [`FakeCluster::apply`], and forgets it.
    pub fn take_reports(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock())
    }

    /// One object.
    pub fn get(&self, resource: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.view().get(resource, namespace, name)
    }

    /// The objects of a resource.
    pub fn list(&self, resource: &GroupResource) -> Vec<Arc<Object>> {
        self.view().list(resource, None)
    }

    /// Creates an object given as JSON with `apiVersion` and `kind`.
    ///
    /// # Panics
    /// When the object cannot be created.
    pub fn add(&self, object: Value) -> Arc<Object> {
        let kind = self
            .registry
            .by_kind(object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default())
            .expect("the kind is registered");
        let namespace = if kind.namespaced_scope() { object["metadata"]["namespace"].as_str().unwrap_or("default") } else { "" };
        let status = object.get("status").cloned();
        let created = self.insert(&kind.group_resource(), namespace, object.clone()).expect("the object can be created");
        match status {
            Some(status) => self.set_status(&created.key(), status),
            None => created,
        }
    }

    /// Replaces an object's status.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn set_status(&self, key: &ObjectKey, status: Value) -> Arc<Object> {
        self.change(key, |object| object["status"] = status)
    }

    /// Changes an object in place, as its user would; a changed spec bumps the generation.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn change(&self, key: &ObjectKey, edit: impl FnOnce(&mut Value)) -> Arc<Object> {
        let before = self.get(&key.resource, &key.namespace, &key.name).expect("the object exists");
        let mut after = Value::clone(&before.value());
        edit(&mut after);
        self.replace(key, after).expect("the object can be changed").unwrap_or(before)
    }

    /// Removes an object at once, whatever its finalizers.
    pub fn remove(&self, key: &ObjectKey) {
        self.state.lock().put(&self.registry, key, None);
    }

    /// Performs a plan without a runner. Returns the first error.
    ///
    /// # Errors
    /// What the cluster refused.
    pub fn apply(&self, plan: Plan) -> Result<(), ApiError> {
        let mut result = Ok(());
        for action in plan.actions {
            result = self.apply_action(action);
            if result.is_err() {
                break;
            }
        }
        if let Some(status) = plan.status {
            self.write_status(&status.key, &status.object)?;
        }
        result
    }

    fn apply_action(&self, action: Action) -> Result<(), ApiError> {
        let (result, reports) = match action {
            Action::Create { resource, namespace, object, reports } => {
                (self.checked_insert(&resource, &namespace, object).map(|_| ()), reports)
            }
            Action::Update { key, object } => return self.checked_replace(&key, object, false).map(|_| ()),
            Action::Patch { key, kind, patch, subresource } => return self.merge(&key, kind, &patch, subresource).map(|_| ()),
            Action::Delete { key, options, reports } => (self.begin_delete(&key, &options).map(|_| ()), reports),
            Action::Finalize { name, object } => return self.finalize(&name, &object),
            Action::Record(report) => {
                self.reports.lock().push(report);
                return Ok(());
            }
        };
        match &result {
            Ok(()) => self.reports.lock().extend(reports.success),
            Err(error) => self.reports.lock().extend(reports.failure.map(|mut report| {
                report.message.push_str(&error.message);
                report
            })),
        }
        result
    }

    fn checked_insert(&self, resource: &GroupResource, namespace: &str, object: Value) -> Result<Arc<Object>, ApiError> {
        let object = self.check(resource, object, None, false)?;
        self.insert(resource, namespace, object)
    }

    /// The object as it would be stored, or what the API server would say.
    fn check(&self, resource: &GroupResource, object: Value, old: Option<&Value>, status: bool) -> Result<Value, ApiError> {
        let kind = self.registry.by_storage(resource).ok_or_else(ApiError::no_such_path)?;
        let (mut object, _) = decode::checked(&kind, object)?.finish(&kind, FieldValidation::Strict)?;
        (kind.rules.default)(&mut object);
        decode::normalise(&kind, &mut object);
        let mut problems = Problems::default();
        match old {
            Some(old) if status => (kind.rules.validate_status)(&object, old, &mut problems),
            Some(old) => {
                (kind.rules.validate)(&object, &mut problems);
                (kind.rules.validate_update)(&object, old, &mut problems);
            }
            None => (kind.rules.validate)(&object, &mut problems),
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if problems.is_empty() { Ok(object) } else { Err(ApiError::invalid(&kind, name, &problems)) }
    }

    fn insert(&self, resource: &GroupResource, namespace: &str, mut object: Value) -> Result<Arc<Object>, ApiError> {
        let mut state = self.state.lock();
        if let Some(error) = state.refusals.pop() {
            return Err(error);
        }
        state.next_uid += 1;
        let serial = state.next_uid;
        let metadata = &mut object["metadata"];
        if metadata["name"].as_str().unwrap_or_default().is_empty() {
            let prefix = metadata["generateName"].as_str().unwrap_or_default().to_owned();
            metadata["name"] = json!(format!("{prefix}{serial:05}"));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        metadata["uid"] = json!(format!("uid-{serial}"));
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(seconds(self.now()));
        }
        metadata["generation"] = json!(1);
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        let key = ObjectKey::new(resource.clone(), namespace, &name);
        if state.view.objects.contains_key(&key) {
            return Err(ApiError::already_exists(resource, &name));
        }
        if let Some(map) = object.as_object_mut()
            && resource.resource != "namespaces"
        {
            map.remove("status");
        }
        Ok(state.put(&self.registry, &key, Some(object)).expect("it was given an object"))
    }

    /// The object after the change; none when the change removed its last finalizer while it was being deleted.
    fn replace(&self, key: &ObjectKey, mut object: Value) -> Result<Option<Arc<Object>>, ApiError> {
        let mut state = self.state.lock();
        let before = state.view.objects.get(key).cloned().ok_or_else(|| ApiError::not_found(&key.resource, &key.name))?.value();
        if object.get("spec") != before.get("spec") {
            object["metadata"]["generation"] = json!(before["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
        }
        let finished = object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
            && !object["metadata"]["deletionTimestamp"].is_null()
            && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && key.resource.resource != "namespaces";
        if finished {
            state.put(&self.registry, key, None);
            return Ok(None);
        }
        if strip_version(&object) == strip_version(&before) {
            return Ok(state.view.objects.get(key).cloned());
        }
        Ok(state.put(&self.registry, key, Some(object)))
    }

    fn checked_replace(&self, key: &ObjectKey, object: Value, status: bool) -> Result<Option<Arc<Object>>, ApiError> {
        let before = self.get(&key.resource, &key.namespace, &key.name);
        let before = before.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))?;
        if let Some(version) = object["metadata"]["resourceVersion"].as_str()
            && version != before.resource_version.to_string()
        {
            return Err(ApiError::modified(&key.resource, &key.name));
        }
        if let Some(uid) = object["metadata"]["uid"].as_str()
            && uid != before.uid.0
        {
            return Err(ApiError::conflict(&key.resource, &key.name, "Precondition failed: UID in precondition"));
        }
        let object = self.check(&key.resource, object, Some(&before.value()), status)?;
        self.replace(key, object)
    }

    fn write_status(&self, key: &ObjectKey, object: &Value) -> Result<Option<Arc<Object>>, ApiError> {
        let before = self.get(&key.resource, &key.namespace, &key.name);
        let mut after = Value::clone(&before.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))?.value());
        after["status"] = object["status"].clone();
        // annotations travel with a status write
        if let (Some(annotations), Some(metadata)) = (object["metadata"].get("annotations"), after["metadata"].as_object_mut()) {
            metadata.insert("annotations".to_owned(), annotations.clone());
        }
        after["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
        self.checked_replace(key, after, true)
    }

    fn merge(
        &self,
        key: &ObjectKey,
        _: PatchKind,
        patch: &Value,
        subresource: Option<Subresource>,
    ) -> Result<Option<Arc<Object>>, ApiError> {
        let before = self.get(&key.resource, &key.namespace, &key.name);
        let mut after = Value::clone(&before.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))?.value());
        merge_patch(&mut after, patch);
        match subresource {
            Some(Subresource::Status) => self.write_status(key, &after),
            _ => self.checked_replace(key, after, false),
        }
    }

    fn begin_delete(&self, key: &ObjectKey, options: &DeleteOptions) -> Result<u64, ApiError> {
        let before = self.get(&key.resource, &key.namespace, &key.name);
        let before = before.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))?;
        if options.uid.as_ref().is_some_and(|uid| *uid != before.uid.0)
            || options.resource_version.is_some_and(|version| version != before.resource_version)
        {
            return Err(ApiError::conflict(&key.resource, &key.name, "Precondition failed"));
        }
        let mut object = Value::clone(&before.value());
        let mut finalizers = before.finalizers.clone();
        match options.propagation {
            Some(Propagation::Foreground) => finalizers.push("foregroundDeletion".to_owned()),
            Some(Propagation::Orphan) => finalizers.push("orphan".to_owned()),
            _ => {}
        }
        finalizers.dedup();
        let pod_grace = if key.resource.resource == "pods" && object["spec"]["nodeName"].is_string() {
            options.grace_period_seconds.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30)
        } else {
            0
        };
        if finalizers.is_empty() && pod_grace == 0 && key.resource.resource != "namespaces" {
            self.remove(key);
            return Ok(self.view().revision);
        }
        let metadata = &mut object["metadata"];
        if metadata["deletionTimestamp"].is_null() {
            let time = self.now().saturating_add(jiff::SignedDuration::from_secs(pod_grace)).expect("a time in range");
            metadata["deletionTimestamp"] = json!(seconds(time));
        }
        metadata["deletionGracePeriodSeconds"] = json!(pod_grace);
        if !finalizers.is_empty() {
            metadata["finalizers"] = json!(finalizers);
        }
        if key.resource.resource == "namespaces" {
            object["status"]["phase"] = json!("Terminating");
        }
        let mut state = self.state.lock();
        state.put(&self.registry, key, Some(object));
        Ok(state.view.revision)
    }

    fn finalize(&self, name: &str, object: &Value) -> Result<(), ApiError> {
        let key = ObjectKey::new(crate::resources::NAMESPACES, "", name);
        let before = self.get(&key.resource, "", name).ok_or_else(|| ApiError::not_found(&key.resource, name))?;
        let left = object["spec"]["finalizers"].as_array().is_none_or(Vec::is_empty);
        let mut state = self.state.lock();
        if left && before.deletion_timestamp.is_some() && before.finalizers.is_empty() {
            state.put(&self.registry, &key, None);
        } else {
            let mut after = Value::clone(&before.value());
            after["spec"]["finalizers"] = object["spec"]["finalizers"].clone();
            state.put(&self.registry, &key, Some(after));
        }
        Ok(())
    }
}

impl State {
    fn put(&mut self, registry: &Registry, key: &ObjectKey, object: Option<Value>) -> Option<Arc<Object>> {
        let old = self.view.objects.get(key).cloned();
        if old.is_none() && object.is_none() {
            return None;
        }
        self.view.revision += 1;
        let revision = self.view.revision;
        let new = object.map(|mut object| {
            let kind: Arc<Kind> = registry.by_storage(&key.resource).expect("the resource is registered");
            object["apiVersion"] = json!(kind.api_version());
            object["kind"] = json!(kind.kind);
            (kind.rules.default)(&mut object);
            decode::normalise(&kind, &mut object);
            Arc::new(Object::from_value(kind, &object, revision).expect("the object is readable"))
        });
        match &new {
            Some(object) => self.view.objects.insert(key.clone(), Arc::clone(object)),
            None => self.view.objects.remove(key),
        };
        let change = Arc::new(Change { resource: key.resource.clone(), revision, old, new: new.clone() });
        self.subscribers.retain(|subscriber| match subscriber.try_send(Notice::Changed(Arc::clone(&change))) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => panic!("a subscriber of the fake cluster lags"),
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
        new
    }
}

fn strip_version(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}

/// RFC 7386.
fn merge_patch(target: &mut Value, patch: &Value) {
    let Some(members) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().expect("it was just made an object");
    for (name, member) in members {
        if member.is_null() {
            map.remove(name);
        } else {
            merge_patch(map.entry(name.clone()).or_insert(Value::Null), member);
        }
    }
}

#[async_trait]
impl Cluster for FakeCluster {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        Arc::new(self.view())
    }

    fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    fn subscribe(&self) -> mpsc::Receiver<Notice> {
        let (sender, receiver) = mpsc::channel(SUBSCRIBER_BUFFER);
        self.state.lock().subscribers.push(sender);
        receiver
    }

    async fn create(&self, resource: &GroupResource, namespace: &str, object: Value) -> Result<Arc<Object>, ApiError> {
        self.checked_insert(resource, namespace, object)
    }

    async fn update(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError> {
        self.checked_replace(key, object, false)?.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))
    }

    async fn update_status(&self, key: &ObjectKey, object: Value) -> Result<Arc<Object>, ApiError> {
        self.write_status(key, &object)?.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))
    }

    async fn patch(
        &self,
        key: &ObjectKey,
        kind: PatchKind,
        patch: Value,
        subresource: Option<Subresource>,
    ) -> Result<Arc<Object>, ApiError> {
        self.merge(key, kind, &patch, subresource)?.ok_or_else(|| ApiError::not_found(&key.resource, &key.name))
    }

    async fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Result<u64, ApiError> {
        self.begin_delete(key, &options)
    }

    async fn finalize_namespace(&self, name: &str, object: Value) -> Result<(), ApiError> {
        self.finalize(name, &object)
    }
}
