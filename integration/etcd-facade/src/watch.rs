//! The service `Watch`: one task per watch, all writing to the stream's queue, so that a progress answer stands behind every event it speaks
//! of.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};
use trierarch_raft::{Event as Change, EventKind, Revision, Watcher};

use crate::facade::Facade;
use crate::keys::{self, Span};
use crate::messages::kv::KeyValue;
use crate::messages::watch::{Event, EventType, Filter, WatchAsk, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::problem::Problem;
use crate::versions::{key_value, signed, unsigned};

/// Answers of one stream that wait for the client; then its watches wait.
pub const ANSWERS_MAX: usize = 64;
/// As etcd's default for watches that want to hear of progress by themselves.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);
/// The id of an answer that speaks of all watches of its stream.
const ALL_WATCHES: i64 = -1;

/// Where a stream's answers go.
pub type Answers = mpsc::Sender<Result<WatchResponse, Status>>;

/// Works on a stream of requests until the client ends it or stops reading.
pub async fn serve(facade: Facade, mut asks: Streaming<WatchRequest>, answers: Answers) {
    let mut stream = Stream { facade, answers, watches: HashMap::new(), next_id: 0 };
    loop {
        let ask = tokio::select! {
            ask = asks.message() => ask,
            () = stream.answers.closed() => return,
        };
        let Ok(Some(WatchRequest { ask: Some(ask) })) = ask else { return };
        let goes_on = match ask {
            WatchAsk::Create(request) => stream.create(request).await,
            WatchAsk::Cancel(request) => stream.cancel(request.watch_id).await,
            WatchAsk::Progress(_) => stream.progress().await,
        };
        if !goes_on {
            return;
        }
    }
}

struct Stream {
    facade: Facade,
    answers: Answers,
    /// Where to ask each watch how far it is; dropping it ends the watch.
    watches: HashMap<i64, mpsc::Sender<oneshot::Sender<Revision>>>,
    next_id: i64,
}

impl Stream {
    /// Starts a watch. Whether the client still listens.
    async fn create(&mut self, request: WatchCreateRequest) -> bool {
        let now = self.facade.store.view().revision();
        let header = Some(self.facade.header(now));
        if self.watches.contains_key(&request.watch_id) && request.watch_id != 0 {
            let cancel_reason = "etcdserver: mvcc: duplicate watch ID provided on the WatchStream".to_owned();
            return self
                .send(WatchResponse {
                    header,
                    watch_id: ALL_WATCHES,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..WatchResponse::default()
                })
                .await;
        }
        let id = if request.watch_id == 0 { self.unused_id() } else { request.watch_id };
        if !self.send(WatchResponse { header, watch_id: id, created: true, ..WatchResponse::default() }).await {
            return false;
        }
        let after = if request.start_revision > 0 { unsigned(request.start_revision) - 1 } else { now };
        let span = Span::new(&request.key, &request.range_end);
        let compacted = self.facade.compacted();
        let watcher = match self.facade.store.watch(&span.stored_prefix(), after).await {
            Ok(watcher) if after >= compacted => watcher,
            Ok(_) => return self.send(ended(&self.facade, id, &Problem::Compacted, compacted)).await,
            Err(error) => {
                let oldest = if let trierarch_raft::WatchError::Compacted { oldest, .. } = error { oldest } else { 0 };
                return self.send(ended(&self.facade, id, &error.into(), oldest)).await;
            }
        };
        let (control, asked) = mpsc::channel(1);
        self.watches.insert(id, control);
        let watch = Watch { facade: self.facade.clone(), answers: self.answers.clone(), id, span, request, watcher };
        tokio::spawn(watch.run(asked));
        true
    }

    fn unused_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, id: i64) -> bool {
        if self.watches.remove(&id).is_none() {
            return true;
        }
        let header = Some(self.facade.header_now());
        self.send(WatchResponse { header, watch_id: id, canceled: true, ..WatchResponse::default() }).await
    }

    /// Says up to where all watches of the stream have told everything.
    async fn progress(&mut self) -> bool {
        let mut least = self.facade.store.view().revision();
        let mut gone = Vec::new();
        for (id, control) in &self.watches {
            let (answer, progress) = oneshot::channel();
            match (control.send(answer).await, progress.await) {
                (Ok(()), Ok(progress)) => least = least.min(progress),
                _ => gone.push(*id),
            }
        }
        gone.iter().for_each(|id| drop(self.watches.remove(id)));
        let header = Some(self.facade.header(least));
        self.send(WatchResponse { header, watch_id: ALL_WATCHES, ..WatchResponse::default() }).await
    }

    async fn send(&self, response: WatchResponse) -> bool {
        self.answers.send(Ok(response)).await.is_ok()
    }
}

