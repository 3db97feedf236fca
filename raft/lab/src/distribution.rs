//! Numbers of several runs beside each other.

use serde::{Deserialize, Serialize};

use crate::experiment::Statistic;

/// How numbers are distributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// The numbers, the least first.
    pub sorted: Vec<u64>,
    /// The least.
    pub min: u64,
    /// Half are no more.
    pub p50: u64,
    /// 99 in a hundred are no more.
    pub p99: u64,
    /// The most.
    pub max: u64,
}

/// A bar of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bar {
    /// From this number on.
    pub from: u64,
    /// Below this one.
    pub to: u64,
    /// How many there are.
    pub count: u64,
}

impl Distribution {
    /// Of these numbers; `None` if there are none.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut sorted: Vec<u64> = numbers.into_iter().collect();
        sorted.sort_unstable();
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (p50, p99) = (percentile(&sorted, 50), percentile(&sorted, 99));
        Some(Self { sorted, min, p50, p99, max })
    }

    /// One of its figures.
    pub fn figure(&self, statistic: Statistic) -> u64 {
        match statistic {
            Statistic::Min => self.min,
            Statistic::P50 => self.p50,
            Statistic::P99 => self.p99,
            Statistic::Max => self.max,
        }
    }

    /// Bars of a round width, at most `bars_max` of them, from 0 on.
    pub fn histogram(&self, bars_max: u64) -> Vec<Bar> {
        let width = round_width(self.max / bars_max.max(1) + 1);
        let count = |from: u64| self.sorted.iter().filter(|number| (from..from + width).contains(number)).count() as u64;
        (0..=self.max / width).map(|index| index * width).map(|from| Bar { from, to: from + width, count: count(from) }).collect()
    }
}

/// Nearest rank; 0 if there are none.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// The least of 1, 2, 5, 10, 20, 50 ... that is no less.
fn round_width(least: u64) -> u64 {
    let mut unit = 1;
    loop {
        if let Some(width) = [1, 2, 5].map(|factor| factor * unit).into_iter().find(|width| *width >= least) {
            return width;
        }
        unit *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_numbers_that_were_measured() {
        assert_eq!(Distribution::of([]), None);
        let hundred = Distribution::of((1..=100).rev()).unwrap();
        assert_eq!((hundred.min, hundred.p50, hundred.p99, hundred.max), (1, 50, 99, 100));
        let two = Distribution::of([7, 3]).unwrap();
        assert_eq!((two.p50, two.p99), (3, 7));
    }

    #[test]
    fn a_histogram_holds_everything_in_round_bars() {
        let numbers = Distribution::of([0, 480, 512, 530, 999]).unwrap();
        let bars = numbers.histogram(10);
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), 5);
        assert_eq!((bars.len(), bars[0]), (10, Bar { from: 0, to: 100, count: 1 }));
        assert_eq!(Distribution::of([0]).unwrap().histogram(10), [Bar { from: 0, to: 1, count: 1 }]);
    }
}
