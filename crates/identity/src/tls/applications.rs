//! Where applications of the own domain publish: a given certificate, and any certificate of the client's, which it proves to
//! hold. Which application that is, is for those to say who know its hash.

use std::{path::Path, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{
        WebPkiSupportedAlgorithms,
        aws_lc_rs::{default_provider, sign::any_supported_type},
        verify_tls13_signature,
    },
    pki_types::{self, CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{hop_groups, make, provider};
use crate::{
    IdentityError,
    files::{read, read_certificates},
};

/// A server with the certificate and key of these PEM files; clients may show a certificate, and need not.
pub fn publishing_server(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, IdentityError> {
    let chain = read_certificates(
        certificate,
        "the certificate for applications, and those above it",
    )?;
    let (text, _) = read(key, "the private key of that certificate")?;
    let unusable = |detail: String| IdentityError::File {
        path: key.into(),
        detail,
    };
    let der = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|e| unusable(format!("no private key in PEM form: {e}")))?;
    let signing = any_supported_type(&der).map_err(|e| unusable(format!("cannot be used: {e}")))?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|_| {
        let of = certificate.display();
        unusable(format!(
            "not the key of the first certificate in {of}: name the right one"
        ))
    })?;
    let verifier = AnyHolder(default_provider().signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider(hop_groups()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| make(&e))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Lets in whoever holds the key of the certificate that it shows, and whoever shows none.
#[derive(Debug)]
struct AnyHolder(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyHolder {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: pki_types::UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Known by its hash to those who ask: names, issuers and times in it mean nothing here.
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
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
