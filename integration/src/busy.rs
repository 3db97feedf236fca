//! A machine that is busy with other things: as many threads as it has cores compute without pause, at the priority of the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};

/// How much a thread computes before it looks whether it should end.
const STRIDE: u64 = 1 << 16;

/// Threads that compute. Dropping it ends them.
pub struct Busy {
    stop: Arc<AtomicBool>,
    before: Spent,
}

impl Busy {
    /// One thread for each core.
    ///
    /// # Errors
    /// The machine does not say how many it has, or how it spends its time.
    pub fn every_core() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for core in 0..std::thread::available_parallelism()?.get() as u64 {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut number = core;
                while !stop.load(Ordering::Relaxed) {
                    number = std::hint::black_box((0..STRIDE).fold(number, |number, add| number.wrapping_mul(31).wrapping_add(add)));
                }
            });
        }
        Ok(Self { stop, before: Spent::now()? })
    }

    /// Which share of the time of all cores was spent on something since it began, in percent.
    ///
    /// # Errors
    /// See [`Busy::every_core`].
    pub fn percent(&self) -> Result<f64> {
        Ok(Spent::now()?.busy_percent_since(self.before))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How many processes wanted a core, on average over the last minute.
///
/// # Errors
/// The machine does not say.
pub fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("cannot read the load")?;
    text.split_whitespace().next().and_then(|number| number.parse().ok()).with_context(|| format!("no load is in {text:?}"))
}

/// The time of all cores since the machine has booted, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spent {
    idle: u64,
    all: u64,
}

impl Spent {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("cannot read how the time is spent")?;
        Self::parse(&text).with_context(|| format!("no times are in {text:?}"))
    }

    /// `Spec:` proc(5), `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<u64> = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
        let (idle, waiting) = (numbers.get(3)?, numbers.get(4)?);
        Some(Self { idle: idle + waiting, all: numbers.iter().take(8).sum() })
    }

    fn busy_percent_since(self, before: Self) -> f64 {
        let (all, idle) = (self.all.saturating_sub(before.all), self.idle.saturating_sub(before.idle));
        100.0 - 100.0 * idle as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Spent;

    #[test]
    fn time_that_is_neither_idle_nor_waiting_is_busy() {
        let before = Spent::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 2 3").unwrap();
        assert_eq!(before, Spent { idle: 850, all: 1000 });
        let after = Spent::parse("cpu  180 10 55 802 53 0 0 0 0 0\n").unwrap();
        assert!((after.busy_percent_since(before) - 95.0).abs() < 0.001);
        assert!(Spent::parse("cpu0 1 2 3 4 5").is_none());
    }
}
