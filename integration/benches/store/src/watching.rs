//! One writer and many watchers of what it writes. The writer has one put on the way, and is never more than a few writes ahead of what the
//! watchers have seen on average: a closed loop, so that a slow system delays the writer instead of growing a backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::bail;
use bytes::{Buf as _, Bytes};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::clock;
use crate::codec::{Call, Reply};
use crate::rows::spread;
use crate::traffic::{Endpoint, Link, Measured, Window};

/// Writes that the average watcher has not seen yet, at most.
const AHEAD_MAX: u64 = 16;
const WATCHED: &str = "bench/watched/";
/// Of every value the writer writes.
pub const VALUE_BYTES: usize = 256;

/// How far the watchers are.
struct Progress {
    watchers: u64,
    /// Events that reached a watcher.
    delivered: AtomicU64,
    news: Notify,
    /// Values tell how long after this they were written.
    epoch: Instant,
}

/// Watches that have begun, and a writer that has not.
pub struct Watching {
    watchers: Vec<Link>,
    writer: Link,
    progress: Arc<Progress>,
}

/// Begins all watches.
///
/// # Errors
/// A connection or a watch fails.
pub async fn begin(endpoint: &Endpoint, watchers: usize) -> anyhow::Result<Watching> {
    let (connections, each) = spread(watchers);
    let mut links = Vec::new();
    let mut left = watchers;
    for _ in 0..connections {
        let mut link = Link::connect(endpoint).await?;
        let mut beginning = each.min(left);
        left -= beginning;
        for _ in 0..beginning {
            link.call(&Call::Watch { prefix: Bytes::from_static(WATCHED.as_bytes()) });
        }
        while beginning > 0 {
            link.exchange().await?;
            for (_, reply) in link.replies.drain(..) {
                match reply {
                    Reply::Watching => beginning -= 1,
                    other => bail!("a watch did not begin: {other:?}"),
                }
            }
        }
        links.push(link);
    }
    let progress = Progress { watchers: watchers as u64, delivered: AtomicU64::new(0), news: Notify::new(), epoch: clock::now() };
    Ok(Watching { watchers: links, writer: Link::connect(endpoint).await?, progress: Arc::new(progress) })
}

impl Watching {
    /// Starts the writer. The latencies are those from before a write to each event.
    pub fn start(self, window: Window) -> JoinSet<anyhow::Result<Measured>> {
        let mut tasks = JoinSet::new();
        for link in self.watchers {
            tasks.spawn(watch(link, Arc::clone(&self.progress), window));
        }
        tasks.spawn(write(self.writer, self.progress, window));
        tasks
    }
}

async fn watch(mut link: Link, progress: Arc<Progress>, window: Window) -> anyhow::Result<Measured> {
    let mut measured = Measured::new();
    while let Ok(exchanged) = tokio::time::timeout_at(window.end.into(), link.exchange()).await {
        exchanged?;
        let now = clock::now();
        let (elapsed, counts) = (now - progress.epoch, now >= window.start);
        let mut delivered = 0;
        for (_, reply) in link.replies.drain(..) {
            let Reply::Changed { values } = reply else { bail!("a watch ended: {reply:?}") };
            delivered += values.len() as u64;
            for mut value in values.into_iter().filter(|_| counts) {
                let delay_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).saturating_sub(value.try_get_u64()?);
                measured.latencies.saturating_record(delay_us);
            }
        }
        progress.delivered.fetch_add(delivered, Ordering::Relaxed);
        progress.news.notify_one();
    }
    Ok(measured)
}

async fn write(mut link: Link, progress: Arc<Progress>, window: Window) -> anyhow::Result<Measured> {
    let mut measured = Measured::new();
    let mut written = 0_u64;
    while clock::now() < window.end {
        while written * progress.watchers >= progress.delivered.load(Ordering::Relaxed) + AHEAD_MAX * progress.watchers {
            if tokio::time::timeout_at(window.end.into(), progress.news.notified()).await.is_err() {
                return Ok(measured);
            }
        }
        let now = clock::now();
        let mut value = u64::try_from((now - progress.epoch).as_micros()).unwrap_or(u64::MAX).to_be_bytes().to_vec();
        value.resize(VALUE_BYTES, 0);
        let key = Bytes::from(format!("{WATCHED}{:08}", written % 64));
        let payload_bytes = (key.len() + value.len()) as u64;
        match link.ask(&Call::Put { key, value: value.into() }).await? {
            Reply::Done { .. } => written += 1,
            other => bail!("a put failed: {other:?}"),
        }
        if now >= window.start {
            measured.payload_bytes += payload_bytes;
        }
    }
    Ok(measured)
}
