//! The sealed envelope: what the mailbox must see in the clear, what only the device opens, and how the two hang together.
//!
//! ```text
//! Header          clear, signed                      mailbox, device
//! epoch key       HPKE to the device's key           a wrapping key for many envelopes (RFC 9180)
//! wrapped         AES-256-GCM under the wrapping key [`Wrapped`]: the content key, for whom it is
//! ciphertext      AES-256-GCM under the content key  [`Content`], padded; the same bytes for every device of a variant
//! signature       ES256 by the domain's sender key over the hashes of all four
//! ```

use minicbor::{Decode, Encode};

use super::{DeviceHandle, ItemId, KeyId, UserName};
use crate::{DomainName, UnixTime};

/// Version of [`Header`].
pub const VERSION: u8 = 1;
/// The only suite so far: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM for the epoch key; AES-256-GCM; ES256.
pub const SUITE: u8 = 1;
/// Largest envelope in a mailbox's queue, in bytes.
pub const MAX_ENVELOPE: usize = 192 * 1024;
/// Largest answer to a fetch, in bytes.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Before the bytes that an envelope's signature covers.
pub const CONTEXT: &[u8] = b"hawser-envelope/1\0";
/// Bytes of the epoch key: HPKE's encapsulated key (32), and the sealed wrapping key (32 and a tag of 16).
pub const EPOCH_KEY: usize = 80;
/// Bytes of a signature: r and s, 32 each (as JWS and WebCrypto have it).
pub const SIGNATURE: usize = 64;

/// How urgent (RFC 8030, section 5.3).
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Encode,
    Decode,
    serde::Serialize,
    serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Urgency {
    /// Advertisements.
    #[n(0)]
    VeryLow,
    /// Topic updates.
    #[n(1)]
    Low,
    /// Messages.
    #[n(2)]
    #[default]
    Normal,
    /// Calls, alerts.
    #[n(3)]
    High,
}

/// What an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Content is inside, or names an item to fetch.
    #[n(0)]
    Event,
    /// Answer to a fetch. Its sequence is 0 and its epoch key is used once.
    #[n(1)]
    Answer,
}

/// What the mailbox sees. Its CBOR is authenticated with all that follows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// [`VERSION`].
    #[n(0)]
    pub version: u8,
    /// [`SUITE`].
    #[n(1)]
    pub suite: u8,
    /// What it is.
    #[n(2)]
    pub kind: Kind,
    /// To whom.
    #[n(3)]
    pub device: DeviceHandle,
    /// Ascending from 1 without gaps for each device; 0 in an answer.
    #[n(4)]
    pub sequence: u64,
    /// The device's epoch, which a revocation or a new key raises.
    #[n(5)]
    pub epoch: u32,
    /// Whose signature.
    #[n(6)]
    pub sender: KeyId,
    /// Nobody delivers or opens it after that.
    #[n(7)]
    pub expires: UnixTime,
    /// How urgent.
    #[n(8)]
    pub urgency: Urgency,
    /// HMAC-SHA-256 of the collapse key under a key of the gateway's: a later envelope with the same replaces this one.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub collapse: Option<[u8; 32]>,
}

/// A sealed envelope. Each field is exactly the bytes that are hashed for the signature.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// CBOR of [`Header`].
    #[cbor(n(0), with = "minicbor::bytes")]
    pub header: Vec<u8>,
    /// HPKE's encapsulated key and the sealed wrapping key, [`EPOCH_KEY`] bytes. The same for many envelopes of a device.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub epoch_key: Vec<u8>,
    /// [`Wrapped`] under the wrapping key.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub wrapped: Vec<u8>,
    /// [`Content`], padded, under the content key.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
    /// [`SIGNATURE`] bytes over [`CONTEXT`] and the SHA-256 of each of the fields before.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: [u8; SIGNATURE],
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({} bytes of ciphertext)", self.ciphertext.len())
    }
}

impl Envelope {
    /// Reads an envelope of at most `limit` bytes, and its header. Trailing bytes are refused. Nothing is verified.
    pub fn parse(bytes: &[u8], limit: usize) -> Result<(Self, Header), EnvelopeError> {
        if bytes.len() > limit {
            return Err(EnvelopeError::TooLong {
                length: bytes.len(),
                limit,
            });
        }
        let envelope: Self = whole(bytes)?;
        let header: Header = whole(&envelope.header)?;
        if (header.version, header.suite) != (VERSION, SUITE) {
            return Err(EnvelopeError::Version {
                version: header.version,
                suite: header.suite,
            });
        }
        if envelope.epoch_key.len() != EPOCH_KEY {
            return Err(EnvelopeError::Malformed(format!(
                "an epoch key of {} bytes",
                envelope.epoch_key.len()
            )));
        }
        Ok((envelope, header))
    }

    /// The CBOR that [`Envelope::parse`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        encoded(self)
    }
}

/// CBOR of a value whose encoding cannot fail: ours into memory.
pub fn encoded<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).unwrap_or_default()
}

/// Reads one CBOR value that is all of `bytes`.
pub fn whole<T: for<'b> Decode<'b, ()>>(bytes: &[u8]) -> Result<T, EnvelopeError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder
        .decode()
        .map_err(|e| EnvelopeError::Malformed(e.to_string()))?;
    match decoder.position() == bytes.len() {
        true => Ok(value),
        false => Err(EnvelopeError::Malformed("bytes after its end".into())),
    }
}

