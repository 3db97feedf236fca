//! The verbs, one file each.

pub mod apply;
pub mod auth;
pub mod completion;
pub mod config;
pub mod copy;
pub mod create;
pub mod delete;
pub mod describe;
pub mod diff;
pub mod exec;
pub mod explain;
pub mod get;
pub mod info;
pub mod label;
pub mod logs;
pub mod nodes;
pub mod patch;
pub mod port_forward;
pub mod replace;
pub mod rollout;
pub mod run;
pub mod scale;
pub mod set;
pub mod wait;
