//! Uploads of blobs: one request, or a session of chunks. A session is a file, so that any process on the machine can go on with it, also after
//! a restart. Spec: distribution-spec, "Pushing Blobs".

use std::fs;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::{CONTENT_RANGE, HeaderMap, HeaderName, LOCATION, RANGE};
use http::{Response, StatusCode};
use tokio::io::AsyncWriteExt;

use super::response::{DOCKER_CONTENT_DIGEST, Refusal, empty, set};
use super::route::{Query, Repository};
use super::{Body, Registry, blocking};
use crate::digest::{Digest, Hashing};
use crate::error::{IoContext, StoreError};
use crate::store::Store;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Registry {
    /// `POST`: mounts a blob that is here, takes it whole, or opens a session.
    pub(super) async fn start_upload<B, E>(&self, repository: &Repository, query: &Query, body: B) -> Result<Response<Body>, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        if let Some(text) = query.get("mount")
            && let Some(digest) = super::route::digest(text)
        {
            let store = self.store.clone();
            let wanted = digest.clone();
            // All repositories share one store, so a blob that is here is in this repository too.
            if blocking(move || keep(&store, &wanted)).await? {
                return Ok(created(repository, &digest));
            }
        }
        let store = self.store.clone();
        let id = blocking(move || new_session(&store)).await?;
        if let Some(text) = query.get("digest") {
            let digest = super::route::digest(text).ok_or_else(|| Refusal::digest_invalid(text))?;
            self.append(&id, None, body).await?;
            return self.complete(repository, &id, digest).await;
        }
        Ok(accepted(repository, &id, 0))
    }

    /// `PATCH`: one more chunk.
    pub(super) async fn upload_chunk<B, E>(
        &self,
        repository: &Repository,
        id: &str,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let size = self.append(id, chunk_start(headers)?, body).await?;
        Ok(accepted(repository, id, size))
    }

    /// `PUT`: the last chunk, which may be empty, and the digest of all.
    pub(super) async fn finish_upload<B, E>(
        &self,
        repository: &Repository,
        id: &str,
        query: &Query,
        headers: &HeaderMap,
        body: B,
    ) -> Result<Response<Body>, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let text = query.get("digest").unwrap_or("");
        let digest = super::route::digest(text).ok_or_else(|| Refusal::digest_invalid(text))?;
        self.append(id, chunk_start(headers)?, body).await?;
        self.complete(repository, id, digest).await
    }

    /// `GET`: how far it is.
    pub(super) fn upload_status(&self, repository: &Repository, id: &str) -> Result<Response<Body>, Refusal> {
        let size = fs::metadata(self.session_path(id)?).map_err(|_absent| Refusal::upload_unknown())?.len();
        let mut response = accepted(repository, id, size);
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().remove(http::header::CONTENT_LENGTH);
        Ok(response)
    }

    /// `DELETE`: gives it up.
    pub(super) fn cancel_upload(&self, id: &str) -> Result<Response<Body>, Refusal> {
        fs::remove_file(self.session_path(id)?).map_err(|_absent| Refusal::upload_unknown())?;
        Ok(empty(StatusCode::NO_CONTENT))
    }

    /// Writes the body to the session's end and returns its new size. Not synced: the session may be lost with the machine, the blob may not.
    async fn append<B, E>(&self, id: &str, start: Option<u64>, mut body: B) -> Result<u64, Refusal>
    where
        B: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let path = self.session_path(id)?;
        let file = fs::OpenOptions::new().append(true).open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Refusal::upload_unknown(),
            _ => Refusal::internal(&error),
        })?;
        if file.try_lock().is_err() {
            return Err(Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "another chunk of this upload is being received"));
        }
        let mut size = file.metadata().map_err(|error| Refusal::internal(&error))?.len();
        if let Some(start) = start.filter(|start| *start != size) {
            let message = format!("the chunk begins at {start}, but {size} bytes have been received");
            return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message));
        }
        let mut file = tokio::fs::File::from_std(file);
        while let Some(chunk) = body.next().await {
            let chunk = chunk
                .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", format!("the body broke off: {error}")))?;
            file.write_all(&chunk).await.map_err(|error| Refusal::internal(&error))?;
            size += chunk.len() as u64;
        }
        file.flush().await.map_err(|error| Refusal::internal(&error))?;
        Ok(size)
    }

    /// Checks the session's content, makes it durable and a blob.
    async fn complete(&self, repository: &Repository, id: &str, digest: Digest) -> Result<Response<Body>, Refusal> {
        let path = self.session_path(id)?;
        let store = self.store.clone();
        let wanted = digest.clone();
        let found = blocking(move || {
            let file = fs::File::open(&path).during("open", &path)?;
            let mut reader = Hashing::new(io::BufReader::with_capacity(1 << 18, file));
            io::copy(&mut reader, &mut io::sink()).during("read", &path)?;
            let (found, _, reader) = reader.finish();
            if found != wanted {
                fs::remove_file(&path).during("remove", &path)?;
                return Ok(false);
            }
            reader.into_inner().sync_all().during("sync", &path)?;
            let lease = store.lease()?;
            mark_fresh(&store, &wanted)?;
            store.adopt(&path, &wanted, &lease)?;
            Ok(true)
        })
        .await?;
        if found { Ok(created(repository, &digest)) } else { Err(Refusal::digest_invalid(digest.as_str())) }
    }

    fn session_path(&self, id: &str) -> Result<PathBuf, Refusal> {
        let valid = id.starts_with("upload-") && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if valid { Ok(self.store.path("uploads").join(id)) } else { Err(Refusal::upload_unknown()) }
    }
}

