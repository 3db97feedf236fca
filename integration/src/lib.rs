//! What the tests between processes share: a cluster of the real program, the real kubectl, and waiting for conditions.
//!
//! Begin with [`cluster`] (a cluster for a test) and [`steps`] (a runner for tests that build on each other); [`traffic`] and [`watching`]
//! are clients that run on while something dies, [`load`] is one whose answers are judged by [`history`] and [`linearizability`];
//! [`small_disk`] is a disk that fills up, [`network_faults`] breaks links, [`busy`] keeps cores busy, [`elections`] is what masters say about
//! theirs, [`traces`] is what a cluster leaves behind.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test runner talks to people")]

pub mod busy;
pub mod cluster;
pub mod elections;
pub mod history;
pub mod linearizability;
pub mod load;
pub mod network_faults;
pub mod small_disk;
pub mod stalls;
pub mod steps;
pub mod traces;
pub mod traffic;
pub mod wait;
pub mod watching;
