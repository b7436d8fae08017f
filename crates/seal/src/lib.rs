//! What the broker's parts seal, open, sign and check: envelopes that one user's one device opens, statements, enrolment,
//! proofs of possession (DPoP, RFC 9449), tokens, receipts. Pure functions and small state machines; the only files touched are
//! those of [`SenderKey`].
//!
//! Cryptography is that of aws-lc-rs: ES256 (FIPS 186-5, RFC 7518), AES-256-GCM, HKDF and HMAC with SHA-256, HPKE (RFC 9180)
//! as rustls builds it. Formats are those of `hawser_proto::broker`; `spec/envelope.md` and `spec/device-protocol.md` say them in
//! prose, with vectors. Imports `hawser-proto` and `hawser-identity` (private files).

mod aead;
mod arrivals;
pub mod dpop;
pub mod enrolment;
mod envelope;
mod error;
mod hpke;
mod jws;
mod key;
mod open;
mod pad;
pub mod receipt;
mod replays;
mod statement;
#[cfg(test)]
mod testing;
pub mod token;
#[cfg(test)]
mod vectors;

pub use arrivals::{Arrival, Arrivals, Withheld};
pub use envelope::{EpochKey, Post, SealedContent, answer, seal};
pub use error::{OpenError, SealError};
pub use key::{DeviceKeys, Jwk, PublicKey, SenderKey, SigningKey, thumbprint_text};
pub use open::{Opened, Opener, Recipient};
pub use pad::size_class;
pub use replays::Replays;
pub use statement::{check_certificate, verify};

use aws_lc_rs::{digest, rand};

/// SHA-256 of some bytes.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

/// Fresh random bytes from the operating system by way of the library's generator.
pub fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut out = [0; N];
    rand::fill(&mut out).map_err(|_| SealError::Library("give random bytes"))?;
    Ok(out)
}
