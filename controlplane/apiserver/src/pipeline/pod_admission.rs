//! What every pod gets: an account and its token, tolerations of a node's short absence, a priority.

use std::time::Duration;

use serde_json::{Value, json};
use trierarch_api::{ApiError, GroupResource, Object, Snapshot as _};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::pipeline::{Ctx, metadata};

const ACCOUNTS: GroupResource = GroupResource::new("", "serviceaccounts");
const PODS: GroupResource = GroupResource::new("", "pods");
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How long a token in a volume is valid.
const TOKEN_SECONDS: i64 = 3607;
/// How long a new namespace's default account is waited for.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);
/// Marks what a node runs on its own account.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

/// `ServiceAccount`: the account, its image pull secrets, and the volume with its token.
///
/// # Errors
/// 403 when the account does not exist.
pub async fn service_account(server: &ApiServer, snapshot: &StoreSnapshot, ctx: &Ctx, pod: &mut Value) -> Result<(), ApiError> {
    if pod["metadata"]["annotations"][MIRROR].is_string() {
        let name = metadata::text(pod, "name");
        if pod["spec"]["serviceAccountName"].as_str().is_some_and(|account| !account.is_empty()) {
            return Err(ApiError::forbidden(&PODS, name, "a mirror pod may not reference service accounts"));
        }
        return Ok(());
    }
    let namespace = metadata::text(pod, "namespace").to_owned();
    let spec = &mut pod["spec"];
    if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        let older = spec["serviceAccount"].as_str().filter(|name| !name.is_empty()).unwrap_or("default").to_owned();
        spec["serviceAccountName"] = json!(older);
    }
    let account_name = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
    spec["serviceAccount"] = json!(account_name);
    let account = match snapshot.get(&ACCOUNTS, &namespace, &account_name) {
        Some(account) => account,
        None => wait_for_account(server, ctx, &namespace, &account_name).await.ok_or_else(|| {
            let why = format!("error looking up service account {namespace}/{account_name}: serviceaccount {account_name:?} not found");
            ApiError::forbidden(&PODS, metadata::text(pod, "name"), &why)
        })?,
    };
    let account = account.value();
    let spec = &mut pod["spec"];
    let mounts =
        spec["automountServiceAccountToken"].as_bool().or_else(|| account["automountServiceAccountToken"].as_bool()).unwrap_or(true);
    if mounts {
        mount_token(spec);
    }
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && let Some(secrets) = account["imagePullSecrets"].as_array().filter(|list| !list.is_empty())
    {
        spec["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

/// The account of a namespace that was made a moment ago may still be on its way.
async fn wait_for_account(server: &ApiServer, ctx: &Ctx, namespace: &str, name: &str) -> Option<std::sync::Arc<Object>> {
    let key = trierarch_api::ObjectKey::new(ACCOUNTS, namespace, name).to_bytes();
    let wait = ACCOUNT_WAIT.min(ctx.deadline.left());
    let found = async {
        let mut revision = server.store.view().revision();
        loop {
            if let Some(account) = server.snapshot().get(&ACCOUNTS, namespace, name) {
                return Some(account);
            }
            let mut watcher = server.store.watch(&key, revision).await.ok()?;
            watcher.next().await.ok()?;
            revision = watcher.progress();
        }
    };
    tokio::time::timeout(wait, found).await.ok().flatten()
}

fn mount_token(spec: &mut Value) {
    let has_mount = |container: &Value| container["volumeMounts"].as_array().into_iter().flatten().any(|mount| mount["mountPath"] == MOUNT);
    let wants: Vec<&str> = ["initContainers", "containers"]
        .into_iter()
        .filter(|which| spec[*which].as_array().into_iter().flatten().any(|container| !has_mount(container)))
        .collect();
    if wants.is_empty() {
        return;
    }
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .find(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned);
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", metadata::random_suffix()));
    for which in wants {
        for container in spec[which].as_array_mut().into_iter().flatten().filter(|container| !has_mount(container)) {
            push(&mut container["volumeMounts"], json!({ "name": name, "readOnly": true, "mountPath": MOUNT }));
        }
    }
    if existing.is_none() {
        push(&mut spec["volumes"], token_volume(&name));
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ],
        },
    })
}

/// `Priority`: the two classes that always exist, and zero for everyone else.
///
/// # Errors
/// 403 for a class that does not exist.
pub fn priority(pod: &mut Value) -> Result<(), ApiError> {
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let value = match class {
        "" => 0,
        "system-cluster-critical" => 2_000_000_000,
        "system-node-critical" => 2_000_001_000,
        other => {
            return Err(ApiError::forbidden(&PODS, metadata::text(pod, "name"), &format!("no PriorityClass with name {other} was found")));
        }
    };
    let stated = pod["spec"]["priority"].as_i64();
    if stated.is_some_and(|stated| stated != value) {
        return Err(ApiError::forbidden(
            &PODS,
            metadata::text(pod, "name"),
            &format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                stated.unwrap_or(0)
            ),
        ));
    }
    pod["spec"]["priority"] = json!(value);
    let policy = pod["spec"]["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority");
    if policy != "PreemptLowerPriority" {
        return Err(ApiError::forbidden(
            &PODS,
            metadata::text(pod, "name"),
            &format!(
                "the string value of PreemptionPolicy ({policy}) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name"
            ),
        ));
    }
    if pod["spec"]["preemptionPolicy"].is_null() {
        pod["spec"]["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
    Ok(())
}

/// `DefaultTolerationSeconds`: a node that is away for a moment does not lose its pods. Upstream's default is 300 seconds.
pub fn tolerations(pod: &mut Value, seconds: i64) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|toleration| {
            let named = toleration["key"].as_str().unwrap_or_default();
            let effect = toleration["effect"].as_str().unwrap_or_default();
            (named == key || named.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            push(
                &mut pod["spec"]["tolerations"],
                json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_mounts_the_token_once() {
        let mut spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT}]}]});
        mount_token(&mut spec);
        let name = spec["volumes"][0]["name"].as_str().expect("a volume").to_owned();
        assert!(name.starts_with("kube-api-access-"));
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], name.as_str());
        assert_eq!(spec["initContainers"][0]["volumeMounts"][0]["name"], name.as_str());
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().expect("a list").len(), 1);
        let once = spec.clone();
        mount_token(&mut spec);
        assert_eq!(spec, once);
    }

    #[test]
    fn tolerations_that_are_there_stay() {
        let mut pod =
            json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}]}});
        tolerations(&mut pod, 7);
        assert_eq!(pod["spec"]["tolerations"].as_array().expect("a list").len(), 2);
        assert_eq!(pod["spec"]["tolerations"][1]["tolerationSeconds"], 7);
        assert_eq!(pod["spec"]["tolerations"][0]["tolerationSeconds"], 5);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerations(&mut all, 7);
        assert_eq!(all["spec"]["tolerations"].as_array().expect("a list").len(), 1);
    }

    #[test]
    fn classes_become_numbers() {
        let mut pod = json!({"spec": {"priorityClassName": "system-node-critical"}});
        priority(&mut pod).expect("a known class");
        assert_eq!(pod["spec"]["priority"], 2_000_001_000);
        let mut none = json!({"spec": {}});
        priority(&mut none).expect("no class");
        assert_eq!(none["spec"]["priority"], 0);
        assert!(priority(&mut json!({"spec": {"priorityClassName": "high"}})).is_err());
    }
}
