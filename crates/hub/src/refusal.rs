//! Everything that a hub refuses to a gateway, with the words for its caller: where it failed, and what can be done.

use hawser_proto::{DomainName, Fault, HostName, NodeId, Place};

use crate::{
    pairing::{Side, Why},
    tickets::TicketError,
};

/// A refusal. Becomes a [`Fault`] on the wire and a word in metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The wanted gateway is not connected here.
    NotConnected(NodeId),
    /// No gateway of the domain that issues certificates is connected here.
    NoIssuer(DomainName),
    /// No rule lets these two pair.
    NotAllowed(DomainName, DomainName),
    /// A gateway asks for itself.
    Itself,
    /// A host asks for something else than an issuer of its domain.
    HostCalls,
    /// The wanted gateway is shutting down.
    GatewayDraining(NodeId),
    /// The wanted gateway does not take its messages.
    GatewayBusy(NodeId),
    /// This hub is shutting down.
    HubDraining,
    /// As many sessions are open as may be.
    Full(usize),
    /// A ticket was not given, or not taken.
    Ticket(TicketError),
    /// The two sides did not come together.
    Pairing(Why),
    /// No connected issuer of the domain knows the token.
    NoSuchJoin(DomainName),
    /// No connected gateway publishes the name, or may.
    NotPublished(HostName),
    /// As many clients from outside are there as may be, by this limit.
    Visitors(usize, &'static str),
}

impl Refusal {
    /// The word in metrics: one of few.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Refusal::NotConnected(_) => "gateway-not-connected",
            Refusal::NoIssuer(_) => "no-issuer-connected",
            Refusal::NotAllowed(..) => "pair-not-allowed",
            Refusal::Itself => "own-gateway",
            Refusal::HostCalls => "host-calls",
            Refusal::GatewayDraining(_) => "gateway-draining",
            Refusal::GatewayBusy(_) => "gateway-busy",
            Refusal::HubDraining => "hub-draining",
            Refusal::Full(_) => "hub-full",
            Refusal::Ticket(e) => match e {
                TicketError::GatewayCap => "too-many-pending",
                TicketError::PairCap => "too-many-pending-for-pair",
                TicketError::HubCap => "hub-full",
                TicketError::Random => "hub-failure",
                TicketError::Unknown => "ticket-unknown",
                TicketError::Expired => "ticket-expired",
                TicketError::Replayed => "ticket-replayed",
                TicketError::Foreign => "ticket-foreign",
                TicketError::Void => "other-side-gone",
            },
            Refusal::Pairing(Why::Died(_)) => "other-side-gone",
            Refusal::Pairing(Why::Late(_)) => "other-side-late",
            Refusal::Pairing(Why::Cut) => "cut",
            Refusal::NoSuchJoin(_) => "join-token-unknown",
            Refusal::NotPublished(_) => "name-not-published",
            Refusal::Visitors(..) => "too-many-visitors",
        }
    }

    /// What the refused party is told.
    pub(crate) fn fault(&self) -> Fault {
        let (place, status, detail, advice) = self.words();
        Fault::new(place, status, self.reason(), detail, advice)
    }

    fn words(&self) -> (Place, u16, String, &'static str) {
        match self {
            Refusal::NotConnected(id) => (
                Place::ServerGateway,
                503,
                format!("{id} is not connected to this hub"),
                "try another gateway of the domain; its operator can see why with: hawser status",
            ),
            Refusal::NoIssuer(domain) => (
                Place::ServerGateway,
                503,
                format!("no other gateway of {domain} that issues certificates is connected to this hub"),
                "start the gateway that holds the domain's issuer key",
            ),
            Refusal::HostCalls => (
                Place::Policy,
                403,
                "a host calls no services: it reaches the issuers of its domain, and the register".into(),
                "call from a gateway, which joins with a token of: hawser token gateway",
            ),
            Refusal::NotAllowed(from, to) => (
                Place::Policy,
                403,
                format!("the hub's policy does not let {from} call {to}"),
                "ask the hub's operator for an [[hub.allow]] rule in this direction",
            ),
            Refusal::Itself => (
                Place::ClientGateway,
                403,
                "a gateway asked for a session with itself".into(),
                "call the service without the tunnel",
            ),
            Refusal::GatewayDraining(id) => (
                Place::ServerGateway,
                503,
                format!("{id} is shutting down"),
                "try another gateway of the domain, or again in a while",
            ),
            Refusal::GatewayBusy(id) => (
                Place::ServerGateway,
                503,
                format!("{id} does not take the hub's messages fast enough"),
                "try another gateway of the domain, or again in a while",
            ),
            Refusal::HubDraining => (
                Place::Hub,
                503,
                "the hub is shutting down".into(),
                "use another hub, or try again in a while",
            ),
            Refusal::Full(n) => (
                Place::Hub,
                503,
                format!("{n} sessions are open, as many as the hub may hold"),
                "try again in a while; its operator can raise hub.limits.sessions",
            ),
            Refusal::Ticket(e) => ticket(*e),
            Refusal::Pairing(why) => pairing(*why),
            Refusal::NotPublished(name) => (
                Place::Hub,
                404,
                format!("no connected gateway publishes {name}"),
                "check that the gateway is running and connected to this hub, and that [[hub.publish]] gives the name to its domain",
            ),
            Refusal::Visitors(n, limit) => (
                Place::Hub,
                503,
                format!("{n} clients from outside are there, as many as hub.limits.{limit} allows"),
                "try again in a while; the hub's operator can raise the limit",
            ),
            Refusal::NoSuchJoin(domain) => (
                Place::Hub,
                403,
                format!("no connected issuer of {domain} knows this token"),
                "check that the token is neither used nor expired, and that the gateway that made it is running and connected to this hub",
            ),
        }
    }
}

