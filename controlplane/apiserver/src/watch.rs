//! Watches: every change after a revision, in order, once; shared bytes for all who read the same form.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use rand::RngExt as _;
use serde_json::{Value, json};
use trierarch_api::{ApiError, Kind, Object, ObjectKey, Path, Problems, Reason, Snapshot as _, protobuf};
use trierarch_raft::{Event, EventKind, WatchError, Watcher};

use crate::apiserver::{ApiServer, StoreSnapshot, object_of};
use crate::clock::{self, Deadline};
use crate::dispatch::{Admitted, Answer, Body};
use crate::list::Selection;
use crate::negotiate::{Encoding, Form};
use crate::pipeline::encode;
use crate::read;
use crate::table::{self, Include};

/// The media type of a watch whose events are protobuf.
const PROTOBUF_STREAM: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
const SECONDS_MIN: u64 = 1800;
/// As many initial events go into one piece of the stream.
const PIECE_BYTES: usize = 64 * 1024;

/// What a client hears of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It came into view.
    Added,
    /// It changed.
    Modified,
    /// It went out of view.
    Deleted,
}

impl Told {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Decides what a watcher hears when an object that it saw (`before`) is now one that it sees (`after`).
pub fn transition(kind: EventKind, before: Option<bool>, after: bool) -> Option<Told> {
    match (kind, before.unwrap_or(false), after) {
        (EventKind::Put, false, true) => Some(Told::Added),
        (EventKind::Put, true, true) => Some(Told::Modified),
        (EventKind::Put, true, false) => Some(Told::Deleted),
        (EventKind::Put, false, false) => None,
        (EventKind::Delete, before, after) => (before || after).then_some(Told::Deleted),
    }
}

/// Answers a watch with a stream that ends by itself.
pub(crate) async fn request(admitted: &Admitted<'_>, kind: &Arc<Kind>) -> Result<Answer, ApiError> {
    let (encoding, pieces) = start(admitted, kind, true).await?;
    let stream = pieces.map(Ok).boxed();
    let content_type = match encoding {
        Encoding::Protobuf => PROTOBUF_STREAM,
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    Ok(Answer {
        code: 200,
        headers: vec![("content-type".to_owned(), content_type.to_owned()), ("cache-control".to_owned(), "no-cache, private".to_owned())],
        body: Body::Stream(stream),
    })
}

/// The events of a watch: JSON, each ended by a line feed, or (if `may_be_binary`) protobuf, each begun by its length. Several may come in
/// one piece.
pub(crate) async fn start(
    admitted: &Admitted<'_>,
    kind: &Arc<Kind>,
    may_be_binary: bool,
) -> Result<(Encoding, BoxStream<'static, Bytes>), ApiError> {
    let chosen = admitted.choose(true)?;
    if chosen.encoding == Encoding::Yaml || (chosen.encoding == Encoding::Protobuf && !may_be_binary) {
        return Err(crate::negotiate::not_acceptable());
    }
    let options = admitted.options;
    let selection = Selection::parse(options, kind)?;
    let include = Include::parse(options)?;
    let bookmarks = options.flag("allowWatchBookmarks");
    let initial = options.maybe_flag("sendInitialEvents");
    let version = options.text("resourceVersion");
    check_initial(initial, options.text("resourceVersionMatch"))?;
    let seconds = match options.integer("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => u64::try_from(seconds).unwrap_or(SECONDS_MIN),
        _ => rand::rng().random_range(SECONDS_MIN..SECONDS_MIN * 2),
    };
    let namespace = Some(admitted.info.namespace.as_str()).filter(|namespace| !namespace.is_empty() && kind.namespaced_scope());
    let name = Some(admitted.info.name.as_str()).filter(|name| !name.is_empty()).or(selection.name()).map(str::to_owned);
    let prefix = match (&name, namespace, kind.namespaced_scope()) {
        (Some(name), Some(namespace), true) => ObjectKey::new(kind.storage(), namespace, name).to_bytes(),
        (Some(name), _, false) => ObjectKey::new(kind.storage(), "", name).to_bytes(),
        _ => ObjectKey::prefix(&kind.storage(), namespace),
    };
    let mut watch = Watch {
        server: Arc::clone(admitted.server),
        kind: Arc::clone(kind),
        selection,
        name,
        form: chosen.form,
        encoding: chosen.encoding,
        include,
        bookmarks,
        headers_sent: false,
        until: Deadline::after(Duration::from_secs(seconds)),
        next_bookmark: Deadline::after(BOOKMARK_EVERY),
        watcher: None,
        queue: VecDeque::new(),
        ended: false,
        sent: 0,
    };
    match watch.begin(admitted, &prefix, version, initial).await {
        Ok(()) => {}
        // like every later failure it travels in the stream
        Err(error) if matches!(error.reason, Reason::Expired | Reason::Timeout) => watch.fail(&error),
        Err(error) => return Err(error),
    }
    let pieces = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|piece| (piece, watch)) });
    Ok((chosen.encoding, pieces.boxed()))
}

