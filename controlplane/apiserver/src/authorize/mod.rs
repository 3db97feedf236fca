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
    first_that_allows(node::decide(snapshot, user, info, now), || rbac::decide(snapshot, user, info))
}

/// What nodes may not by their nature, rules may still allow them; the refusal is the node authorizer's then.
fn first_that_allows(node: Option<Decision>, rules: impl FnOnce() -> Decision) -> Decision {
    match node {
        None => rules(),
        Some(Decision::NoOpinion(why)) => match rules() {
            Decision::NoOpinion(_) => Decision::NoOpinion(why),
            allowed => allowed,
        },
        Some(allowed) => allowed,
    }
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
    fn rules_may_allow_a_node_what_its_nature_does_not() {
        let allow = |why: &str| Decision::Allow(why.to_owned());
        let no = |why: &str| Decision::NoOpinion(why.to_owned());
        for (node, rules, expected) in [
            (Some(no("node")), allow("rule"), allow("rule")),
            (Some(no("node")), no("rule"), no("node")),
            (Some(allow("node")), no("rule"), allow("node")),
            (None, allow("rule"), allow("rule")),
            (None, no("rule"), no("rule")),
        ] {
            assert_eq!(first_that_allows(node, || rules), expected);
        }
    }

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
