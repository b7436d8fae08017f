//! Messages and names as types: what gateways, hubs and domains say to each other, and nothing of how it travels.
//!
//! Every message is CBOR (RFC 8949) in a length-prefixed frame; a value that breaks a limit cannot be constructed.
//! This crate does no I/O and imports nothing of Hawser's.

pub mod arbiter;
pub mod broker;
pub mod control;
pub mod fault;
pub mod frame;
pub mod hop;
pub mod name;
pub mod protection;
pub mod replication;
pub mod session;
pub mod time;

mod line;
mod text;

pub use fault::{Fault, Place};
pub use name::{DomainName, HostName, NameError, NodeId, NodeName, Role, ServiceId, ServiceName};
pub use time::UnixTime;

/// ALPN of a hop connection between a gateway that has a certificate and a hub.
pub const ALPN_HOP: &[u8] = b"hawser-hop/1";
/// ALPN of a connection to a hub by somebody that holds a one-time token and is not admitted yet.
pub const ALPN_JOIN: &[u8] = b"hawser-join/1";
/// ALPN of the end-to-end session between two gateways.
pub const ALPN_END_TO_END: &[u8] = b"hawser/1";
/// ALPN by which a device asks control, or a mailbox, for a certificate of its domain, or the hub's own key, instead of a public
/// certificate. What follows is HTTP/1.1.
pub const ALPN_DEVICE: &[u8] = b"hawser-device/1";
/// ALPN of the channel over which a host keeps another one's copy of a machine current.
pub const ALPN_REPLICATION: &[u8] = b"hawser-replication/1";
/// Version of the messages in this crate, told in [`hop::Hello`] and [`control::ToGateway::Welcome`].
pub const VERSION: u16 = 1;
