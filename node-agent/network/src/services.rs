//! Virtual addresses: a snapshot of Services becomes rules, rules are compared with those in the kernel, and only the difference is sent.
//!
//! [`snapshot`] in, [`rules`] decides, [`diff`] compares, [`nft`] performs; [`tracer`] walks a packet through rules, for tests and questions.

pub mod diff;
pub mod nft;
pub mod rules;
pub mod snapshot;
pub mod text;
pub mod tracer;
pub(crate) mod wire;
