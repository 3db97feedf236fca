//! An HTTP client of an API server: ours by its certificates, or any other by a kubeconfig.

use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

use super::Standalone;

/// An answer whose body is still to come.
pub(crate) type Response = hyper::Response<hyper::body::Incoming>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The administrator.
    Admin,
    /// Nobody in particular: no certificate, no token.
    Nobody,
}

/// A way to an API server.
#[derive(Clone)]
pub(crate) struct Client {
    host: String,
    port: u16,
    admin: Arc<rustls::ClientConfig>,
    nobody: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

impl Client {
    /// To a server of ours.
    pub(crate) fn of(server: &Standalone) -> Self {
        let address = server.handle.addresses()[0];
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.ca.clone()).expect("an authority");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server.admin_key.clone()));
        let admin = builder().with_root_certificates(roots.clone()).with_client_auth_cert(vec![server.admin.clone()], key);
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            admin: Arc::new(admin.expect("a client certificate")),
            nobody: Arc::new(builder().with_root_certificates(roots).with_no_client_auth()),
            token: None,
        }
    }

    /// The same server, seen by somebody with this client certificate.
    #[must_use]
    pub(crate) fn with_certificate(&self, server: &Standalone, certificate: CertificateDer<'static>, key: Vec<u8>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(server.ca.clone()).expect("an authority");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let admin = builder().with_root_certificates(roots).with_client_auth_cert(vec![certificate], key).expect("a client certificate");
        Self { admin: Arc::new(admin), ..self.clone() }
    }

    /// To the server of a kubeconfig that holds a token; its certificate is not looked at.
    pub(crate) fn of_kubeconfig(path: &str) -> Self {
        let text = std::fs::read_to_string(path).expect("the kubeconfig");
        let config: serde_json::Value = serde_yaml::from_str(&text).expect("a kubeconfig in YAML");
        let server = config["clusters"][0]["cluster"]["server"].as_str().expect("a server");
        let (host, port) = server.trim_start_matches("https://").rsplit_once(':').expect("a port");
        let token = config["users"][0]["user"]["token"].as_str().expect("a token").to_owned();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trusting = builder().dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))).with_no_client_auth();
        let trusting = Arc::new(trusting);
        Self {
            host: host.to_owned(),
            port: port.parse().expect("a port number"),
            admin: Arc::clone(&trusting),
            nobody: trusting,
            token: Some(token),
        }
    }

    /// Sends a request over a connection of its own.
    ///
    /// # Errors
    /// When the server does not answer, or does not shake hands with this client.
    pub(crate) async fn send(
        &self,
        who: Who,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: bytes::Bytes,
    ) -> anyhow::Result<Response> {
        let config = if who == Who::Admin { &self.admin } else { &self.nobody };
        let tcp = tokio::net::TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(method).uri(path).header("host", "localhost");
        if let Some(token) = self.token.as_ref().filter(|_| who == Who::Admin) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }
}

/// Everything that is left of a body.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn whole(response: Response) -> anyhow::Result<bytes::Bytes> {
    Ok(response.into_body().collect().await?.to_bytes())
}

/// As many lines of a body as asked for, or fewer when it ends.
///
/// # Errors
/// When the connection breaks.
pub(crate) async fn lines(response: Response, wanted: usize) -> anyhow::Result<Vec<String>> {
    let mut body = response.into_body();
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < wanted {
        match body.frame().await {
            Some(frame) => text.extend_from_slice(&frame?.into_data().unwrap_or_default()),
            None => break,
        }
    }
    Ok(String::from_utf8(text)?.lines().take(wanted).map(str::to_owned).collect())
}

fn builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions")
}

/// For recording from a server on this machine, whose certificate nobody signed.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
