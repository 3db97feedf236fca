//! Manifests and blobs: reading, storing, deleting. Spec: distribution-spec, "Pulling", "Pushing Manifests", "Content Management".

use std::io::SeekFrom;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, LOCATION, RANGE};
use http::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::response::{DOCKER_CONTENT_DIGEST, Refusal, empty, full, set};
use super::route::Repository;
use super::{Body, Registry, blocking};
use crate::MANIFEST_BYTES_MAX;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::image::{is_index, media_type_of};
use crate::store::Store;

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The size of the pieces a blob is sent in.
const PIECE_BYTES: usize = 128 << 10;

impl Registry {
    /// `GET` and `HEAD` of a manifest.
    pub(super) async fn manifest(&self, repository: &Repository, selector: &str, head: bool) -> Result<Response<Body>, Refusal> {
        let name = repository.image(selector).ok_or_else(|| Refusal::manifest_unknown(selector))?;
        let store = self.store.clone();
        let text = name.to_string();
        let found = blocking(move || {
            let digest = match name.digest() {
                Some(digest) => digest.clone(),
                None => match store.name(&name)? {
                    Some(record) => record.digest,
                    None => return Ok(None),
                },
            };
            if !store.has_blob(&digest, None) {
                return Ok(None);
            }
            let bytes = store.read_blob(&digest)?;
            Ok(media_type_of(&bytes, &digest).ok().map(|media_type| (digest, media_type, bytes)))
        })
        .await?;
        let Some((digest, media_type, bytes)) = found else { return Err(Refusal::manifest_unknown(&text)) };
        let length = bytes.len();
        let mut response = full(StatusCode::OK, &media_type, if head { Bytes::new() } else { bytes.into() });
        set(&mut response, CONTENT_LENGTH, &length.to_string());
        set(&mut response, DOCKER_CONTENT_DIGEST, digest.as_str());
        set(&mut response, ETAG, &format!("\"{digest}\""));
        Ok(response)
    }

    /// `PUT` of a manifest: it gets its name only when all it needs is here.
    pub(super) async fn put_manifest<B, E>(
        &self,
        repository: &Repository,
        selector: &str,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let name = repository.image(selector).ok_or_else(|| match selector.contains(':') {
            true => Refusal::digest_invalid(selector),
            false => Refusal::new(StatusCode::BAD_REQUEST, "TAG_INVALID", format!("invalid tag {selector:?}")),
        })?;
        let bytes = read_manifest(body).await?;
        let digest = Digest::of(&bytes);
        if name.digest().is_some_and(|wanted| *wanted != digest) {
            return Err(Refusal::digest_invalid(selector));
        }
        let manifest: Value = serde_json::from_slice(&bytes).map_err(|error| Refusal::manifest_invalid(error.to_string()))?;
        let media_type = media_type_of(&bytes, &digest)?;
        let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if let (Some(declared), Some(inner)) = (declared, manifest.get("mediaType").and_then(Value::as_str))
            && declared.split(';').next().map(str::trim) != Some(inner)
        {
            return Err(Refusal::manifest_invalid(format!("the request says {declared}, the manifest {inner}")));
        }
        let subject = manifest.pointer("/subject/digest").and_then(Value::as_str).and_then(|text| text.parse::<Digest>().ok());
        let store = self.store.clone();
        let (stored, referrer, target) = (bytes, subject.clone(), digest.clone());
        blocking(move || {
            let lease = store.lease()?;
            lease.protect(&target)?;
            if let Some(missing) = missing_content(&store, &manifest, is_index(&media_type)) {
                return Err(StoreError::MissingBlob { digest: missing });
            }
            store.write_blob(&stored, &lease)?;
            store.set_name(&name, &target, &lease)?;
            if let Some(subject) = referrer {
                store.add_referrer(&subject, &target)?;
            }
            Ok(())
        })
        .await
        .map_err(|refusal| match refusal.code {
            "BLOB_UNKNOWN" => Refusal { code: "MANIFEST_BLOB_UNKNOWN", ..refusal },
            _ => refusal,
        })?;
        let mut response = empty(StatusCode::CREATED);
        set(&mut response, LOCATION, &repository.location(&format!("manifests/{digest}")));
        set(&mut response, DOCKER_CONTENT_DIGEST, digest.as_str());
        if let Some(subject) = subject {
            set(&mut response, OCI_SUBJECT, subject.as_str());
        }
        Ok(response)
    }

    /// `DELETE`: a tag alone, or with a digest every name of this repository that leads there.
    pub(super) async fn delete_manifest(&self, repository: &Repository, selector: &str) -> Result<Response<Body>, Refusal> {
        let name = repository.image(selector).ok_or_else(|| Refusal::manifest_unknown(selector))?;
        let store = self.store.clone();
        let text = name.to_string();
        let deleted = blocking(move || {
            let Some(digest) = name.digest() else { return store.untag(&name) };
            let mut found = false;
            for record in store.names()? {
                if record.digest == *digest && record.name.repository() == name.repository() {
                    found |= store.untag(&record.name)?;
                }
            }
            Ok(found)
        })
        .await?;
        if deleted { Ok(empty(StatusCode::ACCEPTED)) } else { Err(Refusal::manifest_unknown(&text)) }
    }

