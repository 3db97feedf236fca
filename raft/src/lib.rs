//! The replicated store: opaque bytes under ordered keys, one revision per committed transaction, watches that resume.
//!
//! It knows nothing of Kubernetes. It refuses to interpret values, to read a clock inside `apply`, and to let any other crate name
//! an openraft type: everything outside talks to [`Store`].
//!
//! Begin with [`command`] (what enters the log), then [`view`] (what readers see), then [`store`] (the handle).

pub mod command;
pub mod store;
pub mod view;
pub mod watch;

pub use command::{Cause, Guard, Key, NodeId, Op, Refusal, Revision, Term, Txn, TxnId};
pub use store::{Committed, Leadership, Member, MemberRole, OpenError, Status, Store, StoreConfig, StoreError};
pub use view::{Record, View};
pub use watch::{Event, EventKind, WatchError, Watcher};
