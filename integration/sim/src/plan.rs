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
    /// So long they ask, and so long nobody does, by turns.
    pub turns_ms: (u64, u64),
    /// Keys that they share.
    pub keys: u64,
    /// Watches that are kept open.
    pub watches: u64,
    /// How long history is kept.
    pub history_retention: Duration,
    /// After how many entries a snapshot is taken.
    pub snapshot_after_entries: u64,
    /// Some writes are acknowledged before they are on disk.
    pub volatile: bool,
    /// How many of the writes are then, in a thousand.
    pub volatile_share: u64,
    /// With volatile writes, the power fails for one member once, never for a majority: nothing at all may be lost.
    pub careful: bool,
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
    /// Whether the power may fail for a minority only, as nothing may be lost.
    pub fn careful_with_power(&self) -> bool {
        self.volatile && self.careful
    }

    /// Whether clients ask anything at this time.
    pub fn asks(&self, now_ms: u64) -> bool {
        let (asking, resting) = self.turns_ms;
        now_ms % (asking + resting) < asking
    }

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
            history_retention: dice.millis(200, 15_000),
            snapshot_after_entries: dice.between(10, 300),
            volatile: dice.chance(450),
            volatile_share: dice.between(300, 950),
            careful: dice.chance(400),
            delay_max_ms: dice.between(1, 15),
            lost: if lossy { dice.between(1, 60) } else { 0 },
            duplicated: if lossy { dice.between(1, 60) } else { 0 },
            overtaken: if lossy { dice.between(1, 60) } else { 0 },
            sync_max_ms: dice.between(1, 12),
            // long enough for a lull
            turns_ms: (dice.between(500, 2_000), if dice.chance(300) { dice.between(1_200, 3_000) } else { 0 }),
        }
    }
}
