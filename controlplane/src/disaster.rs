//! A master's directory after a disaster: made from a backup, or the only one that is left of a cluster. No master runs on it meanwhile.
//!
//! A backup holds the cluster's authorities and keys sealed under the server join token, because without them nothing that clients, agents and
//! pods hold is valid any more. Its objects are not encrypted: it holds every Secret.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use trierarch_client::JoinToken;
use trierarch_raft::backup::{self, BackupHeader};
use trierarch_raft::recover::{self, Survivor};
use trierarch_raft::restore;

use crate::identity::{Bundle, pki};
use crate::join::{self, Membership};

/// Whose authorities and keys a restored cluster has.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Those of the old cluster, which this token opens: kubeconfigs, agents and service account tokens stay valid.
    Kept(JoinToken),
    /// New ones: every client, agent and pod needs new credentials.
    New,
}

/// Makes `data_dir` that of the first master of a new cluster with the state of a backup.
///
/// # Errors
/// The backup is of no use, the token does not open its secrets, or `data_dir` holds a master already.
pub fn restore(file: &Path, data_dir: &Path, identity: &Identity, progress: &mut dyn FnMut(u64, u64)) -> anyhow::Result<BackupHeader> {
    if join::membership_path(data_dir).exists() || pki::bundle_path(data_dir).exists() {
        bail!("{} holds a master already: restore into a new directory", data_dir.display());
    }
    let attachment = backup::header(file)?.attachment;
    let mut bundle = match identity {
        Identity::Kept(token) => {
            let sealed = std::str::from_utf8(&attachment).context("the backup holds no secrets of a cluster")?;
            Bundle::open(sealed, token).context("this token is not that of the cluster of the backup")?
        }
        Identity::New => Bundle::create(crate::clock::now())?,
    };
    // members of the old cluster that live after all must not be taken for members of this one
    bundle.cluster_id = uuid::Uuid::new_v4().to_string();
    std::fs::create_dir_all(data_dir).with_context(|| format!("cannot make {}", data_dir.display()))?;
    let header = restore::restore(file, &store_dir(data_dir), &bundle.cluster_id, progress)?;
    pki::save_bundle(data_dir, &bundle)?;
    join::save_membership(data_dir, &Membership { id: header.node_id, joined: true })?;
    Ok(header)
}

/// What the master in `data_dir` would keep.
///
/// # Errors
/// It still runs, or there is none.
pub fn look(data_dir: &Path) -> anyhow::Result<Survivor> {
    Ok(recover::look(&store_dir(data_dir))?)
}

/// Makes the master in `data_dir` the only one of its cluster.
///
/// # Errors
/// It still runs, or there is none.
pub fn recover(data_dir: &Path) -> anyhow::Result<Survivor> {
    let mut bundle = pki::load_bundle(data_dir)?.with_context(|| format!("{} holds no master", data_dir.display()))?;
    bundle.cluster_id = uuid::Uuid::new_v4().to_string();
    let survivor = recover::recover(&store_dir(data_dir), &bundle.cluster_id)?;
    // whoever is interrupted here recovers once more
    pki::save_bundle(data_dir, &bundle)?;
    join::save_membership(data_dir, &Membership { id: survivor.node_id, joined: true })?;
    Ok(survivor)
}

fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}
