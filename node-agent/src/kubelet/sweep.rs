//! What an agent that was killed in the middle of something left on the node.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trierarch_images::Store;
use trierarch_runtime::{ContainerState, ContainerStatus};

use super::observed::PodRecord;
use super::runs;

/// Removes writable layers and pins of containers that never came to be; `known` are the runtime's.
pub fn sweep(containers: &Path, store: &Store, owner: &str, known: &BTreeSet<String>) {
    for entry in fs::read_dir(containers).into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if known.contains(&id) {
            continue;
        }
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(container = id, %error, "Could not remove what is left of a container");
        }
    }
    let pins = store.pins().unwrap_or_default();
    for pin in pins.iter().filter(|pin| pin.owner == owner && !known.contains(&pin.id)) {
        if let Err(error) = store.unpin(owner, &pin.id) {
            tracing::warn!(container = pin.id, error = trierarch_images::chain(&error), "Could not take back a pin");
        }
    }
}

/// Runs of a pod that its record does not know although they may have a process: they began while the agent died, and nobody heard of them.
pub fn strays<'r>(all: &'r [ContainerStatus], pod_uid: &str, record: &PodRecord) -> Vec<&'r ContainerStatus> {
    let known: BTreeSet<&str> = record.containers.values().filter_map(|c| c.current.as_ref()).map(|a| a.id.as_str()).collect();
    let own = all.iter().filter(|run| run.spec.labels.get(runs::POD_UID).is_some_and(|uid| uid == pod_uid));
    own.filter(|run| run.state != ContainerState::Exited && !known.contains(run.id.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::observed::{Attempt, ContainerRecord};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::SystemTime;
    use trierarch_images::Pin;
    use trierarch_runtime::ContainerSpec;

    #[test]
    fn what_no_container_uses_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("images")).unwrap();
        let containers = dir.path().join("containers");
        for id in ["lives", "lost"] {
            fs::create_dir_all(containers.join(id).join("upper")).unwrap();
            for owner in ["n1", "n2"] {
                let manifest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
                store.pin(&Pin { owner: owner.into(), id: id.into(), manifest }).unwrap();
            }
        }
        sweep(&containers, &store, "n1", &BTreeSet::from(["lives".to_owned()]));
        assert!(containers.join("lives").exists() && !containers.join("lost").exists());
        let left: Vec<(String, String)> = store.pins().unwrap().into_iter().map(|pin| (pin.owner, pin.id)).collect();
        let pair = |owner: &str, id: &str| (owner.to_owned(), id.to_owned());
        assert_eq!(left, [pair("n1", "lives"), pair("n2", "lives"), pair("n2", "lost")]);
    }

    #[test]
    fn a_run_that_nobody_heard_of_is_a_stray() {
        let run = |id: &str, state| ContainerStatus {
            id: id.to_owned(),
            sandbox_id: "u.0".to_owned(),
            state,
            created_at: SystemTime::UNIX_EPOCH,
            started_at: None,
            pid: None,
            exit: None,
            log_path: None,
            spec: Arc::new(ContainerSpec {
                labels: BTreeMap::from([(runs::POD_UID.to_owned(), "u".to_owned())]),
                ..ContainerSpec::default()
            }),
        };
        let all = [run("known", ContainerState::Running), run("stray", ContainerState::Running), run("old", ContainerState::Exited)];
        let current = Attempt { id: "known".to_owned(), ..Attempt::default() };
        let containers = BTreeMap::from([("c".to_owned(), ContainerRecord { current: Some(current), ..ContainerRecord::default() })]);
        let record = PodRecord { containers, ..PodRecord::default() };
        assert_eq!(strays(&all, "u", &record).iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["stray"]);
        assert!(strays(&all, "other", &record).is_empty());
    }
}
