//! Whether an ended container runs again, and which kind of container it is.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::observed::ContainerRecord;

/// An init container that keeps running beside the normal ones.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The pod's policy; `Always` unless said otherwise.
pub fn pod_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a normal container that ended with `exit_code` is started again.
pub fn restarts(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches {
            return rule.action.starts_with("Restart");
        }
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| pod_policy(spec)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a plain init container that ended with `exit_code` is started again: success is enough, whatever the policy.
pub fn init_restarts(spec: &PodSpec, container: &Container, exit_code: i32) -> bool {
    if exit_code == 0 {
        return false;
    }
    restarts(spec, container, exit_code)
}

/// The pod's containers have all ended for good, or an init container failed for good.
pub fn is_complete(spec: &PodSpec, record: impl Fn(&str) -> Option<ContainerRecord>) -> bool {
    let failed_init = spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)).any(|c| {
        record(&c.name).and_then(|r| r.finished().map(|f| f.exit_code)).is_some_and(|code| code != 0 && !init_restarts(spec, c, code))
    });
    failed_init
        || spec
            .containers
            .iter()
            .all(|c| record(&c.name).and_then(|r| r.finished().map(|f| f.exit_code)).is_some_and(|code| !restarts(spec, c, code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_and_rules() {
        let check = |pod: &str, container: serde_json::Value, code: i32, expected: bool| {
            let spec: PodSpec = serde_json::from_value(json!({"containers": [], "restartPolicy": pod})).unwrap();
            let container: Container = serde_json::from_value(container).unwrap();
            assert_eq!(restarts(&spec, &container, code), expected, "{pod} {code}");
        };
        check("Always", json!({"name": "c"}), 0, true);
        check("OnFailure", json!({"name": "c"}), 0, false);
        check("OnFailure", json!({"name": "c"}), 3, true);
        check("Never", json!({"name": "c"}), 3, false);
        check("Never", json!({"name": "c", "restartPolicy": "OnFailure"}), 3, true);
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        check("Never", json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}), 42, true);
        check("Never", json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": rules}), 1, false);
    }
}
