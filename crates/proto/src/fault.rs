//! Why a call failed, where, and what its caller can do: crosses the wire, and becomes problem+json (RFC 9457) or a log line.

use minicbor::{Decode, Decoder, Encode, decode};

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
    /// HTTP status (RFC 9110): 502 a broken peer, 503 nobody there, 504 too slow, 403 refused, 404 unknown. What comes in as
    /// anything but an error is a 502: nobody can be told by a fault that all went well.
    #[cbor(n(1), decode_with = "error_status")]
    pub status: u16,
    /// Stable, machine-readable word such as `origin-unreachable`.
    #[cbor(n(2), decode_with = "crate::line::decode")]
    pub code: String,
    /// What was expected and what came.
    #[cbor(n(3), decode_with = "crate::line::decode")]
    pub detail: String,
    /// What the caller can do.
    #[cbor(n(4), decode_with = "crate::line::decode")]
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

fn error_status<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<u16, decode::Error> {
    let status = d.u16()?;
    Ok(if (400..600).contains(&status) { status } else { 502 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_came_in_claims_no_success_and_writes_one_line() {
        let text = "gone\r\n2026-01-01 WARN all is well\u{1b}[2J";
        for status in [0, 100, 101, 200, 399, 600, u16::MAX] {
            let sent = Fault::new(Place::Origin, status, text, text, text);
            let came: Fault = minicbor::decode(&minicbor::to_vec(&sent).unwrap()).unwrap();
            assert_eq!(came.status, 502, "{status}");
            assert!(!came.to_string().chars().any(char::is_control), "{came}");
        }
        let long = Fault::new(Place::Hub, 503, "busy", "x".repeat(100_000), "");
        let came: Fault = minicbor::decode(&minicbor::to_vec(&long).unwrap()).unwrap();
        assert_eq!((came.status, came.detail.len()), (503, 512));
    }
}
