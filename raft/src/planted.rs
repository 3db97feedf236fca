//! Bugs planted on purpose, so that the simulation can show that it finds them. Compiled only with the feature `planted`, which no program
//! for users has; at most one is active, chosen at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// The log is handed to the operating system, never synced.
    AcknowledgeBeforeSync = 1,
    /// A linearizable read shows whatever the member has.
    SkipReadIndex,
    /// A transaction that only deletes gets no revision of its own.
    ReuseRevision,
    /// Some changes never reach the watchers' ring.
    LoseWatchEvent,
    /// A write of a deposed leader's component applies.
    IgnoreFence,
    /// A member forgets its vote when it stops.
    VoteTwice,
    /// A repeated transaction is not recognised.
    ApplyTwice,
    /// A new term gives out the revisions that a power cut has taken once more.
    LeaveNoGap,
    /// A leader answers readers without asking whether it still reigns.
    TrustReign,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AcknowledgeBeforeSync,
        Self::SkipReadIndex,
        Self::ReuseRevision,
        Self::LoseWatchEvent,
        Self::IgnoreFence,
        Self::VoteTwice,
        Self::ApplyTwice,
        Self::LeaveNoGap,
        Self::TrustReign,
    ];
}

static PLANTED: AtomicU8 = AtomicU8::new(0);

/// From now on every member of this process has the bug.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, Ordering::Relaxed);
}

/// Whether the bug is active.
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}
