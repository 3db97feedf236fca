//! The one place where this crate reads the time: for the ages of its own files. Callers of decisions pass the time in.

use std::time::SystemTime;

/// Now.
pub(crate) fn now() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the crate's clock")]
    SystemTime::now()
}
