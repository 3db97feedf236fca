//! A whole cluster on one machine: what `up` decides, starts, watches over and removes.

pub mod cgroup;
pub mod forward;
pub mod host;
pub mod parts;
pub mod process;
pub mod supervisor;
pub mod topology;

use std::path::Path;

use anyhow::Context as _;
use topology::Topology;

/// The cluster that is kept in a data directory, if there is one.
///
/// # Errors
/// When `cluster.json` is there but unreadable.
pub fn load(data_dir: &Path) -> anyhow::Result<Option<Topology>> {
    let path = data_dir.join("cluster.json");
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
