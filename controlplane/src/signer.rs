//! The controller that approves and signs what agents ask for (decisions: [`crate::identity::csr`]).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use trierarch_api::snapshot::Change;
use trierarch_api::{GroupResource, Object, ObjectKey, Snapshot, Subresource};
use trierarch_controllers::{Action, Context, Controller, DeleteOptions, PatchKind, Plan};

use crate::identity::Authority;
use crate::identity::csr::{self, Decision, Request};

const REQUESTS: GroupResource = GroupResource::new("certificates.k8s.io", "certificatesigningrequests");
const NODES: GroupResource = GroupResource::new("", "nodes");
/// A request whose node has not registered yet is looked at again after this time.
const LATER: Duration = Duration::from_millis(500);
/// Requests that are done are removed after this time (`Spec:` Kubernetes "Certificate signing request", automatic removal).
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Approves and signs agents' certificate signing requests.
pub struct Signer {
    authority: Arc<Authority>,
}

impl Signer {
    /// Signs with this authority.
    pub fn new(authority: Authority) -> Self {
        Self { authority: Arc::new(authority) }
    }
}

impl Controller for Signer {
    fn name(&self) -> &'static str {
        "csr-signing"
    }

    fn all(&self, view: &dyn Snapshot) -> Vec<ObjectKey> {
        view.list(&REQUESTS, None).iter().map(|object| object.key()).collect()
    }

    fn wake(&self, change: &Change, _view: &dyn Snapshot, keys: &mut Vec<ObjectKey>) {
        if change.resource == REQUESTS
            && let Some(object) = &change.new
        {
            keys.push(object.key());
        }
    }

    fn decide(&self, key: &ObjectKey, context: &Context<'_>) -> Plan {
        let Some(object) = context.view.get(&REQUESTS, "", &key.name) else { return Plan::nothing() };
        plan(&object, context.view, &self.authority, context.now)
    }
}

fn condition<'a>(request: &'a Value, kind: &str) -> Option<&'a Value> {
    request["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// What to do about one request.
fn plan(object: &Object, view: &dyn Snapshot, authority: &Authority, now: Timestamp) -> Plan {
    let value = object.value();
    let spec = &value["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let done = condition(&value, "Denied").is_some()
        || condition(&value, "Failed").is_some()
        || value["status"]["certificate"].as_str().is_some_and(|certificate| !certificate.is_empty());
    if done {
        return forget(object, now);
    }
    let pem = STANDARD.decode(text("request")).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let groups: Vec<String> = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let request = Request {
        signer: text("signerName"),
        pem: &pem,
        user: text("username"),
        groups: &groups,
        expiration_seconds: spec["expirationSeconds"].as_i64(),
    };
    if condition(&value, "Approved").is_some() {
        return sign(object, &request, authority, now);
    }
    let content = match csr::content(&pem) {
        Ok(content) => content,
        // the API server has refused unreadable ones; this one is a person's to look at
        Err(_unreadable) => return Plan::nothing(),
    };
    let node = content.common_name.strip_prefix("system:node:").and_then(|name| view.get(&NODES, "", name));
    let addresses = node.map(|node| addresses(&node.value()));
    match csr::approve(&request, &content, addresses.as_deref()) {
        Decision::Approve(message) => {
            let approved = json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message, "lastUpdateTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
            patch(object, Subresource::Approval, &json!({"conditions": [approved]}))
        }
        Decision::Later => Plan { requeue_after: Some(LATER), ..Plan::nothing() },
        Decision::Leave(_) => Plan::nothing(),
    }
}

fn addresses(node: &Value) -> Vec<String> {
    node["status"]["addresses"].as_array().into_iter().flatten().filter_map(|entry| entry["address"].as_str()).map(str::to_owned).collect()
}

fn sign(object: &Object, request: &Request<'_>, authority: &Authority, now: Timestamp) -> Plan {
    let Some((usage, lifetime)) = csr::signing(request) else { return Plan::nothing() };
    match authority.sign(request.pem, usage, lifetime, now) {
        Ok(certificate) => patch(object, Subresource::Status, &json!({"certificate": STANDARD.encode(certificate)})),
        Err(error) => {
            let mut conditions = object.value()["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.push(json!({"type": "Failed", "status": "True", "reason": "SigningError", "message": error.to_string()}));
            patch(object, Subresource::Status, &json!({"conditions": conditions}))
        }
    }
}

fn patch(object: &Object, subresource: Subresource, status: &Value) -> Plan {
    let patch = json!({"metadata": {"resourceVersion": object.resource_version.to_string()}, "status": status});
    Plan {
        actions: vec![Action::Patch { key: object.key(), kind: PatchKind::Merge, patch, subresource: Some(subresource) }],
        ..Plan::nothing()
    }
}

/// Removes a request that is done and old.
fn forget(object: &Object, now: Timestamp) -> Plan {
    let age = object.creation_timestamp.map_or(SignedDuration::ZERO, |created| now.duration_since(created));
    if age < KEPT {
        return Plan { requeue_after: (KEPT - age).try_into().ok(), ..Plan::nothing() };
    }
    let options = DeleteOptions { uid: Some(object.uid.0.clone()), ..DeleteOptions::default() };
    Plan { actions: vec![Action::Delete { key: object.key(), options, reports: Default::default() }], ..Plan::nothing() }
}
