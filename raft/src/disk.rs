//! A disk that is nearly full: this member takes no writes, says why, and lets another one lead.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::task::JoinHandle;

use crate::alarm::Alarm;
use crate::core::Core;
use crate::network::messages::{Request, Response};

/// The disk counts as full when less than this is left: what is under way must still fit.
const FREE_BYTES_MIN: u64 = 48 << 20;
/// How often to look at a disk that is written to, or full.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// Refuses new transactions on this member while its disk is nearly full, until the store closes. Only a disk that is written to is looked
/// at.
pub(crate) async fn watch_disk(core: Arc<Core>) {
    let mut looked_at = None;
    let mut handing_over: Option<JoinHandle<()>> = None;
    let alarm = Alarm::new(&core.config.environment);
    loop {
        let appended = core.appended_bytes.load(Ordering::Relaxed);
        let full = core.disk_full.lock().is_some();
        if full || looked_at != Some(appended) {
            looked_at = Some(appended);
            let now = look_at_disk(&core);
            match &now {
                Some(reason) if !full => tracing::warn!(reason, "The disk is full, this member takes no writes"),
                None if full => tracing::info!(path = %core.config.data_dir.display(), "The disk has room again"),
                _ => {}
            }
            let is_full = now.is_some();
            *core.disk_full.lock() = now;
            // which may take longer than until there is room again
            if is_full && core.leadership.borrow().established && handing_over.as_ref().is_none_or(JoinHandle::is_finished) {
                handing_over = Some(tokio::spawn(hand_over(Arc::clone(&core))));
            }
        }
        tokio::select! {
            () = alarm.after(DISK_PAUSE) => {}
            () = core.closing.cancelled() => return,
        }
    }
}

/// Hands leadership to a voter whose disk has room, or gives up when the store closes.
async fn hand_over(core: Arc<Core>) {
    tokio::select! {
        () = core.hand_over_to_room() => {}
        () = core.closing.cancelled() => {}
    }
}

/// Returns when the disk has room, looking at it again and again.
pub(crate) async fn has_room(core: &Core) {
    while look_at_disk(core).is_some() {
        tokio::time::sleep(DISK_PAUSE).await;
    }
}

/// Why nothing may be written to the disk as it is now, if so.
pub(crate) fn look_at_disk(core: &Core) -> Option<String> {
    match core.config.environment.free_bytes(&core.config.data_dir) {
        Ok(free_bytes) => disk_full(free_bytes, &core.config.data_dir),
        Err(error) => {
            tracing::warn!(path = %core.config.data_dir.display(), %error, "Could not look at the disk");
            None
        }
    }
}

/// Why nothing may be written, if so.
fn disk_full(free_bytes: u64, path: &Path) -> Option<String> {
    (free_bytes < FREE_BYTES_MIN).then(|| {
        format!("the disk of {} has {} MiB left, {} are needed; make room", path.display(), free_bytes >> 20, FREE_BYTES_MIN >> 20)
    })
}

/// Whether files in `directory` take writes that go past the system's cache. `Spec:` `O_DIRECT`, open(2).
pub(crate) fn takes_direct_writes(directory: &Path) -> bool {
    let path = directory.join(".direct");
    // where it is not known, opening fails
    let made = File::options().write(true).create(true).truncate(true).custom_flags(past_cache()).open(&path);
    if made.is_ok() {
        // one that cannot be removed is made anew by the next start
        drop(std::fs::remove_file(&path));
    }
    made.is_ok()
}

/// What opens a file past the system's cache.
pub(crate) fn past_cache() -> i32 {
    i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0)
}

/// What is told of a write that failed, with what to do if the disk is full to the last block.
pub(crate) fn write_failure(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::StorageFull => format!("{error}; make room"),
        _ => error.to_string(),
    }
}

impl Core {
    /// Whether this member's disk has room for writes.
    pub(crate) fn takes_writes(&self) -> Response {
        self.disk_full.lock().clone().map_or(Response::Done, Response::Failed)
    }

    /// Hands leadership to a voter whose disk has room, if there is one.
    async fn hand_over_to_room(self: &Arc<Self>) {
        let answers = self.ask_voters(&self.metrics(), &Request::TakesWrites).await;
        if let Some((id, _)) = answers.into_iter().find(|(_, answer)| *answer == Response::Done) {
            let handed = self.transfer_as_leader(Some(id)).await;
            tracing::info!(node = id, ?handed, "Handed leadership over, because the disk is full");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_disk_is_named_with_what_to_do() {
        let path = std::path::Path::new("/data");
        assert_eq!(disk_full(FREE_BYTES_MIN, path), None);
        let reason = disk_full(FREE_BYTES_MIN - 1, path).unwrap();
        assert_eq!(reason, "the disk of /data has 47 MiB left, 48 are needed; make room");
    }

    #[test]
    fn direct_writes_are_tried_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let known = takes_direct_writes(directory.path());
        assert_eq!(takes_direct_writes(directory.path()), known);
        assert!(!takes_direct_writes(&directory.path().join("absent")));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_write_that_fails_on_a_full_disk_says_what_to_do() {
        let full = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        assert_eq!(write_failure(&full), "No space left on device (os error 28); make room");
        let other = std::io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error());
        assert!(!write_failure(&other).contains("make room"));
    }
}
