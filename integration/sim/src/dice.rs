//! Everything random, from one number.

use std::time::Duration;

/// Numbers that look random and are the same for the same seed. `Spec:` SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Dice of their own, so that what one part of the world rolls does not change what another part does.
    pub fn split(&mut self) -> Self {
        Self::new(self.next())
    }

    /// Any number.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// Whether something that happens `times` in a thousand happens now.
    pub fn chance(&mut self, times_in_1000: u64) -> bool {
        self.next() % 1000 < times_in_1000
    }

    /// One of these; `None` if there are none.
    pub fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() {
            return None;
        }
        let index = usize::try_from(self.next() % from.len() as u64).unwrap_or(0);
        from.get(index).cloned()
    }

    /// A time in `low..=high`, in milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_rolls_the_same() {
        let roll = |seed| {
            let mut dice = Dice::new(seed);
            let mut split = dice.split();
            (dice.next(), split.next(), dice.between(3, 5), dice.chance(500))
        };
        assert_eq!(roll(7), roll(7));
        assert_ne!(roll(7), roll(8));
        let mut dice = Dice::new(1);
        assert!((0..1000).map(|_| dice.between(3, 5)).all(|number| (3..=5).contains(&number)));
        assert_eq!(dice.pick::<u8>(&[]), None);
    }
}
