//! The MACs by which a device and its domain know each other at enrolment, under keys from the link's one-time secret.

use aws_lc_rs::{
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    hmac,
};
use hawser_proto::broker::enrolment::{ANSWER_KEY, CHECK_NUMBER, Fragment, REQUEST_KEY};
use zeroize::Zeroizing;

use crate::{SealError, sha256};

/// One enrolment: what its two MACs and its check number hang on.
pub struct Transcript {
    prk: Prk,
    request: Vec<u8>,
    digest: [u8; 32],
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Transcript {
    /// `request` is the CBOR of the [`hawser_proto::broker::enrolment::EnrolmentRequest`].
    pub fn new(enrolment: &[u8; 16], secret: &[u8; 16], request: &[u8]) -> Self {
        Self {
            prk: Salt::new(HKDF_SHA256, enrolment).extract(secret),
            request: request.to_vec(),
            digest: sha256(request),
        }
    }

    /// As [`Transcript::new`], from a link.
    pub fn of(fragment: &Fragment, request: &[u8]) -> Self {
        Self::new(&fragment.enrolment, &fragment.secret, request)
    }

    /// What the device puts beside its request.
    pub fn request_mac(&self) -> Result<[u8; 32], SealError> {
        mac(&*self.key(REQUEST_KEY)?, &self.request)
    }

    /// Whether the holder of the secret made the request.
    pub fn check_request(&self, mac: &[u8]) -> Result<(), SealError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.key(REQUEST_KEY)?);
        hmac::verify(&key, &self.request, mac).map_err(|_| SealError::Signature("the MAC of the request"))
    }

    /// What the domain puts beside its answer.
    pub fn answer_mac(&self, answer: &[u8]) -> Result<[u8; 32], SealError> {
        mac(&*self.key(ANSWER_KEY)?, &self.answered(answer))
    }

    /// Whether the domain that issued the link made the answer, and to this request.
    pub fn check_answer(&self, answer: &[u8], mac: &[u8]) -> Result<(), SealError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.key(ANSWER_KEY)?);
        hmac::verify(&key, &self.answered(answer), mac)
            .map_err(|_| SealError::Signature("the MAC of the answer"))
    }

    /// Six digits that both ends show, so that people can compare them.
    pub fn check_number(&self) -> Result<String, SealError> {
        let mut bytes = [0; 4];
        self.expand(&[CHECK_NUMBER, &self.digest], &mut bytes)?;
        Ok(format!("{:06}", u32::from_be_bytes(bytes) % 1_000_000))
    }

    fn answered(&self, answer: &[u8]) -> Vec<u8> {
        [&self.digest, answer].concat()
    }

    fn key(&self, info: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut key = Zeroizing::new([0; 32]);
        self.expand(&[info], &mut *key)?;
        Ok(key)
    }

    fn expand(&self, info: &[&[u8]], out: &mut [u8]) -> Result<(), SealError> {
        let failed = |_| SealError::Library("derive a key");
        let okm = self.prk.expand(info, Length(out.len())).map_err(failed)?;
        okm.fill(out).map_err(failed)
    }
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transcript({} bytes)", self.request.len())
    }
}

fn mac(key: &[u8; 32], message: &[u8]) -> Result<[u8; 32], SealError> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref()
        .try_into()
        .map_err(|_| SealError::Library("make a MAC"))
}
