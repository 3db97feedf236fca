//! The diff of Services.
