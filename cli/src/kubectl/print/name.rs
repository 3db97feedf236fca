//! `-o name`: `pod/x`, `deployment.apps/y`.

use serde_json::Value;

/// Kind and group in lower case, then the name.
pub fn name(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    format!("{}/{name}", kind(object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default()))
}

/// `pod`, `deployment.apps`.
pub fn kind(api_version: &str, kind: &str) -> String {
    let kind = kind.to_lowercase();
    match api_version.split_once('/') {
        Some((group, _)) if !group.is_empty() => format!("{kind}.{group}"),
        _ => kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_group_belongs_to_the_kind() {
        assert_eq!(name(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}})), "pod/x");
        assert_eq!(name(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "y"}})), "deployment.apps/y");
    }
}
