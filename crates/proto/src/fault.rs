//! Why a call failed, where, and what its caller can do: crosses the wire, and becomes problem+json (RFC 9457) or a log line.

use minicbor::{Decode, Encode};

/// The party at which a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Place {
    /// The gateway in the caller's own domain.
    #[n(0)]
    ClientGateway,
    /// The hub, or the way to it.
    #[n(1)]
    Hub,
    /// A rule of the hub or of the exporting gateway.
    #[n(2)]
    Policy,
    /// The gateway that exports the service.
    #[n(3)]
    ServerGateway,
    /// The service itself.
    #[n(4)]
    Origin,
}

impl Place {
    /// The word in problem documents, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Place::ClientGateway => "client-gateway",
            Place::Hub => "hub",
            Place::Policy => "policy",
            Place::ServerGateway => "server-gateway",
            Place::Origin => "origin",
        }
    }
}

/// A failed call. The texts are for people and carry no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{detail} ({}); {advice}", place.as_str())]
pub struct Fault {
    /// Where it failed.
    #[n(0)]
    pub place: Place,
    /// HTTP status (RFC 9110): 502 a broken peer, 503 nobody there, 504 too slow, 403 refused, 404 unknown.
    #[n(1)]
    pub status: u16,
    /// Stable, machine-readable word such as `origin-unreachable`.
    #[n(2)]
    pub code: String,
    /// What was expected and what came.
    #[n(3)]
    pub detail: String,
    /// What the caller can do.
    #[n(4)]
    pub advice: String,
}

impl Fault {
    /// A fault with all its parts.
    pub fn new(
        place: Place,
        status: u16,
        code: &str,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            place,
            status,
            code: code.into(),
            detail: detail.into(),
            advice: advice.into(),
        }
    }
}
