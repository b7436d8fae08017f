//! How certificates are judged within a handshake: by the snapshot of trust at that moment.

use std::{fmt, sync::Arc};

use hawser_proto::{DomainName, NodeId, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{self, CertificateDer, ServerName, SignatureVerificationAlgorithm},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{Fingerprint, IdentityError, Proved, SharedTrust, Trust};

/// Accepts any gateway of a trusted domain as the client.
pub(super) struct AnyGateway(SharedTrust);

impl AnyGateway {
    pub(super) fn new(trust: SharedTrust) -> Self {
        Self(trust)
    }
}

/// Accepts one gateway as the server.
pub(super) struct Gateway {
    trust: SharedTrust,
    expect: NodeId,
}

impl Gateway {
    pub(super) fn new(trust: SharedTrust, expect: NodeId) -> Self {
        Self { trust, expect }
    }
}

/// Accepts any gateway of one domain as the server, the domain's root being known by its fingerprint.
pub(super) struct IssuerByRoot {
    domain: DomainName,
    root: Fingerprint,
}

impl IssuerByRoot {
    pub(super) fn new(domain: DomainName, root: Fingerprint) -> Self {
        Self { domain, root }
    }

    fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<Proved, IdentityError> {
        let [_, _, root] = chain else {
            return Err(IdentityError::ChainLength(chain.len()));
        };
        check_pin(self.root, root)?;
        let mut trust = Trust::new();
        trust.add_root(&self.domain, root.clone().into_owned())?;
        trust.verify(chain, now)
    }
}

/// Accepts the holder of one key as the server; its certificate is but a wrapping.
pub(super) struct Pinned(Fingerprint);

impl Pinned {
    pub(super) fn new(pin: Fingerprint) -> Self {
        Self(pin)
    }
}

fn check_pin(expected: Fingerprint, certificate: &CertificateDer<'_>) -> Result<(), IdentityError> {
    let found = Fingerprint::of_certificate(certificate)?;
    if found == expected {
        Ok(())
    } else {
        Err(IdentityError::WrongPin { expected, found })
    }
}

/// Judges a server's certificates.
trait JudgesServer: Send + Sync {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), IdentityError>;
}

impl JudgesServer for Gateway {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), IdentityError> {
        let found = self.trust.load().verify(chain, now)?.id;
        if found == self.expect {
            return Ok(());
        }
        Err(IdentityError::OtherPeer {
            expected: self.expect.clone(),
            found,
        })
    }
}

impl JudgesServer for IssuerByRoot {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), IdentityError> {
        self.check(chain, now).map(|_| ())
    }
}

impl JudgesServer for Pinned {
    fn judge(&self, chain: &[CertificateDer<'_>], _: UnixTime) -> Result<(), IdentityError> {
        let [certificate] = chain else {
            return Err(IdentityError::Certificate {
                which: "hub",
                detail: format!("it came in a chain of {}: expected it alone", chain.len()),
            });
        };
        check_pin(self.0, certificate)
    }
}

macro_rules! server_verifier {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }

        impl ServerCertVerifier for $name {
            fn verify_server_cert(
                &self,
                end_entity: &CertificateDer<'_>,
                intermediates: &[CertificateDer<'_>],
                _: &ServerName<'_>,
                _: &[u8],
                now: pki_types::UnixTime,
            ) -> Result<ServerCertVerified, Error> {
                self.judge(&chain(end_entity, intermediates), seconds(now))
                    .map_err(tls_error)?;
                Ok(ServerCertVerified::assertion())
            }

            fn verify_tls12_signature(
                &self,
                _: &[u8],
                _: &CertificateDer<'_>,
                _: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                Err(PeerIncompatible::Tls12NotOffered.into())
            }

            fn verify_tls13_signature(
                &self,
                message: &[u8],
                certificate: &CertificateDer<'_>,
                signature: &DigitallySignedStruct,
            ) -> Result<HandshakeSignatureValid, Error> {
                verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
            }

            fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
                schemes()
            }
        }
    };
}

server_verifier!(Gateway);
server_verifier!(IssuerByRoot);
server_verifier!(Pinned);

impl fmt::Debug for AnyGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyGateway")
    }
}

impl ClientCertVerifier for AnyGateway {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // A hub does not tell whom it has admitted.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.0.load();
        trust
            .verify(&chain(end_entity, intermediates), seconds(now))
            .map_err(tls_error)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// The keys of all nodes and hubs are ECDSA P-256.
fn schemes() -> Vec<SignatureScheme> {
    vec![SignatureScheme::ECDSA_NISTP256_SHA256]
}

static P256: [&dyn SignatureVerificationAlgorithm; 1] = [webpki::aws_lc_rs::ECDSA_P256_SHA256];

static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &P256,
    mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, &P256)],
};

fn chain<'a>(
    end_entity: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    let mut chain = Vec::with_capacity(1 + intermediates.len());
    chain.push(end_entity.clone());
    chain.extend_from_slice(intermediates);
    chain
}

fn seconds(time: pki_types::UnixTime) -> UnixTime {
    UnixTime(time.as_secs())
}

/// As rustls tells it: the alert shows the peer what is wrong with it where TLS has a word for that.
fn tls_error(error: IdentityError) -> Error {
    let at = |t: UnixTime| pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(t.0));
    let certificate = match &error {
        IdentityError::NoCertificate => return Error::NoCertificatesPresented,
        IdentityError::Revoked(_) => CertificateError::Revoked,
        IdentityError::Expired { not_after, now, .. } => CertificateError::ExpiredContext {
            time: at(now.0),
            not_after: at(not_after.0),
        },
        IdentityError::NotYetValid { not_before, now, .. } => CertificateError::NotValidYetContext {
            time: at(now.0),
            not_before: at(not_before.0),
        },
        _ => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(certificate)
}
