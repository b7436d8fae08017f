//! Why a device could not do something, and what helps.

use std::path::PathBuf;

use hawser_identity::IdentityError;
use hawser_seal::{OpenError, SealError, dpop::DpopError};

/// A failure of a device. None of the texts holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not a link of ours.
    #[error(
        "not an enrolment link: expected https://NAME/enrol#v1... as the administrator's `hawser enrol` printed it"
    )]
    Link,
    /// The home directory has a device already.
    #[error("{} holds a device already: use another --home, or remove that one", .0.display())]
    Enrolled(PathBuf),
    /// The home directory has none.
    #[error("{} holds no device: enrol one first (hawser device enrol)", .0.display())]
    NotEnrolled(PathBuf),
    /// Another process is the device.
    #[error("another process listens for the device in {}: there can be one", .0.display())]
    Busy(PathBuf),
    /// A file of the device is damaged.
    #[error("{}: {detail}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The passphrase is another.
    #[error("the passphrase does not open this device's keys")]
    Passphrase,
    /// A passphrase of no use.
    #[error("a passphrase of {0} characters: at least 8 are needed")]
    Weak(usize),
    /// No connection.
    #[error("{to} cannot be reached: {detail}")]
    Connect {
        /// Which server.
        to: String,
        /// What happened.
        detail: String,
    },
    /// The server said no.
    #[error("{to} refused ({status}{}): {detail}", reason.as_deref().map(|r| format!(", {r}")).unwrap_or_default())]
    Refused {
        /// Which server.
        to: String,
        /// HTTP status.
        status: u16,
        /// The stable word of the problem document.
        reason: Option<String>,
        /// For people.
        detail: String,
    },
    /// The mailbox says that this device is out.
    #[error("this device was revoked: ask the administrator for a new enrolment")]
    Revoked,
    /// The server said something that makes no sense.
    #[error("{to} answered what was not expected: {detail}")]
    Protocol {
        /// Which server.
        to: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The answer at enrolment does not come from the domain that issued the link, or certifies something else.
    #[error("the answer is not to be believed: {0}; do not use this link again, and tell the administrator")]
    Enrolment(&'static str),
    /// What was fetched does not open.
    #[error("the content does not open: {0}")]
    Open(#[from] OpenError),
    /// Keys or signatures.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A proof could not be made.
    #[error(transparent)]
    Proof(#[from] DpopError),
    /// Files and TLS.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl DeviceError {
    /// Whether trying again later can help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Protocol { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || matches!(status, 401 | 408 | 409 | 425 | 429),
            _ => false,
        }
    }
    /// Whether the server found no sense in what was sent, and never will.
    pub(crate) fn is_senseless(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 413 | 422,
                ..
            }
        )
    }
}
