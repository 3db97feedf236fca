//! Masters as processes that share nothing, and their administrator's client.

#![allow(dead_code, reason = "each test takes what it needs")]

pub(crate) mod operator;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use trierarch_client::tls::ClientIdentity;
use trierarch_client::{Client, Config};
use trierarch_controlplane::identity::{Bundle, LeafRequest};

/// A master process; it ends with the test.
pub(crate) struct Master {
    pub(crate) child: Child,
    pub(crate) api: u16,
    pub(crate) peer: u16,
    pub(crate) dir: PathBuf,
}

impl Drop for Master {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Master {
    /// A master with its data in `dir/name`, on free ports.
    pub(crate) fn start(dir: &Path, name: &str, more: &[&str]) -> Self {
        Self::start_at(&dir.join(name), (free_port(), free_port()), more)
    }

    pub(crate) fn start_at(dir: &Path, (api, peer): (u16, u16), more: &[&str]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_trierarch"))
            .args(["server", "--name", "m", "--listen", &format!("127.0.0.1:{api}"), "--peer-listen", &format!("127.0.0.1:{peer}")])
            .arg("--data-dir")
            .arg(dir)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, api, peer, dir: dir.to_owned() }
    }

    /// Ends it as a power cut does; returns where it was.
    pub(crate) fn kill(mut self) -> (PathBuf, (u16, u16)) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.dir.clone(), (self.api, self.peer))
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api)
    }

    /// The administrator.
    pub(crate) fn client(&self, bundle: &Bundle) -> Client {
        let admin = bundle.cluster.issue(&LeafRequest::client("admin", Some("system:masters")), jiff::Timestamp::now()).unwrap();
        self.client_of(bundle, &admin.certificate_pem, &admin.key_pem)
    }

    pub(crate) fn client_of(&self, bundle: &Bundle, certificate: &str, key: &str) -> Client {
        let identity = ClientIdentity::from_pem(certificate, key).unwrap();
        let tls = Arc::new(trierarch_client::tls::config(&bundle.cluster.certificate_pem, Some(identity)).unwrap());
        let servers = vec![self.url()];
        Client::new(Config { servers, tls, token: None, user_agent: "test".to_owned(), timeout: Duration::from_secs(5) }).unwrap()
    }
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..1200 {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
    }
    panic!("waited in vain: {what}");
}
