//! Certificates that have expired.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use trierarch_integration::cluster::{Cluster, fail};
use trierarch_integration::wait::until;

use crate::{CERTIFICATE_SECONDS, MASTERS, PATIENCE, PORT, World, at, node_is_ready, text};

/// A certificate of the cluster's authority that was valid in 2020, and its key; both PEM.
fn expired(cluster: &Cluster, user: &str, group: &str, usage: ExtendedKeyUsagePurpose) -> Result<(String, String)> {
    let bundle: Value = serde_json::from_slice(&std::fs::read(cluster.data_dir().join("masters/m1/pki/bundle.json"))?)?;
    let authority = KeyPair::from_pem(text(&bundle, "/cluster/key_pem"))?;
    let issuer = Issuer::from_ca_cert_pem(text(&bundle, "/cluster/certificate_pem"), authority)?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
    params.extended_key_usages = vec![usage];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
}

pub(crate) fn expired_client(cluster: &Cluster) -> Result<()> {
    let (certificate, key) = expired(cluster, "kubernetes-admin", "system:masters", ExtendedKeyUsagePurpose::ClientAuth)?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| -> Result<String> {
        std::fs::write(folder.path().join(name), text)?;
        Ok(folder.path().join(name).display().to_string())
    };
    let options = [
        format!("--server=https://127.0.0.1:{PORT}"),
        format!("--certificate-authority={}", cluster.data_dir().join("authority.pem").display()),
        format!("--client-certificate={}", write("client.pem", &certificate)?),
        format!("--client-key={}", write("client.key", &key)?),
    ];
    let error = fail(cluster.kubectl_command(&["get", "pods"]).args(&options).env("KUBECONFIG", "/dev/null"))?;
    ensure!(
        error.contains("You must be logged in to the server (Unauthorized)")
            || error.contains("the server has asked for the client to provide credentials"),
        "{error}"
    );
    let error = fail(cluster.trierarch(&["kubectl", "get", "pods"]).args(&options).env("KUBECONFIG", "/dev/null"))?;
    ensure!(error.contains("You must be logged in to the server"), "{error}");
    Ok(())
}

/// A server that shows a certificate, as a master would whose renewal failed.
fn serve_once(certificate: &str, key: &str, listener: std::net::TcpListener, times: usize) -> Result<std::thread::JoinHandle<()>> {
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let config = Arc::new(config);
    Ok(std::thread::spawn(move || {
        for stream in listener.incoming().take(times).flatten() {
            let Ok(mut connection) = rustls::ServerConnection::new(Arc::clone(&config)) else { return };
            let mut stream = stream;
            // the client ends the handshake
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let _refused = tls.flush().and_then(|()| tls.read(&mut [0]));
        }
    }))
}

pub(crate) fn expired_server(cluster: &Cluster) -> Result<()> {
    let (certificate, key) = expired(cluster, "kube-apiserver", "none", ExtendedKeyUsagePurpose::ServerAuth)?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let server = format!("--server=https://{}", listener.local_addr()?);
    // it ends with this process at the latest
    let _server = serve_once(&certificate, &key, listener, usize::MAX)?;
    let error = fail(&mut cluster.kubectl_command(&[&server, "get", "--raw", "/version"]))?;
    ensure!(error.contains("certificate has expired or is not yet valid"), "{error}");
    let error = fail(&mut cluster.trierarch(&["kubectl", &server, "get", "--raw", "/version"]))?;
    ensure!(error.contains("certificate has expired or is not yet valid"), "{error}");
    Ok(())
}

/// The process ids of a node's agent.
fn agent(node_dir: &Path) -> Result<i32> {
    let own = node_dir.display().to_string();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = command.split('\0').collect();
        if words.get(1) == Some(&"agent") && words.contains(&own.as_str()) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no agent runs in {own}")
}

pub(crate) fn expired_node(cluster: &Cluster) -> Result<()> {
    let node_dir = cluster.data_dir().join("nodes/n1");
    let (certificate, key) = expired(cluster, "system:node:n1", "system:nodes", ExtendedKeyUsagePurpose::ClientAuth)?;
    std::fs::write(node_dir.join("pki/client.pem"), &certificate)?;
    std::fs::write(node_dir.join("pki/client.key"), &key)?;
    kill(Pid::from_raw(agent(&node_dir)?), Signal::SIGKILL)?;
    until("a certificate that is valid", PATIENCE, || {
        let log = cluster.log("n1")?;
        ensure!(log.contains("client certificate has expired, joining again with the token"), "nothing is in its log:\n{log}");
        ensure!(std::fs::read_to_string(node_dir.join("pki/client.pem"))? != certificate, "it still has the expired one");
        Ok(())
    })?;
    let renewed = |cluster: &Cluster| -> Result<String> {
        let lease = cluster.get(&["lease", "n1", "-n", "kube-node-lease"])?;
        Ok(text(&lease, "/spec/renewTime").to_owned())
    };
    let before = renewed(cluster)?;
    until("a heartbeat of the node", PATIENCE, || {
        ensure!(renewed(cluster)? != before, "none since {before}");
        node_is_ready(cluster)
    })?;
    Ok(())
}

pub(crate) fn renewed(world: &mut World) -> Result<()> {
    until("the end of the first certificates", PATIENCE, || {
        ensure!(world.began.elapsed().as_secs() > CERTIFICATE_SECONDS, "they are valid");
        Ok(())
    })?;
    for master in MASTERS {
        // one that was started again has had its first certificates for less long
        until("new certificates", PATIENCE, || {
            let log = world.cluster.log(master).context("every master has a log")?;
            ensure!(log.contains("Renewed this master's certificates"), "{master} says nothing of it");
            Ok(())
        })?;
        // a new client shakes hands anew; peers and agents do when a connection ends
        world.cluster.kubectl(&[&at(master)?, "get", "--raw", "/readyz"])?;
    }
    node_is_ready(&world.cluster)
}
