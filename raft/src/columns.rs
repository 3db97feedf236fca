//! The column families of both databases: what lives where, and who removes it.

/// The families of `log/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogColumn {
    /// Key: `keys::index`. Value: `records::encode_entry`. Removed by truncation and by purging behind a snapshot.
    Entries,
    /// Key: one of the `LOG_*` names in `keys`. Value: vote, committed and purged log id. Never removed, only replaced.
    Meta,
}

/// The families of `state/`. All are flushed together, so that a restart finds one position of the log in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateColumn {
    /// Key: the writer's key. Value: `records::ObjectRow`, the current version. Removed when the key is deleted.
    Objects,
    /// Key: `keys::history`. Value: `records::HistoryRow`, one per change. Removed by `Command::Compact`.
    History,
    /// Key: `keys::index` of the log entry. Value: `records::OutcomeRow`, a recent transaction's id and outcome. Removed when it leaves the window.
    Outcomes,
    /// Key: `keys::STATE_META`. Value: `records::StateMeta`, the position of everything else. Never removed, only replaced.
    Meta,
}

impl LogColumn {
    /// Every family, in the order of creation.
    pub(crate) const ALL: [Self; 2] = [Self::Entries, Self::Meta];

    /// Its name on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Meta => "meta",
        }
    }
}

impl StateColumn {
    /// Every family, in the order of creation.
    pub(crate) const ALL: [Self; 4] = [Self::Objects, Self::History, Self::Outcomes, Self::Meta];

    /// Its name on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::History => "history",
            Self::Outcomes => "outcomes",
            Self::Meta => "meta",
        }
    }
}
