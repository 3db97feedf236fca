//! The streaming port: logs, exec, attach, port-forward and the masters' tunnel into the pod network.

pub mod channels;
pub mod dial;
pub mod logs;
pub mod remote;
pub mod server;
pub mod spdy;
pub mod spdy_session;
pub mod stats;
pub mod tunnel;
pub mod websocket;