fn ticket(error: TicketError) -> (Place, u16, String, &'static str) {
    match error {
        TicketError::GatewayCap | TicketError::PairCap => (
            Place::Hub,
            503,
            error.to_string(),
            "use the sessions asked for before asking for more",
        ),
        TicketError::HubCap | TicketError::Random => {
            (Place::Hub, 503, error.to_string(), "try again in a while")
        }
        TicketError::Void => (
            Place::ServerGateway,
            502,
            error.to_string(),
            "ask for a new session",
        ),
        TicketError::Unknown | TicketError::Expired | TicketError::Replayed | TicketError::Foreign => (
            Place::Hub,
            403,
            error.to_string(),
            "ask for a new session; if this repeats, compare the clocks' speed and the delay of the network",
        ),
    }
}

fn pairing(why: Why) -> (Place, u16, String, &'static str) {
    let place = |side| match side {
        Side::Dialling => Place::ClientGateway,
        Side::Accepting => Place::ServerGateway,
    };
    match why {
        Why::Died(side) => (
            place(side),
            502,
            "the gateway at the other end closed its connection to the hub".into(),
            "ask for a new session",
        ),
        Why::Late(side) => (
            place(side),
            504,
            "the gateway at the other end did not dial in to the hub in time".into(),
            "try again; if it repeats, that gateway cannot open new connections to the hub: see its log",
        ),
        Why::Cut => (
            Place::Policy,
            403,
            "one of the two gateways was revoked, or the hub closed the session".into(),
            "ask the hub's operator, or the domain's, why",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_sentences() {
        let fault = Refusal::NotAllowed("acme".parse().unwrap(), "beta".parse().unwrap()).fault();
        assert_eq!(
            fault.to_string(),
            "the hub's policy does not let acme call beta (policy); ask the hub's operator for an [[hub.allow]] rule in this direction"
        );
        assert_eq!((fault.status, fault.code.as_str()), (403, "pair-not-allowed"));
        assert_eq!(
            Refusal::Pairing(Why::Late(Side::Accepting)).fault().place,
            Place::ServerGateway
        );
    }
}
