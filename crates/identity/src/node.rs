//! A node's own key and certificate chain.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use hawser_proto::{NodeId, UnixTime};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{
    Fingerprint, IdentityError,
    authority::{make, new_key, same_key},
    certificate::Certificate,
    file,
    files::{prepare_dir, read_certificates, read_key, write_certificates, write_key},
    trust::Root,
};

/// A node's private key (ECDSA P-256). Clones share it.
#[derive(Clone)]
pub struct NodeKey(Arc<KeyPair>);

impl NodeKey {
    /// Makes a key.
    pub fn create() -> Result<Self, IdentityError> {
        Ok(Self(Arc::new(new_key("node")?)))
    }

    /// Reads the key from a state directory.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key = read_key(
            &dir.join(file::NODE_KEY),
            "node",
            "the key of this gateway (hawser domain init or hawser join makes it)",
        )?;
        Ok(Self(Arc::new(key)))
    }

    /// Writes the key into a state directory.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        prepare_dir(dir)?;
        write_key(&dir.join(file::NODE_KEY), &self.0)
    }

    /// A certification request (PKCS#10, DER) for this key. It names nobody: the issuer gives the name.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params
            .serialize_request(&*self.0)
            .map_err(|e| make("certification request", &e))?;
        Ok(request.der().to_vec())
    }

    /// Of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_key(&self.0.subject_public_key_info())
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// What a node presents: its chain (leaf, issuer, root) and key. Consistent in itself; whether it is in force is for its
/// peers to say, so that one that has ended can still be loaded and renewed.
pub struct Credentials {
    id: NodeId,
    not_before: UnixTime,
    not_after: UnixTime,
    root: Fingerprint,
    key: NodeKey,
    certified: Arc<CertifiedKey>,
}

/// The credentials in use. Resolvers read it at each handshake, so that a renewed certificate needs no new configuration.
pub type SharedCredentials = Arc<ArcSwap<Credentials>>;

impl Credentials {
    /// A chain as an issuer gave it, and the key it was asked for.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &NodeKey) -> Result<Self, IdentityError> {
        let [leaf, issuer, root] = chain.as_slice() else {
            return Err(IdentityError::ChainLength(chain.len()));
        };
        let leaf = Certificate::parse("leaf", leaf)?;
        let id = leaf.leaf()?;
        let root = Root::new(&id.domain, root.clone())?;
        let authority = Certificate::parse("issuer", issuer)?;
        root.check_issuer(&authority)?;
        leaf.check_signed_by(&authority, issuer)?;
        same_key("node", &key.0, &leaf.key)?;
        Ok(Self {
            id,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            root: root.fingerprint,
            key: key.clone(),
            certified: Arc::new(certified(chain, &key.0)?),
        })
    }

    /// Reads them from a state directory.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key = NodeKey::load(dir)?;
        let chain = read_certificates(
            &dir.join(file::NODE_CERTIFICATE),
            "the certificates of this gateway: leaf, issuer, root (hawser domain init or hawser join makes them)",
        )?;
        Self::new(chain, &key)
    }

    /// Writes them into a state directory, the key first. A renewal keeps the key, so key and certificate always fit.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        self.key.save(dir)?;
        write_certificates(&dir.join(file::NODE_CERTIFICATE), self.chain())
    }

    /// These, to be shared and replaced while in use.
    pub fn shared(self) -> SharedCredentials {
        Arc::new(ArcSwap::from_pointee(self))
    }

    /// Who the holder is.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Leaf, issuer and root certificates.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Fingerprint of the domain's root.
    pub fn root(&self) -> Fingerprint {
        self.root
    }

    /// The key, for the next request.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// When the certificate begins.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The middle of its life, when it is to be renewed.
    pub fn half_life(&self) -> SystemTime {
        let half = self.not_before.until(self.not_after) / 2;
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.not_before.0) + half
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.id)
    }
}

pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &KeyPair,
) -> Result<CertifiedKey, IdentityError> {
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialized_der()));
    let key = any_supported_type(&der).map_err(|e| IdentityError::Key {
        which: "node",
        detail: e.to_string(),
    })?;
    Ok(CertifiedKey::new(chain, key))
}

#[cfg(test)]
mod tests;