    /// `GET` and `HEAD` of a blob, whole or a range of it.
    pub(super) async fn blob(&self, text: &str, method: &Method, headers: &HeaderMap) -> Result<Response<Body>, Refusal> {
        let digest = super::route::digest(text).ok_or_else(|| Refusal::digest_invalid(text))?;
        let store = self.store.clone();
        let wanted = digest.clone();
        let head = *method == Method::HEAD;
        let file = blocking(move || {
            let file = store.open_blob(&wanted)?;
            if head {
                super::uploads::mark_seen(&store, &wanted);
            }
            Ok(file)
        })
        .await?;
        let size = file.metadata().map_err(|error| Refusal::internal(&error))?.len();
        let range = headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(|text| byte_range(text, size));
        let (start, length, status) = match range {
            None => (0, size, StatusCode::OK),
            Some(Ok((start, end))) => (start, end - start + 1, StatusCode::PARTIAL_CONTENT),
            Some(Err(())) => {
                let message = format!("the blob has {size} bytes");
                let mut response = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", message).into_response();
                set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(response);
            }
        };
        let mut response = empty(status);
        if status == StatusCode::PARTIAL_CONTENT {
            set(&mut response, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", start + length - 1));
        }
        set(&mut response, CONTENT_LENGTH, &length.to_string());
        set(&mut response, CONTENT_TYPE, "application/octet-stream");
        set(&mut response, ACCEPT_RANGES, "bytes");
        set(&mut response, DOCKER_CONTENT_DIGEST, digest.as_str());
        set(&mut response, ETAG, &format!("\"{digest}\""));
        if !head {
            let mut file = tokio::fs::File::from_std(file);
            file.seek(SeekFrom::Start(start)).await.map_err(|error| Refusal::internal(&error))?;
            let stream = tokio_util::io::ReaderStream::with_capacity(file.take(length), PIECE_BYTES);
            *response.body_mut() = Body::Stream(Box::pin(stream));
        }
        Ok(response)
    }
}

/// The first thing a manifest names that is not here. Layers with addresses of their own may be elsewhere; an index needs one of its manifests.
fn missing_content(store: &Store, manifest: &Value, index: bool) -> Option<Digest> {
    let digest = |descriptor: &Value| descriptor.get("digest").and_then(Value::as_str).and_then(|text| text.parse::<Digest>().ok());
    let list = |name: &str| manifest.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    if index {
        let children: Vec<Digest> = list("manifests").iter().filter_map(digest).collect();
        return match children.iter().any(|child| store.has_blob(child, None)) {
            true => None,
            false => children.into_iter().next(),
        };
    }
    let layers = list("layers").into_iter().chain(list("blobs")).filter(|layer| layer.get("urls").is_none());
    manifest
        .get("config")
        .cloned()
        .into_iter()
        .chain(layers)
        .filter_map(|descriptor| digest(&descriptor))
        .find(|digest| !store.has_blob(digest, None))
}

async fn read_manifest<B, E>(mut body: B) -> Result<Vec<u8>, Refusal>
where
    B: Stream<Item = Result<Bytes, E>> + Unpin,
    E: std::fmt::Display,
{
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Refusal::manifest_invalid(format!("the body broke off: {error}")))?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let message = format!("a manifest may have {MANIFEST_BYTES_MAX} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", message));
        }
    }
    Ok(bytes)
}

/// First and last byte of `bytes=A-B`, `bytes=A-` or `bytes=-N`; an error if nothing of it exists, `None` if it is to be ignored.
fn byte_range(text: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    if end.contains(',') {
        return None;
    }
    let last = size.checked_sub(1);
    let (start, end) = match (start, end) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), u64::MAX),
        (start, "") => (start.parse().ok()?, u64::MAX),
        (start, end) => (start.parse().ok()?, end.parse().ok()?),
    };
    if start > end {
        return None;
    }
    Some(match last {
        Some(last) if start <= last => Ok((start, end.min(last))),
        _ => Err(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_follow_the_rules_of_http() {
        assert_eq!(byte_range("bytes=0-9", 100), Some(Ok((0, 9))));
        assert_eq!(byte_range("bytes=90-", 100), Some(Ok((90, 99))));
        assert_eq!(byte_range("bytes=90-1000", 100), Some(Ok((90, 99))));
        assert_eq!(byte_range("bytes=-5", 100), Some(Ok((95, 99))));
        assert_eq!(byte_range("bytes=100-", 100), Some(Err(())));
        assert_eq!(byte_range("bytes=0-0", 0), Some(Err(())));
        assert_eq!(byte_range("bytes=9-3", 100), None);
        assert_eq!(byte_range("bytes=0-1,3-4", 100), None);
        assert_eq!(byte_range("items=0-1", 100), None);
    }
}
