//! The two that sign for a domain: its root, which certifies issuers, and its issuers, which certify nodes.

use std::{path::Path, time::Duration};

use hawser_proto::{DomainName, NodeId, NodeName, Role, UnixTime};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::{
    Fingerprint, IdentityError, RevocationList, SignedRevocations,
    certificate::{Certificate, check_signature},
    file,
    files::{prepare_dir, read_certificate, read_key, write_certificates, write_key},
    trust::Root,
};

/// Life of a domain root's certificate: ten years.
pub const ROOT_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// Life of an issuer's certificate.
pub const ISSUER_LIFE: Duration = Duration::from_secs(90 * DAY);
/// Usual life of a node's certificate.
pub const LEAF_LIFE: Duration = Duration::from_secs(DAY);

const DAY: u64 = 24 * 3600;
/// How far the beginning of a certificate lies back at most, for clocks that are slow. Never more than half of its life, so
/// that the middle of a short one still lies ahead.
const BACKDATE: u64 = 60;
/// Longest certification request that is looked at, in bytes.
const MAX_REQUEST: usize = 8 * 1024;

/// A domain's root with its key.
pub struct RootAuthority {
    root: Root,
    key: KeyPair,
}

impl RootAuthority {
    /// Makes a root for a domain.
    pub fn create(domain: &DomainName) -> Result<Self, IdentityError> {
        Self::create_at(domain, UnixTime::now())
    }

    pub(crate) fn create_at(domain: &DomainName, now: UnixTime) -> Result<Self, IdentityError> {
        let key = new_key("root")?;
        let mut params = params(
            &format!("spiffe://{domain}"),
            &format!("Hawser root of {domain}"),
            now,
            now.plus(ROOT_LIFE),
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params
            .self_signed(&key)
            .map_err(|e| make("root certificate", &e))?;
        Ok(Self {
            root: Root::new(domain, certificate.into())?,
            key,
        })
    }

    /// Reads a root, ours or one of a company's PKI, from its certificate and key (PEM files). Which domain it is for stands
    /// in the certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let root = read_root(certificate)?;
        let key = read_key(
            key,
            "root",
            "the key of the domain's root (hawser domain init makes it)",
        )?;
        same_key("root", &key, &root.certificate.key)?;
        Ok(Self { root, key })
    }

    /// Writes certificate and key into a state directory.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        prepare_dir(dir)?;
        write_key(&dir.join(file::ROOT_KEY), &self.key)?;
        write_certificates(
            &dir.join(file::ROOT_CERTIFICATE),
            std::slice::from_ref(&self.root.der),
        )
    }

    /// Whose root it is.
    pub fn domain(&self) -> &DomainName {
        &self.root.domain
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.root.der
    }

    /// Of its key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.root.fingerprint
    }

    /// When its certificate ends.
    pub fn not_after(&self) -> UnixTime {
        self.root.certificate.not_after
    }

    /// Signs a revocation list. Only a list signed by the root may revoke an issuer.
    pub fn sign_revocations(&self, list: &RevocationList) -> Result<SignedRevocations, IdentityError> {
        list.check(self.domain(), true)?;
        SignedRevocations::make(list, None, |message| sign(&self.key, message))
    }
}

impl std::fmt::Debug for RootAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RootAuthority({})", self.domain())
    }
}

/// An issuer of a domain with its key, certified by the domain's root.
pub struct Issuer {
    id: NodeId,
    root: Root,
    der: CertificateDer<'static>,
    certificate: Certificate,
    signer: rcgen::Issuer<'static, KeyPair>,
}

impl Issuer {
    /// Makes an issuer under a root. `domain` must be the root's.
    pub fn create(root: &RootAuthority, domain: &DomainName, name: &NodeName) -> Result<Self, IdentityError> {
        Self::create_at(root, domain, name, UnixTime::now())
    }