/// Why bytes are no envelope, or no part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Over the limit.
    #[error("an envelope of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Bytes.
        length: usize,
        /// Allowed.
        limit: usize,
    },
    /// Of another version.
    #[error(
        "an envelope of version {version}, suite {suite}: this software knows version 1, suite 1; update it"
    )]
    Version {
        /// What the header says.
        version: u8,
        /// What the header says.
        suite: u8,
    },
    /// Not CBOR of the expected shape.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// What the wrapping key opens: binds the content to one user's one device.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct Wrapped {
    /// Opens the ciphertext.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub content_key: [u8; 32],
    /// SHA-256 of the ciphertext: AES-GCM does not commit to its key.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub ciphertext: [u8; 32],
    /// The domain.
    #[n(2)]
    pub domain: DomainName,
    /// The only user who may open it.
    #[n(3)]
    pub user: UserName,
    /// Again the device of the header.
    #[n(4)]
    pub device: DeviceHandle,
    /// Again the epoch of the header.
    #[n(5)]
    pub epoch: u32,
    /// In an answer: the nonce of the [`super::statement::FetchRequest`].
    #[cbor(n(6), with = "minicbor::bytes")]
    pub answers: Option<[u8; 16]>,
}

/// How the content reaches the device.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize, serde::Deserialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is inside.
    #[n(0)]
    #[default]
    Inline,
    /// The device asks for it with [`Content::item`]; what is inside is a summary.
    #[n(1)]
    Fetch,
    /// Only that there is something.
    #[n(2)]
    Notice,
}

/// What the user sees.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Content {
    /// CloudEvents `source`.
    #[n(0)]
    pub source: String,
    /// CloudEvents `id`. With `source` it tells an event from another.
    #[n(1)]
    pub id: String,
    /// CloudEvents `type`.
    #[n(2)]
    pub event_type: String,
    /// CloudEvents `subject`: a line for people.
    #[n(3)]
    pub subject: Option<String>,
    /// When the event was accepted.
    #[n(4)]
    pub created: UnixTime,
    /// How the content comes.
    #[n(5)]
    pub mode: Mode,
    /// Media type of `body`.
    #[n(6)]
    pub content_type: String,
    /// Which variant of the content this is: `html`, `markdown`, `text`, `image`, `original`, `safe-text` (a fallback).
    #[n(7)]
    pub variant: String,
    /// The content, or a summary.
    #[cbor(n(8), with = "minicbor::bytes")]
    pub body: Vec<u8>,
    /// What to ask for ([`Mode::Fetch`]), or where the rest of a shortened text is.
    #[n(9)]
    pub item: Option<ItemId>,
    /// Bytes of what can be asked for.
    #[n(10)]
    pub size: Option<u64>,
    /// Zeros up to a size class. Last.
    #[cbor(n(11), with = "minicbor::bytes")]
    pub padding: Vec<u8>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            suite: SUITE,
            kind: Kind::Event,
            device: DeviceHandle([3; 16]),
            sequence: 1,
            epoch: 1,
            sender: KeyId([9; 8]),
            expires: UnixTime(2_000_000_000),
            urgency: Urgency::High,
            collapse: Some([1; 32]),
        }
    }

    fn envelope(header: &Header) -> Envelope {
        Envelope {
            header: encoded(header),
            epoch_key: vec![2; EPOCH_KEY],
            wrapped: vec![4; 100],
            ciphertext: vec![5; 300],
            signature: [6; SIGNATURE],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (written, header) = (envelope(&header()), header());
        assert_eq!(
            Envelope::parse(&written.to_bytes(), MAX_ENVELOPE).unwrap(),
            (written, header)
        );
    }

    #[test]
    fn limits_versions_and_what_follows_the_end_are_refused() {
        let good = envelope(&header()).to_bytes();
        assert!(matches!(
            Envelope::parse(&good, good.len() - 1),
            Err(EnvelopeError::TooLong { .. })
        ));
        let mut longer = good;
        longer.push(0);
        assert!(matches!(
            Envelope::parse(&longer, MAX_ENVELOPE),
            Err(EnvelopeError::Malformed(_))
        ));
        let newer = Header {
            version: 2,
            ..header()
        };
        let newer = envelope(&newer).to_bytes();
        assert!(matches!(
            Envelope::parse(&newer, MAX_ENVELOPE),
            Err(EnvelopeError::Version { version: 2, .. })
        ));
        let mut short = envelope(&header());
        short.epoch_key.pop();
        assert!(Envelope::parse(&short.to_bytes(), MAX_ENVELOPE).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = Envelope::parse(&bytes, MAX_ENVELOPE);
        }

        #[test]
        fn a_changed_byte_is_refused_or_seen(at in 0usize..540, by in 1u8..) {
            let good = envelope(&header());
            let mut bytes = good.to_bytes();
            let at = at % bytes.len();
            bytes[at] ^= by;
            if let Ok((other, _)) = Envelope::parse(&bytes, MAX_ENVELOPE) {
                prop_assert!(other != good || other.to_bytes() != bytes);
            }
        }
    }
}
