//! How a client speaks to a member: pure functions from calls to bytes and from bytes to replies, no sockets. Both codecs do the same work
//! for the same call, so that the client costs the same whatever it speaks to.

pub mod grpc;
pub mod h2;
pub mod native;

use std::io;

use bytes::{Bytes, BytesMut};

/// What a client wants. Keys and values are the same for all systems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creates or replaces.
    Put { key: Bytes, value: Bytes },
    /// One key.
    Get { key: Bytes, linearizable: bool },
    /// The first `limit` keys below a prefix, linearizable.
    Range { prefix: Bytes, limit: u32 },
    /// Replaces if the key's last change has this revision, and says which it has if not.
    Swap { key: Bytes, revision: u64, value: Bytes },
    /// All changes below a prefix from now on.
    Watch { prefix: Bytes },
    /// Who leads.
    Status,
    /// Forget the history. For systems that do not do that by themselves.
    Compact { revision: u64 },
}

/// What a call brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A write was applied at this revision.
    Done { revision: u64 },
    /// A swap met this revision instead.
    Refused { revision: u64 },
    /// Reads: how many keys, and the bytes of their values.
    Found { keys: usize, value_bytes: usize },
    /// A watch has begun.
    Watching,
    /// The values of changes a watch saw.
    Changed { values: Vec<Bytes> },
    /// Whether the asked member leads, and how many members vote.
    Status { leads: bool, voters: usize },
    /// It was refused or could not be done.
    Failed(String),
}

/// One connection's way to speak.
pub trait Codec: Send {
    /// What is sent first.
    fn hello(&mut self, out: &mut Vec<u8>);

    /// Appends a call to `out`; returns the number under which it is answered.
    fn call(&mut self, call: &Call, out: &mut Vec<u8>) -> u64;

    /// Takes what is complete from `input`; appends what must be sent back to `out`, and replies to `replies`.
    ///
    /// # Errors
    /// The peer does not speak this protocol, or ends the connection.
    fn take(&mut self, input: &mut BytesMut, out: &mut Vec<u8>, replies: &mut Vec<(u64, Reply)>) -> io::Result<()>;
}
