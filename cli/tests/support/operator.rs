//! The administrator at his terminal.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};
use trierarch_client::Client;
use trierarch_controlplane::identity::{Bundle, LeafRequest};

use super::{Master, eventually};

/// An administrator and his program.
pub(crate) struct Operator {
    pub(crate) dir: PathBuf,
    pub(crate) bundle: Bundle,
}

impl Operator {
    /// What `trierarch raft` says, with a kubeconfig that leads to `master`.
    pub(crate) fn raft(&self, master: &Master, args: &[&str]) -> Output {
        self.command(master, args).output().unwrap()
    }

    /// `trierarch raft`, with a kubeconfig that leads to `master`.
    pub(crate) fn command(&self, master: &Master, args: &[&str]) -> Command {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let admin = self.bundle.cluster.issue(&LeafRequest::client("admin", Some("system:masters")), jiff::Timestamp::now()).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": master.url(), "certificate-authority-data": encode(&self.bundle.cluster.certificate_pem)}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {
                "client-certificate-data": encode(&admin.certificate_pem), "client-key-data": encode(&admin.key_pem)}}],
        });
        let path = self.dir.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        let nowhere = self.dir.join("nowhere");
        let mut command = Command::new(env!("CARGO_BIN_EXE_trierarch"));
        command.arg("raft").arg("--data-dir").arg(nowhere).args(args).env("KUBECONFIG", path).stdin(Stdio::null());
        command
    }
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

pub(crate) fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

pub(crate) fn fails(output: &Output) -> String {
    assert!(!output.status.success(), "{}", text(output));
    text(output)
}

pub(crate) async fn until_voters(client: &Client, count: usize) -> Vec<u64> {
    eventually("all members vote", async || {
        let status: Value = client.get("/raft/v1/status").await.ok()?;
        let voters = status["members"].as_array()?.iter().filter(|member| member["role"] == "Voter");
        let ids: Vec<u64> = voters.filter_map(|member| member["id"].as_u64()).collect();
        (ids.len() == count).then_some(ids)
    })
    .await
}

pub(crate) async fn until_readable(client: &Client, path: &str) -> Value {
    eventually(path, async || client.get::<Value>(path).await.ok()).await
}
