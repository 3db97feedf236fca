//! Histograms by powers of two, with the interface that openraft asks of the crate of this name.
//!
//! The published crate builds the bucket tables of sixteen resolutions when the first of them is used, 26 MiB in every process, for
//! statistics that nobody of ours reads. This one needs half a kilobyte a histogram, and answers a percentile with the upper end of its
//! bucket. It goes when the published one builds only the table that is used.

use std::fmt;
use std::marker::PhantomData;

/// One bucket for 0, and one for each number of binary digits.
const BUCKETS: usize = 65;

/// How often values of each magnitude were recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing was recorded.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = bucket_of(value);
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }

    /// No less than the value below which the share `p` (0 to 1) of all values lie, and less than twice it.
    pub fn percentile(&self, p: f64) -> u64 {
        let total = self.total();
        if total == 0 {
            return 0;
        }
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let rank = ((total as f64 * p).ceil() as u64).clamp(1, total);
        let mut below = 0_u64;
        for (bucket, count) in self.counts.iter().enumerate() {
            below = below.saturating_add(*count);
            if below >= rank {
                return upper_end(bucket);
            }
        }
        u64::MAX
    }

    /// The usual percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()) as usize
}

fn upper_end(bucket: usize) -> u64 {
    u32::try_from(bucket).ok().and_then(|digits| 1_u64.checked_shl(digits)).map_or(u64::MAX, |end| end - 1)
}

/// Percentiles of recorded values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// How many values there were.
    pub samples: u64,
    /// 0.1 %.
    pub p0_1: u64,
    /// 1 %.
    pub p1: u64,
    /// 5 %.
    pub p5: u64,
    /// 10 %.
    pub p10: u64,
    /// 50 %.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples, p50 {}, p90 {}, p99 {}, p99.9 {}", self.samples, self.p50, self.p90, self.p99, self.p99_9)
    }
}

/// Several histograms to print: a line of percentiles for each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    series: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// Nothing to print.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more line.
    #[must_use]
    pub fn add<T>(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram.percentile_stats()));
        drop(histogram);
        self
    }

    /// All there is.
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_upper_end_of_its_bucket() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        (1..=100).for_each(|value| histogram.record(value));
        assert_eq!(histogram.total(), 100);
        assert_eq!([0.0, 0.01, 0.5, 0.99].map(|p| histogram.percentile(p)), [1, 1, 63, 127]);
        histogram.record_n(u64::MAX, 1000);
        assert_eq!(histogram.percentile_stats().p99, u64::MAX);
        assert_eq!((bucket_of(0), bucket_of(1), bucket_of(u64::MAX)), (0, 1, 64));
        assert_eq!((upper_end(0), upper_end(1), upper_end(64)), (0, 1, u64::MAX));
    }
}
