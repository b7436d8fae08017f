//! Messages of the control connection between a node (a gateway, or a host) and a hub: framed in both directions on one hop TLS stream.
//!
//! Registrations and routes are whole states, not changes: a message lost with its connection is made good by the next one.

use minicbor::{Decode, Encode};

use crate::{
    DomainName, Fault, HostName, NodeId, NodeName, ServiceId, ServiceName, UnixTime,
    arbiter::{Answer, Ask},
    hop::Ticket,
};

/// Most services a gateway may register.
pub const MAX_SERVICES: usize = 1024;
/// Most names that a gateway may publish.
pub const MAX_PUBLISHED: usize = 64;
/// Longest description of a service in bytes.
pub const MAX_DESCRIPTION: usize = 256;
/// How often either side sends a [`ToHub::Ping`] or [`ToGateway::Ping`] on an idle control connection.
pub const PING_EVERY: std::time::Duration = std::time::Duration::from_secs(5);
/// Silence after which either side takes the control connection for dead.
pub const DEAD_AFTER: std::time::Duration = std::time::Duration::from_secs(15);
/// How long a node keeps a control connection open that it has replaced, for the answers under way on it.
pub const RETIRE_AFTER: std::time::Duration = std::time::Duration::from_secs(10);

/// How a service is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode, serde::Serialize)]
#[cbor(index_only)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP, with everything that rides on it.
    #[n(0)]
    Http,
    /// A byte stream.
    #[n(1)]
    Tcp,
}

/// A service as its gateway registers it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// Name within the gateway's domain.
    #[n(0)]
    pub name: ServiceName,
    /// How it is called.
    #[n(1)]
    pub protocol: Protocol,
    /// Whether its health check passes.
    #[n(2)]
    pub healthy: bool,
    /// For people; at most [`MAX_DESCRIPTION`] bytes.
    #[cbor(n(3), decode_with = "crate::line::decode")]
    pub description: String,
}

/// A service as the hub shows it to a gateway that may see it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Route {
    /// The service.
    #[n(0)]
    pub service: ServiceId,
    /// How it is called.
    #[n(1)]
    pub protocol: Protocol,
    /// For people.
    #[cbor(n(2), decode_with = "crate::line::decode")]
    pub description: String,
    /// Gateways that export it, are connected and not draining.
    #[n(3)]
    pub gateways: Vec<RouteGateway>,
}

/// One gateway of a [`Route`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct RouteGateway {
    /// Its name within the service's domain.
    #[n(0)]
    pub name: NodeName,
    /// Whether the service's health check passes there.
    #[n(1)]
    pub healthy: bool,
}

/// The right to pair a joiner, told to the hub by a gateway that is an issuer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinOffer {
    /// SHA-256 of the hub half of the token.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub hash: [u8; 32],
    /// When it ends.
    #[n(1)]
    pub expires: UnixTime,
}

/// Whom a gateway wants a data session with.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Target {
    /// This gateway of this domain.
    #[n(0)]
    Gateway(#[n(0)] NodeId),
    /// Any gateway of the asking gateway's own domain that is an issuer.
    #[n(1)]
    Issuer,
}

