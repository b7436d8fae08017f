//! What a running hub says of itself.

use std::net::SocketAddr;

use hawser_proto::{DomainName, HostName, NodeId, UnixTime};
use serde::Serialize;

/// A hub at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct HubStatus {
    /// Software and version.
    pub software: String,
    /// Fingerprint of the hub's key, which tokens pin.
    pub pin: String,
    /// How gateways reach it.
    pub public: String,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Whether it is shutting down.
    pub draining: bool,
    /// The domains admitted, and not barred.
    pub domains: Vec<DomainStatus>,
    /// The gateways connected.
    pub gateways: Vec<GatewayStatus>,
    /// Data sessions being relayed.
    pub sessions: usize,
    /// Data sessions granted and not taken up by both sides.
    pub granted: usize,
    /// Connections that have not proved who they are.
    pub unproved: usize,
    /// Bytes moved by the kernel alone, since the start.
    pub bytes_spliced: u64,
    /// Bytes moved through a buffer, since the start.
    pub bytes_copied: u64,
    /// Clients from outside that are there for a published name.
    pub visitors: usize,
    /// The mailbox, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<MailboxStatus>,
    /// Rules in force, as text.
    pub allows: Vec<String>,
    /// Who may publish what, as text.
    pub publishes: Vec<String>,
}

/// The mailbox for devices.
#[derive(Debug, Clone, Serialize)]
pub struct MailboxStatus {
    /// Where devices reach it.
    pub url: String,
    /// Devices that may come.
    pub devices: u64,
    /// Their streams and waiting requests.
    pub streams: usize,
    /// Envelopes that wait for them.
    pub envelopes: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Reports that wait for gateways.
    pub reports: u64,
    /// The domains whose gateway is connected with the mailbox.
    pub domains: Vec<String>,
}

/// An admitted domain.
#[derive(Debug, Clone, Serialize)]
pub struct DomainStatus {
    /// Its name.
    pub name: DomainName,
    /// Fingerprint of its root.
    pub root: String,
}

/// A connected gateway.
#[derive(Debug, Clone, Serialize)]
pub struct GatewayStatus {
    /// Who it is.
    pub id: NodeId,
    /// Its software, as it says.
    pub software: String,
    /// When it connected.
    pub since: UnixTime,
    /// When its certificate ends.
    pub certificate_ends: UnixTime,
    /// How many services it exports.
    pub services: usize,
    /// Names under which it wants to be reached from outside.
    pub publishes: Vec<HostName>,
    /// Whether it issues certificates for its domain.
    pub issuer: bool,
    /// Whether it is shutting down.
    pub draining: bool,
}
