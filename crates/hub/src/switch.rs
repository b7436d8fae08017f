//! The hub's decisions in one place: registry, policy, tickets and meetings behind the questions that connections ask.
//!
//! Sans-I/O; the shell holds it behind one lock that is never held across an await. `H` is the shell's handle to a control
//! connection, `W` what the first side of a session leaves for the second.

use std::{sync::Arc, time::Instant};

use hawser_proto::{DomainName, HostName, NodeId, Role, UnixTime, control::Target, hop::Ticket};

use crate::{
    pairing::Meetings,
    policy::Policy,
    publish::Publishing,
    refusal::Refusal,
    registry::{Gateway, Registry},
    tickets::{Asker, PairId, Redeemed, TicketLimits, Tickets},
};

/// All that the hub decides by.
pub(crate) struct Switch<H, W> {
    pub(crate) registry: Registry<H>,
    pub(crate) tickets: Tickets,
    pub(crate) meetings: Meetings<W>,
    pub(crate) policy: Policy,
    pub(crate) publishing: Publishing,
    /// Whether the hub is shutting down.
    pub(crate) draining: bool,
    /// Sessions open at a time.
    pub(crate) sessions: usize,
    /// Sessions that are relayed now.
    pub(crate) open: usize,
    turn: u64,
}

/// A session granted to the asker, and what is to be told to the other side.
#[derive(Debug)]
pub(crate) struct Granted<H> {
    pub(crate) pair: PairId,
    /// None for a joiner or visitor.
    pub(crate) dialling: Option<Ticket>,
    pub(crate) accepting: Ticket,
    pub(crate) expires: Instant,
    pub(crate) peer: Arc<NodeId>,
    pub(crate) peer_handle: H,
}

impl<H: Clone, W> Switch<H, W> {
    pub(crate) fn new(registry: Registry<H>, tickets: TicketLimits, policy: Policy, sessions: usize) -> Self {
        Self {
            registry,
            tickets: Tickets::new(tickets),
            meetings: Meetings::default(),
            policy,
            publishing: Publishing::default(),
            draining: false,
            sessions,
            open: 0,
            turn: 0,
        }
    }

