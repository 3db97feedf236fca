//! `token`: a service account token on request (`Spec:` authentication.k8s.io/v1 TokenRequest).

use serde_json::{Value, json};
use trierarch_api::{ApiError, GroupResource, Kind, Path, Problems, Snapshot as _};

use crate::authenticate::token::{Audiences, Claims, Private, Reference};
use crate::dispatch::{Admitted, Answer};
use crate::pipeline::decode;

const ACCOUNTS: GroupResource = GroupResource::new("", "serviceaccounts");
const SECONDS_DEFAULT: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;
/// What a pod's volume asks for; such tokens live longer than their holder is told, so that old clients do not break.
const VOLUME_SECONDS: i64 = 3607;
const VOLUME_EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// `POST` of `serviceaccounts/NAME/token`.
pub(crate) async fn request(admitted: &Admitted<'_>) -> Result<Answer, ApiError> {
    let chosen = admitted.choose(false)?;
    let (namespace, name) = (&admitted.info.namespace, &admitted.info.name);
    let mut asked = decode::any_body(admitted.call)?;
    let spec = asked["spec"].clone();
    let snapshot = admitted.server.fresh_snapshot(admitted.deadline).await?;
    let account = snapshot.get(&ACCOUNTS, namespace, name).ok_or_else(|| ApiError::not_found(&ACCOUNTS, name))?;
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(SECONDS_DEFAULT);
    let stated = asked["metadata"]["name"].as_str().unwrap_or_default();
    if !stated.is_empty() && stated != name {
        let mut problems = Problems::default();
        problems.invalid(&Path::new("metadata").child("name"), stated, "must match the service account name if specified");
        return Err(ApiError::invalid(&question(), name, &problems));
    }
    check(seconds)?;
    let settings = &admitted.server.settings.service_account;
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(|each| each.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        audiences.clone_from(&settings.audiences);
    }
    let mut private = Private {
        namespace: namespace.clone(),
        serviceaccount: Reference { name: name.clone(), uid: account.uid.0.clone() },
        ..Private::default()
    };
    let bound = &spec["boundObjectRef"];
    if !bound.is_null() {
        bind(&snapshot, namespace, name, bound, &mut private)?;
    }
    let now = crate::clock::now().as_second();
    let for_volume = private.pod.is_some() && seconds == VOLUME_SECONDS && audiences.iter().all(|each| settings.audiences.contains(each));
    let lifetime = if for_volume { VOLUME_EXTENDED_SECONDS } else { seconds };
    if for_volume {
        private.warnafter = Some(now + seconds);
    }
    let claims = Claims {
        aud: Audiences(audiences.clone()),
        exp: now + lifetime,
        iat: now,
        iss: admitted.server.tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
        private,
    };
    let token = admitted.server.tokens.sign(&claims).map_err(ApiError::internal)?;
    let expires = jiff::Timestamp::from_second(now + seconds).unwrap_or(jiff::Timestamp::MAX);
    asked["kind"] = json!("TokenRequest");
    asked["apiVersion"] = json!("authentication.k8s.io/v1");
    let created = crate::clock::now_seconds().to_string();
    asked["metadata"] = json!({ "name": name, "namespace": namespace, "uid": account.uid.0, "creationTimestamp": created });
    if !asked["spec"].is_object() {
        asked["spec"] = json!({});
    }
    asked["spec"]["audiences"] = json!(audiences);
    asked["spec"]["expirationSeconds"] = json!(seconds);
    if asked["spec"]["boundObjectRef"].is_null() {
        asked["spec"]["boundObjectRef"] = Value::Null;
    }
    asked["status"] = json!({ "token": token, "expirationTimestamp": expires.to_string() });
    Ok(Answer::document(201, &asked, chosen))
}

fn check(seconds: i64) -> Result<(), ApiError> {
    let mut problems = Problems::default();
    let path = Path::new("spec").child("expirationSeconds");
    if seconds < SECONDS_MIN {
        problems.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > SECONDS_MAX {
        problems.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::invalid(&question(), "", &problems)) }
}

/// The row that errors about a request for a token name.
fn question() -> Kind {
    Kind::namespaced("authentication.k8s.io", "v1", "TokenRequest", "tokenrequests", "tokenrequest")
}

fn bind(
    snapshot: &crate::apiserver::StoreSnapshot,
    namespace: &str,
    account: &str,
    bound: &Value,
    private: &mut Private,
) -> Result<(), ApiError> {
    let text = |field: &str| bound[field].as_str().unwrap_or_default();
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    let find = |resource: &'static str, namespace: &str| {
        let resource = GroupResource::new("", resource);
        let found = snapshot.get(&resource, namespace, name).ok_or_else(|| ApiError::not_found(&resource, name))?;
        if !uid.is_empty() && uid != found.uid.0 {
            return Err(ApiError::conflict(
                &resource,
                name,
                &format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        Ok(found)
    };
    match kind {
        "Pod" => {
            let pod = find("pods", namespace)?;
            let value = pod.value();
            if value["spec"]["serviceAccountName"] != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            private.pod = Some(Reference { name: name.to_owned(), uid: pod.uid.0.clone() });
            if let Some(node) = value["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
                let uid = snapshot.get(&GroupResource::new("", "nodes"), "", node).map(|node| node.uid.0.clone()).unwrap_or_default();
                private.node = Some(Reference { name: node.to_owned(), uid });
            }
        }
        "Secret" => {
            let secret = find("secrets", namespace)?;
            private.secret = Some(Reference { name: name.to_owned(), uid: secret.uid.0.clone() });
        }
        "Node" => {
            let node = find("nodes", "")?;
            private.node = Some(Reference { name: name.to_owned(), uid: node.uid.0.clone() });
        }
        other => {
            let version = text("apiVersion");
            let group_version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
            return Err(ApiError::bad_request(format!("cannot bind token to object of type {group_version}, Kind={other}")));
        }
    }
    Ok(())
}
