use std::fs;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::testing::{archive, config, dir, docker_archive, file, gzip, store};

fn names(imported: &[Imported]) -> Vec<String> {
    imported.iter().flat_map(|image| &image.names).map(Reference::to_string).collect()
}

fn run(store: &Store, bytes: &[u8]) -> Result<Vec<Imported>, ImportError> {
    import(store, bytes, &ImportOptions::default(), &Progress::none())
}

/// An OCI layout with one image; `names` are annotations of its entry.
fn oci_archive(annotations: serde_json::Value, layer: &[u8], leave_out: &[&str]) -> Vec<u8> {
    let packed = gzip(layer);
    let config = config(&[layer]);
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": Digest::of(&packed), "size": packed.len() }],
    }))
    .unwrap();
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&manifest), "size": manifest.len(),
                        "annotations": annotations }],
    }))
    .unwrap();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let files = [
        ("config", path(&config), &config[..]),
        ("layer", path(&packed), &packed[..]),
        ("manifest", path(&manifest), &manifest[..]),
        ("index", "index.json".to_owned(), &index[..]),
        ("layout", "oci-layout".to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}"),
    ];
    let entries: Vec<_> = files.iter().filter(|(role, ..)| !leave_out.contains(role)).map(|(_, name, data)| file(name, data)).collect();
    archive(&entries)
}

#[test]
fn a_docker_archive_comes_in_under_all_its_names() {
    let (_directory, store) = store();
    let base = archive(&[dir("bin/"), file("bin/app", b"one")]);
    let top = archive(&[dir("bin/"), file("bin/app", b"two"), file(".wh.gone", b"")]);
    let imported = run(&store, &docker_archive(&["busybox:1.36", "k.io/x/y:v1"], &[&base, &top])).unwrap();
    assert_eq!(names(&imported), ["docker.io/library/busybox:1.36", "k.io/x/y:v1"]);
    let image = store.get(&Reference::parse("busybox:1.36").unwrap()).unwrap().unwrap();
    assert_eq!(image.id, Digest::of(&config(&[&base, &top])), "the ID is the one docker shows");
    assert_eq!(image.user(), "1000");
    assert_eq!(image.image_id(), format!("docker.io/library/busybox@{}", image.target));
    let layers = store.prepare(&image).unwrap();
    assert_eq!(layers.ids.len(), 2);
    assert_eq!(fs::read(layers.lowerdirs()[0].join("bin/app")).unwrap(), b"two", "top layer first");
    assert_eq!(fs::read(layers.lowerdirs()[1].join("bin/app")).unwrap(), b"one");
    assert_eq!(store.prepare(&image).unwrap(), layers, "the second time finds them");
}

#[test]
fn a_compressed_archive_reports_its_progress() {
    let (_directory, store) = store();
    let layer = archive(&[file("big", &[9; 3 << 20])]);
    let packed = gzip(&docker_archive(&["a:1"], &[&layer]));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let options = ImportOptions { bytes_total: packed.len() as u64, ..ImportOptions::default() };
    import(&store, &packed[..], &options, &Progress::new(move |event| sink.lock().push(event))).unwrap();
    let seen = seen.lock();
    assert!(seen.contains(&Event::Archive { bytes_done: packed.len() as u64, bytes_total: packed.len() as u64 }), "{seen:?}");
    assert!(matches!(seen.last(), Some(Event::Done { names, .. }) if names == &["docker.io/library/a:1"]), "{seen:?}");
}

#[test]
fn shared_layers_are_extracted_once_even_at_the_same_time() {
    let (_directory, store) = store();
    let base = archive(&[file("base", &[1; 1 << 16])]);
    let other = archive(&[file("other", b"x")]);
    let options = ImportOptions { no_unpack: true, ..ImportOptions::default() };
    for (name, layers) in [("a:1", vec![&base[..]]), ("b:1", vec![&base[..], &other[..]])] {
        import(&store, &docker_archive(&[name], &layers)[..], &options, &Progress::none()).unwrap();
    }
    let prepare = |name: &str| store.prepare(&store.get(&Reference::parse(name).unwrap()).unwrap().unwrap()).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || prepare(if number % 2 == 0 { "a:1" } else { "b:1" }))).collect();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(all.iter().all(|layers| layers.ids.last() == all[0].ids.last()));
    });
    let directories = crate::lease::file_names(&store.path("layers")).unwrap();
    assert_eq!(directories.len(), 3, "empty, the base, the other one: {directories:?}");
}

#[test]
fn missing_parts_are_named() {
    let (_directory, store) = store();
    let layer = archive(&[file("a", b"1")]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["one/layer.tar","two/layer.tar"]}]"#;
    let incomplete = archive(&[file("c.json", b"{}"), file("one/layer.tar", &layer), file("manifest.json", manifest)]);
    assert_eq!(
        run(&store, &incomplete).unwrap_err().to_string(),
        "image docker.io/library/a:1 is incomplete: the archive lacks two/layer.tar"
    );
    let text = run(&store, &oci_archive(serde_json::json!({}), &layer, &["layer"])).unwrap_err().to_string();
    assert!(text.contains(&format!("the archive lacks {}", Digest::of(&gzip(&layer)))), "{text}");
    assert!(matches!(run(&store, &archive(&[file("readme", b"")])).unwrap_err(), ImportError::NoImage));
    assert!(matches!(run(&store, b"this is no archive at all").unwrap_err(), ImportError::Archive(_) | ImportError::NoImage));
    assert!(store.names().unwrap().is_empty(), "nothing got a name");
}

#[test]
fn an_oci_archive_gives_its_names_in_several_ways() {
    let layer = archive(&[file("a", b"1")]);
    for (annotations, name, expected) in [
        (serde_json::json!({ "io.containerd.image.name": "docker.io/library/a:1" }), None, "docker.io/library/a:1"),
        (serde_json::json!({ "org.opencontainers.image.ref.name": "k.io/b:2" }), None, "k.io/b:2"),
        (serde_json::json!({ "org.opencontainers.image.ref.name": "busybox" }), None, "docker.io/library/busybox:latest"),
        (serde_json::json!({ "org.opencontainers.image.ref.name": "1.2" }), Some("k.io/c"), "k.io/c:1.2"),
        (serde_json::json!({}), Some("k.io/d:4"), "k.io/d:4"),
    ] {
        let (_directory, store) = store();
        let options = ImportOptions { name: name.map(|name: &str| Reference::parse(name).unwrap()), ..ImportOptions::default() };
        let imported = import(&store, &oci_archive(annotations, &layer, &[])[..], &options, &Progress::none()).unwrap();
        assert_eq!(names(&imported), [expected]);
    }
    let (_directory, store) = store();
    let error = run(&store, &oci_archive(serde_json::json!({ "org.opencontainers.image.ref.name": "latest" }), &layer, &[])).unwrap_err();
    assert!(matches!(error, ImportError::NoName(_)), "{error}");
}

#[test]
fn a_wrong_digest_is_refused() {
    let (_directory, store) = store();
    let layer = archive(&[file("a", b"1")]);
    let config = config(&[b"another layer"]);
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["layer.tar"]}]"#;
    let error = run(&store, &archive(&[file("c.json", &config), file("layer.tar", &layer), file("manifest.json", manifest)])).unwrap_err();
    assert!(matches!(error, ImportError::Store(StoreError::WrongDiffId { .. })), "{error:?}");
    assert!(store.names().unwrap().is_empty());
}
