//! Nobody grants what they do not have (`Spec:` RBAC, "Privilege escalation prevention and bootstrapping").

use serde_json::Value;
use trierarch_api::{ApiError, Kind};

use crate::apiserver::{ApiServer, StoreSnapshot};
use crate::authorize::rbac::{self, PolicyRule, RoleRef};
use crate::identity::MASTERS;
use crate::pipeline::{Ctx, metadata};
use crate::request::RequestInfo;

/// Compares the rules that an object grants with those its writer has.
///
/// # Errors
/// 403 that lists the rules.
pub fn check(server: &ApiServer, snapshot: &StoreSnapshot, ctx: &Ctx, kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if ctx.local || ctx.user.in_group(MASTERS) {
        return Ok(());
    }
    let namespace = metadata::text(object, "namespace");
    let binding = kind.kind.ends_with("Binding");
    let role: RoleRef = serde_json::from_value(object["roleRef"].clone()).unwrap_or_default();
    let may = |verb: &str, resource: &str, name: &str| {
        let info = RequestInfo {
            is_resource: true,
            verb: verb.to_owned(),
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        server.decide(&ctx.user, &info).allowed()
    };
    let name = metadata::text(object, "name");
    let wanted: Vec<PolicyRule> = if binding {
        let resource = if role.kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if may("bind", resource, &role.name) {
            return Ok(());
        }
        // upstream's error names the binding's resource and the role's name
        rbac::rules_of(snapshot, &role, namespace).map_err(|_missing| ApiError::not_found(&kind.group_resource(), &role.name))?
    } else {
        if may("escalate", &kind.plural, name) {
            return Ok(());
        }
        serde_json::from_value(object["rules"].clone()).unwrap_or_default()
    };
    let (owned, missing) = rbac::rules_for(snapshot, &ctx.user, namespace);
    let uncovered = rbac::uncovered(&owned, &wanted);
    if uncovered.is_empty() {
        return Ok(());
    }
    let groups = ctx.user.groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(" ");
    let list = rbac::compact(&uncovered).iter().map(rbac::rule_text).collect::<Vec<_>>().join("\n");
    let mut why =
        format!("user {:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{list}", ctx.user.name);
    if !missing.is_empty() {
        why = format!("{why}; resolution errors: {missing:?}");
    }
    Err(ApiError::forbidden(&kind.group_resource(), name, &why))
}
