//! A small disk of its own for one part of a cluster, so that it can be full.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::statvfs;

use crate::cluster::succeed;

/// An ext4 file system in a file, mounted on a directory through a loop device; detached when dropped.
pub struct SmallDisk {
    mounted: PathBuf,
}

impl SmallDisk {
    /// Makes one of `size_mib` in the file `image`, which takes only as much room as is written, and mounts it on `directory`.
    ///
    /// # Errors
    /// What the tools said; a machine without loop devices cannot.
    pub fn mount(image: &Path, size_mib: u64, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        std::fs::File::create(image)
            .and_then(|file| file.set_len(size_mib << 20))
            .with_context(|| format!("cannot make {}", image.display()))?;
        // none of it is kept for root, who runs the cluster
        succeed(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        succeed(Command::new("mount").args(["-o", "loop"]).arg(image).arg(directory))?;
        Ok(Self { mounted: directory.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("ballast")
    }

    /// Fills it so that only so much is left.
    ///
    /// # Errors
    /// When something else has taken more, or the disk fails.
    pub fn fill(&self, left_mib: u64) -> Result<()> {
        let _none_yet = std::fs::remove_file(self.ballast());
        let look = statvfs(&self.mounted)?;
        let free = look.blocks_available() * look.fragment_size();
        let size = free.checked_sub(left_mib << 20).with_context(|| format!("only {free} bytes are free"))?;
        let file = std::fs::File::create(self.ballast())?;
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(size)?).or_else(|error| {
            // the blocks that say where the blocks are did not fit: then it is full
            if error == nix::errno::Errno::ENOSPC { Ok(()) } else { Err(error) }
        })?;
        Ok(())
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn release(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("cannot remove the ballast")
    }

    /// Detaches what an earlier run may have left on a directory.
    pub fn detach(directory: &Path) {
        let _nothing_mounted = umount2(directory, MntFlags::MNT_DETACH);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Self::detach(&self.mounted);
    }
}
