//! Role-based access control (`Spec:` rbac.authorization.k8s.io/v1): who has which rules, and do they cover a request.

use std::sync::Arc;

use serde::Deserialize;
use trierarch_api::{GroupResource, Object, Snapshot};

use crate::authorize::Decision;
use crate::identity::{AUTHENTICATED, User};
use crate::request::RequestInfo;

const GROUP: &str = "rbac.authorization.k8s.io";
pub(crate) const CLUSTER_ROLES: GroupResource = GroupResource::new(GROUP, "clusterroles");
pub(crate) const CLUSTER_ROLE_BINDINGS: GroupResource = GroupResource::new(GROUP, "clusterrolebindings");
pub(crate) const ROLES: GroupResource = GroupResource::new(GROUP, "roles");
pub(crate) const ROLE_BINDINGS: GroupResource = GroupResource::new(GROUP, "rolebindings");

/// A rule: any of the verbs on any of the resources, or on any of the paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// Groups, `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Empty: all names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths; a trailing `*` matches any rest.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RoleRules {
    #[serde(deserialize_with = "nullable")]
    rules: Vec<PolicyRule>,
}

fn nullable<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PolicyRule>, D::Error> {
    Ok(Option::<Vec<PolicyRule>>::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct BindingParts {
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

/// What a binding binds.
#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl PolicyRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        let verb = self.verbs.iter().any(|verb| verb == "*" || *verb == info.verb);
        if !verb {
            return false;
        }
        if !info.is_resource {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &info.path));
        }
        self.api_groups.iter().any(|group| group == "*" || *group == info.group)
            && self.resources.iter().any(|resource| resource_matches(resource, &info.resource, &info.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&info.name))
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => subresource.is_empty() && pattern == resource,
        Some(("*", sub)) => sub == subresource,
        Some((name, sub)) => name == resource && sub == subresource,
    }
}

impl Subject {
    fn text(&self, binding_namespace: &str) -> String {
        if self.kind != "ServiceAccount" {
            return format!("{} {:?}", self.kind, self.name);
        }
        let namespace = if self.namespace.is_empty() { binding_namespace } else { &self.namespace };
        format!("ServiceAccount \"{}/{namespace}\"", self.name)
    }

    fn is(&self, user: &User, binding_namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => self.name == user.name,
            "Group" => user.in_group(&self.name),
            "ServiceAccount" => {
                let namespace = if self.namespace.is_empty() { binding_namespace } else { &self.namespace };
                user.service_account().is_some_and(|(ns, name)| !namespace.is_empty() && ns == namespace && name == self.name)
            }
            _ => false,
        }
    }
}

/// The role that a binding gives a user, and as whom.
fn bound(binding: &Object, user: &User) -> Option<(RoleRef, String)> {
    let parts = binding.view::<BindingParts>().ok()?;
    let subject = parts.subjects.iter().flatten().find(|subject| subject.is(user, &binding.namespace))?;
    Some((parts.role_ref.clone(), subject.text(&binding.namespace)))
}

/// The rules of a role reference; `Err` tells what is missing.
pub fn rules_of(snapshot: &dyn Snapshot, role: &RoleRef, namespace: &str) -> Result<Vec<PolicyRule>, String> {
    role_rules(snapshot, role, namespace).map(|rules| rules.rules.clone())
}

fn role_rules(snapshot: &dyn Snapshot, role: &RoleRef, namespace: &str) -> Result<Arc<RoleRules>, String> {
    let (resource, namespace) = if role.kind == "ClusterRole" { (&CLUSTER_ROLES, "") } else { (&ROLES, namespace) };
    snapshot
        .get(resource, namespace, &role.name)
        .and_then(|object| object.view::<RoleRules>().ok())
        .ok_or_else(|| format!("{}.{GROUP} {:?} not found", role.kind.to_lowercase(), role.name))
}

