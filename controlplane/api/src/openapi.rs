//! OpenAPI documents of the rows (`Spec:` Kubernetes "OpenAPI").

use serde_json::Value;

use crate::kind::Registry;

/// The Swagger 2.0 document of everything (`/openapi/v2`).
pub fn v2(registry: &Registry) -> Value {
    let _ = registry;
    Value::Null
}

/// The OpenAPI 3.0 document of one group version (`/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`); `None` if no row is in it.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let _ = (registry, group, version);
    None
}

/// The paths under `/openapi/v3` with their group and version: `("api/v1", "", "v1")`, `("apis/apps/v1", "apps", "v1")`.
pub fn v3_paths(registry: &Registry) -> Vec<(String, String, String)> {
    let _ = registry;
    Vec::new()
}
