//! What happens to a message now: the faults of a member, a peer, a direction and dice decide.

use std::time::{Duration, Instant};

use super::{Direction, FAULTS_MAX, Fault, FaultKind, millis};
use crate::command::NodeId;

/// A message's fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It never arrives.
    Lost,
    /// It arrives.
    Arrives {
        /// So much later.
        after: Duration,
        /// Whether those sent later wait for it.
        in_order: bool,
        /// Whether it arrives once more.
        twice: bool,
    },
}

impl Fate {
    /// As if there were no fault.
    pub(crate) const UNTOUCHED: Self = Self::Arrives { after: Duration::ZERO, in_order: true, twice: false };
}

/// A fault that has begun.
#[derive(Clone, Debug, PartialEq)]
struct Begun {
    fault: Fault,
    id: u64,
    ends: Instant,
}

/// The faults of a member. One whose time is over has no effect, whether or not somebody has removed it.
#[derive(Debug, Default)]
pub(crate) struct Table {
    last_id: u64,
    begun: Vec<Begun>,
}

impl Table {
    /// Lets a checked fault begin: it gets its id. `None` when there are [`FAULTS_MAX`] already.
    pub(crate) fn begin(&mut self, fault: Fault, now: Instant) -> Option<Fault> {
        if self.begun.len() >= FAULTS_MAX {
            return None;
        }
        self.last_id += 1;
        let begun = Begun { id: self.last_id, ends: now + Duration::from_millis(fault.for_ms), fault };
        let shown = begun.shown(now);
        self.begun.push(begun);
        Some(shown)
    }

    /// Takes a fault out, over or not.
    pub(crate) fn end(&mut self, id: u64) -> Option<Fault> {
        let at = self.begun.iter().position(|begun| begun.id == id)?;
        let begun = self.begun.remove(at);
        Some(begun.shown(begun.ends))
    }

    /// Those that are not over, oldest first.
    pub(crate) fn shown(&self, now: Instant) -> Vec<Fault> {
        self.current(now).map(|begun| begun.shown(now)).collect()
    }

    /// Until when the member stands still, if it does.
    pub(crate) fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.current(now).filter(|begun| begun.fault.kind == FaultKind::Pause).map(|begun| begun.ends).max()
    }

    /// How much longer a sync of the log takes.
    pub(crate) fn sync_delay(&self, now: Instant) -> Duration {
        self.current(now).filter(|begun| begun.fault.kind == FaultKind::SlowSync).map(|begun| begun.fault.delay()).sum()
    }

    /// What happens to a message. Each fault that has a say throws the dice, which yield numbers in `0..1`, in the order of their ids; a
    /// loss ends it. Delays add up.
    pub(crate) fn fate(&self, peer: NodeId, direction: Direction, now: Instant, mut dice: impl FnMut() -> f64) -> Fate {
        let (mut after, mut in_order, mut twice) = (Duration::ZERO, true, false);
        for fault in self.current(now).map(|begun| &begun.fault).filter(|fault| fault.concerns(peer, direction)) {
            if fault.kind.has_probability() && dice() >= fault.probability.unwrap_or(1.0) {
                continue;
            }
            match fault.kind {
                FaultKind::Drop => return Fate::Lost,
                FaultKind::Duplicate => twice = true,
                FaultKind::Delay => {
                    let jitter = Duration::from_millis(fault.jitter_ms.unwrap_or(0));
                    after += fault.delay().saturating_sub(jitter) + (jitter * 2).mul_f64(dice());
                }
                FaultKind::Reorder => {
                    in_order = false;
                    after += fault.delay().mul_f64(dice());
                }
                FaultKind::Pause | FaultKind::SlowSync => {}
            }
        }
        Fate::Arrives { after, in_order, twice }
    }

    fn current(&self, now: Instant) -> impl Iterator<Item = &Begun> {
        self.begun.iter().filter(move |begun| begun.ends > now)
    }
}

impl Begun {
    fn shown(&self, now: Instant) -> Fault {
        Fault { id: Some(self.id), ends_in_ms: Some(millis(self.ends.saturating_duration_since(now))), ..self.fault.clone() }
    }
}

impl Fault {
    fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.unwrap_or(0))
    }

    fn concerns(&self, peer: NodeId, direction: Direction) -> bool {
        let way = self.direction.unwrap_or(Direction::Both);
        self.kind.is_of_messages() && self.peer.is_none_or(|only| only == peer) && (way == Direction::Both || way == direction)
    }
}

