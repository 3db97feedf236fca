//! When a series of probe results changes what is believed of a container.

use k8s_openapi::api::core::v1::Probe;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeKind {
    /// Holds back the other two until it succeeds once.
    Startup,
    /// Restarts the container when it fails.
    Liveness,
    /// Takes the pod out of Services while it fails.
    Readiness,
}

impl ProbeKind {
    /// As events spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As wished.
    Success,
    /// Not as wished, with what was seen.
    Failure(String),
    /// The probe itself could not be made: an event, but no result.
    Error(String),
}

/// Consecutive results against the thresholds.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    success_threshold: u32,
    failure_threshold: u32,
    run: u32,
    last: Option<bool>,
}

impl Series {
    /// Nothing seen yet.
    pub fn new(probe: &Probe) -> Self {
        let positive = |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default);
        Self {
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
            run: 0,
            last: None,
        }
    }

    /// What is to be believed after this result; `None` while too few results agree.
    pub fn observe(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        (self.run >= threshold).then_some(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_consecutive_results() {
        let mut series = Series::new(&Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() });
        let seen: Vec<Option<bool>> =
            [true, true, false, false, true, false, false, false].into_iter().map(|s| series.observe(s)).collect();
        assert_eq!(seen, [None, Some(true), None, None, None, None, None, Some(false)]);
    }

    #[test]
    fn defaults_are_one_and_three() {
        let mut series = Series::new(&Probe::default());
        assert_eq!(series.observe(true), Some(true));
        assert_eq!((series.observe(false), series.observe(false), series.observe(false)), (None, None, Some(false)));
    }
}
