//! The machines below the masters: each has a disk of its own that can fail, and forgets what was not synced when its power is cut.

use std::collections::BTreeMap;
use std::ops::DerefMut;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use trierarch_faultfs::{Disk, FaultFs};
use trierarch_integration::cluster::Cluster;

use crate::MASTERS;

/// Two write-ahead logs set aside 18 MiB each, and the store wants 48 MiB to be free.
const DISK_BYTES: u64 = 512 << 20;
/// `Spec:` random(4): another number after each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// One machine for each master.
pub(crate) struct Machines {
    disks: BTreeMap<&'static str, FaultFs>,
    /// What the masters' programs see as the boot id. They share the file: a master that starts again after another machine's power cut
    /// thinks that its own machine has booted, too, which only makes it more careful.
    boot_id: PathBuf,
    boots: u64,
}

/// Bytes that were not synced when a machine's power was cut, and how many of them had reached its disk.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Torn {
    pub(crate) unsynced: u64,
    pub(crate) kept: u64,
}

/// Gives this process and what it starts mounts of their own, which end with them. Only a process without threads may.
pub(crate) fn enter_own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have mounts of my own")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).context("cannot make mounts private")
}

impl Machines {
    /// Machines whose disks are mounted where the masters of `data_dir` keep their stores.
    pub(crate) fn new(data_dir: &Path) -> Result<Self> {
        let mut disks = BTreeMap::new();
        for master in MASTERS {
            let directory = data_dir.join("masters").join(master).join("store");
            std::fs::create_dir_all(&directory)?;
            let disk = FaultFs::mount(&directory, DISK_BYTES).with_context(|| format!("cannot mount a disk on {}", directory.display()))?;
            disks.insert(master, disk);
        }
        let boot_id = data_dir.join("boot_id");
        std::fs::write(&boot_id, "boot-0\n")?;
        mount(Some(&boot_id), BOOT_ID, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("cannot choose the boot id")?;
        Ok(Self { disks, boot_id, boots: 0 })
    }

    /// Detaches everything that was mounted.
    pub(crate) fn switch_off(&mut self) {
        self.disks.clear();
        let _not_mounted = umount2(BOOT_ID, MntFlags::MNT_DETACH);
    }

    pub(crate) fn disk(&self, master: &str) -> Result<impl DerefMut<Target = Disk>> {
        Ok(self.disks.get(master).with_context(|| format!("{master} has no disk"))?.disk())
    }

    /// Cuts the power of some machines at once and switches them on again. `keep` says of each file how many of so many bytes that were not
    /// synced had reached the disk.
    pub(crate) fn cut_power(&mut self, cluster: &Cluster, masters: &[&str], mut keep: impl FnMut(u64) -> u64) -> Result<Torn> {
        self.boots += 1;
        let mut torn = Torn::default();
        cluster.crash(masters, || {
            for master in masters {
                let mut disk = self.disk(master)?;
                torn.unsynced += disk.unsynced_bytes();
                disk.cut_power(|most| {
                    let kept = keep(most);
                    torn.kept += kept;
                    kept
                });
            }
            Ok(std::fs::write(&self.boot_id, format!("boot-{}\n", self.boots))?)
        })?;
        Ok(torn)
    }

    /// Gives a master a machine that was never used: nothing is left of what it had.
    pub(crate) fn replace(&self, cluster: &Cluster, master: &str) -> Result<()> {
        let directory = cluster.data_dir().join("masters").join(master);
        cluster.crash(&[master], || {
            for entry in std::fs::read_dir(&directory)? {
                let path = entry?.path();
                match path.file_name().is_some_and(|name| name == "store") {
                    true => {}
                    false if path.is_dir() => std::fs::remove_dir_all(&path)?,
                    false => std::fs::remove_file(&path)?,
                }
            }
            *self.disk(master)? = Disk::new(DISK_BYTES);
            Ok(())
        })
    }
}