fn check_initial(initial: Option<bool>, matching: &str) -> Result<(), ApiError> {
    let path = Path::new("resourceVersionMatch");
    let mut problems = Problems::default();
    match (initial, matching) {
        (Some(_), "NotOlderThan") | (None, "") => return Ok(()),
        (Some(_), _) => {
            problems.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            if !matching.is_empty() {
                problems.not_supported(&path, matching, &["NotOlderThan"]);
            }
        }
        (None, _) => problems.forbidden(&path, "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"),
    }
    Err(crate::pipeline::invalid_options("watch", &problems))
}

struct Watch {
    server: Arc<ApiServer>,
    kind: Arc<Kind>,
    selection: Selection,
    name: Option<String>,
    form: Form,
    encoding: Encoding,
    include: Include,
    bookmarks: bool,
    headers_sent: bool,
    until: Deadline,
    next_bookmark: Deadline,
    watcher: Option<Watcher>,
    queue: VecDeque<Bytes>,
    ended: bool,
    sent: u64,
}

impl Watch {
    async fn begin(&mut self, admitted: &Admitted<'_>, prefix: &Bytes, version: &str, initial: Option<bool>) -> Result<(), ApiError> {
        let from = match version {
            "" | "0" => None,
            stated => Some(read::parse_version(stated)?),
        };
        let snapshot = match from {
            Some(revision) => read::at_least(admitted, revision).await?,
            None if version == "0" && initial != Some(true) => self.server.snapshot(),
            None => self.server.fresh_snapshot(admitted.deadline).await?,
        };
        let synthetic = initial.unwrap_or(from.is_none());
        let after = match (from, synthetic) {
            (Some(revision), false) => revision,
            _ => snapshot.revision(),
        };
        if synthetic {
            self.initial(&snapshot, prefix);
        }
        if initial == Some(true) && self.bookmarks {
            let piece = self.bookmark(snapshot.revision(), true);
            self.queue.push_back(piece);
        }
        self.sent = after;
        self.watcher = Some(self.server.store.watch(prefix, after).await.map_err(|error| watch_error(&error))?);
        Ok(())
    }

    fn initial(&mut self, snapshot: &StoreSnapshot, prefix: &Bytes) {
        let mut piece = BytesMut::new();
        for record in snapshot.view.range(prefix, None) {
            if let Some(object) = snapshot.object(record).filter(|object| self.sees(object)) {
                let line = self.line(Told::Added, &object, object.resource_version);
                piece.put_slice(&line);
                if piece.len() >= PIECE_BYTES {
                    self.queue.push_back(piece.split().freeze());
                }
            }
        }
        if !piece.is_empty() {
            self.queue.push_back(piece.freeze());
        }
    }

