//! Experiments on a living member: faults of its network and disk, a pause, other timers. Each carries a time limit and heals by itself.
//!
//! A fault acts on **messages** between members, not on packets: peers speak over TLS, so a connection stays open while what it carries is
//! lost, late, doubled or out of order.
//!
//! * `drop`: a message never arrives. A lost request or a lost reply looks the same to whoever waits for it: the call times out (a heartbeat
//!   after its interval, an append after two seconds). New connections are cut, too.
//! * `delay`: a message arrives later, by `delayMs` plus or minus up to `jitterMs`; the order of a connection is kept, as TCP would.
//! * `duplicate`: a message arrives twice. A request is worked on twice, the second reply is ignored. The chunks of a snapshot, whose
//!   order carries meaning, are never doubled.
//! * `reorder`: a message is held back for up to `delayMs`, and later ones overtake it.
//! * `pause`: the member neither sends nor receives nor ticks, as if SIGSTOP had hit it; what arrives meanwhile waits, and is worked on
//!   afterwards. Its admin endpoint answers, and so do reads that may be stale; reads that may not and writes wait.
//! * `slowSync`: each sync of the log takes `delayMs` longer.
//!
//! Begin with [`Fault`] and [`Timers`]; what happens to one message is decided in `experiment/table.rs`, acted on in
//! `experiment/line.rs`. With no fault all of this costs a message one relaxed load.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::NodeId;
use crate::store::StoreError;

pub(crate) mod control;
pub(crate) mod faults;
pub(crate) mod line;
pub(crate) mod table;
mod validate;

/// The longest life of a fault, and of other timers.
pub const FOR_MS_MAX: u64 = 10 * 60 * 1000;
/// How many faults a member has at most.
pub const FAULTS_MAX: usize = 64;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FaultKind {
    /// Messages are lost.
    Drop,
    /// Messages are late, in their order.
    Delay,
    /// Messages arrive twice.
    Duplicate,
    /// Messages are overtaken by later ones.
    Reorder,
    /// The member stands still.
    Pause,
    /// Syncs of the log take longer.
    SlowSync,
}

impl FaultKind {
    /// All of them, in the order in which they are explained.
    pub const ALL: [Self; 6] = [Self::Drop, Self::Delay, Self::Duplicate, Self::Reorder, Self::Pause, Self::SlowSync];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Delay => "delay",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Pause => "pause",
            Self::SlowSync => "slowSync",
        }
    }

    /// Whether it acts on messages to and from peers.
    pub const fn is_of_messages(self) -> bool {
        matches!(self, Self::Drop | Self::Delay | Self::Duplicate | Self::Reorder)
    }

    /// Whether it happens to a message by chance.
    pub const fn has_probability(self) -> bool {
        matches!(self, Self::Drop | Self::Duplicate | Self::Reorder)
    }

    /// Whether it needs a `delayMs`.
    pub const fn has_delay(self) -> bool {
        matches!(self, Self::Delay | Self::Reorder | Self::SlowSync)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which way a message goes, as the member with the fault sees it. Both requests and replies go both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// To this member.
    In,
    /// From this member.
    Out,
    /// Either.
    Both,
}

impl Direction {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that goes wrong on one member for a while. What a caller leaves out is filled in when the fault begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Names it on its member; given by the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What goes wrong.
    pub kind: FaultKind,
    /// With which peer; all of them if left out. Not of `pause` and `slowSync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<NodeId>,
    /// Which way; both if left out. Not of `pause` and `slowSync`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// How likely it is for each message, in `0..=1`; always if left out. Of `drop`, `duplicate` and `reorder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Milliseconds: of `delay` and `slowSync` how much later, of `reorder` how much later at most. Required there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Milliseconds by which a `delay` varies up and down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_ms: Option<u64>,
    /// Milliseconds after which it heals by itself; required, at most [`FOR_MS_MAX`].
    #[serde(default)]
    pub for_ms: u64,
    /// Milliseconds until it heals; given by the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_ms: Option<u64>,
}

impl Fault {
    /// A fault of this kind for so long, with everything else left out.
    pub fn new(kind: FaultKind, lasts: Duration) -> Self {
        Self {
            id: None,
            kind,
            peer: None,
            direction: None,
            probability: None,
            delay_ms: None,
            jitter_ms: None,
            for_ms: millis(lasts),
            ends_in_ms: None,
        }
    }
}

/// What a person reads: `drop to member 2, probability 0.3`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if self.kind.is_of_messages() {
            let way = match self.direction.unwrap_or(Direction::Both) {
                Direction::In => "from",
                Direction::Out => "to",
                Direction::Both => "with",
            };
            match self.peer {
                Some(peer) => write!(f, " {way} member {peer}")?,
                None => write!(f, " {way} all members")?,
            }
        }
        if let Some(delay_ms) = self.delay_ms {
            write!(f, ", {delay_ms} ms")?;
        }
        if let Some(jitter_ms) = self.jitter_ms.filter(|jitter_ms| *jitter_ms > 0) {
            write!(f, " +- {jitter_ms} ms")?;
        }
        if let Some(probability) = self.probability.filter(|probability| *probability < 1.0) {
            write!(f, ", probability {probability}")?;
        }
        Ok(())
    }
}

/// When a member asks for votes, and how often a leader speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timers {
    /// Milliseconds between two heartbeats of a leader; up to two and a half times as many while nothing is written.
    pub heartbeat_ms: u64,
    /// Lower bound, in milliseconds, of the randomized election time-out, which begins when the leader's lease ends.
    pub election_min_ms: u64,
    /// Upper bound of it, and the length of a leader's lease.
    pub election_max_ms: u64,
    /// Whether a member first asks if it would be elected, before it raises the term.
    pub pre_vote: bool,
}

/// Other timers for a while; what is left out stays as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TimersChange {
    /// See [`Timers::heartbeat_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// See [`Timers::election_min_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_min_ms: Option<u64>,
    /// See [`Timers::election_max_ms`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_max_ms: Option<u64>,
    /// See [`Timers::pre_vote`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_vote: Option<bool>,
    /// Milliseconds after which the configured timers come back; required, at most [`FOR_MS_MAX`].
    #[serde(default)]
    pub for_ms: u64,
}

/// The timers of a member as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimersInForce {
    /// What they are.
    #[serde(flatten)]
    pub timers: Timers,
    /// Milliseconds until the configured ones come back, if these are others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_in_ms: Option<u64>,
}

/// The experiments on a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiments {
    /// The faults it has, oldest first.
    pub faults: Vec<Fault>,
    /// Its timers.
    pub timers: TimersInForce,
}

/// What is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It must be given.
    #[error("{field}: Required value: {why}")]
    Required {
        /// JSON path of the field.
        field: &'static str,
        /// What for.
        why: String,
    },
    /// Its value is impossible.
    #[error("{field}: Invalid value: {value}: {why}")]
    Invalid {
        /// JSON path of the field.
        field: &'static str,
        /// The value.
        value: String,
        /// What is possible.
        why: String,
    },
    /// It must not be given.
    #[error("{field}: Forbidden: {why}")]
    Forbidden {
        /// JSON path of the field.
        field: &'static str,
        /// Why not.
        why: String,
    },
}

/// Why an experiment was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExperimentError {
    /// The request contradicts itself, or the group.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<Problem>),
    /// There is no such fault; it may have healed.
    #[error("fault {0} not found")]
    NotFound(u64),
    /// The member has [`FAULTS_MAX`] faults.
    #[error("a member has at most {FAULTS_MAX} faults at a time: clear some")]
    TooMany,
    /// The member cannot do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whole milliseconds of a duration.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
