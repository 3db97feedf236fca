//! The seam between this crate and the kernel.

mod linux;

use std::sync::Arc;

/// System calls this crate needs.
pub trait Sys: Send + Sync {}

/// The real system.
pub fn linux() -> Arc<dyn Sys> {
    Arc::new(linux::Linux)
}