/// Calls `visit` with every set of rules that a user has in a namespace (empty: at the cluster scope) until it returns true.
/// Returns the texts of what could not be resolved.
fn visit(
    snapshot: &dyn Snapshot,
    user: &User,
    namespace: &str,
    mut visit: impl FnMut(&[PolicyRule], &str) -> bool,
) -> Result<(), Vec<String>> {
    let mut missing = Vec::new();
    for binding in snapshot.list(&CLUSTER_ROLE_BINDINGS, None) {
        if let Some((role, subject)) = bound(&binding, user) {
            match role_rules(snapshot, &role, "") {
                Ok(rules) => {
                    let via = format!("ClusterRoleBinding {:?} of {} {:?} to {subject}", binding.name, role.kind, role.name);
                    if visit(&rules.rules, &via) {
                        return Ok(());
                    }
                }
                Err(text) => missing.push(text),
            }
        }
    }
    if !namespace.is_empty() {
        for binding in snapshot.list(&ROLE_BINDINGS, Some(namespace)) {
            if let Some((role, subject)) = bound(&binding, user) {
                match role_rules(snapshot, &role, namespace) {
                    Ok(rules) => {
                        let name = format!("{}/{}", binding.name, binding.namespace);
                        if visit(&rules.rules, &format!("RoleBinding {name:?} of {} {:?} to {subject}", role.kind, role.name)) {
                            return Ok(());
                        }
                    }
                    Err(text) => missing.push(text),
                }
            }
        }
    }
    Err(missing)
}

/// Whether a user's rules cover a request.
pub fn decide(snapshot: &dyn Snapshot, user: &User, info: &RequestInfo) -> Decision {
    let mut allowed = None;
    let outcome = visit(snapshot, user, &info.namespace, |rules, via| {
        if rules.iter().any(|rule| rule.covers(info)) {
            allowed = Some(format!("RBAC: allowed by {via}"));
        }
        allowed.is_some()
    });
    match (allowed, outcome) {
        (Some(reason), _) => Decision::Allow(reason),
        (None, Err(missing)) if !missing.is_empty() => Decision::NoOpinion(format!(
            "RBAC: {}",
            if missing.len() == 1 { missing[0].clone() } else { format!("[{}]", missing.join(", ")) }
        )),
        _ => Decision::NoOpinion(String::new()),
    }
}

/// All rules a user has in a namespace.
pub fn rules_for(snapshot: &dyn Snapshot, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<String>) {
    let mut all = Vec::new();
    let missing = visit(snapshot, user, namespace, |rules, _| {
        all.extend_from_slice(rules);
        false
    });
    (all, missing.err().unwrap_or_default())
}

/// The rules among `wanted` that `owned` does not cover (`Spec:` RBAC, "Privilege escalation prevention").
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(breakdown).filter(|simple| !owned.iter().any(|rule| covers_rule(rule, simple))).collect()
}

fn breakdown(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut simple = Vec::new();
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let part = PolicyRule {
                    api_groups: vec![group.clone()],
                    resources: vec![resource.clone()],
                    verbs: vec![verb.clone()],
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    simple.push(part);
                } else {
                    simple.extend(rule.resource_names.iter().map(|name| PolicyRule { resource_names: vec![name.clone()], ..part.clone() }));
                }
            }
        }
        for url in &rule.non_resource_urls {
            simple.push(PolicyRule { non_resource_urls: vec![url.clone()], verbs: vec![verb.clone()], ..PolicyRule::default() });
        }
    }
    simple
}

fn covers_rule(owner: &PolicyRule, wanted: &PolicyRule) -> bool {
    let all = |owned: &[String], wanted: &[String]| owned.iter().any(|each| each == "*") || wanted.iter().all(|each| owned.contains(each));
    let resources = wanted.resources.iter().all(|resource| {
        owner.resources.iter().any(|owned| {
            owned == "*"
                || owned == resource
                || owned.strip_prefix("*/").is_some_and(|sub| resource.split_once('/').is_some_and(|(_, s)| s == sub))
        })
    });
    let names = if wanted.resource_names.is_empty() {
        owner.resource_names.is_empty()
    } else {
        owner.resource_names.is_empty() || wanted.resource_names.iter().all(|name| owner.resource_names.contains(name))
    };
    let urls = wanted.non_resource_urls.iter().all(|url| owner.non_resource_urls.iter().any(|owned| path_matches(owned, url)));
    all(&owner.verbs, &wanted.verbs) && all(&owner.api_groups, &wanted.api_groups) && resources && names && urls
}