    /// A gateway asks for a session.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        asker: &Arc<NodeId>,
        target: &Target,
    ) -> Result<Granted<H>, Refusal> {
        self.room()?;
        self.turn += 1;
        if asker.role == Role::Host && *target != Target::Issuer {
            return Err(Refusal::HostCalls);
        }
        let peer = match target {
            Target::Issuer => self
                .registry
                .issuer(&asker.domain, Some(asker), self.turn)
                .ok_or_else(|| Refusal::NoIssuer(asker.domain.clone()))?,
            Target::Gateway(id) => self.wanted(asker, id)?,
        };
        let (peer, peer_handle) = (peer.id.clone(), peer.handle.clone());
        self.grant(now, Asker::Node(asker.clone()), peer, peer_handle)
    }

    /// A joiner showed the hub half of its token.
    pub(crate) fn join(
        &mut self,
        now: Instant,
        wall: UnixTime,
        domain: &DomainName,
        hash: &[u8; 32],
    ) -> Result<Granted<H>, Refusal> {
        self.room()?;
        let issuer = self
            .registry
            .joinable(domain, hash, wall)
            .ok_or_else(|| Refusal::NoSuchJoin(domain.clone()))?;
        let (peer, peer_handle) = (issuer.id.clone(), issuer.handle.clone());
        self.grant(now, Asker::Joiner, peer, peer_handle)
    }

    /// Whether a gateway that may publish the name does so now.
    pub(crate) fn is_published(&self, name: &HostName) -> bool {
        self.publisher(name).is_some()
    }

    /// A client from outside asks for a name.
    pub(crate) fn visit(&mut self, now: Instant, name: &HostName) -> Result<Granted<H>, Refusal> {
        self.room()?;
        self.turn += 1;
        let peer = self
            .publisher(name)
            .ok_or_else(|| Refusal::NotPublished(name.clone()))?;
        let (peer, peer_handle) = (peer.id.clone(), peer.handle.clone());
        self.grant(now, Asker::Visitor, peer, peer_handle)
    }

    fn publisher(&self, name: &HostName) -> Option<&Gateway<H>> {
        let domain = self.publishing.owner(name)?;
        self.registry.publisher(domain, name, self.turn)
    }

    /// A gateway shows a ticket.
    pub(crate) fn redeem(
        &mut self,
        now: Instant,
        ticket: &Ticket,
        who: &NodeId,
    ) -> Result<Redeemed, Refusal> {
        self.tickets.redeem(now, ticket, who).map_err(Refusal::Ticket)
    }

    /// Whether a session between two identities may be, or go on. Within a domain a gateway may always reach an issuer.
    pub(crate) fn may_pair(&self, dialling: &NodeId, accepting: &NodeId, to_issuer: bool) -> bool {
        self.policy.may_pair(&dialling.domain, &accepting.domain)
            || (to_issuer && dialling.domain == accepting.domain)
    }

    fn wanted(&self, asker: &NodeId, id: &NodeId) -> Result<&Gateway<H>, Refusal> {
        // Hosts are connected, too, and take no sessions.
        let gateway = self.registry.gateway(id).filter(|g| g.id.role == Role::Gateway);
        let issuer = gateway
            .and_then(|g| g.registered.as_ref())
            .is_some_and(|r| r.issuer);
        // The policy comes first: who may not call a domain does not learn who is connected.
        if !self.may_pair(asker, id, issuer) {
            return Err(Refusal::NotAllowed(asker.domain.clone(), id.domain.clone()));
        }
        if asker == id {
            return Err(Refusal::Itself);
        }
        match gateway {
            None => Err(Refusal::NotConnected(id.clone())),
            Some(g) if g.registered.is_none() => Err(Refusal::NotConnected(id.clone())),
            Some(g) if !g.is_open() => Err(Refusal::GatewayDraining(id.clone())),
            Some(g) => Ok(g),
        }
    }

    fn room(&self) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::HubDraining);
        }
        if self.open + self.tickets.outstanding() >= self.sessions {
            return Err(Refusal::Full(self.open));
        }
        Ok(())
    }

    fn grant(
        &mut self,
        now: Instant,
        asker: Asker,
        peer: Arc<NodeId>,
        peer_handle: H,
    ) -> Result<Granted<H>, Refusal> {
        let grant = self
            .tickets
            .grant(now, asker, peer.clone())
            .map_err(Refusal::Ticket)?;
        Ok(Granted {
            pair: grant.pair,
            dialling: grant.dialling,
            accepting: grant.accepting,
            expires: grant.expires,
            peer,
            peer_handle,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Allow, Limits},
        registry::Registered,
        tickets::TicketError,
    };
    use hawser_proto::control::JoinOffer;

    type Plain = Switch<u32, ()>;

    fn id(text: &str) -> Arc<NodeId> {
        let (domain, name) = text.split_once('/').unwrap();
        Arc::new(format!("spiffe://{domain}/gateway/{name}").parse().unwrap())
    }

    fn switch(rules: &[(&str, &str)]) -> Plain {
        let rules: Vec<_> = rules
            .iter()
            .map(|(from, to)| Allow {
                from: from.to_string(),
                to: to.to_string(),
                services: vec!["*".into()],
                callbacks: false,
            })
            .collect();
        let limits = Limits::default();
        Switch::new(
            Registry::new(limits.registry()),
            limits.tickets(),
            Policy::new(&rules).unwrap(),
            4,
        )
    }

    fn connect(s: &mut Plain, who: &str, handle: u32, what: Registered) {
        let (c, _) = s.registry.connect(&id(who), handle).unwrap();
        s.registry.register(&id(who), c, what).unwrap();
    }

    fn ask(s: &mut Plain, from: &str, to: &str) -> Result<u32, &'static str> {
        let target = Target::Gateway((*id(to)).clone());
        s.request(Instant::now(), &id(from), &target)
            .map(|g| g.peer_handle)
            .map_err(|r| r.reason())
    }

    fn issuer() -> Registered {
        Registered {
            issuer: true,
            ..Registered::default()
        }
    }

    #[test]
    fn who_may_pair_with_whom() {
        let mut s = switch(&[("acme", "beta"), ("acme", "acme")]);
        connect(&mut s, "acme/a1", 1, Registered::default());
        connect(&mut s, "acme/a2", 2, Registered::default());
        connect(&mut s, "beta/b1", 3, issuer());
        connect(&mut s, "beta/b2", 4, Registered::default());
        assert_eq!(ask(&mut s, "acme/a1", "beta/b2"), Ok(4));
        assert_eq!(ask(&mut s, "beta/b1", "acme/a1"), Err("pair-not-allowed"));
        assert_eq!(
            ask(&mut s, "beta/b1", "acme/none"),
            Err("pair-not-allowed"),
            "and no word on who is there"
        );
        assert_eq!(ask(&mut s, "acme/a1", "beta/none"), Err("gateway-not-connected"));
        assert_eq!(ask(&mut s, "acme/a1", "acme/a2"), Ok(2));
        assert_eq!(ask(&mut s, "acme/a1", "acme/a1"), Err("own-gateway"));
        // Within a domain: always. What may be called there is for the called gateway to say.
        assert_eq!(ask(&mut s, "beta/b2", "beta/b1"), Ok(3));
        assert_eq!(ask(&mut s, "beta/b1", "beta/b2"), Ok(4));
    }

    #[test]
    fn renewal_finds_an_issuer_of_the_own_domain_and_never_oneself() {
        let mut s = switch(&[]);
        connect(&mut s, "beta/b1", 1, issuer());
        connect(&mut s, "beta/b2", 2, Registered::default());
        let now = Instant::now();
        assert_eq!(
            s.request(now, &id("beta/b2"), &Target::Issuer)
                .unwrap()
                .peer_handle,
            1
        );
        for who in ["beta/b1", "acme/a1"] {
            let refused = s.request(now, &id(who), &Target::Issuer).unwrap_err();
            assert_eq!(refused.reason(), "no-issuer-connected");
        }
    }

    #[test]
    fn a_host_reaches_an_issuer_and_nothing_else_and_is_reached_by_nobody() {
        let mut s = switch(&[("acme", "acme"), ("acme", "beta")]);
        connect(&mut s, "acme/a1", 1, issuer());
        connect(&mut s, "beta/b1", 2, Registered::default());
        let host = Arc::new(NodeId::host("acme".parse().unwrap(), "h1".parse().unwrap()));
        let (c, _) = s.registry.connect(&host, 3).unwrap();
        s.registry.register(&host, c, Registered::default()).unwrap();
        let now = Instant::now();
        assert_eq!(s.request(now, &host, &Target::Issuer).unwrap().peer_handle, 1);
        for gateway in ["acme/a1", "beta/b1"] {
            let target = Target::Gateway((*id(gateway)).clone());
            assert_eq!(s.request(now, &host, &target).unwrap_err().reason(), "host-calls");
        }
        let target = Target::Gateway((*host).clone());
        let refused = s.request(now, &id("acme/a1"), &target).unwrap_err();
        assert_eq!(refused.reason(), "gateway-not-connected");
    }

    #[test]
    fn joiners_need_an_offer() {
        let mut s = switch(&[]);
        let offer = JoinOffer {
            hash: [9; 32],
            expires: UnixTime(100),
        };
        let what = Registered {
            joins: vec![offer],
            ..issuer()
        };
        connect(&mut s, "beta/b1", 1, what);
        let beta: DomainName = "beta".parse().unwrap();
        let now = Instant::now();
        let granted = s.join(now, UnixTime(99), &beta, &[9; 32]).unwrap();
        assert!(granted.dialling.is_none());
        let redeemed = s.redeem(now, &granted.accepting, &id("beta/b1")).unwrap();
        assert_eq!(redeemed.peer, None);
        for (hash, wall) in [([9; 32], 100), ([8; 32], 99)] {
            let refused = s.join(now, UnixTime(wall), &beta, &hash).unwrap_err();
            assert_eq!(refused.reason(), "join-token-unknown");
        }
    }

    #[test]
    fn nothing_new_when_draining_or_full() {
        let mut s = switch(&[("acme", "beta")]);
        connect(&mut s, "beta/b1", 1, Registered::default());
        s.open = 3;
        assert_eq!(ask(&mut s, "acme/a1", "beta/b1"), Ok(1));
        assert_eq!(ask(&mut s, "acme/a1", "beta/b1"), Err("hub-full"));
        s.open = 0;
        let draining = Registered {
            draining: true,
            ..Registered::default()
        };
        connect(&mut s, "beta/b1", 1, draining);
        assert_eq!(ask(&mut s, "acme/a1", "beta/b1"), Err("gateway-draining"));
        s.draining = true;
        assert_eq!(ask(&mut s, "acme/a1", "beta/b1"), Err("hub-draining"));
        let refused = s
            .redeem(Instant::now(), &Ticket([0; 32]), &id("acme/a1"))
            .unwrap_err();
        assert_eq!(refused, Refusal::Ticket(TicketError::Unknown));
    }
}
