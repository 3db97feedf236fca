//! Tests of `log_store`.
