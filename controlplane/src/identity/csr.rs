//! Which certificate signing requests the cluster approves by itself (`Spec:` Kubernetes "Certificates and Certificate Signing Requests",
//! signers `kubernetes.io/kube-apiserver-client-kubelet` and `kubernetes.io/kubelet-serving`).

use std::net::IpAddr;

use jiff::SignedDuration;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::authority::{LEAF_LIFETIME, Usage};

/// Agents ask for their client certificate with this signer.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Agents ask for their serving certificate with this signer.
pub const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// Any client certificate; only people approve these.
pub const ANY_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// What the decision looks at.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `spec.signerName`.
    pub signer: &'a str,
    /// `spec.request`, PEM.
    pub pem: &'a str,
    /// `spec.username`.
    pub user: &'a str,
    /// `spec.groups`.
    pub groups: &'a [String],
    /// `spec.expirationSeconds`.
    pub expiration_seconds: Option<i64>,
}

/// What is in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Subject's common name.
    pub common_name: String,
    /// Subject's organizations.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// Names of other types: e-mail, URI.
    pub others: usize,
}

/// Reads a request and checks its signature.
///
/// # Errors
/// What is wrong with it.
pub fn content(pem: &str) -> Result<Content, String> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| format!("PEM block type must be CERTIFICATE REQUEST: {e}"))?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    request.verify_signature().map_err(|e| e.to_string())?;
    let subject = &request.certification_request_info.subject;
    let mut content = Content {
        common_name: subject.iter_common_name().next().and_then(|cn| cn.as_str().ok()).unwrap_or_default().to_owned(),
        organizations: subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect(),
        ..Content::default()
    };
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => content.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => content.addresses.push(v4.into()),
                    (_, Ok(v6)) => content.addresses.push(v6.into()),
                    _ => content.others += 1,
                },
                _ => content.others += 1,
            }
        }
    }
    Ok(content)
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Approve it, with this message.
    Approve(&'static str),
    /// Look again when the node has registered its addresses.
    Later,
    /// Not ours to approve; a person may.
    Leave(String),
}

/// Whether to approve a request that has no condition yet. `node_addresses` are those of the Node that the requester names, if it
/// is registered.
pub fn approve(request: &Request<'_>, content: &Content, node_addresses: Option<&[String]>) -> Decision {
    let Some(node) = content.common_name.strip_prefix("system:node:").filter(|node| !node.is_empty()) else {
        return Decision::Leave("the subject is not a node".to_owned());
    };
    if content.organizations != ["system:nodes"] {
        return Decision::Leave("subject organization is not system:nodes".to_owned());
    }
    if content.others > 0 {
        return Decision::Leave("the request names e-mail addresses or URIs".to_owned());
    }
    let is_the_node = request.user == content.common_name;
    match request.signer {
        CLIENT_SIGNER => {
            if !content.dns_names.is_empty() || !content.addresses.is_empty() {
                return Decision::Leave("DNS and IP subjectAltNames are not allowed".to_owned());
            }
            if is_the_node {
                Decision::Approve("Auto approving self kubelet client certificate after SubjectAccessReview.")
            } else if request.groups.iter().any(|group| group == "system:bootstrappers") {
                Decision::Approve("Auto approving kubelet client certificate after SubjectAccessReview.")
            } else {
                Decision::Leave("the requester is neither the node nor a bootstrapper".to_owned())
            }
        }
        SERVING_SIGNER => {
            if !is_the_node {
                return Decision::Leave("only the node itself may ask for its serving certificate".to_owned());
            }
            // A node that has registered but not said its addresses yet will do so soon.
            let Some(known) = node_addresses.filter(|known| !known.is_empty()) else { return Decision::Later };
            let addresses = content.addresses.iter().map(IpAddr::to_string);
            let foreign: Vec<String> = content
                .dns_names
                .iter()
                .filter(|name| *name != node)
                .cloned()
                .chain(addresses)
                .filter(|name| !known.contains(name))
                .collect();
            if foreign.is_empty() {
                Decision::Approve("Auto approving kubelet serving certificate for addresses of its Node.")
            } else {
                Decision::Leave(format!("{} is no address of node {node}", foreign.join(", ")))
            }
        }
        other => Decision::Leave(format!("signer {other} is not approved automatically")),
    }
}

/// How an approved request of this signer is signed; `None` when the signer is not ours.
pub fn signing(request: &Request<'_>) -> Option<(Usage, SignedDuration)> {
    let usage = match request.signer {
        CLIENT_SIGNER | ANY_CLIENT_SIGNER => Usage::Client,
        SERVING_SIGNER => Usage::Server,
        _ => return None,
    };
    let asked = request.expiration_seconds.map_or(LEAF_LIFETIME, SignedDuration::from_secs);
    Some((usage, asked.clamp(SignedDuration::from_mins(10), LEAF_LIFETIME)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn pem(common_name: &str, organization: &str, addresses: &[&str]) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        for address in addresses {
            params.subject_alt_names.push(SanType::IpAddress(address.parse().expect("an address")));
        }
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request").pem().expect("PEM")
    }

    fn check(signer: &str, user: &str, groups: &[&str], pem: &str, node: Option<&[&str]>) -> Decision {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        let node: Option<Vec<String>> = node.map(|list| list.iter().map(|a| (*a).to_owned()).collect());
        let request = Request { signer, pem, user, groups: &groups, expiration_seconds: None };
        approve(&request, &content(pem).expect("readable"), node.as_deref())
    }

    #[test]
    fn a_bootstrapping_agent_gets_its_client_certificate() {
        let request = pem("system:node:n1", "system:nodes", &[]);
        let approved = |user: &str, groups: &[&str]| matches!(check(CLIENT_SIGNER, user, groups, &request, None), Decision::Approve(_));
        assert!(approved("system:bootstrap:abcdef", &["system:bootstrappers"]));
        assert!(approved("system:node:n1", &["system:nodes"]));
        assert!(!approved("system:node:n2", &["system:nodes"]), "no node speaks for another");
        assert!(!approved("eve", &["system:authenticated"]));
        let admin = pem("system:admin", "system:masters", &[]);
        assert!(matches!(check(CLIENT_SIGNER, "system:bootstrap:abcdef", &["system:bootstrappers"], &admin, None), Decision::Leave(_)));
    }

    #[test]
    fn a_serving_certificate_names_only_the_nodes_own_addresses() {
        let request = pem("system:node:n1", "system:nodes", &["10.0.0.1"]);
        let decide = |node: Option<&[&str]>| check(SERVING_SIGNER, "system:node:n1", &["system:nodes"], &request, node);
        assert_eq!(decide(None), Decision::Later);
        assert_eq!(decide(Some(&[])), Decision::Later, "registered, but its addresses are still to come");
        assert!(matches!(decide(Some(&["10.0.0.1", "n1"])), Decision::Approve(_)));
        assert!(matches!(decide(Some(&["10.0.0.2"])), Decision::Leave(_)));
    }
}
