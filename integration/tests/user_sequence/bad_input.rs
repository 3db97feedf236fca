//! Mistakes: each gets a clear error, nothing is lost, nothing hangs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use trierarch_integration::cluster::{Cluster, fail, succeed};
use trierarch_integration::wait::until;

use crate::shop::{one_of, text};
use crate::{PATIENCE, PORT};

/// A small file system, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let options = Some("size=16m");
        nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options)?;
        Ok(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _left_for_the_next_boot = nix::mount::umount(self.0.path());
    }
}

pub(crate) fn up_says_what_it_needs(cluster: &Cluster) -> Result<()> {
    let other = tempfile::tempdir()?;
    let up = |folder: &Path, options: &[&str]| {
        let mut command = cluster.trierarch(&["up", "--name", "utx", "--network", "10.131.78.0"]);
        command.args(options).env("TRIERARCH_DATA_DIR", folder);
        command
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let error = fail(&mut up(other.path(), &["--port", &port]))?;
    ensure!(error.contains(&format!("port {port} on 127.0.0.1 is taken")), "{error}");

    let disk = SmallDisk::mount()?;
    let error = fail(&mut up(disk.0.path(), &["--port", "16644"]))?;
    ensure!(error.contains("MiB free") && error.contains("--data-dir"), "{error}");

    let error = fail(&mut up(other.path(), &["--masters", "2"]))?;
    ensure!(error.contains("use 1, 3 or 5"), "{error}");

    // the program must be readable for that user too
    let program = other.path().join("trierarch");
    std::fs::copy(trierarch_integration::cluster::binary()?, &program)?;
    succeed(Command::new("chmod").args(["-R", "a+rx"]).arg(other.path()))?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program).args(["up", "--name", "utx"]);
    command.env("TRIERARCH_DATA_DIR", other.path().join("data")).env("HOME", other.path());
    let error = fail(&mut command)?;
    ensure!(error.contains("needs root"), "{error}");
    Ok(())
}

/// What creating (or another verb with) a manifest is refused with.
fn refused(cluster: &Cluster, verb: &str, manifest: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, manifest)?;
    fail(&mut cluster.kubectl_command(&[verb, "-f", path.to_str().context("the path is text")?]))
}

pub(crate) fn manifests(cluster: &Cluster) -> Result<()> {
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec: {spec}\n");
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {spec}\n");
    for (manifest, expected) in [
        ("a: [\n".to_owned(), "error converting YAML to JSON"),
        ("apiVersion: v9\nkind: Pod\nmetadata: {name: bad}\n".to_owned(), "no matches for kind \"Pod\" in version \"v9\""),
        (pod("{containers: []}"), "spec.containers: Required value"),
        (pod("{containers: [{name: a, image: b}, {name: a, image: b}]}"), "spec.containers[1].name: Duplicate value: \"a\""),
        (pod("{containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}"), "volumeMounts[0].name: Not found: \"v\""),
        (pod("{restartPolicy: Perhaps, containers: [{name: a, image: b}]}"), "spec.restartPolicy: Unsupported value: \"Perhaps\""),
        (
            pod("{containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}"),
            "must be less than or equal to cpu limit",
        ),
        (pod("{containers: [{name: a, image: b}]}").replace("bad", "Bad"), "metadata.name: Invalid value: \"Bad\""),
        (pod("{containers: [{name: a, image: b}]}").replace("bad", "bad, namespace: nowhere"), "namespaces \"nowhere\" not found"),
        (service("{ports: [{port: 99999}]}"), "must be between 1 and 65535, inclusive"),
        (service("{clusterIP: 192.0.2.1, ports: [{port: 80}]}"), "spec.clusterIPs: Invalid value"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: \
             {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}\n"
                .to_owned(),
            "`selector` does not match template `labels`",
        ),
    ] {
        let error = refused(cluster, "create", &manifest)?;
        ensure!(error.contains(expected), "expected {expected:?} for\n{manifest}in\n{error}");
    }
    // what a client of today leaves to the server, and one of old does not ask for
    for (body, expected) in [
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"nonsense":1}"#, "unknown field \"nonsense\""),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{"a":"1","a":"2"}}"#, "duplicate field \"data.a\""),
        (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{"a":1}}"#, "cannot unmarshal number"),
        (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"bad"}}"#, "cannot be handled as a ConfigMap"),
        (r#"{"apiVersion":"v1","kind":"#, "unexpected"),
    ] {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("bad.json");
        std::fs::write(&path, body)?;
        let path = path.to_str().context("the path is text")?;
        let error = fail(&mut cluster.kubectl_command(&[
            "create",
            "--raw",
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            "-f",
            path,
        ]))?;
        ensure!(error.contains(expected), "expected {expected:?} for\n{body}\nin\n{error}");
    }
    let left = cluster.kubectl(&["get", "pods,services,deployments,configmaps", "-o", "name"])?;
    ensure!(!left.to_lowercase().contains("/bad"), "something was stored:\n{left}");
    Ok(())
}

