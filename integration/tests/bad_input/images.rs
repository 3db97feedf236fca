//! Images that are not there, or not whole.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use trierarch_integration::cluster::{Cluster, fail, succeed};
use trierarch_integration::wait::until;

use crate::{PATIENCE, text};

pub(crate) fn missing(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["run", "missing", "--image=127.0.0.1:1/nobody/nothing:1", "--restart=Never"])?;
    until("the reason in the pod's status", PATIENCE, || {
        let pod = cluster.get(&["pod/missing"])?;
        let reason = text(&pod, "/status/containerStatuses/0/state/waiting/reason");
        ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason), "{}", pod["status"]);
        let message = text(&pod, "/status/containerStatuses/0/state/waiting/message");
        ensure!(message.contains("127.0.0.1:1/nobody/nothing:1") && text(&pod, "/status/phase") == "Pending", "{}", pod["status"]);
        Ok(())
    })?;
    until("the event", PATIENCE, || {
        let described = cluster.kubectl(&["describe", "pod", "missing"])?;
        ensure!(described.contains("Failed") && described.contains("127.0.0.1:1/nobody/nothing:1"), "{described}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pod", "missing"])?;
    Ok(())
}

/// An image of one small layer in the cluster's own store.
fn build(cluster: &Cluster, name: &str, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("Containerfile"), "FROM scratch\nCOPY content /content\n")?;
    std::fs::write(folder.join("content"), "olives ".repeat(1000))?;
    succeed(&mut cluster.trierarch(&["image", "build", "-t", name, folder.to_str().context("the path is text")?]))?;
    Ok(())
}

pub(crate) fn missing_layer(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let error = fail(&mut cluster.trierarch(&["image", "import", &path("nothing.tar")]))?;
    ensure!(error.contains("nothing.tar"), "{error}");
    std::fs::write(folder.path().join("noise.tar"), vec![b'x'; 4096])?;
    fail(&mut cluster.trierarch(&["image", "import", &path("noise.tar")]))?;
    // a real one, but for its layer
    build(cluster, "damaged:1", &folder.path().join("context"))?;
    succeed(&mut cluster.trierarch(&["image", "export", "damaged:1", "-o", &path("whole.tar")]))?;
    succeed(&mut cluster.trierarch(&["image", "rm", "damaged:1"]))?;
    let unpacked = folder.path().join("unpacked");
    std::fs::create_dir(&unpacked)?;
    succeed(Command::new("tar").arg("-xf").arg(path("whole.tar")).arg("-C").arg(&unpacked))?;
    let manifest = manifest_of(&unpacked)?;
    let layer = text(&manifest, "/layers/0/digest").strip_prefix("sha256:").context("layers have digests")?.to_owned();
    std::fs::remove_file(unpacked.join("blobs/sha256").join(&layer))?;
    succeed(Command::new("tar").arg("-cf").arg(path("damaged.tar")).arg("-C").arg(&unpacked).arg("."))?;
    // into an empty store, which cannot have the layer already
    let elsewhere = |arguments: &[&str]| {
        let mut command = cluster.trierarch(arguments);
        command.env("TRIERARCH_DATA_DIR", folder.path().join("empty"));
        command
    };
    let error = fail(&mut elsewhere(&["image", "import", &path("damaged.tar")]))?;
    ensure!(error.contains("damaged.tar") && error.contains(&layer), "{error}");
    let images = succeed(&mut elsewhere(&["image", "ls"]))?;
    ensure!(!images.contains("damaged"), "half an image was taken in:\n{images}");
    succeed(&mut elsewhere(&["image", "import", &path("whole.tar")]))?;
    let images = succeed(&mut elsewhere(&["image", "ls"]))?;
    ensure!(images.contains("damaged"), "the whole archive was not taken in:\n{images}");
    Ok(())
}

/// The only manifest of an unpacked OCI archive.
fn manifest_of(unpacked: &Path) -> Result<serde_json::Value> {
    let read = |path: &Path| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    let mut found = read(&unpacked.join("index.json"))?;
    while let Some(digest) = found.pointer("/manifests/0/digest").and_then(serde_json::Value::as_str) {
        let digest = digest.strip_prefix("sha256:").context("manifests have digests")?;
        found = read(&unpacked.join("blobs/sha256").join(digest))?;
    }
    Ok(found)
}
