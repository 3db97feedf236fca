//! The answer of DNS.
