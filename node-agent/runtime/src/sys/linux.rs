//! The real system calls.

/// The running kernel.
pub(super) struct Linux;

impl super::Sys for Linux {}
