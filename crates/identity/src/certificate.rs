//! What we read from an X.509 certificate, and the rules for each of the three places in a chain.

use hawser_proto::{DomainName, NodeId, Role, UnixTime};
use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::{Fingerprint, IdentityError, error::Utc};

/// Largest certificate that is looked at, in bytes.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// The parts of a certificate that decide anything here.
#[derive(Debug)]
pub(crate) struct Certificate {
    which: &'static str,
    /// The SPIFFE URI, if there is exactly one URI.
    uri: Option<String>,
    common_name: Option<String>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    authority: bool,
    path_length: Option<u32>,
    usage: Option<Usage>,
    extended: Option<Extended>,
    unknown_critical: Option<String>,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    /// SubjectPublicKeyInfo (DER).
    pub(crate) key: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Usage {
    digital_signature: bool,
    certificate_sign: bool,
}

#[derive(Debug, Clone, Copy)]
struct Extended {
    client: bool,
    server: bool,
}

impl Certificate {
    pub(crate) fn parse(which: &'static str, der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let bad = |detail: String| IdentityError::Certificate { which, detail };
        if der.len() > MAX_CERTIFICATE {
            return Err(bad(format!(
                "{} bytes, at most {MAX_CERTIFICATE} are looked at",
                der.len()
            )));
        }
        let (rest, x509) = X509Certificate::from_der(der).map_err(|_| bad("not X.509 (DER)".into()))?;
        if !rest.is_empty() {
            return Err(bad("bytes after its end".into()));
        }
        let seconds = |t: i64| UnixTime(u64::try_from(t).unwrap_or(0));
        let mut certificate = Self {
            which,
            uri: None,
            common_name: x509
                .subject()
                .iter_common_name()
                .next()
                .and_then(|cn| cn.as_str().ok())
                .map(String::from),
            not_before: seconds(x509.validity().not_before.timestamp()),
            not_after: seconds(x509.validity().not_after.timestamp()),
            authority: false,
            path_length: None,
            usage: None,
            extended: None,
            unknown_critical: None,
            subject: x509.subject().as_raw().to_vec(),
            issuer: x509.issuer().as_raw().to_vec(),
            key: x509.public_key().raw.to_vec(),
            signed: x509.tbs_certificate.as_ref().to_vec(),
            signature: x509.signature_value.data.to_vec(),
        };
        // Refuses an extension that comes twice.
        x509.extensions_map()
            .map_err(|_| bad("an extension comes twice".into()))?;
        for extension in x509.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    let mut uris = names.general_names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some((*uri).to_owned()),
                        _ => None,
                    });
                    certificate.uri = uris.next();
                    if uris.next().is_some() {
                        return Err(bad("several URI names: expected one, the SPIFFE ID".into()));
                    }
                }
                ParsedExtension::BasicConstraints(constraints) => {
                    certificate.authority = constraints.ca;
                    certificate.path_length = constraints.path_len_constraint;
                }
                ParsedExtension::KeyUsage(usage) => {
                    certificate.usage = Some(Usage {
                        digital_signature: usage.digital_signature(),
                        certificate_sign: usage.key_cert_sign(),
                    });
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    certificate.extended = Some(Extended {
                        client: usage.client_auth,
                        server: usage.server_auth,
                    });
                }
                ParsedExtension::ParseError { .. } => return Err(bad("a malformed extension".into())),
                // Of these webpki takes care in a chain; none concerns a lone issuer certificate.
                ParsedExtension::NameConstraints(_) => {}
                _ if extension.critical => certificate.unknown_critical = Some(extension.oid.to_id_string()),
                _ => {}
            }
        }
        Ok(certificate)
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key(&self.key)
    }

    /// The identity of a leaf (a gateway or a host), with all that a leaf must have.
    pub(crate) fn leaf(&self) -> Result<NodeId, IdentityError> {
        let id = self.id(&[Role::Gateway, Role::Host])?;
        if self.authority {
            return Err(self.bad("it is that of an authority"));
        }
        if self.usage.is_some_and(|u| !u.digital_signature) {
            return Err(self.bad("its key is not for signatures"));
        }
        if !self.extended.is_some_and(|e| e.client && e.server) {
            return Err(self.bad("its extended key usage is not both client and server authentication"));
        }
        self.no_unknown_critical()?;
        Ok(id)
    }

    /// The identity of an issuer, with all that an issuer must have.
    pub(crate) fn issuer(&self) -> Result<NodeId, IdentityError> {
        let id = self.id(&[Role::Issuer])?;
        if !self.authority {
            return Err(self.bad("it is not that of an authority (basicConstraints CA)"));
        }
        if self.usage.is_some_and(|u| !u.certificate_sign) {
            return Err(self.bad("its key usage lacks keyCertSign"));
        }
        if self.extended.is_some_and(|e| !(e.client && e.server)) {
            return Err(self.bad("its extended key usage leaves out client or server authentication"));
        }
        self.no_unknown_critical()?;
        Ok(id)
    }

    /// The domain that a root names: in its one URI (`spiffe://acme`) or, without a URI, as its common name.
    pub(crate) fn domain(&self) -> Result<DomainName, IdentityError> {
        let name = match (&self.uri, &self.common_name) {
            (Some(uri), _) => uri.strip_prefix("spiffe://"),
            (None, name) => name.as_deref(),
        };
        name.and_then(|n| n.parse().ok()).ok_or_else(|| {
            self.bad("it names no domain, neither in a URI name (spiffe://DOMAIN) nor as its common name")
        })
    }

    /// Whether this can be the root of a domain.
    pub(crate) fn root(&self, domain: &DomainName) -> Result<(), IdentityError> {
        let found = self.domain()?;
        if found != *domain {
            return Err(IdentityError::OtherDomain {
                expected: domain.clone(),
                found: found.to_string(),
            });
        }
        if !self.authority {
            return Err(self.bad("it is not that of an authority (basicConstraints CA)"));
        }
        if self.path_length == Some(0) {
            return Err(self.bad("its path length 0 leaves no room for issuers: expected 1 or none"));
        }
        if self.usage.is_some_and(|u| !u.certificate_sign) {
            return Err(self.bad("its key usage lacks keyCertSign"));
        }
        self.no_unknown_critical()
    }

    /// Whether it is within its time, inclusive at both ends (RFC 5280, 4.1.2.5).
    pub(crate) fn check_time(&self, now: UnixTime) -> Result<(), IdentityError> {
        if now < self.not_before {
            return Err(IdentityError::NotYetValid {
                who: self.who(),
                not_before: Utc(self.not_before),
                now: Utc(now),
            });
        }
        if now > self.not_after {
            return Err(IdentityError::Expired {
                who: self.who(),
                not_after: Utc(self.not_after),
                now: Utc(now),
            });
        }
        Ok(())
    }

    /// Whether `signer` (its certificate) signed this one, by name and signature.
    pub(crate) fn check_signed_by(
        &self,
        signer: &Certificate,
        signer_der: &CertificateDer<'_>,
    ) -> Result<(), IdentityError> {
        if self.issuer != signer.subject {
            return Err(self.bad("the name of its signer is another"));
        }
        check_signature(signer_der, &self.signed, &self.signature)
            .map_err(|_| IdentityError::Signature(format!("the {} certificate", self.which)))
    }

    fn id(&self, roles: &[Role]) -> Result<NodeId, IdentityError> {
        let uri = self
            .uri
            .as_deref()
            .ok_or_else(|| self.bad("it has no SPIFFE ID (URI name)"))?;
        let id: NodeId = uri
            .parse()
            .map_err(|_| self.bad("its URI name is no SPIFFE ID of ours"))?;
        if roles.contains(&id.role) {
            Ok(id)
        } else {
            let expected: Vec<_> = roles.iter().map(|r| r.as_str()).collect();
            Err(self.bad(&format!("{id} is no {}", expected.join(" and no "))))
        }
    }

    fn who(&self) -> String {
        self.uri.clone().unwrap_or_else(|| format!("the {}", self.which))
    }

    fn no_unknown_critical(&self) -> Result<(), IdentityError> {
        match &self.unknown_critical {
            None => Ok(()),
            Some(oid) => Err(self.bad(&format!("the critical extension {oid} is not known here"))),
        }
    }

    fn bad(&self, detail: &str) -> IdentityError {
        IdentityError::Certificate {
            which: self.which,
            detail: detail.into(),
        }
    }
}

/// When a certificate begins and ends.
pub fn validity(certificate: &CertificateDer<'_>) -> Result<(UnixTime, UnixTime), IdentityError> {
    let certificate = Certificate::parse("given", certificate)?;
    Ok((certificate.not_before, certificate.not_after))
}

/// Whether the key in a certificate made a signature, by whichever of the algorithms that fit the key.
pub(crate) fn check_signature(
    signer: &CertificateDer<'_>,
    message: &[u8],
    signature: &[u8],
) -> Result<(), IdentityError> {
    let wrong = || IdentityError::Signature("the signer".into());
    let signer = EndEntityCert::try_from(signer).map_err(|_| wrong())?;
    webpki::ALL_VERIFICATION_ALGS
        .iter()
        .any(|algorithm| signer.verify_signature(*algorithm, message, signature).is_ok())
        .then_some(())
        .ok_or_else(wrong)
}
