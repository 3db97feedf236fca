//! Garbage that is nearly good: bytes that somebody wrote, with something wrong. The same number makes the same garbage.

/// Numbers that look random and are the same for the same seed. `Spec:` SplitMix64 (Steele, Lea, Flood 2014).
pub struct Dice(u64);

impl Dice {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % (end as u64).max(1)).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

/// Numbers at which something changes: the ends of integers, and where bincode's encoding of them gets longer.
const EDGES: [&[u8]; 9] = [
    &[0],
    &[250],
    &[251, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0xff],
    &[252, 0xff, 0xff, 0xff, 0x7f],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[253, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[254],
    &[255],
];

/// Some of `corpus` with something wrong; now and then nothing but noise.
pub fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    if dice.below(20) == 0 {
        return (0..dice.below(64)).map(|_| noise(dice)).collect();
    }
    let mut bytes = dice.pick(corpus).cloned().unwrap_or_default();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(8) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << (dice.roll() % 8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = noise(dice);
                }
            }
            3 => bytes.insert(at, noise(dice)),
            // a number of another size
            4 => {
                let edge = dice.pick(&EDGES).copied().unwrap_or_default();
                let end = (at + 1).min(bytes.len());
                bytes.splice(at..end, edge.iter().copied());
            }
            5 => {
                let end = at + dice.below(bytes.len() - at + 1);
                bytes.drain(at..end);
            }
            // a part twice
            6 => {
                let end = at + dice.below((bytes.len() - at).min(256) + 1);
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, part);
            }
            // the end of another one
            _ => {
                let other = dice.pick(corpus).cloned().unwrap_or_default();
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(other.get(from..).unwrap_or_default());
            }
        }
    }
    bytes
}

fn noise(dice: &mut Dice) -> u8 {
    dice.roll().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_makes_the_same_garbage_and_much_of_it_differs() {
        let corpus = vec![b"one of them".to_vec(), b"the other".to_vec()];
        let garbage = |seed| {
            let mut dice = Dice::new(seed);
            (0..200).map(|_| mutate(&mut dice, &corpus)).collect::<Vec<_>>()
        };
        assert_eq!(garbage(1), garbage(1));
        let different: std::collections::BTreeSet<_> = garbage(1).into_iter().collect();
        assert!(different.len() > 150, "{}", different.len());
        // with nothing to begin with, too
        assert!((0..100).all(|_| mutate(&mut Dice::new(7), &[]).len() < 1000));
    }
}
