//! Answers in protobuf say what the answers in JSON say.

mod support;

use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use support::Standalone;
use support::client::{Client, Who, whole};
use trierarch_api::protobuf;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

async fn send(client: &Client, method: &str, path: &str, accept: &str, body: &Value) -> support::client::Response {
    let headers = [("accept".to_owned(), accept.to_owned()), ("content-type".to_owned(), "application/json".to_owned())];
    let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    client.send(Who::Admin, method, path, &headers, bytes.into()).await.expect("an answer")
}

async fn read(client: &Client, path: &str, accept: &str) -> (String, Value) {
    let response = send(client, "GET", path, accept, &Value::Null).await;
    assert_eq!(response.status(), 200, "{path}");
    let kind = response.headers()["content-type"].to_str().expect("text").to_owned();
    let bytes = whole(response).await.expect("a body");
    let value = if kind.starts_with(PROTOBUF) {
        protobuf::to_json(&bytes).expect("protobuf")
    } else {
        serde_json::from_slice(&bytes).expect("JSON")
    };
    (kind, value)
}

/// Protobuf says nothing of the kind of a list's items, and nothing of lists that are empty or absent.
fn comparable(mut value: Value) -> Value {
    for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        for name in ["apiVersion", "kind"] {
            item.as_object_mut().expect("an object").remove(name);
        }
    }
    without_nothing(&mut value);
    value
}

fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(without_nothing);
            map.retain(|_, value| !value.is_null() && value != &json!([]) && value != &json!({}) && value != &json!(0));
        }
        Value::Array(items) => items.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_has_a_protobuf_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = Client::of(&server);
    let space = json!({"metadata": {"name": "wire"}});
    assert_eq!(send(&client, "POST", "/api/v1/namespaces", "application/json", &space).await.status(), 201);
    let account = json!({"metadata": {"name": "default"}});
    send(&client, "POST", "/api/v1/namespaces/wire/serviceaccounts", "application/json", &account).await;
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i",
        "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "100m"}}, "livenessProbe": {"httpGet": {"port": "http"}}}]}});
    let made = send(&client, "POST", "/api/v1/namespaces/wire/pods", PROTOBUF, &pod).await;
    assert_eq!((made.status().as_u16(), made.headers()["content-type"].to_str().expect("text")), (201, PROTOBUF));
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template":
        {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = send(&client, "POST", "/apis/apps/v1/namespaces/wire/deployments", PROTOBUF, &deployment).await;
    assert_eq!(made.status(), 201);

    for path in [
        "/api/v1/namespaces/wire/pods/p",
        "/api/v1/namespaces/wire/pods",
        "/api/v1/namespaces",
        "/apis/apps/v1/namespaces/wire/deployments/d",
        "/apis/apps/v1/namespaces/wire/deployments",
        "/apis/apps/v1/namespaces/wire/deployments/d/scale",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/api/v1/services",
    ] {
        let (_, plain) = read(&client, path, "application/json").await;
        let (kind, wire) = read(&client, path, &format!("{PROTOBUF}, */*")).await;
        assert_eq!(kind, PROTOBUF, "{path}");
        assert_eq!(comparable(wire), comparable(plain), "{path}");
    }

    let partial = ";as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let (kind, wire) = read(&client, "/api/v1/namespaces/wire/pods/p", &format!("{PROTOBUF}{partial}")).await;
    let (_, plain) = read(&client, "/api/v1/namespaces/wire/pods/p", &format!("application/json{partial}")).await;
    assert_eq!((kind.as_str(), comparable(wire)), (PROTOBUF, comparable(plain)));
    let refused = send(&client, "GET", "/api/v1/namespaces/wire/pods/none", &format!("{PROTOBUF}, */*"), &Value::Null).await;
    assert_eq!((refused.status().as_u16(), refused.headers()["content-type"].to_str().expect("text")), (404, PROTOBUF));
    let status = protobuf::to_json(&whole(refused).await.expect("a body")).expect("protobuf");
    assert_eq!((status["kind"].as_str(), status["reason"].as_str()), (Some("Status"), Some("NotFound")));
    // a Table has none
    let table = ";as=Table;v=v1;g=meta.k8s.io";
    let (kind, _) = read(&client, "/api/v1/namespaces/wire/pods", &format!("{PROTOBUF}{table},application/json{table}")).await;
    assert_eq!(kind, "application/json");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_a_stream_of_protobuf() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Standalone::start(dir.path(), 0).await;
    let client = Client::of(&server);
    let path = "/api/v1/namespaces?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let response = send(&client, "GET", path, PROTOBUF, &Value::Null).await;
    assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let mut body = response.into_body();
    let mut bytes: Vec<u8> = Vec::new();
    let mut heard: Vec<(String, Value)> = Vec::new();
    let mut created = false;
    while !heard.iter().any(|(_, object)| object["metadata"]["name"] == "later") {
        while let Some((told, object, took)) = protobuf::read_watch_event(&bytes).expect("readable") {
            heard.push((told, object));
            bytes.drain(..took);
        }
        if !created && heard.iter().any(|(told, _)| told == "BOOKMARK") {
            created = true;
            let space = json!({"metadata": {"name": "later"}});
            assert_eq!(send(&client, "POST", "/api/v1/namespaces", "application/json", &space).await.status(), 201);
        }
        if !heard.iter().any(|(_, object)| object["metadata"]["name"] == "later") {
            let frame = body.frame().await.expect("more to come").expect("a whole frame");
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
    let (bookmark, rest): (Vec<_>, Vec<_>) = heard.into_iter().partition(|(told, _)| told == "BOOKMARK");
    assert_eq!(bookmark[0].1["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(rest.iter().all(|(told, object)| told == "ADDED" && object["kind"] == "Namespace"), "{rest:?}");
    drop(body);
    server.stop().await;
}
