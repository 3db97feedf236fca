//! A client of the Kubernetes API over HTTPS: the only way by which node agents and the CLI reach the masters.
//!
//! It knows several masters and goes on with the next when one does not answer. It refuses to retry a write whose outcome is unknown:
//! that is the caller's decision.
//!
//! Begin with [`Client`], then [`Reflector`] (a local copy of a collection) and [`kubeconfig`].

pub mod client;
pub mod join;
pub mod kubeconfig;
pub mod reflector;
pub mod tls;
pub mod token;
pub mod upgrade;
pub mod watch;

pub use client::{Client, Config, Error, PatchKind, Request, Response, TokenSource};
pub use join::fetch_authority;
pub use reflector::{Reflected, Reflector};
pub use tls::{ClientIdentity, TlsError};
pub use token::JoinToken;
pub use watch::WatchEvent;