    pub(crate) fn create_at(
        root: &RootAuthority,
        domain: &DomainName,
        name: &NodeName,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        if domain != root.domain() {
            return Err(IdentityError::OtherDomain {
                expected: domain.clone(),
                found: root.domain().to_string(),
            });
        }
        let id = NodeId {
            domain: domain.clone(),
            role: Role::Issuer,
            name: name.clone(),
        };
        let key = new_key("issuer")?;
        let not_after = now.plus(ISSUER_LIFE).min(root.not_after());
        let mut params = params(
            &id.to_string(),
            &format!("Hawser issuer {name} of {domain}"),
            now,
            not_after,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        params.use_authority_key_identifier_extension = true;
        let signer = rcgen::Issuer::from_ca_cert_der(&root.root.der, &root.key)
            .map_err(|e| make("issuer certificate", &e))?;
        let certificate = params
            .signed_by(&key, &signer)
            .map_err(|e| make("issuer certificate", &e))?;
        Self::new(root.root.clone(), certificate.into(), key)
    }

    /// Reads an issuer, and its root's certificate, from a state directory.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Self::load_files(
            &dir.join(file::ROOT_CERTIFICATE),
            &dir.join(file::ISSUER_CERTIFICATE),
            &dir.join(file::ISSUER_KEY),
        )
    }

    /// Reads the root's certificate, and the issuer's with its key, from files of any name (PEM).
    pub fn load_files(root: &Path, certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let root = read_root(root)?;
        let certificate = read_certificate(
            certificate,
            "the issuer's certificate (hawser domain init makes it; other gateways of the domain have none)",
        )?;
        let key = read_key(key, "issuer", "the issuer's key (hawser domain init makes it)")?;
        Self::new(root, certificate, key)
    }

    fn new(root: Root, der: CertificateDer<'static>, key: KeyPair) -> Result<Self, IdentityError> {
        let certificate = Certificate::parse("issuer", &der)?;
        let id = root.check_issuer(&certificate)?;
        same_key("issuer", &key, &certificate.key)?;
        let signer = rcgen::Issuer::from_ca_cert_der(&der, key).map_err(|e| make("issuer", &e))?;
        Ok(Self {
            id,
            root,
            der,
            certificate,
            signer,
        })
    }

    /// Writes its key and certificate, and the root's certificate, into a state directory.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        prepare_dir(dir)?;
        write_key(&dir.join(file::ISSUER_KEY), self.signer.key())?;
        write_certificates(
            &dir.join(file::ISSUER_CERTIFICATE),
            std::slice::from_ref(&self.der),
        )?;
        write_certificates(
            &dir.join(file::ROOT_CERTIFICATE),
            std::slice::from_ref(&self.root.der),
        )
    }

    /// Who it is.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The certificate of its domain's root.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root.der
    }

    /// When its certificate begins.
    pub fn not_before(&self) -> UnixTime {
        self.certificate.not_before
    }

    /// When its certificate ends: from then on it cannot issue, until its root has certified it anew.
    pub fn not_after(&self) -> UnixTime {
        self.certificate.not_after
    }

    /// A certificate for a gateway or host of its domain: leaf, issuer and root. From the request (PKCS#10) only the public key is
    /// taken, after its signature has shown that the asker holds the private one. The life ends with the issuer's own.
    ///
    /// The caller decides who may have which name, and that it is not a revoked one.
    pub fn issue(
        &self,
        id: &NodeId,
        request: &[u8],
        life: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        self.issue_at(id, request, life, UnixTime::now())
    }

    pub(crate) fn issue_at(
        &self,
        id: &NodeId,
        request: &[u8],
        life: Duration,
        now: UnixTime,
    ) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        if id.domain != self.id.domain || !matches!(id.role, Role::Gateway | Role::Host) {
            return Err(IdentityError::Request(format!(
                "{id} is no gateway and no host of domain {}, for which this issuer signs",
                self.id.domain
            )));
        }
        self.certificate.check_time(now)?;
        let key = requested_key(request)?;
        let not_after = now.plus(life).min(self.not_after());
        let mut params = params(&id.to_string(), id.name.as_str(), now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&key, &self.signer)
            .map_err(|e| make("certificate", &e))?;
        let chain = vec![leaf.into(), self.der.clone(), self.root.der.clone()];
        // A given issuer's certificate may have a name that is not reproduced faithfully: notice here, not at the first call.
        self.root.check_chain(&chain, now)?;
        Ok(chain)
    }

    /// Signs a statement such as [`hawser_proto::hop::admit_statement`]; verified by [`verify_issuer_signature`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        sign(self.signer.key(), message)
    }

    /// Signs a revocation list of its domain, which may revoke gateways and hosts, not issuers.
    pub fn sign_revocations(&self, list: &RevocationList) -> Result<SignedRevocations, IdentityError> {
        list.check(&self.id.domain, false)?;
        SignedRevocations::make(list, Some(&self.der), |message| self.sign(message))
    }
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Issuer({})", self.id)
    }
}

