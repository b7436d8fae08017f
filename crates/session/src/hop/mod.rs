//! The hop: mutual TLS between a gateway and a hub, and what is said under it.
//!
//! [`client`] is the gateway's side, [`server`] the hub's. One port serves all: what a connection is for is told by the ALPN
//! and the name in its ClientHello. A data connection leaves TLS after pairing; see [`hawser_proto::hop`] for the order of messages.

mod client;
mod control;
mod server;

use std::io;

use hawser_identity::IdentityError;
use hawser_proto::{Fault, HostName, frame::FrameError};
use tokio::io::AsyncRead;

use crate::{carrier::DialError, frame, record::Records};

pub use client::{HopClient, Side, join_admit, join_pair};
pub use control::{ControlReceiver, ControlSender, halves};
pub use server::{Arrival, Device, DeviceStream, Half, HopServer, JoinReply, Names, Site, Visitor};

/// Longest wait for TLS and the first message on a hop connection.
pub const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Longest wait for the hub to pair a shown ticket: the ticket's life, and slack for the other side's handshakes.
pub const PAIRING_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Why a hop failed.
#[derive(Debug, thiserror::Error)]
pub enum HopError {
    /// No carrier.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// TLS failed: the certificate of one side was refused, or the peer speaks no TLS.
    #[error("TLS with the {with}: {}", hawser_identity::tls::explain(.source))]
    Tls {
        /// `hub` or `gateway`.
        with: &'static str,
        /// What rustls says.
        source: io::Error,
    },
    /// A certificate is not that of an accepted party, or our own cannot be used.
    #[error("hop with the {with}: {source}")]
    Identity {
        /// `hub` or `gateway`.
        with: &'static str,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The connection broke.
    #[error("the connection to the {with} broke: {source}")]
    Io {
        /// `hub` or `gateway`.
        with: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// A message that is none.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Nothing came in time.
    #[error("the {with} did not answer within {seconds} s")]
    Timeout {
        /// `hub` or `gateway`.
        with: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// Somebody outside asks for a name that is not there.
    #[error("it asks for {0}, which is neither the mailbox nor published here")]
    UnknownName(HostName),
    /// The hub said no.
    #[error("{0}")]
    Refused(Fault),
    /// The messages came in an order that the protocol does not know.
    #[error("the {with} broke the protocol: {what}")]
    Protocol {
        /// `hub` or `gateway`.
        with: &'static str,
        /// What it did.
        what: &'static str,
    },
}

impl HopError {
    fn frame(with: &'static str, e: frame::Error) -> Self {
        match e {
            frame::Error::Io(source) => HopError::Io { with, source },
            frame::Error::Frame(e) => HopError::Frame(e),
        }
    }

    fn identity(with: &'static str) -> impl Fn(IdentityError) -> Self {
        move |source| HopError::Identity { with, source }
    }

    fn timeout(with: &'static str, after: std::time::Duration) -> Self {
        HopError::Timeout {
            with,
            seconds: after.as_secs(),
        }
    }
}

/// Leaves TLS for the raw stream beneath, at the boundary of a record and with nothing unread.
fn leave<S: AsyncRead, D>(
    with: &'static str,
    stream: Records<S>,
    connection: &mut rustls::ConnectionCommon<D>,
) -> Result<S, HopError> {
    let state = connection.process_new_packets().map_err(|e| HopError::Tls {
        with,
        source: io::Error::other(e),
    })?;
    if state.plaintext_bytes_to_read() != 0 || state.tls_bytes_to_write() != 0 {
        return Err(HopError::Protocol {
            with,
            what: "bytes under TLS after the switch to raw",
        });
    }
    stream
        .into_inner()
        .map_err(|source| HopError::Io { with, source })
}
