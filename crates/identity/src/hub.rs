//! A hub's identity: a key that tokens pin. Its certificate is self-signed and vouches for nothing.

use std::{path::Path, sync::Arc};

use hawser_proto::UnixTime;
use rcgen::{IsCa, KeyPair, PublicKeyData};
use rustls::{pki_types::CertificateDer, sign::CertifiedKey};

use crate::{
    Fingerprint, IdentityError, ROOT_LIFE,
    authority::{make, new_key, params, same_key},
    certificate::Certificate,
    file,
    files::{prepare_dir, read_certificate, read_key, write_certificates, write_new_key},
    node::certified,
};

/// A hub's key and self-signed certificate. Clones share them.
#[derive(Clone)]
pub struct HubIdentity {
    pin: Fingerprint,
    certified: Arc<CertifiedKey>,
}

impl HubIdentity {
    /// Reads the identity from a state directory, or makes it there. Losing the key means new tokens for everybody.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        prepare_dir(dir)?;
        let key_path = dir.join(file::HUB_KEY);
        let key = match read_key(&key_path, "hub", "the hub's key") {
            Err(IdentityError::Missing { .. }) => {
                // A certificate without its key: making another key would lock out all who pinned this one.
                if dir.join(file::HUB_CERTIFICATE).exists() {
                    return Err(IdentityError::Missing {
                        path: key_path,
                        expected: "the hub's key, which its gateways have pinned; restore it, or remove the certificate beside it \
                                   to begin anew with new tokens",
                    });
                }
                let key = new_key("hub")?;
                if write_new_key(&key_path, &key)? {
                    key
                } else {
                    read_key(&key_path, "hub", "the hub's key")?
                }
            }
            other => other?,
        };
        let path = dir.join(file::HUB_CERTIFICATE);
        let certificate = match read_certificate(&path, "the hub's certificate") {
            Err(IdentityError::Missing { .. }) => {
                let certificate = self_signed(&key)?;
                write_certificates(&path, std::slice::from_ref(&certificate))?;
                certificate
            }
            other => other?,
        };
        same_key("hub", &key, &Certificate::parse("hub", &certificate)?.key)?;
        Ok(Self {
            pin: Fingerprint::of_key(&key.subject_public_key_info()),
            certified: Arc::new(certified(vec![certificate], &key)?),
        })
    }

    /// What tokens pin: the fingerprint of the key.
    pub fn pin(&self) -> Fingerprint {
        self.pin
    }

    /// The self-signed certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl std::fmt::Debug for HubIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HubIdentity({})", self.pin)
    }
}

fn self_signed(key: &KeyPair) -> Result<CertificateDer<'static>, IdentityError> {
    let now = UnixTime::now();
    let mut params = params("hawser:hub", "Hawser hub", now, now.plus(ROOT_LIFE))?;
    params.is_ca = IsCa::ExplicitNoCa;
    let certificate = params.self_signed(key).map_err(|e| make("hub certificate", &e))?;
    Ok(certificate.into())
}

#[cfg(test)]
mod tests;
