//! Tests of `state_machine`.