    fn sees(&self, object: &Object) -> bool {
        self.name.as_ref().is_none_or(|name| *name == object.name) && self.selection.matches(object)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.queue.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            let stopping = self.server.stopping.clone();
            let watcher = self.watcher.as_mut()?;
            let wait = if self.bookmarks { self.until.left().min(self.next_bookmark.left()) } else { self.until.left() };
            tokio::select! {
                events = watcher.next() => match events {
                    Ok(events) => self.take(&events),
                    Err(error) => self.fail(&watch_error(&error)),
                },
                () = tokio::time::sleep(wait) => self.tick(),
                () = stopping.cancelled() => self.ended = true,
            }
        }
    }

    fn tick(&mut self) {
        let progress = self.watcher.as_ref().map_or(0, Watcher::progress);
        if self.bookmarks {
            let piece = self.bookmark(progress.max(self.sent), false);
            self.queue.push_back(piece);
            self.next_bookmark = Deadline::after(BOOKMARK_EVERY);
        }
        self.ended = self.until.passed();
    }

    fn take(&mut self, events: &[Arc<Event>]) {
        let mut piece = BytesMut::new();
        for event in events {
            self.sent = self.sent.max(event.revision);
            if let Some(line) = self.told(event) {
                piece.put_slice(&line);
            }
        }
        if !piece.is_empty() {
            self.queue.push_back(piece.freeze());
        }
    }

    fn told(&mut self, event: &Event) -> Option<Bytes> {
        let registry = &self.server.registry;
        let object = object_of(registry, &event.record)?;
        let previous = event.previous.as_ref().and_then(|record| object_of(registry, record));
        let before = previous.as_ref().map(|object| self.sees(object));
        let told = transition(event.kind, before, self.sees(&object))?;
        // what goes out of view is shown as it was last seen
        let shown = match (told, event.kind, previous) {
            (Told::Deleted, EventKind::Put, Some(previous)) => previous,
            _ => object,
        };
        let form = match self.form {
            Form::Object => 0,
            Form::Metadata => 1,
            Form::Table => return Some(self.line(told, &shown, event.revision)),
        };
        let id =
            form | (told as u32) << 2 | u32::from(self.kind.stored_as.is_some()) << 4 | u32::from(self.encoding == Encoding::Protobuf) << 5;
        if let Some((_, line)) = event.encoded.lock().iter().find(|(known, _)| *known == id) {
            return Some(line.clone());
        }
        let line = self.line(told, &shown, event.revision);
        event.encoded.lock().push((id, line.clone()));
        Some(line)
    }

    fn line(&mut self, told: Told, object: &Object, revision: u64) -> Bytes {
        if self.encoding == Encoding::Protobuf {
            let value = match self.form {
                Form::Object if revision == object.resource_version => encode::shared_value(object, &self.kind),
                Form::Object => Arc::new(at_revision(encode::value_of(object, &self.kind), revision)),
                // a Table has no protobuf form and is never chosen
                Form::Metadata | Form::Table => Arc::new(at_revision(encode::partial(object), revision)),
            };
            return self.frame(told.as_str(), &value);
        }
        let mut out = BytesMut::with_capacity(1024);
        out.put_slice(format!("{{\"type\":\"{}\",\"object\":", told.as_str()).as_bytes());
        match self.form {
            Form::Object if revision == object.resource_version => encode::append_json(object, &self.kind, &mut out),
            Form::Object => out.put_slice(&encode::to_bytes(&at_revision(encode::value_of(object, &self.kind), revision))),
            Form::Metadata => out.put_slice(&encode::to_bytes(&at_revision(encode::partial(object), revision))),
            Form::Table => {
                let value = at_revision(encode::value_of(object, &self.kind), revision);
                let row = table::row(&self.kind, &value, self.include, clock::now());
                let meta = json!({ "resourceVersion": revision.to_string() });
                out.put_slice(&encode::to_bytes(&table::table(&self.kind, vec![row], meta, !self.headers_sent)));
                self.headers_sent = true;
            }
        }
        out.put_slice(b"}\n");
        out.freeze()
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Bytes {
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let object = match self.form {
            Form::Object => json!({ "kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata }),
            Form::Metadata => json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata }),
            Form::Table => {
                let marker = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
                let mut table = table::table(&self.kind, Vec::new(), json!({ "resourceVersion": revision.to_string() }), false);
                table["rows"] = json!([{ "cells": [], "object": marker }]);
                table
            }
        };
        self.frame("BOOKMARK", &object)
    }

    /// One event of an object that is not stored.
    fn frame(&self, told: &str, object: &Value) -> Bytes {
        if self.encoding == Encoding::Protobuf {
            return Bytes::from(protobuf::watch_event(told, object).unwrap_or_default());
        }
        let mut line = encode::to_bytes(&json!({ "type": told, "object": object })).to_vec();
        line.push(b'\n');
        Bytes::from(line)
    }

    fn fail(&mut self, error: &ApiError) {
        let piece = self.frame("ERROR", &error.to_status());
        self.queue.push_back(piece);
        self.ended = true;
    }
}

fn at_revision(mut value: Value, revision: u64) -> Value {
    value["metadata"]["resourceVersion"] = json!(revision.to_string());
    value
}

fn watch_error(error: &WatchError) -> ApiError {
    match error {
        WatchError::Compacted { asked, oldest } => ApiError {
            detail: format!("asked for {asked}, oldest is {oldest}"),
            ..ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
        },
        WatchError::Closed => ApiError::unavailable("the server is shutting down"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_enter_and_leave_the_view_of_a_selector() {
        use EventKind::{Delete, Put};
        for (kind, before, after, expected) in [
            (Put, None, true, Some(Told::Added)),
            (Put, None, false, None),
            (Put, Some(true), true, Some(Told::Modified)),
            (Put, Some(false), true, Some(Told::Added)),
            (Put, Some(true), false, Some(Told::Deleted)),
            (Put, Some(false), false, None),
            (Delete, Some(true), true, Some(Told::Deleted)),
            (Delete, None, true, Some(Told::Deleted)),
            (Delete, Some(false), false, None),
        ] {
            assert_eq!(transition(kind, before, after), expected, "{kind:?} {before:?} {after}");
        }
    }
}