/// From a gateway to a hub.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToHub {
    /// All that this gateway exports now. Sent first, and whenever it changes.
    #[n(0)]
    Register {
        /// At most [`MAX_SERVICES`].
        #[n(0)]
        services: Vec<Registration>,
        /// Whether this gateway issues certificates for its domain.
        #[n(1)]
        issuer: bool,
        /// Whether it is shutting down and wants no new sessions.
        #[n(2)]
        draining: bool,
        /// Join tokens outstanding at this gateway.
        #[n(3)]
        joins: Vec<JoinOffer>,
        /// Host names under which this gateway is reached from outside, at most [`MAX_PUBLISHED`]; answered by
        /// [`ToGateway::Publishing`].
        #[cbor(n(4), default)]
        publishes: Vec<HostName>,
    },
    /// Asks for a data session; answered by [`ToGateway::Granted`] or [`ToGateway::Refused`] with the same id.
    #[n(1)]
    Request {
        /// Chosen by the gateway, unique on this connection.
        #[n(0)]
        id: u64,
        /// With whom.
        #[n(1)]
        target: Target,
    },
    /// A signed revocation list of the gateway's own domain, to be kept and passed on.
    #[n(2)]
    Revocations(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// Are you there? Answered by [`ToGateway::Pong`].
    #[n(3)]
    Ping(#[n(0)] u64),
    /// Yes.
    #[n(4)]
    Pong(#[n(0)] u64),
    /// A host asks the register; answered by [`ToGateway::Arbiter`] with the same id. Answers may come in another order.
    #[n(5)]
    Arbiter {
        /// Chosen by the host, unique on this connection.
        #[n(0)]
        id: u64,
        /// What it asks.
        #[n(1)]
        ask: Ask,
    },
}

/// From a hub to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToGateway {
    /// First message: who and which version the hub is.
    #[n(0)]
    Welcome {
        /// [`crate::VERSION`] of the hub.
        #[n(0)]
        version: u16,
        /// Software and version, for the operator's eyes.
        #[cbor(n(1), decode_with = "crate::line::decode")]
        software: String,
    },
    /// All that this gateway may see now. Sent after registration, and whenever it changes.
    #[n(1)]
    Routes {
        /// Services of other domains (and the gateway's own domain) that it may call.
        #[n(0)]
        routes: Vec<Route>,
        /// Domains that this gateway's domain may pair with.
        #[n(1)]
        domains: Vec<DomainName>,
        /// Number of the message on this connection, ascending.
        #[n(2)]
        number: u64,
    },
    /// The session asked for: dial in with this ticket.
    #[n(2)]
    Granted {
        /// Of the request.
        #[n(0)]
        id: u64,
        /// For the dialling side.
        #[n(1)]
        ticket: Ticket,
        /// Who will be at the other end, as the hub says: to be proved end to end.
        #[n(2)]
        peer: NodeId,
    },
    /// The session asked for will not be.
    #[n(3)]
    Refused {
        /// Of the request.
        #[n(0)]
        id: u64,
        /// Why.
        #[n(1)]
        fault: Fault,
    },
    /// Somebody wants a session with you: dial in with this ticket as the accepting side.
    #[n(4)]
    Dial {
        /// For the accepting side.
        #[n(0)]
        ticket: Ticket,
        /// Who it is, as the hub says: to be proved end to end. None for a joiner.
        #[n(1)]
        peer: Option<NodeId>,
        /// For a joiner: SHA-256 of the hub half it showed.
        #[cbor(n(2), with = "minicbor::bytes")]
        join: Option<[u8; 32]>,
    },
    /// A signed revocation list of a domain that this gateway may talk to.
    #[n(5)]
    Revocations(#[cbor(n(0), with = "minicbor::bytes")] Vec<u8>),
    /// The hub is shutting down: open no new sessions through it, keep those that are.
    #[n(6)]
    Draining,
    /// Are you there? Answered by [`ToHub::Pong`].
    #[n(7)]
    Ping(#[n(0)] u64),
    /// Yes.
    #[n(8)]
    Pong(#[n(0)] u64),
    /// What the register says.
    #[n(9)]
    Arbiter {
        /// Of the question.
        #[n(0)]
        id: u64,
        /// The answer.
        #[n(1)]
        answer: Answer,
    },
    /// Somebody outside asks for a name that this gateway publishes: dial in with this ticket as the accepting side. Who it
    /// is, its TLS may say, which ends at this gateway.
    #[n(10)]
    Visit {
        /// For the accepting side.
        #[n(0)]
        ticket: Ticket,
        /// The name that it asks for.
        #[n(1)]
        name: HostName,
    },
    /// What became of the names that this gateway publishes. Sent after a registration that has some, and whenever it changes.
    #[n(11)]
    Publishing(#[n(0)] Vec<Publishing>),
}

/// What became of one published name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize)]
pub struct Publishing {
    /// The name.
    #[n(0)]
    pub name: HostName,
    /// Whether the hub's policy lets the gateway's domain publish it.
    #[n(1)]
    pub allowed: bool,
}
