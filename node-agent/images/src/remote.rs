//! How registries are reached: mirrors first, then the host in the image's name.

use crate::credentials::{Auth, Keychain};

/// A registry that is asked before the one in the image's name, with `?ns=HOST`, as containerd does it: for
/// `registry.k8s.io/pause:3.10` it gets `GET /v2/pause/manifests/3.10?ns=registry.k8s.io`.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// `https://10.0.0.1:6443` or `http://127.0.0.1:5000`.
    pub url: String,
    /// How to authenticate there.
    pub auth: Auth,
    /// The authority that signed its certificate, PEM; the system's otherwise.
    pub ca_pem: Option<Vec<u8>>,
}

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Asked first, in this order, for every host. The masters, on a node.
    pub mirrors: Vec<Mirror>,
    /// Hosts (`name:port`) that speak plain HTTP. Loopback hosts are tried with both.
    pub insecure_hosts: Vec<String>,
    /// Credentials for hosts.
    pub keychain: Keychain,
    /// Authorities trusted besides the system's, PEM.
    pub extra_ca_pem: Vec<Vec<u8>>,
    /// Ask mirrors only.
    pub mirrors_only: bool,
}
