//! The tunnel's side of a gateway for people's eyes.

use hawser_proto::{NodeId, UnixTime};
use serde::Serialize;

pub use super::hub::HubState;

/// State of a gateway's tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LinksStatus {
    /// This gateway.
    pub gateway: NodeId,
    /// Its certificate.
    pub certificate: CertificateStatus,
    /// Its issuer, if it is one.
    pub issuer: Option<IssuerStatus>,
    /// The way out that worked last.
    pub way: String,
    /// The hubs that it has joined.
    pub hubs: Vec<HubStatus>,
    /// Other gateways with whom something was going on lately.
    pub peers: Vec<PeerStatus>,
    /// Live sessions, both directions.
    pub sessions: usize,
    /// Whether it is shutting down.
    pub draining: bool,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// When it ends.
    pub ends: UnixTime,
    /// Seconds until then.
    pub seconds_left: u64,
}

/// An issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssuerStatus {
    /// When its certificate ends.
    pub ends: UnixTime,
    /// Seconds until then.
    pub seconds_left: u64,
    /// What to do soon.
    pub warning: Option<String>,
}

/// A hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HubStatus {
    /// `host:port`.
    pub hub: String,
    /// The connection to it.
    #[serde(flatten)]
    pub state: HubState,
}

/// Another gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// Which one.
    pub gateway: NodeId,
    /// Sessions for requests.
    pub sessions: usize,
    /// Warm sessions for TCP connections.
    pub warm: usize,
    /// Requests and connections under way to it.
    pub in_flight: usize,
}