/// Numbers in `0..1` from a seed: SplitMix64, whose sequence depends on nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that begin here.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(crate) fn throw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 53 bits are what a float holds
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const LASTS: Duration = Duration::from_secs(10);

    fn table(faults: &[Fault], now: Instant) -> Table {
        let mut table = Table::default();
        for fault in faults {
            table.begin(fault.clone(), now).unwrap();
        }
        table
    }

    /// The fate of a message from member 2, with dice that show these numbers.
    fn check(faults: &[Fault], shown: &[f64], expected: Fate) {
        let now = clock::now();
        let mut shown = shown.iter().copied();
        let fate = table(faults, now).fate(2, Direction::In, now, || shown.next().expect("too many throws"));
        assert_eq!(fate, expected, "{faults:?}");
        assert_eq!(shown.next(), None, "too few throws: {faults:?}");
    }

    fn late(milliseconds: u64) -> Fate {
        Fate::Arrives { after: Duration::from_millis(milliseconds), in_order: true, twice: false }
    }

    #[test]
    fn each_kind_does_what_it_says() {
        let of = |kind| Fault::new(kind, LASTS);
        let by = |kind, delay_ms| Fault { delay_ms: Some(delay_ms), ..of(kind) };
        check(&[], &[], Fate::UNTOUCHED);
        check(&[of(FaultKind::Drop)], &[0.999], Fate::Lost);
        let rare = Fault { probability: Some(0.25), ..of(FaultKind::Drop) };
        check(std::slice::from_ref(&rare), &[0.24], Fate::Lost);
        check(std::slice::from_ref(&rare), &[0.25], Fate::UNTOUCHED);
        check(&[Fault { probability: Some(0.0), ..of(FaultKind::Drop) }], &[0.0], Fate::UNTOUCHED);
        check(&[of(FaultKind::Duplicate)], &[0.5], Fate::Arrives { after: Duration::ZERO, in_order: true, twice: true });
        let unsteady = Fault { jitter_ms: Some(20), ..by(FaultKind::Delay, 50) };
        check(std::slice::from_ref(&unsteady), &[0.0], late(30));
        check(std::slice::from_ref(&unsteady), &[0.5], late(50));
        check(&[by(FaultKind::Delay, 50)], &[0.7], late(50));
        check(
            &[by(FaultKind::Reorder, 40)],
            &[0.5, 0.25],
            Fate::Arrives { after: Duration::from_millis(10), in_order: false, twice: false },
        );
        // not of messages
        check(&[of(FaultKind::Pause), by(FaultKind::SlowSync, 5)], &[], Fate::UNTOUCHED);
    }

    #[test]
    fn faults_add_up_and_a_loss_ends_it() {
        let delay = Fault { delay_ms: Some(30), ..Fault::new(FaultKind::Delay, LASTS) };
        check(&[delay.clone(), delay.clone()], &[0.0, 0.0], late(60));
        check(&[delay.clone(), Fault::new(FaultKind::Drop, LASTS), delay], &[0.0, 0.5], Fate::Lost);
    }

    #[test]
    fn a_fault_concerns_its_peer_and_direction_only() {
        let now = clock::now();
        let one_way = Fault { peer: Some(2), direction: Some(Direction::Out), ..Fault::new(FaultKind::Drop, LASTS) };
        let table = table(&[one_way], now);
        let fate = |peer, direction| table.fate(peer, direction, now, || 0.0);
        assert_eq!(fate(2, Direction::Out), Fate::Lost);
        assert_eq!(fate(2, Direction::In), Fate::UNTOUCHED);
        assert_eq!(fate(3, Direction::Out), Fate::UNTOUCHED);
    }

    #[test]
    fn a_fault_ends_by_itself() {
        let begun = clock::now();
        let slow = Fault { delay_ms: Some(7), ..Fault::new(FaultKind::SlowSync, LASTS) };
        let mut table = table(&[Fault::new(FaultKind::Drop, LASTS), Fault::new(FaultKind::Pause, LASTS), slow], begun);
        let last_moment = begun + LASTS - Duration::from_millis(1);
        assert_eq!(table.fate(2, Direction::In, last_moment, || 0.0), Fate::Lost);
        assert_eq!(table.paused_until(last_moment), Some(begun + LASTS));
        assert_eq!(table.sync_delay(last_moment), Duration::from_millis(7));
        assert_eq!(
            table.shown(last_moment).iter().map(|fault| (fault.id, fault.ends_in_ms)).collect::<Vec<_>>(),
            [(Some(1), Some(1)), (Some(2), Some(1)), (Some(3), Some(1))]
        );
        let over = begun + LASTS;
        assert_eq!(table.fate(2, Direction::In, over, || 0.0), Fate::UNTOUCHED);
        assert_eq!((table.paused_until(over), table.sync_delay(over), table.shown(over)), (None, Duration::ZERO, Vec::new()));
        // removed once, by whoever comes first
        assert_eq!(table.end(2).map(|fault| fault.kind), Some(FaultKind::Pause));
        assert_eq!(table.end(2), None);
    }

    #[test]
    fn ids_are_never_used_again_and_faults_are_bounded() {
        let now = clock::now();
        let mut table = Table::default();
        for id in 1..=FAULTS_MAX as u64 {
            assert_eq!(table.begin(Fault::new(FaultKind::Drop, LASTS), now).and_then(|fault| fault.id), Some(id));
        }
        assert_eq!(table.begin(Fault::new(FaultKind::Drop, LASTS), now), None);
        table.end(FAULTS_MAX as u64).unwrap();
        assert_eq!(table.begin(Fault::new(FaultKind::Drop, LASTS), now).and_then(|fault| fault.id), Some(FAULTS_MAX as u64 + 1));
    }

    #[test]
    fn dice_are_fair_and_repeat() {
        let mut dice = Dice::new(7);
        let thrown: Vec<f64> = (0..10_000).map(|_| dice.throw()).collect();
        assert!(thrown.iter().all(|number| (0.0..1.0).contains(number)));
        let below = thrown.iter().filter(|number| **number < 0.25).count();
        assert!((2_300..2_700).contains(&below), "{below} of 10,000 below a quarter");
        let mut again = Dice::new(7);
        assert!(thrown.iter().all(|number| (again.throw() - number).abs() < f64::EPSILON));
    }
}
