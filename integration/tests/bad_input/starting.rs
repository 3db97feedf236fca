//! What keeps a cluster from starting.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use trierarch_integration::cluster::{Cluster, binary, fail, succeed};
use trierarch_integration::small_disk::SmallDisk;

use crate::{NAME, node_is_ready};

/// `up` of another cluster, which must leave nothing behind.
fn refused_up(cluster: &Cluster, folder: &Path, options: &[&str]) -> Result<String> {
    let mut command = cluster.trierarch(&["up", "--name", "bix", "--network", "10.131.80.0"]);
    command.args(options).env("TRIERARCH_DATA_DIR", folder);
    let error = fail(&mut command)?;
    ensure!(!folder.join("cluster.json").exists(), "something was made:\n{error}");
    Ok(error)
}

pub(crate) fn second_up(cluster: &Cluster) -> Result<()> {
    let error = fail(&mut cluster.trierarch(&["up", "--name", NAME]))?;
    ensure!(error.contains("is up already") && error.contains("trierarch down"), "{error}");
    node_is_ready(cluster)
}

pub(crate) fn taken_port(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let error = refused_up(cluster, folder.path(), &["--port", &port])?;
    ensure!(error.contains(&format!("port {port} on 127.0.0.1 is taken")) && error.contains("--port"), "{error}");
    Ok(())
}

pub(crate) fn too_little_disk(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data_dir = folder.path().join("data");
    let _disk = SmallDisk::mount(&folder.path().join("disk.ext4"), 16, &data_dir)?;
    let error = refused_up(cluster, &data_dir, &["--port", "16646"])?;
    ensure!(error.contains("MiB free, 512 MiB are needed") && error.contains("--data-dir"), "{error}");
    Ok(())
}

pub(crate) fn two_masters(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let error = refused_up(cluster, folder.path(), &["--masters", "2"])?;
    ensure!(error.contains("use 1, 3 or 5"), "{error}");
    Ok(())
}

pub(crate) fn no_root_rights(_: &Cluster) -> Result<()> {
    // the program must be readable for that user too
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("trierarch");
    std::fs::copy(binary()?, &program)?;
    succeed(Command::new("chmod").args(["-R", "a+rx"]).arg(folder.path()))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program).args(["up", "--name", "bix"]);
    command.env("TRIERARCH_DATA_DIR", folder.path().join("data")).env("HOME", folder.path());
    let error = fail(&mut command)?;
    ensure!(error.contains("needs root") && error.contains("sudo"), "{error}");
    Ok(())
}
