//! What one party signs and another checks, each with a context of its own so that no signature passes for another's.

use std::marker::PhantomData;

use minicbor::{Decode, Encode};

use super::{
    DeviceHandle, ItemId, KeyId, UserName,
    envelope::{EnvelopeError, SIGNATURE, whole},
};
use crate::{DomainName, UnixTime};

/// Longest signed statement in bytes.
pub const MAX_STATEMENT: usize = 4096;

/// Something that is signed.
pub trait Statement: Encode<()> + for<'b> Decode<'b, ()> {
    /// Comes before the payload in what is signed. Ends with a zero byte.
    const CONTEXT: &'static [u8];
}

/// A statement's bytes with an ES256 signature (r and s) over [`Statement::CONTEXT`] and the payload. What it says is reached
/// through verification (crate `seal`).
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Signed<T> {
    /// CBOR of the statement.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub payload: Vec<u8>,
    /// Over context and payload.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; SIGNATURE],
    #[cbor(skip)]
    what: PhantomData<fn() -> T>,
}

impl<T: Statement> Signed<T> {
    /// Puts a payload and its signature together.
    pub fn new(payload: Vec<u8>, signature: [u8; SIGNATURE]) -> Self {
        Self {
            payload,
            signature,
            what: PhantomData,
        }
    }

    /// Reads one from the wire.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_STATEMENT {
            return Err(EnvelopeError::TooLong {
                length: bytes.len(),
                limit: MAX_STATEMENT,
            });
        }
        whole(bytes)
    }

    /// For the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        super::envelope::encoded(self)
    }

    /// What it says, before anybody has checked who says it: for routing only.
    pub fn unverified(&self) -> Result<T, EnvelopeError> {
        whole(&self.payload)
    }
}

impl<T> std::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed({} bytes)", self.payload.len())
    }
}

/// Why sequence numbers are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// A newer one with the same collapse key took its place.
    #[n(0)]
    Collapsed,
    /// Its time was over.
    #[n(1)]
    Expired,
    /// Another of the user's devices acknowledged it (`ackpolicy: any`), or it was withdrawn.
    #[n(2)]
    Withdrawn,
    /// The queue was full, or it could not be delivered too often.
    #[n(3)]
    Dropped,
}

/// The domain's sender explains a gap to a device.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Skip {
    /// To whom.
    #[n(0)]
    pub device: DeviceHandle,
    /// First missing number.
    #[n(1)]
    pub from: u64,
    /// Last missing number.
    #[n(2)]
    pub to: u64,
    /// Why.
    #[n(3)]
    pub reason: SkipReason,
}

impl Statement for Skip {
    const CONTEXT: &'static [u8] = b"hawser-skip/1\0";
}

/// What a device did with an envelope. Codes as in the autopush protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum AckCode {
    /// It was verified, opened and handed to the application.
    #[n(100)]
    Delivered,
    /// It could not be verified or opened.
    #[n(101)]
    CannotDecrypt,
    /// It was opened, but not delivered.
    #[n(102)]
    NotDelivered,
    /// The user has seen it. May follow a [`AckCode::Delivered`].
    #[n(110)]
    Opened,
}

/// A device's acknowledgement of one envelope, signed by the device's key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Acknowledgement {
    /// By whom.
    #[n(0)]
    pub device: DeviceHandle,
    /// Of which envelope.
    #[n(1)]
    pub sequence: u64,
    /// What became of it.
    #[n(2)]
    pub code: AckCode,
    /// SHA-256 of the envelope's bytes.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub envelope: [u8; 32],
    /// By the device's clock.
    #[n(4)]
    pub at: UnixTime,
}

impl Statement for Acknowledgement {
    const CONTEXT: &'static [u8] = b"hawser-ack/1\0";
}

/// A device asks for content, signed by the device's key. The mailbox passes it on unread.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FetchRequest {
    /// Who asks.
    #[n(0)]
    pub device: DeviceHandle,
    /// For what.
    #[n(1)]
    pub item: ItemId,
    /// Random, used once; comes back in the answer's [`super::envelope::Wrapped::answers`].
    #[cbor(n(2), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
    /// By the device's clock.
    #[n(3)]
    pub at: UnixTime,
    /// As in HTTP's `Accept`; empty: by the device's profile.
    #[n(4)]
    pub accept: String,
    /// As in HTTP's `Accept-Language`; may be empty.
    #[n(5)]
    pub accept_language: String,
    /// As in HTTP's `Save-Data`.
    #[n(6)]
    pub save_data: bool,
}

impl Statement for FetchRequest {
    const CONTEXT: &'static [u8] = b"hawser-fetch/1\0";
}

/// The domain certifies a device, signed by the domain's sender key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeviceCertificate {
    /// The domain.
    #[n(0)]
    pub domain: DomainName,
    /// Whose device.
    #[n(1)]
    pub user: UserName,
    /// Its handle at the mailbox.
    #[n(2)]
    pub device: DeviceHandle,
    /// For people; one line.
    #[cbor(n(3), decode_with = "crate::line::decode")]
    pub name: String,
    /// Its signing key (P-256; SEC 1, uncompressed, 65 bytes).
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signing_key: Vec<u8>,
    /// Its HPKE key (X25519, 32 bytes).
    #[cbor(n(5), with = "minicbor::bytes")]
    pub sealing_key: [u8; 32],
    /// Raised by each new key.
    #[n(6)]
    pub epoch: u32,
    /// From when.
    #[n(7)]
    pub issued: UnixTime,
    /// Until when.
    #[n(8)]
    pub expires: UnixTime,
    /// Who certifies.
    #[n(9)]
    pub sender: KeyId,
}

impl Statement for DeviceCertificate {
    const CONTEXT: &'static [u8] = b"hawser-device/1\0";
}
