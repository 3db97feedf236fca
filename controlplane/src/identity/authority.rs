//! A certificate authority and what it signs. ECDSA P-256 throughout: small, fast, and known to every client.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How long an authority is valid.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 3650);
/// How long a certificate is valid unless somebody says otherwise; they are renewed when two thirds have passed.
pub const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Clocks of machines differ: certificates are valid from a little earlier on.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A certificate authority with its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authority {
    /// Its certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To prove who a client is.
    Client,
    /// To prove who a server is.
    Server,
    /// Both: peers.
    Both,
}

/// A certificate to issue.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// Subject's common name: the user name of a client.
    pub common_name: String,
    /// Subject's organization: the group of a client.
    pub organization: Option<String>,
    /// Subject alternative names: DNS names.
    pub dns_names: Vec<String>,
    /// Subject alternative names: addresses.
    pub addresses: Vec<IpAddr>,
    /// What for.
    pub usage: Usage,
    /// For how long it is valid.
    pub lifetime: SignedDuration,
}

impl LeafRequest {
    /// A client certificate for a user in a group.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Self {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            lifetime: LEAF_LIFETIME,
        }
    }
}

/// A certificate with its key.
#[derive(Clone, Serialize, Deserialize)]
pub struct Leaf {
    /// The certificate, followed by its authority's.
    pub certificate_pem: String,
    /// The key.
    pub key_pem: String,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The library refused.
    #[error("cannot make a certificate for {subject}")]
    Sign {
        /// Whose.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A DNS name or organization is not one.
    #[error("{0:?} cannot stand in a certificate")]
    Name(String),
}

fn offset(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(time.as_second()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn usages(usage: Usage) -> Vec<ExtendedKeyUsagePurpose> {
    match usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
    }
}

impl Authority {
    /// A new authority, valid for ten years.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`].
    pub fn create(name: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let failed = |source| AuthorityError::Sign { subject: name.to_owned(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(name, None);
        params.not_before = offset(now - BACKDATE);
        params.not_after = offset(now + AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, rcgen::Error> {
        Issuer::from_ca_cert_pem(&self.certificate_pem, KeyPair::from_pem(&self.key_pem)?)
    }

    /// A new key and its certificate.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(&self, request: &LeafRequest, now: Timestamp) -> Result<Leaf, AuthorityError> {
        let failed = |source| AuthorityError::Sign { subject: request.common_name.clone(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&request.common_name, request.organization.as_deref());
        params.not_before = offset(now - BACKDATE);
        params.not_after = offset(now + request.lifetime);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages(request.usage);
        params.use_authority_key_identifier_extension = true;
        for name in &request.dns_names {
            let name = name.clone().try_into().map_err(|_invalid: rcgen::Error| AuthorityError::Name(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
        let issuer = self.issuer().map_err(failed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Leaf { certificate_pem: format!("{}{}", certificate.pem(), self.certificate_pem), key_pem: key.serialize_pem() })
    }

    /// Signs a certificate signing request as it stands: the caller has approved its subject and names.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`] when the request is unreadable or its signature wrong.
    pub fn sign(&self, request_pem: &str, usage: Usage, lifetime: SignedDuration, now: Timestamp) -> Result<String, AuthorityError> {
        let failed = |source| AuthorityError::Sign { subject: "a certificate signing request".to_owned(), source };
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).map_err(failed)?;
        request.params.not_before = offset(now - BACKDATE);
        request.params.not_after = offset(now + lifetime);
        request.params.is_ca = IsCa::NoCa;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        request.params.extended_key_usages = usages(usage);
        request.params.use_authority_key_identifier_extension = true;
        let certificate = request.signed_by(&self.issuer().map_err(failed)?).map_err(failed)?;
        Ok(certificate.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T12:00:00Z".parse().expect("a time")
    }

    #[test]
    fn a_leaf_carries_its_user_its_group_and_its_authority() {
        let authority = Authority::create("trierarch-cluster", now()).expect("created");
        let leaf = authority.issue(&LeafRequest::client("admin", Some("system:masters")), now()).expect("issued");
        assert_eq!(leaf.certificate_pem.matches("BEGIN CERTIFICATE").count(), 2, "the chain leads to the authority");
        let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.certificate_pem.as_bytes()).expect("PEM");
        let certificate = pem.parse_x509().expect("X.509");
        let text = certificate.subject().to_string();
        assert!(text.contains("CN=admin") && text.contains("O=system:masters"), "{text}");
        let (_, root) = x509_parser::pem::parse_x509_pem(authority.certificate_pem.as_bytes()).expect("PEM");
        certificate.verify_signature(Some(root.parse_x509().expect("X.509").public_key())).expect("signed by the authority");
    }

    #[test]
    fn a_damaged_request_is_refused() {
        let authority = Authority::create("trierarch-cluster", now()).expect("created");
        assert!(
            authority
                .sign("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", Usage::Client, LEAF_LIFETIME, now())
                .is_err()
        );
    }
}
