//! The zone of DNS.
