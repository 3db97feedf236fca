//! The replicated store: opaque bytes under ordered keys, one revision per committed transaction, watches that resume.
//!
//! It knows nothing of Kubernetes. It refuses to interpret values, to read a clock inside `apply`, and to let any other crate name
//! an openraft type: everything outside talks to [`Store`].
//!
//! Begin with [`command`] (what enters the log), then `apply` (what it does), [`view`] and [`watch`] (what readers see), then [`store`]
//! (the handle).

pub mod backup;
pub mod command;
pub mod environment;
pub mod experiment;
pub mod recover;
pub mod restore;
pub mod store;
pub mod untrusted;
pub mod view;
pub mod watch;

mod alarm;
mod apply;
mod ballot;
mod clock;
mod columns;
mod core;
mod departed;
mod disk;
mod doubt;
mod drop_signal;
mod forgetting;
mod format;
mod gaps;
pub mod happenings;
mod keys;
mod log_store;
mod lull;
mod maintenance;
mod majority;
mod members;
mod network;
mod open;
mod own_runtime;
mod past;
#[cfg(feature = "planted")]
pub mod planted;
mod purging;
mod quorum;
mod raft_types;
mod read_index;
mod recollect;
mod records;
mod reign_check;
mod seat;
mod shared;
mod snapshot;
mod state_db;
mod state_machine;
mod status;
mod succession;
mod thrift;
mod ticking;
mod told;
mod urgency;

pub use command::{Cause, Durability, Guard, Key, NodeId, Op, Refusal, Revision, Term, Txn, TxnId};
pub use format::Formats;
pub use store::{Committed, Leadership, Member, MemberRole, OpenError, PeerTls, Status, Store, StoreConfig, StoreError, TXN_BYTES_MAX};
pub use view::{Record, View};
pub use watch::{Event, EventKind, WatchError, Watcher};
