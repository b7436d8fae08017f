//! How a device and its domain get to know each other: a link with a one-time secret, one request, one answer, each
//! authenticated by an HMAC under a key derived from the secret, so that whoever carries them can neither swap nor add a key.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use minicbor::{Decode, Encode};
use zeroize::Zeroize;

use super::{
    DeviceHandle, UserName,
    envelope::{encoded, whole},
};
use crate::{DomainName, UnixTime};

/// How long a link is good for, unless the administrator says otherwise.
pub const LINK_LIFE: std::time::Duration = std::time::Duration::from_secs(600);
/// HKDF-SHA-256 `info` of the key for the request's HMAC (salt: the enrolment's id, key: the secret).
pub const REQUEST_KEY: &[u8] = b"hawser-enrolment/1 request";
/// HKDF-SHA-256 `info` of the key for the answer's HMAC, over the request's SHA-256 and the answer's bytes.
pub const ANSWER_KEY: &[u8] = b"hawser-enrolment/1 answer";
/// HKDF-SHA-256 `info` (followed by the request's SHA-256) of four bytes, modulo a million as big endian: the check number.
pub const CHECK_NUMBER: &[u8] = b"hawser-enrolment/1 check";
/// Longest request in bytes.
pub const MAX_REQUEST: usize = 8192;
/// Longest name of a device in characters.
pub const MAX_NAME: usize = 64;

/// What the link's fragment carries. A browser sends no fragment to a server.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Fragment {
    /// Which enrolment.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub enrolment: [u8; 16],
    /// The one-time secret.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 16],
    /// The domain.
    #[n(2)]
    pub domain: DomainName,
    /// SHA-256 of the public key (SubjectPublicKeyInfo) of the domain's root: what a command-line device trusts control by.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub root: [u8; 32],
}

impl Drop for Fragment {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl std::fmt::Debug for Fragment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fragment({})", self.domain)
    }
}

impl Fragment {
    /// As in `https://NAME/enrol#TEXT`.
    pub fn to_text(&self) -> String {
        format!("v1.{}", URL_SAFE_NO_PAD.encode(encoded(self)))
    }

    /// Reads it. `None`: it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix("v1.")?).ok()?;
        whole(&bytes).ok()
    }
}

/// A device asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnrolmentRequest {
    /// By which link.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub enrolment: [u8; 16],
    /// P-256, SEC 1, uncompressed: 65 bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signing_key: Vec<u8>,
    /// X25519: 32 bytes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub sealing_key: [u8; 32],
    /// For people; one line, at most [`MAX_NAME`] characters.
    #[cbor(n(3), decode_with = "crate::line::decode")]
    pub name: String,
    /// JSON of [`super::api::Profile`].
    #[n(4)]
    pub profile: String,
}

/// What the device needs from then on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnrolmentAnswer {
    /// [`super::statement::Signed`] [`super::statement::DeviceCertificate`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
    /// The domain's sender key (P-256, SEC 1, uncompressed): signs envelopes, skip records, certificates.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub sender_key: Vec<u8>,
    /// Whose device it is now.
    #[n(2)]
    pub user: UserName,
    /// Its handle.
    #[n(3)]
    pub device: DeviceHandle,
    /// Where the mailbox is: `https://NAME[:PORT]`.
    #[n(4)]
    pub mailbox: String,
    /// SHA-256 of the hub's public key, for devices that trust no public certificate.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub hub_pin: Option<[u8; 32]>,
    /// Where control is: `https://NAME[:PORT]`.
    #[n(6)]
    pub control: String,
    /// When.
    #[n(7)]
    pub at: UnixTime,
}