pub(crate) fn conflicts(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "configmap", "once", "--from-literal=a=1"])?;
    let error = fail(&mut cluster.kubectl_command(&["create", "configmap", "once"]))?;
    ensure!(error.contains("configmaps \"once\" already exists"), "{error}");
    let mut stale = cluster.get(&["configmap/once"])?;
    cluster.kubectl(&["annotate", "configmap/once", "touched=yes"])?;
    stale["data"] = serde_json::json!({"a": "2"});
    let error = refused(cluster, "replace", &stale.to_string())?;
    ensure!(error.contains("the object has been modified; please apply your changes to the latest version and try again"), "{error}");
    ensure!(cluster.get(&["configmap/once"])?["data"]["a"] == "1", "the stale write was stored");
    let error =
        fail(&mut cluster.kubectl_command(&["patch", "deployment/shop", "-p", r#"{"spec":{"selector":{"matchLabels":{"a":"b"}}}}"#]))?;
    ensure!(error.contains("field is immutable") || error.contains("does not match template"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["get", "pod", "nobody"]))?;
    ensure!(error.contains("pods \"nobody\" not found"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["delete", "namespace", "kube-system"]))?;
    ensure!(error.to_lowercase().contains("forbidden"), "{error}");
    let (server, authority) = (format!("--server=https://127.0.0.1:{PORT}"), cluster.data_dir().join("authority.pem"));
    let authority = format!("--certificate-authority={}", authority.display());
    let error = fail(cluster.kubectl_command(&[&server, &authority, "--token=nonsense", "get", "pods"]).env("KUBECONFIG", "/dev/null"))?;
    ensure!(error.contains("You must be logged in to the server"), "{error}");
    let pod = one_of(cluster, "app=shop")?;
    let error = fail(&mut cluster.kubectl_command(&["exec", &pod, "-c", "nobody", "--", "true"]))?;
    ensure!(error.contains("container nobody is not valid for pod") || error.contains("container not found"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["exec", &pod, "-c", "web", "--", "no-such-program"]))?;
    ensure!(error.contains("no-such-program"), "{error}");
    cluster.kubectl(&["delete", "configmap", "once"])?;
    Ok(())
}

pub(crate) fn missing_image(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["run", "missing", "--image=127.0.0.1:1/nobody/nothing:1", "--restart=Never"])?;
    until("the reason in the pod's status", PATIENCE, || {
        let pod = cluster.get(&["pod/missing"])?;
        let reason = text(&pod, "/status/containerStatuses/0/state/waiting/reason");
        ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason), "{}", pod["status"]);
        ensure!(
            text(&pod, "/status/containerStatuses/0/state/waiting/message").contains("127.0.0.1:1/nobody/nothing:1"),
            "{}",
            pod["status"]
        );
        ensure!(text(&pod, "/status/phase") == "Pending", "{}", pod["status"]);
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

pub(crate) fn damaged_archive(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let error = fail(&mut cluster.trierarch(&["image", "import", &path("nothing.tar")]))?;
    ensure!(error.contains("nothing.tar"), "{error}");
    std::fs::write(folder.path().join("noise.tar"), vec![b'x'; 4096])?;
    fail(&mut cluster.trierarch(&["image", "import", &path("noise.tar")]))?;
    // a real one, but for its largest layer
    succeed(&mut cluster.trierarch(&["image", "tag", "shop:1", "damaged:1"]))?;
    succeed(&mut cluster.trierarch(&["image", "export", "damaged:1", "-o", &path("whole.tar")]))?;
    succeed(&mut cluster.trierarch(&["image", "rm", "damaged:1"]))?;
    let unpacked = folder.path().join("unpacked");
    std::fs::create_dir(&unpacked)?;
    succeed(Command::new("tar").arg("-xf").arg(path("whole.tar")).arg("-C").arg(&unpacked))?;
    let largest = succeed(
        Command::new("sh").args(["-c", "find . -type f -printf '%s %p\\n' | sort -n | tail -n 1 | cut -d' ' -f2"]).current_dir(&unpacked),
    )?;
    std::fs::remove_file(unpacked.join(largest.trim()))?;
    succeed(Command::new("tar").arg("-cf").arg(path("damaged.tar")).arg("-C").arg(&unpacked).arg("."))?;
    // into an empty store, which cannot have the layer already
    let elsewhere = |arguments: &[&str]| {
        let mut command = cluster.trierarch(arguments);
        command.env("TRIERARCH_DATA_DIR", folder.path().join("empty"));
        command
    };
    let error = fail(&mut elsewhere(&["image", "import", &path("damaged.tar")]))?;
    ensure!(error.contains("damaged.tar") || error.contains("sha256:"), "{error}");
    let images = succeed(&mut elsewhere(&["image", "ls"]))?;
    ensure!(!images.contains("damaged"), "half an image was taken in:\n{images}");
    succeed(&mut elsewhere(&["image", "import", &path("whole.tar")]))?;
    let images = succeed(&mut elsewhere(&["image", "ls"]))?;
    ensure!(images.contains("damaged"), "the whole archive was not taken in:\n{images}");
    Ok(())
}
