use futures::{StreamExt, stream};
use http::Request;

use super::*;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::testing::{archive, config, file, store};

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["errors"][0]["code"].as_str().unwrap().to_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

struct Client {
    _directory: tempfile::TempDir,
    registry: Registry,
}

impl Client {
    fn new() -> Self {
        let (directory, store) = store();
        Self { _directory: directory, registry: Registry::new(store, RegistryConfig::default()) }
    }

    async fn send(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // In pieces, as it comes over a network.
        let pieces: Vec<Result<Bytes, String>> = body.chunks(1000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let response = self.registry.handle(request.body(stream::iter(pieces)).unwrap()).await;
        let (parts, body) = response.into_parts();
        let body = match body {
            Body::Full(bytes) => bytes.to_vec(),
            Body::Stream(pieces) => pieces.map(|piece| piece.unwrap().to_vec()).concat().await,
        };
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, &[], b"").await
    }

    async fn push_blob(&self, repository: &str, blob: &[u8]) -> Answer {
        let start = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"").await;
        assert_eq!(start.status, 202);
        let location = format!("{}?digest={}", start.header("location"), Digest::of(blob));
        self.send("PUT", &location, &[], blob).await
    }
}

fn manifest(layer: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let config = config(&[layer]);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": Digest::of(layer), "size": layer.len() }],
    });
    (serde_json::to_vec(&manifest).unwrap(), config)
}

const MANIFEST_TYPE: (&str, &str) = ("content-type", "application/vnd.oci.image.manifest.v1+json");

#[tokio::test]
async fn an_image_goes_in_and_comes_out() {
    let client = Client::new();
    let layer = archive(&[file("a", &[3; 5000])]);
    let (manifest, config) = manifest(&layer);
    assert_eq!(client.get("/v2/").await.status, 200);
    let early = client.send("PUT", "/v2/app/manifests/v1", &[MANIFEST_TYPE], &manifest).await;
    assert_eq!((early.status, early.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    for blob in [&layer, &config] {
        let answer = client.push_blob("app", blob).await;
        assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Digest::of(blob).as_str()));
    }
    let digest = Digest::of(&manifest);
    let put = client.send("PUT", "/v2/app/manifests/v1", &[MANIFEST_TYPE], &manifest).await;
    assert_eq!((put.status, put.header("docker-content-digest")), (201, digest.as_str()));
    for selector in ["v1", digest.as_str()] {
        let got = client.get(&format!("/v2/app/manifests/{selector}")).await;
        assert_eq!((got.status, got.header("content-type"), &got.body), (200, MANIFEST_TYPE.1, &manifest));
        let head = client.send("HEAD", &format!("/v2/app/manifests/{selector}"), &[], b"").await;
        assert_eq!((head.header("content-length"), head.body.len()), (manifest.len().to_string().as_str(), 0));
    }
    let image = client.registry.store.get(&Reference::parse("registry.cluster.local/app:v1").unwrap()).unwrap().unwrap();
    assert_eq!(image.target, digest, "nodes find it under the registry's own name");
    assert_eq!(client.get("/v2/app/blobs/latest").await.code(), "DIGEST_INVALID");
    let part = client.send("GET", &format!("/v2/app/blobs/{}", Digest::of(&layer)), &[("range", "bytes=512-515")], b"").await;
    assert_eq!(
        (part.status, part.header("content-range"), &part.body[..]),
        (206, format!("bytes 512-515/{}", layer.len()).as_str(), &[3; 4][..])
    );
    assert_eq!(client.get(&format!("/v2/app/blobs/{}", Digest::of(&layer))).await.body, layer);
}

