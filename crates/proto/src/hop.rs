//! What is said under the hop TLS between a gateway and a hub before raw bytes flow, and the order it is said in.
//!
//! A data connection opens with [`Hello::Session`]. The hub pairs the two sides of a ticket, then: hub to the accepting side
//! [`FromHub::Ready`]; accepting side to hub [`Go`]; only then hub to the dialling side [`FromHub::Ready`]. After that
//! nobody sends under the hop TLS, and the accepting side stays silent until the dialling side has spoken.
//!
//! Where the dialling side is somebody outside who asked for a published name ([`crate::control::ToGateway::Visit`]), it knows
//! nothing of all this: after GO, what follows is its own TLS from the first byte of its ClientHello on.

use minicbor::{Decode, Encode};

use crate::{DomainName, Fault};

/// A single-use right to one side of one data session: 32 random bytes made by the hub.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Ticket(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticket(..)")
    }
}

/// How long a ticket is good for.
pub const TICKET_LIFE: std::time::Duration = std::time::Duration::from_secs(10);

/// First message of a hop connection (ALPN [`crate::ALPN_HOP`]).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Hello {
    /// This is the control connection of the gateway that TLS proved.
    #[n(0)]
    Control {
        /// [`crate::VERSION`] of the gateway.
        #[n(0)]
        version: u16,
        /// Software and version, for the operator's eyes.
        #[cbor(n(1), decode_with = "crate::line::decode")]
        software: String,
    },
    /// This is one side of the data session that the ticket names.
    #[n(1)]
    Session {
        /// The ticket given to this identity for this role.
        #[n(0)]
        ticket: Ticket,
    },
    /// This is the connection of the gateway that TLS proved with the hub's mailbox: [`crate::broker::mailbox`] follows.
    #[n(2)]
    Mailbox {
        /// [`crate::VERSION`] of the gateway.
        #[n(0)]
        version: u16,
        /// Software and version, for the operator's eyes.
        #[cbor(n(1), decode_with = "crate::line::decode")]
        software: String,
    },
}

/// First message of a join connection (ALPN [`crate::ALPN_JOIN`]).
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum JoinHello {
    /// A domain asks to be admitted; answered by [`FromHub::Ready`] or [`FromHub::Refused`].
    #[n(0)]
    Admit {
        /// The domain.
        #[n(0)]
        domain: DomainName,
        /// The one-time secret of the hub's token.
        #[cbor(n(1), with = "minicbor::bytes")]
        secret: [u8; 32],
        /// The domain's root certificate (DER).
        #[cbor(n(2), with = "minicbor::bytes")]
        root: Vec<u8>,
        /// ECDSA (P-256, SHA-256, ASN.1) by the issuer over [`admit_statement`], in proof that the domain asks.
        #[cbor(n(3), with = "minicbor::bytes")]
        signature: Vec<u8>,
        /// The issuer's certificate (DER), signed by the root.
        #[cbor(n(4), with = "minicbor::bytes")]
        issuer: Vec<u8>,
    },
    /// A new node of a domain asks to be paired with one of the domain's issuers. After [`FromHub::Ready`] raw bytes flow,
    /// the joiner being the TLS client of what follows.
    #[n(1)]
    Pair {
        /// The domain.
        #[n(0)]
        domain: DomainName,
        /// The hub half of the gateway token.
        #[cbor(n(1), with = "minicbor::bytes")]
        secret: [u8; 32],
    },
}

impl std::fmt::Debug for JoinHello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JoinHello::Admit { domain, .. } => write!(f, "Admit({domain})"),
            JoinHello::Pair { domain, .. } => write!(f, "Pair({domain})"),
        }
    }
}

/// What the issuer signs when its domain asks a hub for admission: binds domain, hub and token.
pub fn admit_statement(domain: &DomainName, hub_pin: &[u8; 32], secret: &[u8; 32]) -> Vec<u8> {
    let mut s = b"hawser-admit/1\0".to_vec();
    s.extend_from_slice(domain.as_str().as_bytes());
    s.push(0);
    s.extend_from_slice(hub_pin);
    s.extend_from_slice(secret);
    s
}

/// The hub's answer on a data or join connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromHub {
    /// The other side is there (data), or the request is granted (join).
    #[n(0)]
    Ready,
    /// It is not to be; the connection closes.
    #[n(1)]
    Refused(#[n(0)] Fault),
}

/// The accepting side has read [`FromHub::Ready`] and will stay silent until the other side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Go;
