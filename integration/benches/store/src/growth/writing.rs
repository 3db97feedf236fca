//! Clients that write while something else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::clock;
use crate::rounds::{count, joined};
use crate::rows::{Asked, spread};
use crate::systems::System;
use crate::traffic::{Link, Measured, Mix, Window, Workload, closed_loop};

/// Nobody writes for longer.
const LONG: Duration = Duration::from_secs(3600);

/// Clients that write in a closed loop until they are told to end.
pub struct Writing {
    halted: Arc<AtomicBool>,
    loops: JoinSet<anyhow::Result<Measured>>,
    start: Instant,
}

/// How long writes took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writes {
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// Per second.
    pub per_second: f64,
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Milliseconds of the slowest.
    pub longest_ms: f64,
}

impl Writing {
    /// Begins with so many writes on the way at the leader.
    ///
    /// # Errors
    /// There is no leader, or it takes no connection.
    pub async fn begin(system: &System, mix: Mix, in_flight: usize) -> anyhow::Result<Self> {
        let endpoint = system.member(Asked::Leader).await?;
        let (halted, numbers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (connections, depth) = spread(in_flight);
        let mut ready = Vec::new();
        for connection in 0..connections as u64 {
            let workload = Workload::new(mix, 0, connection, Arc::clone(&numbers)).until(Arc::clone(&halted));
            ready.push((Link::connect(endpoint).await?, workload));
        }
        let start = clock::now();
        let window = Window { start, end: start + LONG };
        let loops = ready.into_iter().map(|(link, workload)| closed_loop(link, workload, depth, window)).collect();
        Ok(Self { halted, loops, start })
    }

    /// Ends when what is on the way is answered.
    ///
    /// # Errors
    /// A write failed.
    pub async fn end(self) -> anyhow::Result<Writes> {
        let elapsed = self.start.elapsed();
        self.halted.store(true, Ordering::Relaxed);
        Ok(writes(&joined(self.loops).await?, elapsed))
    }
}

/// Writes for a while.
///
/// # Errors
/// As [`Writing::begin`] and [`Writing::end`].
pub async fn write_for(system: &System, mix: Mix, in_flight: usize, time: Duration) -> anyhow::Result<Writes> {
    let writing = Writing::begin(system, mix, in_flight).await?;
    tokio::time::sleep(time).await;
    writing.end().await
}

fn writes(measured: &Measured, elapsed: Duration) -> Writes {
    let ms = |micros: u64| count(micros) / 1000.0;
    Writes {
        acknowledged: measured.latencies.len(),
        per_second: count(measured.latencies.len()) / elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        p50_ms: ms(measured.latencies.value_at_quantile(0.5)),
        p99_ms: ms(measured.latencies.value_at_quantile(0.99)),
        longest_ms: ms(measured.latencies.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_summed_up() {
        let mut measured = Measured::new();
        (0..99).for_each(|_| measured.latencies.record(1000).unwrap());
        measured.latencies.record(50_000).unwrap();
        let writes = writes(&measured, Duration::from_secs(2));
        assert_eq!((writes.acknowledged, writes.per_second), (100, 50.0));
        assert!((0.9..1.1).contains(&writes.p50_ms) && (0.9..1.1).contains(&writes.p99_ms) && writes.longest_ms > 49.0);
    }
}
