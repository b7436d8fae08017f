//! How certificates are judged within a handshake: by the snapshot of trust at that moment.

use std::{fmt, sync::Arc};

use hawser_proto::{DomainName, NodeId, Role, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{self, CertificateDer, ServerName, SignatureVerificationAlgorithm},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{Fingerprint, IdentityError, Proved, SharedCredentials, SharedTrust, Trust};

/// Accepts nodes of trusted domains as the client.
pub(super) struct Clients {
    trust: SharedTrust,
    who: Who,
}

/// Which nodes are accepted.
pub(super) enum Who {
    /// Gateways and hosts of every trusted domain.
    Nodes,
    /// Gateways of every trusted domain, and hosts of the holder's own.
    Gateways(SharedCredentials),
    /// Hosts of the holder's own domain.
    Hosts(SharedCredentials),
}

impl Clients {
    pub(super) fn new(trust: SharedTrust, who: Who) -> Self {
        Self { trust, who }
    }

    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), IdentityError> {
        let found = self.trust.load().verify(chain, now)?.id;
        let of = |own: &SharedCredentials| own.load().id().domain == found.domain;
        let expected = match (&self.who, found.role) {
            (Who::Nodes | Who::Gateways(_), Role::Gateway) | (Who::Nodes, Role::Host) => return Ok(()),
            (Who::Gateways(own) | Who::Hosts(own), Role::Host) if of(own) => return Ok(()),
            (Who::Nodes, _) => "a gateway or a host",
            (Who::Gateways(_), _) => "a gateway, or a host of the own domain",
            (Who::Hosts(_), _) => "a host of the own domain",
        };
        Err(IdentityError::Role { found, expected })
    }
}

/// Accepts one node as the server.
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
        let proved = trust.verify(chain, now)?;
        // A host of the domain, too, has a chain under its root, and is no issuer.
        if proved.id.role != Role::Gateway {
            return Err(IdentityError::Role {
                found: proved.id,
                expected: "a gateway",
            });
        }
        Ok(proved)
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

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

impl ClientCertVerifier for Clients {
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
        self.judge(&chain(end_entity, intermediates), seconds(now))
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
