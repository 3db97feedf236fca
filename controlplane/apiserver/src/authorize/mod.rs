//! May they? Node authorizer first, then RBAC; `system:masters` may everything.

pub mod bootstrap_policy;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod review;

use trierarch_api::{ApiError, GroupResource, Snapshot};

use crate::identity::{MASTERS, User};
use crate::request::RequestInfo;

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes, because.
    Allow(String),
    /// Not by anything known here, because.
    NoOpinion(String),
}

impl Decision {
    /// Whether it is a yes.
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// The reason.
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// Decides over one snapshot.
pub fn decide(snapshot: &dyn Snapshot, user: &User, info: &RequestInfo, now: jiff::Timestamp) -> Decision {
    if user.in_group(MASTERS) {
        return Decision::Allow(String::new());
    }
    if let Some(decision) = node::decide(snapshot, user, info, now) {
        return decision;
    }
    rbac::decide(snapshot, user, info)
}

/// The refusal of a request, word for word as clients know it.
pub fn forbidden(user: &User, info: &RequestInfo, reason: &str) -> ApiError {
    let mut why = if !info.is_resource {
        format!("User {:?} cannot {} path {:?}", user.name, info.verb, info.path)
    } else if info.namespace.is_empty() {
        format!(
            "User {:?} cannot {} resource {:?} in API group {:?} at the cluster scope",
            user.name,
            info.verb,
            info.resource_path(),
            info.group
        )
    } else {
        format!(
            "User {:?} cannot {} resource {:?} in API group {:?} in the namespace {:?}",
            user.name,
            info.verb,
            info.resource_path(),
            info.group,
            info.namespace
        )
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = GroupResource { group: info.group.clone().into(), resource: info.resource.clone().into() };
    ApiError::forbidden(&resource, &info.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Options;

    #[test]
    fn refusals_read_as_upstream_writes_them() {
        let user = User::new("x", &[]);
        let check = |path: &str, expected: &str| {
            let info = RequestInfo::parse("GET", path, &Options::default());
            assert_eq!(forbidden(&user, &info, "").message, expected);
        };
        check(
            "/api/v1/namespaces/default/pods",
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
        );
        check(
            "/apis/apps/v1/deployments",
            r#"deployments.apps is forbidden: User "x" cannot list resource "deployments" in API group "apps" at the cluster scope"#,
        );
        check(
            "/api/v1/namespaces/default/pods/p/log",
            r#"pods "p" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default""#,
        );
        check("/metrics", r#"forbidden: User "x" cannot get path "/metrics""#);
    }
}
