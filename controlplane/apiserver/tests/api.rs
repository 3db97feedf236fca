//! Behaviour over the wire: a real server on port 0, a one-member store in a temporary directory, a plain HTTP client with a certificate.

mod support;

use serde_json::{Value, json};
use support::Standalone;
use support::client::{Client, Response, Who, whole};

struct Caller {
    client: Client,
    who: Who,
}

impl Caller {
    fn admin(server: &Standalone) -> Self {
        Self { client: Client::of(server), who: Who::Admin }
    }

    fn nobody(server: &Standalone) -> Self {
        Self { client: Client::of(server), who: Who::Nobody }
    }

    async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        let headers: Vec<(String, String)> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.client.send(self.who, method, path, &headers, bytes::Bytes::from(body.to_owned())).await.expect("an answer")
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let response = self.raw(method, path, &[("content-type", kind)], &text).await;
        let code = response.status().as_u16();
        (code, serde_json::from_slice(&whole(response).await.expect("a body")).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "application/json", &Value::Null).await
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send("POST", path, "application/json", &body).await
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"a": data}}, "data": {"k": data}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_live_and_die() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = Caller::admin(&server);

    // create, and what cannot be created
    let (code, made) = client.post(MAPS, map("one", "1")).await;
    assert_eq!(code, 201, "{made}");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["resourceVersion"].is_string(), "{made}");
    let (code, taken) = client.post(MAPS, map("one", "1")).await;
    assert_eq!((code, taken["message"].as_str()), (409, Some("configmaps \"one\" already exists")));
    let (code, missing) = client.post("/api/v1/namespaces/nowhere/configmaps", map("one", "1")).await;
    assert_eq!((code, missing["message"].as_str()), (404, Some("namespaces \"nowhere\" not found")));
    let (code, _) = client.post(&format!("{MAPS}?dryRun=All"), map("dry", "1")).await;
    assert_eq!(code, 201);
    assert_eq!(client.get(&format!("{MAPS}/dry")).await.0, 404, "a dry run stores nothing");

    // update and conflict
    let mut stale = made.clone();
    let (code, patched) = client.send("PATCH", &format!("{MAPS}/one"), "application/merge-patch+json", &json!({"data": {"k": "2"}})).await;
    assert_eq!((code, patched["data"]["k"].as_str()), (200, Some("2")));
    stale["data"]["k"] = json!("3");
    let (code, conflict) = client.send("PUT", &format!("{MAPS}/one"), "application/json", &stale).await;
    assert_eq!((code, conflict["reason"].as_str()), (409, Some("Conflict")), "{conflict}");

    // pages agree with each other
    client.post(MAPS, map("two", "2")).await;
    client.post(MAPS, map("zzz", "3")).await;
    let (_, first) = client.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2), "{first}");
    client.send("DELETE", &format!("{MAPS}/zzz"), "application/json", &Value::Null).await;
    let token = first["metadata"]["continue"].as_str().expect("more");
    let (_, second) = client.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["items"][0]["metadata"]["name"], "zzz", "the second page is of the first one's time: {second}");

    // selectors
    let (_, selected) = client.get(&format!("{MAPS}?labelSelector=a%3D2")).await;
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1), "{selected}");

    // a watch tells what happened since
    let version = first["metadata"]["resourceVersion"].as_str().expect("a version");
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={version}");
    let response = client.raw("GET", &path, &[], "").await;
    let bytes = whole(response).await.expect("events");
    let first_line = bytes.split(|byte| *byte == b'\n').next().expect("a line");
    let event: Value = serde_json::from_slice(first_line).expect("an event");
    assert_eq!((event["type"].as_str(), event["object"]["metadata"]["name"].as_str()), (Some("DELETED"), Some("zzz")));

    // finalizers hold
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.com/x"]}});
    client.post(MAPS, held).await;
    let (code, pending) = client.send("DELETE", &format!("{MAPS}/held"), "application/json", &Value::Null).await;
    assert_eq!(code, 200);
    assert!(pending["metadata"]["deletionTimestamp"].is_string(), "{pending}");
    client.send("PATCH", &format!("{MAPS}/held"), "application/merge-patch+json", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(client.get(&format!("{MAPS}/held")).await.0, 404);
    server.stop().await;
}

