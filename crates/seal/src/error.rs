//! Why something was not sealed, opened or believed.

use hawser_identity::IdentityError;
use hawser_proto::{
    UnixTime,
    broker::{envelope::EnvelopeError, statement::AckCode},
};

/// A refusal or failure of sealing, signing and checking. None of the texts holds a secret.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The cryptography library failed at what cannot fail with sound input and enough memory.
    #[error("the cryptography library would not {0}; try again")]
    Library(&'static str),
    /// A key is not of the expected kind.
    #[error("the {which} key does not fit: expected {expected}")]
    Key {
        /// Which one.
        which: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A key file cannot be read or written.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// What was signed is not of the expected shape, or too long.
    #[error("{what} {source}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        source: EnvelopeError,
    },
    /// A signature or MAC does not fit what it stands under.
    #[error("{0} does not fit what it stands under: it was changed on its way, or made by another key")]
    Signature(&'static str),
    /// Text that should be a JWS (RFC 7515) of ours is not.
    #[error("not {what}: {detail}")]
    Token {
        /// What was expected.
        what: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// Its time is over, or has not come.
    #[error(
        "{what} is good from {from} to {until} (seconds since 1970), and it is {now}: get a new one, or set the clocks right",
        from = .from.0, until = .until.0, now = .now.0
    )]
    Time {
        /// What.
        what: &'static str,
        /// From when.
        from: UnixTime,
        /// Until when.
        until: UnixTime,
        /// By this clock.
        now: UnixTime,
    },
    /// A wrapping key would be used twice for one number, which would break its cipher.
    #[error(
        "number {sequence} was sealed before under this epoch key (next is {next}): make a new epoch key"
    )]
    Reused {
        /// The number asked for.
        sequence: u64,
        /// The lowest that is free.
        next: u64,
    },
    /// The sealed bytes would be over a limit.
    #[error("{bytes} bytes sealed are over the limit of {limit}: send less, or let the device fetch it")]
    TooLarge {
        /// Bytes.
        bytes: usize,
        /// Allowed.
        limit: usize,
    },
}

/// Why a device does not open an envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Not an envelope.
    #[error("not an envelope: {0}")]
    Malformed(#[from] EnvelopeError),
    /// Another sender's, or changed.
    #[error("its signature is not the domain's: it was changed on its way, or comes from somebody else")]
    Signature,
    /// For another device.
    #[error("it is for another device")]
    Device,
    /// Of another epoch of this device.
    #[error("it is of epoch {found}, and this device is in epoch {expected}")]
    Epoch {
        /// The device's.
        expected: u32,
        /// The envelope's.
        found: u32,
    },
    /// Its time is over.
    #[error("it expired at {} (seconds since 1970), and it is {}", .expires.0, .now.0)]
    Expired {
        /// When.
        expires: UnixTime,
        /// By the device's clock.
        now: UnixTime,
    },
    /// An answer among events, or an event where an answer was asked for, or an answer to another question.
    #[error("{0}")]
    Kind(&'static str),
    /// The epoch key, what it wraps, or the content does not open: sealed to other keys.
    #[error("its {0} does not open with this device's keys")]
    Sealed(&'static str),
    /// What was opened says another domain, user or device than this one.
    #[error("it was sealed for another {0}")]
    Recipient(&'static str),
    /// The ciphertext is not the one the sender meant for this device.
    #[error("its ciphertext is not the one that was sealed for this device")]
    Ciphertext,
    /// The number was seen before.
    #[error("number {sequence} was seen before (the last is {last}): a replay")]
    Replayed {
        /// Its number.
        sequence: u64,
        /// The last one seen.
        last: u64,
    },
}

impl OpenError {
    /// What the device tells the domain, where it says anything: a replay is not acknowledged again.
    pub fn ack_code(&self) -> Option<AckCode> {
        match self {
            Self::Replayed { .. } => None,
            Self::Expired { .. } => Some(AckCode::NotDelivered),
            _ => Some(AckCode::CannotDecrypt),
        }
    }
}
