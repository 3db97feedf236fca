//! What a seed decides before anything happens.

use std::time::Duration;

use crate::dice::Dice;

/// How one run is set up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Members at the beginning.
    pub members: u64,
    /// How long things go wrong.
    pub turmoil: Duration,
    /// Between two faults, at most.
    pub fault_pause_max_ms: u64,
    /// Clients that ask one thing after the other.
    pub clients: u64,
    /// How long they think between two questions, at most.
    pub think_max_ms: u64,
    /// Keys that they share.
    pub keys: u64,
    /// Watches that are kept open.
    pub watches: u64,
    /// How long history is kept.
    pub history_retention: Duration,
    /// After how many entries a snapshot is taken.
    pub snapshot_after_entries: u64,
    /// Some writes are acknowledged before they are on disk; in return the power fails only where a minority is.
    pub volatile: bool,
    /// The network on a good day.
    pub delay_max_ms: u64,
    /// Frames lost, duplicated and overtaken, in a thousand.
    pub lost: u64,
    /// As `lost`.
    pub duplicated: u64,
    /// As `lost`.
    pub overtaken: u64,
    /// A sync takes so long, at most.
    pub sync_max_ms: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(dice: &mut Dice) -> Self {
        let lossy = dice.chance(400);
        Self {
            members: if dice.chance(650) { 3 } else { 5 },
            turmoil: dice.millis(5_000, 12_000),
            fault_pause_max_ms: dice.between(300, 2_000),
            clients: dice.between(2, 6),
            think_max_ms: dice.between(5, 120),
            keys: dice.between(2, 6),
            watches: dice.between(1, 3),
            history_retention: dice.millis(1_000, 20_000),
            snapshot_after_entries: dice.between(10, 300),
            volatile: dice.chance(300),
            delay_max_ms: dice.between(1, 15),
            lost: if lossy { dice.between(1, 60) } else { 0 },
            duplicated: if lossy { dice.between(1, 60) } else { 0 },
            overtaken: if lossy { dice.between(1, 60) } else { 0 },
            sync_max_ms: dice.between(1, 12),
        }
    }
}
