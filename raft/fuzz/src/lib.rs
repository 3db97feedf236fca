//! Garbage for everything that reads what peers send and what the disk holds ([`trierarch_raft::untrusted`]): refused or understood, never a panic,
//! and no more memory than the bytes are worth.
//!
//! Begin with [`target`] (what must hold for any bytes), then [`mutate`] (how garbage is made of good bytes) and [`corpus`] (where those come
//! from). `cargo test -p trierarch-raft-fuzz` is what CI runs, bounded; the program runs one target for as long as wanted, or one input:
//! `cargo afl` and any other fuzzer that hands over files can drive it.

pub mod clock;
pub mod corpus;
pub mod heap;
pub mod mutate;
pub mod target;
