//! The ways a client may change an object without sending all of it.

pub mod apply;
pub mod field_set;
pub mod granular;
pub mod json;
pub mod strategic;
