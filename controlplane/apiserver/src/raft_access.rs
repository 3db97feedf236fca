//! The RBAC verbs of `/raft/v1`. A method says too little there: a backup holds every Secret, and an election is no POST like others.

/// Reads the state of the store.
pub const READ: &str = "get";
/// Takes a copy of everything.
pub const BACKUP: &str = "backup";
/// Moves leadership and members.
pub const OPERATE: &str = "operate";
/// Lets things go wrong by intent.
pub const EXPERIMENT: &str = "experiment";

/// The verb that a role must hold on the non-resource URL `path`; `None` elsewhere.
pub fn verb(method: &str, path: &str) -> Option<&'static str> {
    let what = path.strip_prefix("/raft/v1/")?;
    Some(match (method, what) {
        ("GET" | "HEAD", "backup") => BACKUP,
        ("GET" | "HEAD", _) => READ,
        (_, experiments) if experiments == "experiments" || experiments.starts_with("experiments/") => EXPERIMENT,
        _ => OPERATE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_harms_needs_a_verb_of_its_own() {
        assert_eq!(verb("GET", "/raft/v1/status"), Some(READ));
        assert_eq!(verb("GET", "/raft/v1/events"), Some(READ));
        assert_eq!(verb("GET", "/raft/v1/backup"), Some(BACKUP));
        assert_eq!(verb("POST", "/raft/v1/transfer"), Some(OPERATE));
        assert_eq!(verb("DELETE", "/raft/v1/anything"), Some(OPERATE));
        assert_eq!(verb("GET", "/raft/v1/experiments"), Some(READ));
        assert_eq!(verb("POST", "/raft/v1/experiments/faults"), Some(EXPERIMENT));
        assert_eq!(verb("DELETE", "/raft/v1/experiments/faults/7"), Some(EXPERIMENT));
        assert_eq!(verb("PUT", "/raft/v1/experiments/timers"), Some(EXPERIMENT));
        assert_eq!(verb("PUT", "/raft/v1/experimental"), Some(OPERATE));
        assert_eq!(verb("GET", "/api/v1/pods"), None);
    }
}
