//! A file system that forgets: what a power cut takes, how disks fail, and nothing that a good disk would not do.
//!
//! Begin with [`FaultFs::mount`]: a directory whose files live in the memory of the process that mounted it. [`Disk`] is the model behind it
//! and the handle to everything that goes wrong: [`Disk::cut_power`], [`Disk::fail_syncs`], [`Disk::slow_syncs`], [`Disk::set_capacity`]
//! and [`Disk::flip`]. The model knows no FUSE, so its promises are tested without a mount.
//!
//! # What is promised
//!
//! * The bytes of a file are stored by `fsync` or `fdatasync` of that file, and by nothing else.
//! * Names (create, link, rename, remove) have one order. A sync of any file or directory stores all of them so far, as a journal does. So a
//!   synced file is found under its name, and a file that was never synced may be found with its name and without its bytes.
//! * A power cut keeps a beginning of the names that were not stored, and of each file a beginning of the writes that were not, up to any
//!   byte; how much is the caller's choice.
//! * After a failed sync the file shows what was written, but that was never stored and no later sync stores it, as with Linux' page cache.
//!
//! Owners and times are not kept.

mod disk;
mod mount;
mod tree;

pub use disk::Disk;
pub use mount::FaultFs;
