//! Domains, and forgeries of them, for this crate's tests.

use std::time::Duration;

use hawser_proto::{DomainName, NodeId, NodeName, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::pki_types::CertificateDer;

use crate::{Credentials, Issuer, LEAF_LIFE, NodeKey, RootAuthority, Trust};

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn domain(name: &str) -> DomainName {
    name.parse().unwrap()
}

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

pub(crate) fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

/// A domain with its root and one issuer, `gw1`.
pub(crate) struct Domain {
    pub(crate) name: DomainName,
    pub(crate) root: RootAuthority,
    pub(crate) issuer: Issuer,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        let name = domain(name);
        let root = RootAuthority::create(&name).unwrap();
        let issuer = Issuer::create(&root, &name, &node("gw1")).unwrap();
        Self { name, root, issuer }
    }

    pub(crate) fn gateway(&self, name: &str) -> Credentials {
        self.certify(NodeId::gateway(self.name.clone(), node(name)))
    }

    pub(crate) fn host(&self, name: &str) -> Credentials {
        self.certify(NodeId::host(self.name.clone(), node(name)))
    }

    fn certify(&self, id: NodeId) -> Credentials {
        let key = NodeKey::create().unwrap();
        let chain = self.issuer.issue(&id, &key.csr().unwrap(), LEAF_LIFE).unwrap();
        Credentials::new(chain, &key).unwrap()
    }
}

/// Trust in the roots of these domains.
pub(crate) fn trust(domains: &[&Domain]) -> Trust {
    let mut trust = Trust::new();
    for domain in domains {
        trust
            .add_root(&domain.name, domain.root.certificate().clone())
            .unwrap();
    }
    trust
}

/// A party that can sign any certificate it likes.
pub(crate) struct Forger {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
}

impl Forger {
    /// Self-signed, with these parameters.
    pub(crate) fn root(params: CertificateParams) -> Self {
        Self::root_with(params, KeyPair::generate().unwrap())
    }

    pub(crate) fn root_with(params: CertificateParams, key: KeyPair) -> Self {
        let der = params.self_signed(&key).unwrap().into();
        Self { params, key, der }
    }

    /// Signed by this one.
    pub(crate) fn sign(&self, params: CertificateParams) -> Self {
        self.sign_with(params, KeyPair::generate().unwrap())
    }

    pub(crate) fn sign_with(&self, params: CertificateParams, key: KeyPair) -> Self {
        let signer = rcgen::Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &signer).unwrap().into();
        Self { params, key, der }
    }
}

/// Parameters as a root of `domain` has them.
pub(crate) fn root_params(domain: &str) -> CertificateParams {
    let mut params = params(
        &[&format!("spiffe://{domain}")],
        &format!("Hawser root of {domain}"),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Parameters as an issuer has them.
pub(crate) fn issuer_params(uri: &str) -> CertificateParams {
    let mut params = params(&[uri], uri);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

/// Parameters as a leaf has them.
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = params(uris, "leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params
}

fn params(uris: &[&str], name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    set_time(&mut params, -60, 24 * 3600);
    params
}

/// Validity in seconds from now.
pub(crate) fn set_time(params: &mut CertificateParams, from: i64, to: i64) {
    let now = time::OffsetDateTime::from_unix_timestamp(UnixTime::now().0.cast_signed()).unwrap();
    params.not_before = now + time::Duration::seconds(from);
    params.not_after = now + time::Duration::seconds(to);
}