#[tokio::test]
async fn mirrors_are_asked_with_the_namespace() {
    let client = Client::new();
    let layer = archive(&[file("a", b"1")]);
    let (manifest, config) = manifest(&layer);
    client.push_blob("x", &layer).await;
    client.push_blob("x", &config).await;
    assert_eq!(client.send("PUT", "/v2/registry.k8s.io/pause/manifests/3.10", &[MANIFEST_TYPE], &manifest).await.status, 201);
    assert_eq!(client.get("/v2/pause/manifests/3.10?ns=registry.k8s.io").await.body, manifest);
    assert_eq!(client.get("/v2/pause/manifests/3.10").await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/_catalog").await.json()["repositories"], serde_json::json!(["registry.k8s.io/pause"]));
    assert_eq!(client.get("/v2/_catalog?ns=registry.k8s.io").await.json()["repositories"], serde_json::json!(["pause"]));
}

#[tokio::test]
async fn chunks_come_in_order() {
    let client = Client::new();
    let blob: Vec<u8> = (0..9000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    let start = client.send("POST", "/v2/app/blobs/uploads/", &[], b"").await;
    let location = start.header("location").to_owned();
    let first = client.send("PATCH", &location, &[("content-range", "0-3999")], &blob[..4000]).await;
    assert_eq!((first.status, first.header("range")), (202, "0-3999"));
    let wrong = client.send("PATCH", &location, &[("content-range", "5000-5999")], &blob[5000..6000]).await;
    assert_eq!(wrong.status, 416);
    let status = client.get(&location).await;
    assert_eq!((status.status, status.header("range")), (204, "0-3999"));
    assert_eq!(client.send("PATCH", &location, &[("content-range", "4000-7999")], &blob[4000..8000]).await.status, 202);
    let done = client.send("PUT", &format!("{location}?digest={}", Digest::of(&blob)), &[], &blob[8000..]).await;
    assert_eq!(done.status, 201);
    assert_eq!(client.get(&format!("/v2/app/blobs/{}", Digest::of(&blob))).await.body, blob);
    assert_eq!(client.get(&location).await.code(), "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn wrong_uploads_leave_nothing() {
    let client = Client::new();
    let start = client.send("POST", "/v2/app/blobs/uploads/", &[], b"").await;
    let wrong = client.send("PUT", &format!("{}?digest={}", start.header("location"), Digest::of(b"other")), &[], b"this").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(client.send("HEAD", &format!("/v2/app/blobs/{}", Digest::of(b"this")), &[], b"").await.status, 404);
    assert_eq!(client.send("PUT", "/v2/app/blobs/uploads/..%2f..%2fnames?digest=x", &[], b"").await.status, 400);
    assert_eq!(client.send("DELETE", "/v2/app/blobs/uploads/upload-absent", &[], b"").await.status, 404);
    let cancelled = client.send("POST", "/v2/app/blobs/uploads/", &[], b"").await;
    assert_eq!(client.send("DELETE", cancelled.header("location"), &[], b"").await.status, 204);
    let names = crate::lease::file_names(&client.registry.store.path("uploads")).unwrap();
    assert_eq!(names.iter().filter(|name| name.starts_with("upload-")).count(), 0, "{names:?}");
}

#[tokio::test]
async fn blobs_are_mounted_and_sent_in_one_request() {
    let client = Client::new();
    let digest = Digest::of(b"blob");
    let whole = client.send("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), &[], b"blob").await;
    assert_eq!(whole.status, 201);
    let mounted = client.send("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], b"").await;
    assert_eq!((mounted.status, mounted.header("location")), (201, format!("/v2/b/blobs/{digest}").as_str()));
    let absent = client.send("POST", &format!("/v2/b/blobs/uploads/?mount={}&from=a", Digest::of(b"x")), &[], b"").await;
    assert_eq!(absent.status, 202, "a session instead");
    client.registry.store.gc(crate::clock::now()).unwrap();
    assert_eq!(client.get(&format!("/v2/b/blobs/{digest}")).await.body, b"blob", "it waits for its manifest");
    client.registry.store.gc(crate::clock::now() + 2 * crate::UPLOAD_GRACE).unwrap();
    assert_eq!(client.get(&format!("/v2/b/blobs/{digest}")).await.code(), "BLOB_UNKNOWN");
}

#[tokio::test]
async fn tags_are_listed_in_pages_and_deleted() {
    let client = Client::new();
    let layer = archive(&[file("a", b"1")]);
    let (manifest, config) = manifest(&layer);
    client.push_blob("app", &layer).await;
    client.push_blob("app", &config).await;
    for tag in ["c", "a", "b"] {
        client.send("PUT", &format!("/v2/app/manifests/{tag}"), &[MANIFEST_TYPE], &manifest).await;
    }
    assert_eq!(client.get("/v2/app/tags/list").await.json(), serde_json::json!({ "name": "app", "tags": ["a", "b", "c"] }));
    let page = client.get("/v2/app/tags/list?n=2").await;
    assert_eq!(
        (page.json()["tags"].clone(), page.header("link")),
        (serde_json::json!(["a", "b"]), "</v2/app/tags/list?n=2&last=b>; rel=\"next\"")
    );
    assert_eq!(client.get("/v2/app/tags/list?n=2&last=b").await.json()["tags"], serde_json::json!(["c"]));
    assert_eq!(client.send("DELETE", "/v2/app/manifests/a", &[], b"").await.status, 202);
    assert_eq!(client.get("/v2/app/tags/list").await.json()["tags"], serde_json::json!(["b", "c"]));
    assert_eq!(client.send("DELETE", &format!("/v2/app/manifests/{}", Digest::of(&manifest)), &[], b"").await.status, 202);
    assert_eq!(client.get("/v2/app/tags/list").await.code(), "NAME_UNKNOWN");
    assert_eq!(client.send("DELETE", "/v2/app/manifests/a", &[], b"").await.code(), "MANIFEST_UNKNOWN");
}

#[tokio::test]
async fn referrers_find_what_is_about_an_image() {
    let client = Client::new();
    client.push_blob("app", b"{}").await;
    let subject = Digest::of(b"an image that may come later");
    let signature = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE.1, "artifactType": "text/signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2 }, "layers": [],
        "subject": { "mediaType": MANIFEST_TYPE.1, "digest": subject, "size": 1 }, "annotations": { "by": "me" },
    }))
    .unwrap();
    let digest = Digest::of(&signature);
    let put = client.send("PUT", &format!("/v2/app/manifests/{digest}"), &[MANIFEST_TYPE], &signature).await;
    assert_eq!((put.status, put.header("oci-subject")), (201, subject.as_str()));
    let found = client.get(&format!("/v2/app/referrers/{subject}")).await.json();
    assert_eq!(found["manifests"][0]["digest"], digest.as_str());
    assert_eq!(
        (&found["manifests"][0]["artifactType"], &found["manifests"][0]["annotations"]["by"]),
        (&"text/signature".into(), &"me".into())
    );
    let none = client.get(&format!("/v2/app/referrers/{subject}?artifactType=other")).await;
    assert_eq!((none.header("oci-filters-applied"), none.json()["manifests"].as_array().unwrap().len()), ("artifactType", 0));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_the_protocols_words() {
    let client = Client::new();
    for (method, uri, body, status, code) in [
        ("GET", "/v2/App/manifests/v1", &b""[..], 400, "NAME_INVALID"),
        ("GET", "/v2/app/manifests/v1", b"", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/app/manifests/v1", b"not json", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/app/manifests/v1", b"{}", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/app/manifests/-bad", b"{}", 400, "TAG_INVALID"),
        ("DELETE", "/v2/app/blobs/sha256:00", b"", 405, "UNSUPPORTED"),
        ("POST", "/v2/app/manifests/v1", b"", 405, "UNSUPPORTED"),
        ("GET", "/v2/app/what/v1", b"", 404, "UNSUPPORTED"),
        ("GET", "/v2/app/tags/list?n=x", b"", 404, "NAME_UNKNOWN"),
    ] {
        let answer = client.send(method, uri, &[], body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {uri}");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }
    let large = vec![b' '; usize::try_from(crate::MANIFEST_BYTES_MAX).unwrap() + 1];
    assert_eq!(client.send("PUT", "/v2/app/manifests/v1", &[], &large).await.status, 413);
}