/// More writers than a write may reasonably lose races against, one after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_states_no_version_loses_no_race() {
    const WRITERS: usize = 16;
    const WRITES: usize = 6;
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = Caller::admin(&server);
    assert_eq!(client.post(MAPS, map("one", "0")).await.0, 201);
    let path = format!("{MAPS}/one");
    let writers = (0..WRITERS).map(async |writer| {
        let client = Caller::admin(&server);
        for write in 0..WRITES {
            let data = format!("{writer}-{write}");
            let (code, answer) = if writer % 2 == 0 {
                client.send("PUT", &path, "application/json", &map("one", &data)).await
            } else {
                let patch = json!({"metadata": {"annotations": {(data.as_str()): "there"}}});
                client.send("PATCH", &path, "application/merge-patch+json", &patch).await
            };
            assert_eq!(code, 200, "{answer}");
        }
    });
    futures::future::join_all(writers).await;
    // who says which version it has seen hears of others
    let mut old = map("one", "late");
    old["metadata"]["resourceVersion"] = "1".into();
    let (code, answer) = client.send("PUT", &path, "application/json", &old).await;
    assert_eq!((code, answer["reason"].as_str()), (409, Some("Conflict")), "{answer}");
    let (code, _) = client.send("DELETE", &path, "application/json", &Value::Null).await;
    assert_eq!((code, client.get(&path).await.0), (200, 404));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_do_what_they_may() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let (admin, nobody) = (Caller::admin(&server), Caller::nobody(&server));
    assert_eq!(nobody.get("/version").await.0, 200);
    let (code, refused) = nobody.get("/api/v1/namespaces/default/pods").await;
    let expected = r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!((code, refused["message"].as_str()), (403, Some(expected)));
    let response = nobody.raw("GET", "/api/v1/pods", &[("authorization", "Bearer nonsense")], "").await;
    assert_eq!(response.status(), 401);

    // a service account's token is somebody, and RBAC decides what it sees
    let (code, token) = admin.post("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {}})).await;
    assert_eq!(code, 201, "{token}");
    let bearer = format!("Bearer {}", token["status"]["token"].as_str().expect("a token"));
    let with_token =
        |path: &'static str| nobody.raw("GET", path, Box::leak(Box::new([("authorization", &*String::leak(bearer.clone()))])), "");
    assert_eq!(with_token(MAPS).await.status(), 403);
    let binding = json!({
        "metadata": {"name": "v"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
    });
    let (code, made) = admin.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(with_token(MAPS).await.status(), 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_nobody_vouches_for_is_answered_with_401() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    for (certificate, key) in [&server.expired, &server.forged] {
        let client = Client::of(&server).with_certificate(&server, certificate.clone(), key.clone());
        let (code, refused) = Caller { client, who: Who::Admin }.get(MAPS).await;
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
        });
        assert_eq!((code, refused), (401, expected));
    }
    assert_eq!(Caller::admin(&server).get(MAPS).await.0, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_get_addresses_and_give_them_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = Caller::admin(&server);
    let path = "/api/v1/namespaces/default/services";
    let service = |name: &str, address: Option<&str>| {
        let mut service =
            json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]}});
        if let Some(address) = address {
            service["spec"]["clusterIP"] = json!(address);
        }
        service
    };
    let (code, made) = client.post(path, service("one", None)).await;
    assert_eq!(code, 201, "{made}");
    let address = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().expect("a port");
    assert!((30_000..=32_767).contains(&port));
    let (code, taken) = client.post(path, service("two", Some(&address))).await;
    assert_eq!(code, 422, "{taken}");
    client.send("DELETE", &format!("{path}/one"), "application/json", &Value::Null).await;
    assert_eq!(client.post(path, service("two", Some(&address))).await.0, 201);
    server.stop().await;
}
