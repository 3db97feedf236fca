//! A history of bounded size for a system that does not bound it by itself: it is told once a second what to forget.

use std::collections::VecDeque;
use std::time::Duration;

use crate::codec::{Call, Reply};
use crate::rows::Asked;
use crate::systems::System;
use crate::traffic::Link;

/// How often it is looked at. Ours looks every 100 ms while much comes in, etcd by itself every five minutes.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// How much came when, and how much of it is kept.
#[derive(Debug)]
pub struct Kept {
    limit_bytes: u64,
    /// Revisions, and the bytes of all changes up to each of them; the oldest first.
    marks: VecDeque<(u64, u64)>,
}

impl Kept {
    /// Nothing yet, and no more than `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, marks: VecDeque::new() }
    }

    /// Bounds the history of `system` while `work` goes on, which writes changes of `change_bytes`.
    ///
    /// # Errors
    /// Of `work`; the leader does not answer.
    pub async fn during<T>(
        &mut self,
        system: &System,
        change_bytes: u64,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        if !system.keeps_all_history {
            return work.await;
        }
        let mut link = Link::connect(system.member(Asked::Leader).await?).await?;
        // what others have written meanwhile is no change of this size
        let begun = revision(&mut link).await?;
        self.come(begun, 0);
        let bounding = async {
            loop {
                tokio::time::sleep(LOOK_PAUSE).await;
                let now = revision(&mut link).await?;
                if let Some(upto) = self.come(now, change_bytes) {
                    compact(&mut link, upto).await?;
                }
            }
        };
        tokio::select! {
            done = work => done,
            failed = bounding => failed,
        }
    }

    /// Takes in that changes of so many bytes have come up to `revision`; returns up to where history is too much now.
    fn come(&mut self, revision: u64, change_bytes: u64) -> Option<u64> {
        let (last, before) = self.marks.back().copied().unwrap_or((revision, 0));
        let total = before + revision.saturating_sub(last) * change_bytes;
        self.marks.push_back((revision, total));
        let too_much = self.marks.partition_point(|(_, bytes)| total - bytes >= self.limit_bytes);
        self.marks.drain(..too_much).next_back().map(|(upto, _)| upto)
    }
}

/// Forgets what was before the newest revision.
///
/// # Errors
/// The leader does not answer.
pub async fn forget_all(system: &System) -> anyhow::Result<()> {
    if !system.keeps_all_history {
        return Ok(());
    }
    let mut link = Link::connect(system.member(Asked::Leader).await?).await?;
    let newest = revision(&mut link).await?;
    compact(&mut link, newest).await
}

/// The newest one, by one more put.
async fn revision(link: &mut Link) -> anyhow::Result<u64> {
    match link.ask(&Call::Put { key: "bench/compact".into(), value: "".into() }).await? {
        Reply::Done { revision } => Ok(revision),
        other => anyhow::bail!("the put before a compaction failed: {other:?}"),
    }
}

async fn compact(link: &mut Link, revision: u64) -> anyhow::Result<()> {
    match link.ask(&Call::Compact { revision }).await? {
        Reply::Done { .. } => Ok(()),
        other => anyhow::bail!("the compaction failed: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_is_forgotten_up_to_a_mark() {
        let mut kept = Kept::new(100);
        assert_eq!(kept.come(1000, 10), None);
        assert_eq!(kept.come(1009, 10), None);
        assert_eq!(kept.come(1010, 10), Some(1000));
        assert_eq!(kept.come(1010, 10), None);
        // 1009 is 110 bytes back, 1010 only 100 after the next one
        assert_eq!(kept.come(1020, 10), Some(1010));
        // others wrote these
        assert_eq!(kept.come(9000, 0), None);
        assert_eq!(kept.come(9001, 1000), Some(9000));
    }
}
