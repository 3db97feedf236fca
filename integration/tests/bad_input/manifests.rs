//! What the API refuses, in Kubernetes' words, and what it must not have stored then.

use anyhow::{Context as _, Result, ensure};
use trierarch_integration::cluster::{Cluster, fail};

use crate::PORT;

/// What creating (or another verb with) a manifest is refused with.
fn refused(cluster: &Cluster, verb: &str, manifest: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bad.yaml");
    std::fs::write(&path, manifest)?;
    fail(&mut cluster.kubectl_command(&[verb, "-f", path.to_str().context("the path is text")?]))
}

/// What the API itself answers to a body: clients of today leave these checks to it, clients of old do not ask for them.
fn refused_body(cluster: &Cluster, body: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bad.json");
    std::fs::write(&path, body)?;
    let url = "/api/v1/namespaces/default/configmaps?fieldValidation=Strict";
    fail(&mut cluster.kubectl_command(&["create", "--raw", url, "-f", path.to_str().context("the path is text")?]))
}

fn check(cluster: &Cluster, cases: &[(&str, &str)], refuse: impl Fn(&Cluster, &str) -> Result<String>) -> Result<()> {
    for (given, expected) in cases {
        let error = refuse(cluster, given)?;
        ensure!(error.contains(expected), "expected {expected:?} for\n{given}\nin\n{error}");
    }
    let left = cluster.kubectl(&["get", "pods,services,deployments,configmaps", "-o", "name"])?;
    ensure!(!left.to_lowercase().contains("/bad"), "something was stored:\n{left}");
    Ok(())
}

pub(crate) fn malformed(cluster: &Cluster) -> Result<()> {
    check(
        cluster,
        &[
            ("a: [\n", "error converting YAML to JSON"),
            ("apiVersion: v9\nkind: Pod\nmetadata: {name: bad}\n", "no matches for kind \"Pod\" in version \"v9\""),
        ],
        |cluster, manifest| refused(cluster, "create", manifest),
    )?;
    check(cluster, &[(r#"{"apiVersion":"v1","kind":"#, "unexpected")], refused_body)
}

pub(crate) fn unknown_fields(cluster: &Cluster) -> Result<()> {
    check(
        cluster,
        &[
            (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"nonsense":1}"#, "unknown field \"nonsense\""),
            (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{"a":"1","a":"2"}}"#, "duplicate field \"data.a\""),
        ],
        refused_body,
    )
}

pub(crate) fn wrong_types(cluster: &Cluster) -> Result<()> {
    check(
        cluster,
        &[
            (r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"},"data":{"a":1}}"#, "cannot unmarshal number"),
            (r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"bad"}}"#, "cannot be handled as a ConfigMap"),
        ],
        refused_body,
    )
}

pub(crate) fn invalid_values(cluster: &Cluster) -> Result<()> {
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec: {spec}\n");
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: bad}}\nspec: {spec}\n");
    let plain = pod("{containers: [{name: a, image: b}]}");
    let cases = [
        (pod("{containers: []}"), "spec.containers: Required value"),
        (pod("{containers: [{name: a, image: b}, {name: a, image: b}]}"), "spec.containers[1].name: Duplicate value: \"a\""),
        (pod("{containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /v}]}]}"), "volumeMounts[0].name: Not found: \"v\""),
        (pod("{restartPolicy: Perhaps, containers: [{name: a, image: b}]}"), "spec.restartPolicy: Unsupported value: \"Perhaps\""),
        (
            pod("{containers: [{name: a, image: b, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]}"),
            "must be less than or equal to cpu limit",
        ),
        (plain.replace("bad", "Bad"), "metadata.name: Invalid value: \"Bad\""),
        (plain.replace("bad", "bad, namespace: nowhere"), "namespaces \"nowhere\" not found"),
        (service("{ports: [{port: 99999}]}"), "must be between 1 and 65535, inclusive"),
        (service("{clusterIP: 192.0.2.1, ports: [{port: 80}]}"), "spec.clusterIPs: Invalid value"),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: \
             {labels: {a: c}}, spec: {containers: [{name: a, image: b}]}}}\n"
                .to_owned(),
            "`selector` does not match template `labels`",
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(manifest, expected)| (manifest.as_str(), *expected)).collect();
    check(cluster, &cases, |cluster, manifest| refused(cluster, "create", manifest))
}

pub(crate) fn duplicate_names(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "configmap", "once", "--from-literal=a=1"])?;
    let error = fail(&mut cluster.kubectl_command(&["create", "configmap", "once"]))?;
    ensure!(
        error.contains("Error from server (AlreadyExists): configmaps \"once\" already exists")
            || error.contains("error: failed to create configmap: configmaps \"once\" already exists"),
        "{error}"
    );
    ensure!(cluster.get(&["configmap/once"])?["data"]["a"] == "1", "the second one was stored");
    cluster.kubectl(&["delete", "configmap", "once"])?;
    Ok(())
}

pub(crate) fn stale_versions(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["create", "configmap", "stale", "--from-literal=a=1"])?;
    let mut stale = cluster.get(&["configmap/stale"])?;
    cluster.kubectl(&["annotate", "configmap/stale", "touched=yes"])?;
    stale["data"] = serde_json::json!({"a": "2"});
    let error = refused(cluster, "replace", &stale.to_string())?;
    ensure!(error.contains("the object has been modified; please apply your changes to the latest version and try again"), "{error}");
    ensure!(cluster.get(&["configmap/stale"])?["data"]["a"] == "1", "the stale write was stored");
    cluster.kubectl(&["delete", "configmap", "stale"])?;
    Ok(())
}

pub(crate) fn strangers(cluster: &Cluster) -> Result<()> {
    let error = fail(&mut cluster.kubectl_command(&["get", "pod", "nobody"]))?;
    ensure!(error.contains("pods \"nobody\" not found"), "{error}");
    let error = fail(&mut cluster.kubectl_command(&["delete", "namespace", "kube-system"]))?;
    ensure!(error.to_lowercase().contains("forbidden"), "{error}");
    let (server, authority) = (format!("--server=https://127.0.0.1:{PORT}"), cluster.data_dir().join("authority.pem"));
    let authority = format!("--certificate-authority={}", authority.display());
    let error = fail(cluster.kubectl_command(&[&server, &authority, "--token=nonsense", "get", "pods"]).env("KUBECONFIG", "/dev/null"))?;
    ensure!(error.contains("You must be logged in to the server"), "{error}");
    Ok(())
}