/// Whether an issuer of `domain`, certified by this root and in force at `now`, signed a message ([`Issuer::sign`]). Whether
/// the root is the right one, or the issuer revoked, is the caller's to know.
pub fn verify_issuer_signature(
    domain: &DomainName,
    root: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    message: &[u8],
    signature: &[u8],
    now: UnixTime,
) -> Result<NodeId, IdentityError> {
    let root = Root::new(domain, root.clone().into_owned())?;
    let certificate = Certificate::parse("issuer", issuer)?;
    let id = root.check_issuer(&certificate)?;
    root.certificate.check_time(now)?;
    certificate.check_time(now)?;
    check_signature(issuer, message, signature).map_err(|_| IdentityError::Signature(id.to_string()))?;
    Ok(id)
}

pub(crate) fn new_key(which: &'static str) -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| IdentityError::Make {
        what: "key",
        detail: format!("{e} ({which})"),
    })
}

pub(crate) fn make(what: &'static str, error: &rcgen::Error) -> IdentityError {
    IdentityError::Make {
        what,
        detail: error.to_string(),
    }
}

pub(crate) fn same_key(which: &'static str, key: &KeyPair, spki: &[u8]) -> Result<(), IdentityError> {
    if key.subject_public_key_info() == spki {
        return Ok(());
    }
    Err(IdentityError::Key {
        which,
        detail: "it is not the key of the certificate beside it: put the matching pair in place".into(),
    })
}

/// What all our certificates share.
pub(crate) fn params(
    uri: &str,
    name: &str,
    now: UnixTime,
    not_after: UnixTime,
) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    let uri = uri.try_into().map_err(|e| make("certificate", &e))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let back = BACKDATE.min(now.until(not_after).as_secs() / 2);
    params.not_before = date(UnixTime(now.0.saturating_sub(back)))?;
    params.not_after = date(not_after)?;
    // Positive, and 127 random bits: unique although a renewal keeps the key.
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| IdentityError::Make {
        what: "serial number",
        detail: "the system gives no random numbers".into(),
    })?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn date(at: UnixTime) -> Result<time::OffsetDateTime, IdentityError> {
    i64::try_from(at.0)
        .ok()
        .and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok())
        .ok_or(IdentityError::Make {
            what: "certificate",
            detail: format!("{} seconds after 1970 is no date", at.0),
        })
}

fn sign(key: &KeyPair, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
    SigningKey::sign(key, message).map_err(|e| make("signature", &e))
}

fn read_root(path: &Path) -> Result<Root, IdentityError> {
    let der = read_certificate(
        path,
        "the certificate of the domain's root (hawser domain init or hawser join makes it)",
    )?;
    let domain = Certificate::parse("root", &der)?.domain()?;
    Root::new(&domain, der)
}

/// The public key of a certification request that was signed with its private key.
fn requested_key(request: &[u8]) -> Result<SubjectPublicKeyInfo, IdentityError> {
    let refuse = |text: &str| IdentityError::Request(text.into());
    if request.len() > MAX_REQUEST {
        return Err(refuse("it is too long"));
    }
    let (rest, parsed) =
        X509CertificationRequest::from_der(request).map_err(|_| refuse("it is not PKCS#10 (DER)"))?;
    if !rest.is_empty() {
        return Err(refuse("bytes after its end"));
    }
    let info = &parsed.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| refuse("its key is of an unknown kind"))?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(refuse("its key is not for ECDSA on P-256"));
    }
    aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
        key.der_bytes(),
    )
    .verify(info.raw, &parsed.signature_value.data)
    .map_err(|_| refuse("its signature is not by the key it holds"))?;
    Ok(key)
}

#[cfg(test)]
mod tests;
