//! Secrets of 32 bytes: wiped when dropped, compared in constant time, never printed.

use aws_lc_rs::{constant_time, hmac, rand};
use minicbor::{Decode, Encode};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{IdentityError, fingerprint::sha256};

/// A secret of 32 bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Encode, Decode)]
#[cbor(transparent)]
pub struct Secret(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]);

impl Secret {
    /// A fresh one.
    pub fn random() -> Result<Self, IdentityError> {
        let mut secret = Self([0; 32]);
        rand::fill(&mut secret.0).map_err(|_| IdentityError::Make {
            what: "secret",
            detail: "the system gives no random numbers".into(),
        })?;
        Ok(secret)
    }

    /// The bytes, to be put into a message.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// By which it is known without being known.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl From<[u8; 32]> for Secret {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// SHA-256 of a token's secret or hub half: what the side that made the token keeps and compares.
pub fn hash(secret: &[u8; 32]) -> [u8; 32] {
    sha256(secret)
}

/// HMAC-SHA-256 under the domain half of a gateway token.
pub fn mac(domain_half: &Secret, message: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &domain_half.0);
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&key, message).as_ref());
    out
}

/// Whether [`mac`] gives this; compared in constant time.
pub fn verify_mac(domain_half: &Secret, message: &[u8], mac: &[u8; 32]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &domain_half.0);
    hmac::verify(&key, message, mac).is_ok()
}
