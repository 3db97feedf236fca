//! How a figure comes about: one round of one row on one system, and the median of many.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::clock;
use crate::rows::{Asked, Row, Work, spread};
use crate::systems::System;
use crate::traffic::{Link, Measured, Mix, Window, Workload, closed_loop};
use crate::usage::Usage;
use crate::watching;

/// Nobody fills for longer.
const FILL_PATIENCE: Duration = Duration::from_secs(1200);
/// Calls on the way while objects are made.
const FILL_IN_FLIGHT: usize = 256;
/// Bytes of an object.
pub const OBJECT_BYTES: usize = 1024;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Not counted.
    pub warm_up: Duration,
    /// Counted.
    pub window: Duration,
}

/// The figures of one round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    /// Replies, or delivered events, per second.
    pub per_second: f64,
    /// Milliseconds.
    pub p50_ms: f64,
    /// Milliseconds.
    pub p99_ms: f64,
    /// Of all server processes, per 1,000 operations.
    pub cpu_seconds: f64,
    /// Of the client, per 1,000 operations.
    pub client_cpu_seconds: f64,
    /// By all server processes, per byte of keys and values; 0 when nothing was written.
    pub written_ratio: f64,
    /// How many of a hundred swaps met another revision.
    pub refused_percent: f64,
}

/// Measures one row on one system once.
///
/// # Errors
/// A call fails, or a process has ended.
pub async fn measure(system: &System, row: &Row, objects: u64, length: Length, seed: u64) -> anyhow::Result<Round> {
    let endpoint = system.member(row.asked).await?;
    // the window begins when everybody is connected, however long that takes
    let from_now = || {
        let start = clock::now() + length.warm_up;
        Window { start, end: start + length.window }
    };
    let (working, window) = match row.work {
        Work::Calls { mix, in_flight } => {
            let (connections, depth) = spread(in_flight);
            let mut ready = Vec::with_capacity(connections);
            for connection in 0..connections as u64 {
                let workload = Workload::new(mix, objects, seed << 8 | connection, Arc::default());
                ready.push((Link::connect(endpoint).await?, workload));
            }
            let window = from_now();
            let loops = ready.into_iter().map(|(link, workload)| closed_loop(link, workload, depth, window));
            (tokio::task::JoinSet::from_iter(loops), window)
        }
        Work::Watch { watchers } => {
            let watching = watching::begin(endpoint, watchers).await?;
            let window = from_now();
            (watching.start(window), window)
        }
    };
    let own = [std::process::id()];
    tokio::time::sleep_until(window.start.into()).await;
    let (before, own_before, started) = (Usage::of(&system.pids)?, Usage::of(&own)?, clock::now());
    tokio::time::sleep_until(window.end.into()).await;
    let (used, own_used) = (Usage::of(&system.pids)?.since(&before), Usage::of(&own)?.since(&own_before));
    let elapsed = started.elapsed();
    Ok(round(&joined(working).await?, elapsed, &used, &own_used))
}

/// Makes all objects, or replaces them; returns how many per second, and what the processes use afterwards.
///
/// # Errors
/// A call fails, a process has ended, or [`FILL_PATIENCE`] was not enough.
pub async fn fill(system: &System, objects: u64, value_bytes: usize) -> anyhow::Result<(f64, Usage)> {
    let endpoint = system.member(Asked::Leader).await?;
    let (start, filled) = (clock::now(), Arc::new(AtomicU64::new(0)));
    let window = Window { start, end: start + FILL_PATIENCE };
    let (connections, depth) = spread(FILL_IN_FLIGHT);
    let mut loops = tokio::task::JoinSet::new();
    for connection in 0..connections as u64 {
        let workload = Workload::new(Mix::Fill { value_bytes }, objects, connection, Arc::clone(&filled));
        loops.spawn(closed_loop(Link::connect(endpoint).await?, workload, depth, window));
    }
    let measured = joined(loops).await?;
    anyhow::ensure!(measured.latencies.len() == objects, "only {} of {objects} objects were made in time", measured.latencies.len());
    Ok((count(measured.latencies.len()) / start.elapsed().as_secs_f64(), Usage::of(&system.pids)?))
}

/// What all loops saw together.
pub(crate) async fn joined(mut loops: tokio::task::JoinSet<anyhow::Result<Measured>>) -> anyhow::Result<Measured> {
    let mut all = Measured::new();
    while let Some(one) = loops.join_next().await {
        all.add(&one??);
    }
    Ok(all)
}

fn round(measured: &Measured, elapsed: Duration, used: &Usage, own: &Usage) -> Round {
    let operations = count(measured.latencies.len());
    let per_thousand = |seconds: f64| if operations > 0.0 { seconds * 1000.0 / operations } else { 0.0 };
    let ratio = |part: f64, whole: u64| if whole > 0 { part / count(whole) } else { 0.0 };
    Round {
        per_second: operations / elapsed.as_secs_f64(),
        p50_ms: count(measured.latencies.value_at_quantile(0.5)) / 1000.0,
        p99_ms: count(measured.latencies.value_at_quantile(0.99)) / 1000.0,
        cpu_seconds: per_thousand(used.cpu_seconds),
        client_cpu_seconds: per_thousand(own.cpu_seconds),
        written_ratio: ratio(count(used.written_bytes), measured.payload_bytes),
        refused_percent: ratio(100.0 * count(measured.refused), measured.latencies.len()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

/// The middle one; of two the mean.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (lower, upper) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
    match (sorted.get(lower), sorted.get(upper)) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn figures_are_per_thousand_operations_and_per_byte() {
        let mut measured = Measured::new();
        (0..500).for_each(|_| measured.latencies.record(2000).unwrap());
        (measured.payload_bytes, measured.refused) = (1000, 50);
        let used = Usage { cpu_seconds: 1.0, written_bytes: 3000, resident_bytes: 0 };
        let round = round(&measured, Duration::from_secs(2), &used, &Usage::default());
        assert_eq!((round.per_second, round.cpu_seconds, round.written_ratio, round.refused_percent), (250.0, 2.0, 3.0, 10.0));
        assert!((1.9..2.1).contains(&round.p99_ms));
    }
}
