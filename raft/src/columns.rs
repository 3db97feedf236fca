//! The column families of both databases: what lives where, and who removes it.

/// The families of `log/`, beside its journal of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogColumn {
    /// Key: one of the `LOG_*` names in `keys`. Value: vote, owner and the like. Never removed, only replaced.
    Meta,
}

/// The families of `state/`. All are flushed together, so that a restart finds one position of the log in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateColumn {
    /// Key: `keys::history`. Value: `records::HistoryRow`, one per change. The only place of every version, also of the current ones: those
    /// before them are removed by `Command::Compact`.
    History,
    /// Key: `keys::index` of the last revision in it. Value: `Vec<records::HistoryHead>`, the changes of some neighbouring transactions since the last
    /// `Command::Compact`, in order. Written with their rows; removed by `Command::Compact` when it forgets the last of them.
    Heads,
    /// Key: `keys::index` of the log entry. Value: `records::OutcomeRow`, a recent transaction's id and outcome. Removed when it leaves the window.
    Outcomes,
    /// Key: `keys::STATE_META`. Value: `records::StateMeta`, the position of everything else. Never removed, only replaced.
    Meta,
}

impl LogColumn {
    /// Its name on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
        }
    }
}

impl StateColumn {
    /// Every family, in the order of creation.
    pub(crate) const ALL: [Self; 4] = [Self::History, Self::Outcomes, Self::Meta, Self::Heads];

    /// Its name on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::History => "history",
            Self::Heads => "heads",
            Self::Outcomes => "outcomes",
            Self::Meta => "meta",
        }
    }
}
