//! The registry and the archives against skopeo, which stands for every other tool. Needs the Debian package `skopeo`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

#[path = "../examples/registry/server.rs"]
mod server;

use std::path::Path;
use std::process::Command;

use trierarch_images::registry::{Registry, RegistryConfig};
use trierarch_images::{Digest, ExportFormat, ImportOptions, Progress, Reference, Store, export, import};

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn open(directory: &Path, name: &str) -> Store {
    Store::open(directory.join(name)).unwrap()
}

async fn skopeo(arguments: Vec<String>) -> String {
    let outcome = tokio::task::spawn_blocking(move || {
        Command::new("skopeo").arg("--insecure-policy").args(&arguments).output().map(|output| (arguments, output))
    });
    let (arguments, output) = outcome.await.unwrap().expect("skopeo runs; install the Debian package skopeo");
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn copy(from: &str, to: &str) {
    skopeo(["copy", "--src-tls-verify=false", "--dest-tls-verify=false", from, to].map(str::to_owned).to_vec()).await;
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

fn add_image(store: &Store, image: &str) -> Digest {
    let layers = [tar(&[("one", &[1; 100_000])]), tar(&[("two", b"2")])];
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": { "Cmd": ["/one"] }, "created": "2026-01-01T00:00:00Z",
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>() },
        "history": [{ "created_by": "one" }, { "created_by": "two" }],
    })
    .to_string();
    let manifest = serde_json::json!([{ "Config": "c.json", "RepoTags": [image], "Layers": ["a.tar", "b.tar"] }]).to_string();
    let archive =
        tar(&[("c.json", config.as_bytes()), ("a.tar", &layers[0]), ("b.tar", &layers[1]), ("manifest.json", manifest.as_bytes())]);
    import(store, &archive[..], &ImportOptions::default(), &Progress::none()).unwrap();
    store.get(&name(image)).unwrap().unwrap().id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skopeo_copies_in_every_direction() {
    let directory = tempfile::Builder::new().prefix("tritest-skopeo-").tempdir().unwrap();
    let path = |file: &str| directory.path().join(file).display().to_string();
    let served = open(directory.path(), "served");
    let id = add_image(&served, "registry.cluster.local/app:v1");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, Registry::new(served.clone(), RegistryConfig::default()), server::pass_everything));

    // Out of the registry, in three layouts.
    copy(&format!("docker://{host}/app:v1"), &format!("oci:{}:v1", path("layout"))).await;
    copy(&format!("docker://{host}/app:v1"), &format!("docker-archive:{}:k.io/app:docker", path("docker.tar"))).await;
    copy(&format!("docker://{host}/app:v1"), &format!("oci-archive:{}:k.io/app:oci", path("oci.tar"))).await;

    // Archives of skopeo's come in.
    let imported = open(directory.path(), "imported");
    for file in ["docker.tar", "oci.tar"] {
        import(&imported, std::fs::File::open(path(file)).unwrap(), &ImportOptions::default(), &Progress::none()).unwrap();
    }
    for image in ["k.io/app:docker", "k.io/app:oci"] {
        let image = imported.get(&name(image)).unwrap().unwrap_or_else(|| panic!("{image} is there"));
        assert_eq!(image.id, id);
        assert_eq!(imported.prepare(&image).unwrap().ids.len(), 2);
    }

    // Into the registry, from layouts and from itself; under a full name, too.
    copy(&format!("oci:{}:v1", path("layout")), &format!("docker://{host}/from/layout:v2")).await;
    copy(&format!("docker-archive:{}", path("docker.tar")), &format!("docker://{host}/registry.k8s.io/from-archive:v3")).await;
    copy(&format!("docker://{host}/from/layout:v2"), &format!("docker://{host}/again:v4")).await;
    for image in ["registry.cluster.local/from/layout:v2", "registry.k8s.io/from-archive:v3", "registry.cluster.local/again:v4"] {
        let image = served.get(&name(image)).unwrap().unwrap_or_else(|| panic!("{image} is there"));
        assert_eq!(image.id, id);
        served.prepare(&image).unwrap();
    }
    let tags = skopeo(vec!["list-tags".into(), "--tls-verify=false".into(), format!("docker://{host}/from/layout")]).await;
    assert!(tags.contains("\"v2\""), "{tags}");
    let shown = skopeo(vec!["inspect".into(), "--tls-verify=false".into(), format!("docker://{host}/again:v4")]).await;
    assert!(shown.contains("\"Architecture\""), "{shown}");
    skopeo(vec!["delete".into(), "--tls-verify=false".into(), format!("docker://{host}/again:v4")]).await;
    assert!(served.get(&name("registry.cluster.local/again:v4")).unwrap().is_none());

    // Our archives are understood by skopeo.
    for (format, transport, file) in
        [(ExportFormat::Oci, "oci-archive", "ours-oci.tar"), (ExportFormat::Docker, "docker-archive", "ours-docker.tar")]
    {
        let out = std::fs::File::create(path(file)).unwrap();
        export(&imported, &[name("k.io/app:docker")], format, out, &Progress::none()).unwrap();
        copy(&format!("{transport}:{}", path(file)), &format!("docker://{host}/exported:{transport}")).await;
        assert_eq!(served.get(&name(&format!("registry.cluster.local/exported:{transport}"))).unwrap().unwrap().id, id, "{transport}");
    }
}
