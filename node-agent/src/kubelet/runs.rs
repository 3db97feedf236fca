//! The runs of a container that the runtime still knows, and which of them nobody needs any more.

use trierarch_runtime::{ContainerState, ContainerStatus};

/// Label of a run: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label of a run: the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// As many ended runs stay beside the present one: its log is what `--previous` shows.
const ENDED_KEPT: usize = 1;

/// The runs of one container, newest first.
pub fn of_container(all: Vec<ContainerStatus>, pod_uid: &str, name: &str) -> Vec<ContainerStatus> {
    let is = |status: &ContainerStatus, label: &str, value: &str| status.spec.labels.get(label).is_some_and(|own| own == value);
    let mut runs: Vec<ContainerStatus> = all.into_iter().filter(|c| is(c, POD_UID, pod_uid) && is(c, CONTAINER_NAME, name)).collect();
    runs.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    runs
}

/// The ended runs that make room before a further one is made: all but the newest of them. `runs` are in order, newest first.
pub fn superseded(runs: &[ContainerStatus]) -> Vec<&ContainerStatus> {
    let ended = runs.iter().filter(|run| !matches!(run.state, ContainerState::Running | ContainerState::Starting));
    ended.skip(ENDED_KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};
    use trierarch_runtime::ContainerSpec;

    fn run(id: &str, age_seconds: u64, state: ContainerState, name: &str) -> ContainerStatus {
        let labels = BTreeMap::from([(POD_UID.to_owned(), "u".to_owned()), (CONTAINER_NAME.to_owned(), name.to_owned())]);
        ContainerStatus {
            id: id.to_owned(),
            sandbox_id: "u.0".to_owned(),
            state,
            created_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age_seconds),
            started_at: None,
            pid: None,
            exit: None,
            log_path: None,
            spec: Arc::new(ContainerSpec { labels, ..ContainerSpec::default() }),
        }
    }

    #[test]
    fn the_present_run_and_the_one_before_stay() {
        let all = vec![
            run("old", 9, ContainerState::Exited, "c"),
            run("other", 8, ContainerState::Exited, "d"),
            run("last", 5, ContainerState::Exited, "c"),
            run("now", 1, ContainerState::Running, "c"),
        ];
        let runs = of_container(all, "u", "c");
        assert_eq!(runs.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["now", "last", "old"]);
        assert_eq!(superseded(&runs).iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["old"]);
        assert!(superseded(&runs[..2]).is_empty());
    }
}
