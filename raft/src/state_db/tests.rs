//! Tests of `state_db`.