struct Watch {
    facade: Facade,
    answers: Answers,
    id: i64,
    span: Span,
    request: WatchCreateRequest,
    watcher: Watcher,
}

impl Watch {
    /// Tells what happens until the watch is cancelled or the client has gone.
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<Revision>>) {
        let mut reports = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS_INTERVAL, PROGRESS_INTERVAL);
        loop {
            let response = tokio::select! {
                changes = self.watcher.next() => match changes {
                    Ok(changes) => self.response(&changes),
                    Err(error) => {
                        let oldest = if let trierarch_raft::WatchError::Compacted { oldest, .. } = error { oldest } else { 0 };
                        // it ends in any case
                        drop(self.answers.send(Ok(ended(&self.facade, self.id, &error.into(), oldest))).await);
                        return;
                    }
                },
                answer = asked.recv() => match answer {
                    Some(answer) => {
                        // whoever asked may have gone
                        let _gone = answer.send(self.watcher.progress());
                        None
                    }
                    None => return,
                },
                _ = reports.tick(), if self.request.progress_notify => {
                    let header = Some(self.facade.header(self.watcher.progress()));
                    Some(WatchResponse { header, watch_id: self.id, ..WatchResponse::default() })
                }
            };
            // a cancelled watch says nothing more
            if let Some(response) = response
                && (asked.is_closed() || self.answers.send(Ok(response)).await.is_err())
            {
                return;
            }
        }
    }

    fn response(&self, changes: &[std::sync::Arc<Change>]) -> Option<WatchResponse> {
        let last = changes.last()?.revision;
        let wanted = changes.iter().filter(|change| wants(&self.request, &self.span, change));
        let events: Vec<Event> = wanted.map(|change| event(change, self.request.prev_kv)).collect();
        let header = Some(self.facade.header(last));
        (!events.is_empty()).then(|| WatchResponse { header, watch_id: self.id, events, ..WatchResponse::default() })
    }
}

fn wants(request: &WatchCreateRequest, span: &Span, change: &Change) -> bool {
    let left_out = match change.kind {
        EventKind::Put => Filter::NoPut,
        EventKind::Delete => Filter::NoDelete,
    };
    span.covers(&keys::client(&change.record.key)) && !request.filters().any(|filter| filter == left_out)
}

fn event(change: &Change, with_previous: bool) -> Event {
    let prev_kv = change.previous.as_deref().filter(|_| with_previous).map(key_value);
    match change.kind {
        EventKind::Put => Event { r#type: EventType::Put.into(), kv: Some(key_value(&change.record)), prev_kv },
        EventKind::Delete => {
            let kv = KeyValue { key: keys::client(&change.record.key), mod_revision: signed(change.revision), ..KeyValue::default() };
            Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv }
        }
    }
}

fn ended(facade: &Facade, id: i64, problem: &Problem, oldest: Revision) -> WatchResponse {
    WatchResponse {
        header: Some(facade.header_now()),
        watch_id: id,
        canceled: true,
        compact_revision: signed(oldest),
        cancel_reason: problem.to_string(),
        ..WatchResponse::default()
    }
}
