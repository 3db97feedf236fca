use std::time::Duration;

use super::*;
use crate::lease::Pin;
use crate::reference::Reference;
use crate::testing::{archive, file, store, store_with};

fn later() -> std::time::SystemTime {
    crate::clock::now() + Duration::from_secs(30 * 24 * 3600)
}

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

#[test]
fn images_are_found_by_every_spelling() {
    let (_directory, store) = store_with("busybox:1.36", &[&archive(&[file("a", b"1")])]);
    let image = store.get(&name("busybox:1.36")).unwrap().unwrap();
    for text in [
        "busybox:1.36",
        "docker.io/library/busybox:1.36",
        image.id.as_str(),
        &image.id.hex()[..12],
        image.target.as_str(),
        &image.image_id(),
    ] {
        assert_eq!(store.find(text).unwrap().unwrap().id, image.id, "{text}");
    }
    assert!(store.find("busybox:1.37").unwrap().is_none());
    assert!(store.find(&"0".repeat(64)).unwrap().is_none());
    assert!(store.find("UPPER").is_err());
}

#[test]
fn names_come_and_go_one_by_one() {
    let (_directory, store) = store_with("a:1", &[&archive(&[file("a", b"1")])]);
    let image = store.find("a:1").unwrap().unwrap();
    store.tag(&image, &name("b:2")).unwrap();
    assert_eq!(store.list().unwrap().len(), 1, "one image, two names");
    assert_eq!(store.find("a:1").unwrap().unwrap().names, [name("a:1"), name("b:2")]);
    let removed = store.remove("a:1").unwrap().unwrap();
    assert_eq!((removed.untagged, removed.deleted.len()), (vec!["docker.io/library/a:1".to_owned()], 0));
    let removed = store.remove("b:2").unwrap().unwrap();
    assert_eq!(removed.deleted, std::slice::from_ref(&image.target));
    assert!(store.remove("b:2").unwrap().is_none());
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn collection_takes_what_nothing_needs() {
    let layer = archive(&[file("a", &[5; 10_000])]);
    let (_directory, store) = store_with("a:1", &[&layer]);
    let image = store.find("a:1").unwrap().unwrap();
    let layers = store.prepare(&image).unwrap();
    assert_eq!(store.gc(later()).unwrap(), crate::gc::Collected::default(), "a named image stays");
    store.pin(&Pin { owner: "n1".into(), id: "c1".into(), manifest: image.manifest.clone() }).unwrap();
    assert_eq!(store.remove("a:1").unwrap().unwrap().in_use, std::slice::from_ref(&image.target));
    store.gc(later()).unwrap();
    assert!(layers.lowerdirs()[0].join("a").exists(), "a container uses it");
    store.unpin("n1", "c1").unwrap();
    let lease = store.lease().unwrap();
    lease.protect(&image.manifest).unwrap();
    assert_eq!(store.gc(later()).unwrap().blobs, 0, "an operation uses it");
    drop(lease);
    let collected = store.gc(later()).unwrap();
    assert_eq!((collected.blobs, collected.layers), (3, 1), "layer, configuration, manifest; one directory");
    assert!(collected.freed_bytes >= 20_000);
    assert!(!layers.lowerdirs()[0].exists() && layers.base.join("empty").exists());
    assert_eq!(store.gc(later()).unwrap(), crate::gc::Collected::default());
}

#[test]
fn interrupted_operations_leave_nothing_that_matters() {
    let (_directory, store) = store_with("a:1", &[&archive(&[file("a", b"1")])]);
    // As after a kill: a half written blob, a half extracted layer, the lease of a dead process.
    fs::write(store.path("ingest/blob-dead"), b"half").unwrap();
    fs::create_dir(store.path("layers/deadlayer")).unwrap();
    fs::write(store.path("leases/lease-dead"), b"layer:deadlayer\n").unwrap();
    assert!(store.prepare(&store.find("a:1").unwrap().unwrap()).is_ok());
    let collected = store.gc(later()).unwrap();
    assert_eq!((collected.blobs, collected.layers), (0, 1));
    for path in ["ingest/blob-dead", "layers/deadlayer", "leases/lease-dead"] {
        assert!(!store.path(path).exists(), "{path}");
    }
    assert!(store.find("a:1").unwrap().is_some());
}

#[test]
fn a_corrupt_layer_is_named_and_removed() {
    let layer = archive(&[file("a", &[7; 4000])]);
    let (_directory, store) = store_with("a:1", &[&layer]);
    let image = store.find("a:1").unwrap().unwrap();
    let path = store.blob_path(&image.layers[0].digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = store.prepare(&image).unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { expected, .. } if *expected == image.layers[0].digest), "{error:?}");
    assert!(matches!(store.prepare(&image).unwrap_err(), StoreError::MissingBlob { .. }), "so that it is fetched again");
    assert_eq!(crate::lease::file_names(&store.path("layers")).unwrap(), ["empty"]);
}

#[test]
fn a_wrong_blob_is_not_kept() {
    let (_directory, store) = store();
    let lease = store.lease().unwrap();
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(b"bytes").unwrap();
    assert!(matches!(ingest.commit(Some(&Digest::of(b"other")), &lease), Err(StoreError::Corrupt { .. })));
    assert!(!store.has_blob(&Digest::of(b"bytes"), None));
    assert_eq!(crate::lease::file_names(&store.path("ingest")).unwrap(), Vec::<String>::new());
}

#[test]
fn pins_have_safe_names() {
    let (_directory, store) = store();
    for (owner, id) in [("..", "x"), ("n", "../x"), ("", "x"), ("n", ""), ("n", ".x")] {
        let pin = Pin { owner: owner.into(), id: id.into(), manifest: Digest::of(b"") };
        assert!(matches!(store.pin(&pin), Err(StoreError::PinName { .. })), "{owner:?} {id:?}");
    }
}

#[test]
fn several_handles_share_one_directory() {
    let (directory, store) = store_with("a:1", &[&archive(&[file("a", b"1")])]);
    let other = Store::open(directory.path()).unwrap();
    let image = other.find("a:1").unwrap().unwrap();
    assert_eq!(other.prepare(&image).unwrap(), store.prepare(&image).unwrap());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (store, other, image) = (&store, &other, &image);
            scope.spawn(move || {
                let store = if number % 2 == 0 { store } else { other };
                for round in 0..5 {
                    store.tag(image, &name(&format!("t{number}:{round}"))).unwrap();
                    store.gc(crate::clock::now()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.find("a:1").unwrap().unwrap().names.len(), 41);
}
