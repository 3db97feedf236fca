//! Pull and push over HTTP against our own registry, with everything that goes wrong on a network.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "../examples/registry/server.rs"]
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::Request;
use hyper::body::Incoming;
use server::Verdict;
use tempfile::TempDir;
use trierarch_images::registry::{Registry, RegistryConfig};
use trierarch_images::{
    Auth, Digest, Event, Image, ImportOptions, Keychain, Mirror, Progress, PullError, Reference, RegistryOptions, Store, import, pull, push,
};

fn store() -> (TempDir, Store) {
    let directory = tempfile::Builder::new().prefix("tritest-http-").tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Brings an image of one layer with this file into a store.
fn add_image(store: &Store, image: &str, content: &[u8]) -> Image {
    let layer = tar(&[("data", content)]);
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer)] },
    })
    .to_string();
    let manifest = serde_json::json!([{ "Config": "c.json", "RepoTags": [image], "Layers": ["l.tar"] }]).to_string();
    let archive = tar(&[("c.json", config.as_bytes()), ("l.tar", &layer), ("manifest.json", manifest.as_bytes())]);
    import(store, &archive[..], &ImportOptions::default(), &Progress::none()).unwrap();
    store.get(&name(image)).unwrap().unwrap()
}

/// A registry over this store; returns its `host:port`.
async fn start(store: &Store, verdict: impl Fn(&Request<Incoming>) -> Verdict + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let config = RegistryConfig { aliases: vec![host.clone()], ..RegistryConfig::default() };
    tokio::spawn(server::serve(listener, Registry::new(store.clone(), config), verdict));
    host
}

fn mirror(host: &str) -> RegistryOptions {
    let mirror = Mirror { url: format!("http://{host}"), auth: Auth::Anonymous, ca_pem: None };
    RegistryOptions { mirrors: vec![mirror], mirrors_only: true, ..RegistryOptions::default() }
}

fn content(image: &Image, store: &Store) -> Vec<u8> {
    std::fs::read(store.prepare(image).unwrap().lowerdirs()[0].join("data")).unwrap()
}