/// Rules that differ in their verbs only are one, in the order in which upstream prints them.
pub fn compact(rules: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |known: &&mut PolicyRule| {
            known.api_groups == rule.api_groups
                && known.resources == rule.resources
                && known.resource_names == rule.resource_names
                && known.non_resource_urls == rule.non_resource_urls
        };
        match out.iter_mut().find(same) {
            Some(known) => known.verbs.extend(rule.verbs.iter().cloned()),
            None => out.push(rule.clone()),
        }
    }
    out.sort_by_key(rule_text);
    out
}

/// A rule as upstream prints it in refusals.
pub fn rule_text(rule: &PolicyRule) -> String {
    let list = |items: &[String]| format!("[{}]", items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" "));
    let mut parts = Vec::new();
    if !rule.non_resource_urls.is_empty() && rule.resources.is_empty() {
        parts.push(format!("NonResourceURLs:{}", list(&rule.non_resource_urls)));
    } else {
        parts.push(format!("APIGroups:{}", list(&rule.api_groups)));
        parts.push(format!("Resources:{}", list(&rule.resources)));
        if !rule.resource_names.is_empty() {
            parts.push(format!("ResourceNames:{}", list(&rule.resource_names)));
        }
    }
    parts.push(format!("Verbs:{}", list(&rule.verbs)));
    format!("{{{}}}", parts.join(", "))
}

/// Whether someone who is asked for may be told so without proof: used by reviews of other users.
pub fn everyone_groups(groups: &mut Vec<String>) {
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Options;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |items: &[&str]| items.iter().map(|&item| item.to_owned()).collect::<Vec<_>>();
        PolicyRule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            resource_names: own(names),
            non_resource_urls: Vec::new(),
        }
    }

    fn check(rule: &PolicyRule, method: &str, path: &str, expected: bool) {
        let info = RequestInfo::parse(method, path, &Options::default());
        assert_eq!(rule.covers(&info), expected, "{rule:?} {method} {path}");
    }

    #[test]
    fn rules_cover_what_they_name() {
        let pods = rule(&["get", "list"], &[""], &["pods"], &[]);
        check(&pods, "GET", "/api/v1/namespaces/a/pods", true);
        check(&pods, "GET", "/api/v1/namespaces/a/pods/p", true);
        check(&pods, "GET", "/api/v1/namespaces/a/pods/p/log", false);
        check(&pods, "DELETE", "/api/v1/namespaces/a/pods/p", false);
        check(&pods, "GET", "/apis/metrics.k8s.io/v1beta1/pods", false);
        check(&rule(&["*"], &["*"], &["*/scale"], &[]), "PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", true);
        check(&rule(&["*"], &["*"], &["*"], &[]), "GET", "/api/v1/namespaces/a/pods/p/log", true);
        check(&rule(&["get"], &[""], &["secrets"], &["s"]), "GET", "/api/v1/namespaces/a/secrets/s", true);
        check(&rule(&["list"], &[""], &["secrets"], &["s"]), "GET", "/api/v1/namespaces/a/secrets", false);
        let paths = PolicyRule {
            verbs: vec!["get".into()],
            non_resource_urls: vec!["/healthz".into(), "/openapi/*".into()],
            ..PolicyRule::default()
        };
        check(&paths, "GET", "/openapi/v3", true);
        check(&paths, "GET", "/healthz/ping", false);
    }

    #[test]
    fn nobody_grants_more_than_they_have() {
        let owned = [rule(&["get", "list"], &[""], &["pods", "configmaps"], &[])];
        assert!(uncovered(&owned, &[rule(&["get"], &[""], &["pods"], &["x"])]).is_empty());
        let extra = uncovered(&owned, &[rule(&["get", "delete"], &[""], &["pods"], &[])]);
        assert_eq!(extra, vec![rule(&["delete"], &[""], &["pods"], &[])]);
        assert_eq!(rule_text(&extra[0]), r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#);
        assert_eq!(uncovered(&[rule(&["*"], &["*"], &["*"], &[])], &[rule(&["*"], &["*"], &["*"], &[])]), vec![]);
        assert_eq!(uncovered(&[rule(&["get"], &[""], &["pods"], &["a"])], &[rule(&["get"], &[""], &["pods"], &[])]).len(), 1);
    }
}
