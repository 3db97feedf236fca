//! The disk's own floor: how often a second one thread can write 4 KiB and sync, at the end of a growing file (the file system has to note the
//! new length each time), and inside a file that already has its length (as logs that are allocated ahead).

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;

use crate::clock;

/// What is written at once.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// Blocks of the file that has its length.
pub(crate) const BLOCKS: u64 = 4096;

/// What the disk did.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// At the end of a growing file.
    pub append: Latencies,
    /// Inside a file that has its length.
    pub overwrite: Latencies,
}

/// Of things that are done one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    /// How many.
    pub per_second: f64,
    /// Microseconds of one.
    pub p50_us: u64,
    /// Microseconds of one.
    pub p99_us: u64,
}

impl Latencies {
    /// What was recorded in microseconds while `took` passed.
    pub(crate) fn of(recorded: &Histogram<u64>, took: Duration) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
        let per_second = recorded.len() as f64 / took.as_secs_f64();
        Self { per_second, p50_us: recorded.value_at_quantile(0.5), p99_us: recorded.value_at_quantile(0.99) }
    }
}

/// Writes and syncs for that long each way, in a file of its own, which is removed afterwards.
///
/// # Errors
/// The disk fails.
pub fn measure(directory: &Path, duration: Duration) -> anyhow::Result<Floor> {
    let path = directory.join("floor");
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let append = syncs(&mut file, duration, false)?;
    file.rewind()?;
    (0..BLOCKS).try_for_each(|_| file.write_all(&[0; BLOCK_BYTES]))?;
    file.sync_all()?;
    let overwrite = syncs(&mut file, duration, true)?;
    std::fs::remove_file(&path)?;
    Ok(Floor { append, overwrite })
}

fn syncs(file: &mut File, duration: Duration, around: bool) -> anyhow::Result<Latencies> {
    file.rewind()?;
    let block = [0x5a; BLOCK_BYTES];
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3)?;
    let start = clock::now();
    while start.elapsed() < duration {
        if around && latencies.len() % BLOCKS == 0 {
            file.rewind()?;
        }
        let before = clock::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.saturating_record(u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok(Latencies::of(&latencies, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_floor() {
        let directory = tempfile::tempdir().unwrap();
        let floor = measure(directory.path(), Duration::from_millis(20)).unwrap();
        for syncs in [floor.append, floor.overwrite] {
            assert!(syncs.per_second > 0.0 && syncs.p50_us <= syncs.p99_us);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