#[tokio::test]
async fn an_image_travels_to_a_registry_and_back() {
    let ((_a, ours), (_b, theirs), (_c, third)) = (store(), store(), store());
    let data: Vec<u8> = (0..3_000_000_u32).map(|number| u8::try_from(number % 253).unwrap()).collect();
    let image = add_image(&ours, "app:v1", &data);
    let host = start(&theirs, server::pass_everything).await;
    let destination = name(&format!("{host}/team/app:v1"));
    let events = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let digest =
        push(&ours, &image, &destination, &RegistryOptions::default(), Progress::new(move |event| sink.lock().push(event))).await.unwrap();
    assert_eq!(digest, image.target);
    assert!(events.lock().iter().any(|event| matches!(event, Event::Blob { bytes_done, bytes_total, .. } if bytes_done < bytes_total)));
    let again = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&again);
    let progress = Progress::new(move |event| {
        if matches!(event, Event::BlobPresent { .. }) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    push(&ours, &image, &destination, &RegistryOptions::default(), progress).await.unwrap();
    assert_eq!(again.load(Ordering::Relaxed), 2, "the second push sends no blob");
    let pulled = pull(&third, &destination, &RegistryOptions::default(), Progress::none()).await.unwrap();
    assert_eq!((&pulled.id, &pulled.target), (&image.id, &image.target));
    assert_eq!(content(&pulled, &third), data);
    assert_eq!(pulled.names, std::slice::from_ref(&destination));
    let by_digest =
        pull(&third, &destination.with_digest(image.target.clone()), &RegistryOptions::default(), Progress::none()).await.unwrap();
    assert_eq!(by_digest.id, image.id);
}

#[tokio::test]
async fn a_mirror_answers_for_every_host() {
    let ((_a, ours), (_b, master)) = (store(), store());
    let image = add_image(&master, "registry.k8s.io/pause:3.10", b"pause");
    let host = start(&master, server::pass_everything).await;
    let pulled = pull(&ours, &name("registry.k8s.io/pause:3.10"), &mirror(&host), Progress::none()).await.unwrap();
    assert_eq!(pulled.target, image.target);
    assert_eq!(content(&pulled, &ours), b"pause");
    let other = add_image(&ours, "localhost:5000/mine:v2", b"mine");
    push(&ours, &other, &name("localhost:5000/mine:v2"), &mirror(&host), Progress::none()).await.unwrap();
    assert!(master.get(&name("localhost:5000/mine:v2")).unwrap().is_some(), "a push through a mirror keeps the name");
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_stopped() {
    let ((_a, ours), (_b, theirs)) = (store(), store());
    let data = vec![7_u8; 2_000_000];
    let image = add_image(&theirs, "k.io/app:v1", &data);
    let layer = image.layers[0].digest.to_string();
    let requests = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let log = Arc::clone(&requests);
    let host = start(&theirs, move |request| {
        if !request.uri().path().ends_with(&layer) {
            return Verdict::Pass;
        }
        let range = request.headers().get("range").map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let mut log = log.lock();
        log.push(range);
        if log.len() < 3 { Verdict::Cut(800_000) } else { Verdict::Pass }
    })
    .await;
    let pulled = pull(&ours, &name("k.io/app:v1"), &mirror(&host), Progress::none()).await.unwrap();
    assert_eq!(content(&pulled, &ours), data);
    let starts: Vec<u64> =
        requests.lock().iter().map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap()).collect();
    assert!(starts.len() == 3 && starts[0] == 0 && starts[1] > 0 && starts[2] > starts[1], "{starts:?}");
}

#[tokio::test]
async fn a_damaged_blob_is_fetched_again() {
    let ((_a, ours), (_b, theirs)) = (store(), store());
    add_image(&theirs, "k.io/app:v1", b"right");
    let host = start(&theirs, server::pass_everything).await;
    let image = pull(&ours, &name("k.io/app:v1"), &mirror(&host), Progress::none()).await.unwrap();
    // Another store that got the blob wrong, as after a failing disk.
    let (_c, third) = store();
    let path = third.root().join("blobs/sha256").join(image.layers[0].digest.hex());
    std::fs::write(path, vec![0; usize::try_from(image.layers[0].size).unwrap()]).unwrap();
    let pulled = pull(&third, &name("k.io/app:v1"), &mirror(&host), Progress::none()).await.unwrap();
    assert_eq!(content(&pulled, &third), b"right");
}

#[tokio::test]
async fn credentials_are_used_and_their_absence_is_said() {
    let ((_a, ours), (_b, theirs)) = (store(), store());
    add_image(&theirs, "registry.cluster.local/app:v1", b"secret");
    // "me:word" and a token.
    let host = start(&theirs, |request| match request.headers().get("authorization").map(|value| value.to_str().unwrap()) {
        Some("Basic bWU6d29yZA==" | "Bearer token1") => Verdict::Pass,
        _ => Verdict::Answer(401, vec![("www-authenticate", "Basic realm=\"test\"".to_owned())]),
    })
    .await;
    let image = name(&format!("{host}/app:v1"));
    let options = RegistryOptions { insecure_hosts: vec![host.clone()], ..RegistryOptions::default() };
    let error = pull(&ours, &image, &options, Progress::none()).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    for auth in [Auth::Basic { username: "me".into(), password: "word".into() }, Auth::Bearer("token1".into())] {
        let mut keychain = Keychain::empty();
        keychain.add(&host, Auth::Basic { username: "wrong".into(), password: "wrong".into() });
        keychain.add(&host, auth);
        let (_c, fresh) = store();
        pull(&fresh, &image, &RegistryOptions { keychain, ..options.clone() }, Progress::none()).await.unwrap();
    }
}

#[tokio::test]
async fn absence_is_said_in_the_known_words() {
    let ((_a, ours), (_b, theirs)) = (store(), store());
    let host = start(&theirs, server::pass_everything).await;
    let error = pull(&ours, &name("registry.k8s.io/none:v1"), &mirror(&host), Progress::none()).await.unwrap_err();
    let image = "registry.k8s.io/none:v1";
    let text = format!("failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found");
    assert_eq!(error.to_string(), text);
    // A port where nobody listens.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = pull(&ours, &name(&format!("{dead}/a:1")), &RegistryOptions::default(), Progress::none()).await.unwrap_err();
    assert!(matches!(&error, PullError::Resolve { reason, .. } if reason.contains(&dead)), "{error}");
    let mut options = mirror(&dead);
    options.mirrors.extend(mirror(&host).mirrors);
    add_image(&theirs, "k.io/app:v1", b"x");
    pull(&ours, &name("k.io/app:v1"), &options, Progress::none()).await.unwrap();
}

#[tokio::test]
async fn overload_is_waited_for() {
    let ((_a, ours), (_b, theirs)) = (store(), store());
    add_image(&theirs, "k.io/app:v1", b"x");
    let count = AtomicUsize::new(0);
    let host =
        start(&theirs, move |request| match request.uri().path().contains("/manifests/") && count.fetch_add(1, Ordering::Relaxed) < 2 {
            true => Verdict::Answer(503, Vec::new()),
            false => Verdict::Pass,
        })
        .await;
    pull(&ours, &name("k.io/app:v1"), &mirror(&host), Progress::none()).await.unwrap();
}
