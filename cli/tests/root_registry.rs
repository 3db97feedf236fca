//! The masters' registry with two masters that share nothing: a push is held by both before it is acknowledged, and what one lacks it fetches
//! from the other. Needs root, because building images does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::{Master, eventually};
use trierarch_controlplane::identity::{Bundle, pki};
use trierarch_images::{Auth, Image, Mirror, Progress, Reference, RegistryOptions, Store};

fn store(master: &Master) -> Store {
    Store::open(master.dir.join("images")).unwrap()
}

fn options(master: &Master, bundle: &Bundle, token: &str) -> RegistryOptions {
    let mirror = Mirror {
        url: master.url(),
        auth: Auth::Bearer(token.to_owned()),
        ca_pem: Some(bundle.cluster.certificate_pem.clone().into_bytes()),
    };
    RegistryOptions { mirrors: vec![mirror], mirrors_only: true, ..RegistryOptions::default() }
}

/// An image in a store, whose one file holds `text`.
fn built(dir: &Path, data: &str, name: &str, text: &str) -> Image {
    let context = dir.join("context");
    std::fs::create_dir_all(&context).unwrap();
    std::fs::write(context.join("file"), text).unwrap();
    std::fs::write(context.join("Containerfile"), "FROM scratch\nCOPY file /\n").unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_trierarch"))
        .args(["build", "-t", name, context.to_str().unwrap(), "--data-dir"])
        .arg(dir.join(data))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Store::open(dir.join(data).join("images")).unwrap().get(&reference(name)).unwrap().unwrap()
}

fn reference(name: &str) -> Reference {
    Reference::parse(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_on_two_masters_before_it_is_acknowledged() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let first = Master::start(dir.path(), "m1", &["--init"]);
    let bundle = eventually("the first master's secrets", async || pki::load_bundle(&first.dir).ok().flatten()).await;
    let client = first.client(&bundle);
    let token: Value = {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}});
        let path = "/api/v1/namespaces/kube-system/serviceaccounts/image-pusher/token";
        eventually("a token for pushing", async || client.create(path, &request).await.ok()).await
    };
    let token = token["status"]["token"].as_str().unwrap().to_owned();
    let local = Store::open(dir.path().join("local/images")).unwrap();

    // alone, it acknowledges by itself
    let image = built(dir.path(), "local", "alone:1", "a");
    trierarch_images::push(&local, &image, &reference("alone:1"), &options(&first, &bundle, &token), Progress::none()).await.unwrap();

    std::fs::write(dir.path().join("token"), bundle.token().unwrap().to_string()).unwrap();
    let token_file = dir.path().join("token");
    let join = format!("https://127.0.0.1:{}", first.api);
    let second = Master::start(dir.path(), "m2", &["--join", &join, "--token-file", token_file.to_str().unwrap()]);
    eventually("two voters", async || {
        let status: Value = client.get("/raft/v1/status").await.ok()?;
        let voters = status["members"].as_array()?.iter().filter(|member| member["role"] == "Voter").count();
        (voters == 2).then_some(())
    })
    .await;
    let other = second.client(&bundle);
    eventually("the second master's answer", async || other.get::<Value>("/api/v1/namespaces/kube-system").await.ok()).await;

    let image = built(dir.path(), "local", "both:1", "b");
    trierarch_images::push(&local, &image, &reference("both:1"), &options(&first, &bundle, &token), Progress::none()).await.unwrap();
    for master in [&first, &second] {
        let held = store(master).get(&reference("both:1")).unwrap().expect("held by every master once the push is acknowledged");
        assert_eq!(held.target, image.target);
        for layer in &held.layers {
            assert_eq!(store(master).verify_blob(&layer.digest).unwrap(), layer.size);
        }
    }

    // what only one has, the other fetches when it is asked
    let fetched = Store::open(dir.path().join("fetched/images")).unwrap();
    let image =
        trierarch_images::pull(&fetched, &reference("alone:1"), &options(&second, &bundle, &token), Progress::none()).await.unwrap();
    assert_eq!(store(&second).get(&reference("alone:1")).unwrap().expect("fetched from the first master").target, image.target);
    let missing = trierarch_images::pull(&fetched, &reference("nobody:1"), &options(&second, &bundle, &token), Progress::none()).await;
    assert!(missing.unwrap_err().to_string().contains("docker.io/library/nobody:1: not found"));

    // without a second master a push is not acknowledged
    drop(second);
    let image = built(dir.path(), "local", "lost:1", "c");
    let refused = trierarch_images::push(&local, &image, &reference("lost:1"), &options(&first, &bundle, &token), Progress::none()).await;
    let text = trierarch_images::chain(&refused.unwrap_err());
    assert!(text.contains("no second master holds docker.io/library/lost:1"), "{text}");
}
