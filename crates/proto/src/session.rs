//! What two gateways say first inside their end-to-end TLS: which kind of session this is.

use minicbor::{Decode, Encode};

use crate::{Fault, NodeName, ServiceName, UnixTime};

/// Bytes of a request id.
pub const REQUEST_ID: usize = 16;

/// Identifies one call in the logs, errors and headers of all parties: 16 random bytes, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct RequestId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; REQUEST_ID]);

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// First frame of an end-to-end session, from the dialling side. For `Tcp` it comes when the session is used, not when it is
/// made: a warm session is one on which it has not been sent yet.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub enum Open {
    /// An HTTP/2 connection follows at once; there is no answer.
    #[n(0)]
    Http {
        /// Few streams with big windows, for large bodies.
        #[n(0)]
        bulk: bool,
    },
    /// One TCP connection to a service; answered by [`Opened`], then raw bytes.
    #[n(1)]
    Tcp {
        /// Which service of the accepting gateway.
        #[n(0)]
        service: ServiceName,
        /// Of the connection.
        #[n(1)]
        request: RequestId,
    },
    /// A node of the same domain wants a fresh certificate; answered by [`Issued`].
    #[n(2)]
    Renew {
        /// PKCS#10 certification request (DER). The name is taken from the certificate that TLS proved.
        #[cbor(n(0), with = "minicbor::bytes")]
        request: Vec<u8>,
    },
    /// A joiner that has no certificate yet wants its first; answered by [`Issued`].
    #[n(3)]
    Join {
        /// The name it wants.
        #[n(0)]
        name: NodeName,
        /// PKCS#10 certification request (DER).
        #[cbor(n(1), with = "minicbor::bytes")]
        request: Vec<u8>,
        /// SHA-256 of the hub half of its token: which token it is.
        #[cbor(n(2), with = "minicbor::bytes")]
        token: [u8; 32],
        /// HMAC-SHA-256 under the token's domain half over [`join_statement`].
        #[cbor(n(3), with = "minicbor::bytes")]
        mac: [u8; 32],
    },
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Open::Http { bulk } => write!(f, "Http(bulk: {bulk})"),
            Open::Tcp { service, request } => write!(f, "Tcp({service}, {request})"),
            Open::Renew { .. } => f.write_str("Renew"),
            Open::Join { name, .. } => write!(f, "Join({name})"),
        }
    }
}

/// What a joiner authenticates with its token: the name and request, bound to this very TLS session by its exporter value
/// (RFC 8446, 7.5; label `EXPORTER-hawser-join`, 32 bytes), so that a hub in the middle gains nothing.
pub fn join_statement(name: &NodeName, request: &[u8], exporter: &[u8; 32]) -> Vec<u8> {
    let mut s = b"hawser-join/1\0".to_vec();
    s.extend_from_slice(name.as_str().as_bytes());
    s.push(0);
    s.extend_from_slice(exporter);
    s.extend_from_slice(request);
    s
}

/// Answer to [`Open::Tcp`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Opened {
    /// The origin is connected; raw bytes follow.
    #[n(0)]
    Accepted,
    /// It is not.
    #[n(1)]
    Refused(#[n(0)] Fault),
}

/// A secret that the gateways of one domain share, and no other domain, host or hub: addresses for calls back are sealed
/// under it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct SharedSecret {
    /// By which it is named.
    #[n(0)]
    pub id: u32,
    /// 256 random bits.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub secret: [u8; 32],
    /// When it was made.
    #[n(2)]
    pub made: UnixTime,
}

impl std::fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedSecret({:08x})", self.id)
    }
}

/// Answer to [`Open::Renew`] and [`Open::Join`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Issued {
    /// Leaf, issuer and root certificates (DER), in this order; and for gateways what those of the domain share.
    #[n(0)]
    Chain(
        #[n(0)] Vec<minicbor::bytes::ByteVec>,
        #[n(1)] Option<Vec<SharedSecret>>,
    ),
    /// Refused.
    #[n(1)]
    Refused(#[n(0)] Fault),
}
