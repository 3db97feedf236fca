//! The object model of Kubernetes v1.37: kinds as rows, objects as canonical JSON, rules as pure functions.
//!
//! Everyone may depend on this crate and it depends on no other crate of the workspace. It refuses to be asynchronous, to do I/O, to
//! read a clock or to make random values: time, uids and names are arguments.
//!
//! Begin with [`kind`] (what a row says), then [`object`] (what is stored), then [`rules`] (what a kind may decide), then
//! [`status`] (how a refusal reads). What arrives from a client goes through [`decode`], which asks [`schema`]; [`merge`] holds the
//! four ways to patch, [`managed_fields`] who owns what, [`selector`] what lists and watches filter by, [`openapi`] what clients read.

pub mod decode;
pub mod departure;
pub mod kind;
pub mod kinds;
pub mod managed_fields;
pub mod merge;
pub mod names;
pub mod object;
pub mod openapi;
pub mod problem;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod snapshot;
pub mod status;

pub use decode::FieldValidation;
pub use kind::{GroupResource, Kind, Registry, Scope, Subresource, Verb};
pub use object::{Object, ObjectKey, Uid};
pub use problem::{Path, Problem, Problems};
pub use quantity::Quantity;
pub use rules::{Column, RequestFacts, Rules};
pub use schema::Schema;
pub use selector::{FieldSelector, LabelSelector};
pub use snapshot::{IndexTerm, Snapshot};
pub use status::{ApiError, Reason};

/// The Kubernetes version whose API this is, as `/version` and OpenAPI documents give it.
pub const VERSION: &str = concat!("v1.37.2+trierarch.", env!("CARGO_PKG_VERSION"));
