//! HTTP and the write pipeline of a master: who asks, may they, what do they want stored, and what do they read back.
//!
//! It refuses to know any kind by name outside the table of rows, except where the API itself does (admission, node authorizer,
//! subresources). It holds no state of its own: everything is in the store, read through O(1) snapshots.
//!
//! Begin with [`request`] (what a path means), then [`dispatch`] (the order of the steps), then [`pipeline`] (a write), [`list`] and
//! [`watch`] (the reads). [`server`] is the only part that knows sockets; [`local`] is the same pipeline without them.

// the layouts of requests within connections within servers nest deeply
#![recursion_limit = "256"]

pub mod clock;
pub mod config;
pub mod identity;
pub mod request;

pub mod authenticate;
pub mod authorize;
pub mod negotiate;

pub mod apiserver;
pub mod dispatch;
pub mod flow;
pub mod health;
pub mod metrics;
pub mod pipeline;

pub mod delete;
pub mod list;
pub mod patch;
pub mod read;
pub mod table;
pub mod watch;
pub mod write;

pub mod discovery;
pub mod openapi;
pub mod service_ip;
pub mod subresource;

pub mod proxy;
pub mod raft_access;

pub mod local;
pub mod routes;
pub mod server;

pub use apiserver::ApiServer;
pub use config::{Config, ServiceAccountKeys, Settings};
pub use identity::User;
pub use local::Local;
pub use server::{ServerHandle, serve};
