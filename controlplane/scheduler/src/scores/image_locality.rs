//! Images that are already there (ImageLocality).

use super::MAX;
use crate::pod::PodInfo;
use crate::snapshot::NodeRow;

const MEBI: i64 = 1024 * 1024;
const LEAST: i64 = 23 * MEBI;
const MOST_PER_CONTAINER: i64 = 1000 * MEBI;

/// More for more bytes that need not be pulled.
pub(super) fn score(pod: &PodInfo, row: &NodeRow) -> i64 {
    if row.images.is_empty() {
        return 0;
    }
    let there: i64 = pod.images.iter().map(|image| row.images.get(image.as_str()).copied().unwrap_or(0)).sum();
    let most = MOST_PER_CONTAINER * i64::try_from(pod.images.len()).unwrap_or(1).max(1);
    MAX * (there.clamp(LEAST, most) - LEAST) / (most - LEAST)
}
