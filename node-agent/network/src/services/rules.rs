//! The rules of Services.
