//! The faults that the tunnel's side of a gateway makes itself: one function each, so that place, status and advice are
//! decided in one file.

use std::time::Duration;

use hawser_proto::{DomainName, Fault, NodeId, Place, ServiceId, control::Protocol};

/// No hub shows the service, though its domain is known.
pub(crate) fn unknown_service(service: &ServiceId) -> Fault {
    Fault::new(
        Place::ClientGateway,
        404,
        "unknown-service",
        format!("no service {service} is shown to this gateway"),
        "check its name with `hawser services`, and the policy of the hub and of the exporting gateway",
    )
}

/// No hub shows anything of the domain.
pub(crate) fn unknown_domain(domain: &DomainName) -> Fault {
    Fault::new(
        Place::ClientGateway,
        404,
        "unknown-domain",
        format!("no hub lets this gateway call the domain {domain}"),
        "check its name with `hawser services`, and ask the hub's operator for an allow rule",
    )
}

/// The service is called another way.
pub(crate) fn other_protocol(service: &ServiceId, registered: Protocol) -> Fault {
    let (is, advice) = match registered {
        Protocol::Http => ("an HTTP service", "call it by the web proxy or an HTTP import"),
        Protocol::Tcp => (
            "a TCP service",
            "import it at a local port: [[gateway.import]] with service and listen",
        ),
    };
    Fault::new(
        Place::ClientGateway,
        404,
        "other-protocol",
        format!("{service} is {is}"),
        advice,
    )
}

/// This gateway knows no hub at all.
pub(crate) fn no_hub() -> Fault {
    Fault::new(
        Place::ClientGateway,
        503,
        "no-hub",
        "this gateway has joined no hub",
        "join one with `hawser join` and a token of the hub's operator",
    )
}

/// No hub is connected.
pub(crate) fn hub_not_connected(hub: &str, why: &str) -> Fault {
    Fault::new(
        Place::Hub,
        503,
        "hub-not-connected",
        format!(
            "no connection to the hub {hub}{}{why}",
            if why.is_empty() { "" } else { ": " }
        ),
        "try again in a moment; `hawser doctor` shows what stands in the way",
    )
}

/// The control connection ended before the hub answered.
pub(crate) fn hub_lost(hub: &str) -> Fault {
    Fault::new(
        Place::Hub,
        503,
        "hub-lost",
        format!("the connection to the hub {hub} was lost before it answered"),
        "try again",
    )
}

/// The hub did not answer a session request.
pub(crate) fn hub_silent(hub: &str, within: Duration) -> Fault {
    Fault::new(
        Place::Hub,
        504,
        "hub-silent",
        format!("the hub {hub} did not answer within {} s", within.as_secs()),
        "try again; if it lasts, tell the hub's operator",
    )
}

/// Too many session requests wait for the hub.
pub(crate) fn hub_busy(hub: &str) -> Fault {
    Fault::new(
        Place::ClientGateway,
        503,
        "hub-busy",
        format!("too many session requests to the hub {hub} are waiting"),
        "try again in a moment",
    )
}

/// A session could not be made in time.
pub(crate) fn session_timeout(peer: &NodeId, within: Duration) -> Fault {
    Fault::new(
        Place::Hub,
        504,
        "session-timeout",
        format!("no session with {peer} within {} s", within.as_secs()),
        "try again; if it lasts, look at the hub's and the other gateway's log",
    )
}

/// The exporting gateway did not say whether it accepts a TCP connection.
pub(crate) fn open_timeout(peer: &NodeId, within: Duration) -> Fault {
    Fault::new(
        Place::ServerGateway,
        504,
        "open-timeout",
        format!("{peer} did not open the connection within {} s", within.as_secs()),
        "try again; if it lasts, look at the other gateway's log",
    )
}

/// A session could not be made.
pub(crate) fn session_failed(peer: &NodeId, what: &str) -> Fault {
    Fault::new(
        Place::Hub,
        502,
        "session-failed",
        format!("no session with {peer}: {what}"),
        "try again; if it lasts, look at the hub's and the other gateway's log",
    )
}

/// What answered is not who it should be, or is not trusted (any more).
pub(crate) fn peer_refused(peer: &NodeId, what: &str) -> Fault {
    Fault::new(
        Place::ClientGateway,
        502,
        "peer-not-trusted",
        format!("what answered as {peer} did not prove it: {what}"),
        "check the peering with `hawser domain peer list` and both clocks; if they are right, somebody is in between",
    )
}

/// Nobody who exports the service is healthy.
pub(crate) fn no_healthy_gateway(service: &ServiceId) -> Fault {
    Fault::new(
        Place::Origin,
        503,
        "no-healthy-gateway",
        format!("{service} is known, but fails its health check at every gateway that exports it"),
        "try again later, or tell the people who run the service",
    )
}

/// Nobody who exports the service is connected.
pub(crate) fn no_gateway(service: &ServiceId) -> Fault {
    Fault::new(
        Place::ServerGateway,
        503,
        "no-gateway",
        format!("{service} is known, but no gateway that exports it is connected to a hub of ours"),
        "try again in a moment, or tell the people who run the service",
    )
}

/// All sessions are full and so is the queue for them.
pub(crate) fn sessions_busy(peer: &NodeId) -> Fault {
    Fault::new(
        Place::ClientGateway,
        503,
        "sessions-busy",
        format!("every session with {peer} is full, and so is the queue for them"),
        "try again in a moment",
    )
}

/// The session broke while the request was on its way.
pub(crate) fn request_lost(peer: &NodeId, what: &str) -> Fault {
    Fault::new(
        Place::ServerGateway,
        502,
        "session-broken",
        format!("the session with {peer} broke before the answer came: {what}"),
        "the request may have been carried out: repeat it only if that does no harm",
    )
}

/// The gateway is shutting down.
pub(crate) fn draining() -> Fault {
    Fault::new(
        Place::ClientGateway,
        503,
        "draining",
        "this gateway is shutting down",
        "try again; another gateway of the domain may serve",
    )
}