/// Whether the blob is here; if so, it waits for its manifest as if it had just been sent.
fn keep(store: &Store, digest: &Digest) -> Result<bool, StoreError> {
    let lease = store.lease()?;
    lease.protect(digest)?;
    let present = store.has_blob(digest, None);
    if present {
        mark_fresh(store, digest)?;
    }
    Ok(present)
}

/// Keeps a blob from garbage collection until its manifest comes, for `UPLOAD_GRACE` at most.
fn mark_fresh(store: &Store, digest: &Digest) -> Result<(), StoreError> {
    let directory = store.path("uploads/fresh");
    fs::create_dir_all(&directory).during("create", &directory)?;
    let path = directory.join(digest.hex());
    fs::write(&path, b"").during("create", &path)
}

/// A client that asks whether a blob is here will not send it: then it must stay as well.
pub(super) fn mark_seen(store: &Store, digest: &Digest) {
    if let Err(error) = mark_fresh(store, digest) {
        tracing::warn!(image = %digest, error = crate::error::chain(&error), "Could not keep a blob for a push");
    }
}

fn new_session(store: &Store) -> Result<String, StoreError> {
    let directory = store.path("uploads");
    let file = tempfile::Builder::new().prefix("upload-").rand_bytes(20).tempfile_in(&directory).during("create a file in", &directory)?;
    let (_, path) = file.keep().map_err(|error| error.error).during("keep a file in", &directory)?;
    Ok(path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Where `Content-Range: 0-99` says that the chunk begins.
fn chunk_start(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(CONTENT_RANGE) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let text = text.strip_prefix("bytes ").unwrap_or(text);
    let start = text.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    start
        .map(Some)
        .ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", format!("Content-Range {text:?} is not START-END")))
}

fn accepted(repository: &Repository, id: &str, size: u64) -> Response<Body> {
    let mut response = empty(StatusCode::ACCEPTED);
    set(&mut response, LOCATION, &repository.location(&format!("blobs/uploads/{id}")));
    set(&mut response, RANGE, &format!("0-{}", size.saturating_sub(1)));
    set(&mut response, UPLOAD_ID, id);
    response
}

fn created(repository: &Repository, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, LOCATION, &repository.location(&format!("blobs/{digest}")));
    set(&mut response, DOCKER_CONTENT_DIGEST, digest.as_str());
    response
}
