//! The services `Cluster` and `Maintenance`, as far as clients look at them.

use std::path::Path;

use trierarch_raft::MemberRole;

use crate::facade::Facade;
use crate::messages::cluster::{
    AlarmMember, AlarmRequest, AlarmResponse, Member, MemberListRequest, MemberListResponse, StatusRequest, StatusResponse,
};
use crate::problem::Problem;

/// The protocol that is spoken: clients look here for what they may use.
const VERSION: &str = "3.6.0";
/// The alarm of a member without room.
const NO_SPACE: i32 = 1;

impl Facade {
    /// All members.
    ///
    /// # Errors
    /// None; other services can fail.
    #[expect(clippy::unused_async, reason = "every method is one")]
    pub async fn member_list(&self, _request: MemberListRequest) -> Result<MemberListResponse, Problem> {
        let members = self.store.status().members.into_iter().map(|member| Member {
            id: member.id,
            name: format!("m{}", member.id),
            peer_urls: vec![format!("https://{}", member.peer_address)],
            client_urls: vec![format!("https://{}", member.api_address)],
            is_learner: member.role == MemberRole::Learner,
        });
        Ok(MemberListResponse { header: Some(self.header_now()), members: members.collect() })
    }

    /// This member's state.
    ///
    /// # Errors
    /// None; other services can fail.
    #[expect(clippy::unused_async, reason = "every method is one")]
    pub async fn status(&self, _request: StatusRequest) -> Result<StatusResponse, Problem> {
        let status = self.store.status();
        let db_size = i64::try_from(directory_bytes(&self.data_dir)).unwrap_or(i64::MAX);
        Ok(StatusResponse {
            header: Some(self.header_now()),
            version: VERSION.to_owned(),
            db_size,
            leader: status.leader.unwrap_or(0),
            raft_index: status.committed,
            raft_term: status.term,
            raft_applied_index: status.applied,
            errors: status.no_quorum.into_iter().chain(status.read_only).collect(),
            db_size_in_use: db_size,
            is_learner: status.members.iter().any(|member| member.id == status.node_id && member.role == MemberRole::Learner),
            storage_version: VERSION.to_owned(),
        })
    }

    /// Alarms that are on: only a full disk is one. They cannot be switched.
    ///
    /// # Errors
    /// None; other services can fail.
    #[expect(clippy::unused_async, reason = "every method is one")]
    pub async fn alarm(&self, _request: AlarmRequest) -> Result<AlarmResponse, Problem> {
        let status = self.store.status();
        let alarm = status.read_only.map(|_| AlarmMember { member_id: status.node_id, alarm: NO_SPACE });
        Ok(AlarmResponse { header: Some(self.header_now()), alarms: alarm.into_iter().collect() })
    }
}

/// What the files below a directory hold; files come and go while it looks.
fn directory_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_as_large_as_its_files() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("inner")).unwrap();
        std::fs::write(directory.path().join("inner/file"), [0; 10]).unwrap();
        std::fs::write(directory.path().join("file"), [0; 5]).unwrap();
        assert_eq!(directory_bytes(directory.path()), 15);
        assert_eq!(directory_bytes(&directory.path().join("none")), 0);
    }
}
