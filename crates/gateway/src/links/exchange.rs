//! The conversation on one control connection, without the connection: messages and time in, events and messages out.

use std::{collections::HashMap, time::Instant};

use hawser_proto::{
    DomainName, Fault, HostName, NodeId,
    arbiter::Answer,
    control::{DEAD_AFTER, PING_EVERY, Publishing, Route, Target, ToGateway, ToHub},
    hop::Ticket,
};

/// Most session requests that wait for one hub's answer.
pub(crate) const MAX_PENDING: usize = 1024;

/// A session that the hub granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    /// For the dialling side.
    pub(crate) ticket: Ticket,
    /// Who will be there, as the hub says.
    pub(crate) peer: NodeId,
}

/// An invitation to dial in as the accepting side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invitation {
    /// For the accepting side.
    pub(crate) ticket: Ticket,
    /// Who it is, as the hub says; none for a joiner.
    pub(crate) peer: Option<NodeId>,
    /// For a joiner: which token it showed.
    pub(crate) join: Option<[u8; 32]>,
}

/// What a message means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<W> {
    /// Nothing to do.
    Nothing,
    /// To be sent.
    Reply(ToHub),
    /// The hub's software.
    Welcome(String),
    /// What may be called now.
    Routes(Vec<Route>, Vec<DomainName>),
    /// A request was answered; `W` waits for it.
    Settled(W, Result<Grant, Fault>),
    /// Somebody wants a session.
    Dial(Invitation),
    /// Somebody outside asks for a published name.
    Visit(Ticket, HostName),
    /// What became of the published names.
    Publishing(Vec<Publishing>),
    /// The register answers the question of this number.
    Answer(u64, Answer),
    /// A signed revocation list.
    Revocations(Vec<u8>),
    /// The hub takes no new sessions.
    Draining,
}

/// What the clock asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// To be sent.
    Ping(ToHub),
    /// The hub has been silent for [`DEAD_AFTER`].
    Dead,
}

/// State of a conversation. `W` is whoever waits for a granted session.
#[derive(Debug)]
pub(crate) struct Exchange<W> {
    next_id: u64,
    pending: HashMap<u64, W>,
    routes: Option<u64>,
    heard: Instant,
    pinged: Instant,
}

impl<W> Exchange<W> {
    /// A conversation that begins.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            next_id: 0,
            pending: HashMap::new(),
            routes: None,
            heard: now,
            pinged: now,
        }
    }

    /// The message that asks for a session; gives `waiter` back when [`MAX_PENDING`] wait already. `gave_up` tells which
    /// waiters wait no longer.
    pub(crate) fn request(
        &mut self,
        target: Target,
        waiter: W,
        gave_up: impl Fn(&W) -> bool,
    ) -> Result<ToHub, W> {
        if self.pending.len() >= MAX_PENDING {
            self.pending.retain(|_, w| !gave_up(w));
        }
        if self.pending.len() >= MAX_PENDING {
            return Err(waiter);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, waiter);
        Ok(ToHub::Request { id, target })
    }

    /// What `message` means.
    pub(crate) fn message(&mut self, message: ToGateway, now: Instant) -> Event<W> {
        self.heard = now;
        match message {
            ToGateway::Welcome { software, .. } => {
                Event::Welcome(software.chars().filter(|c| !c.is_control()).take(80).collect())
            }
            ToGateway::Routes {
                routes,
                domains,
                number,
            } => {
                if self.routes.is_some_and(|last| number <= last) {
                    return Event::Nothing;
                }
                self.routes = Some(number);
                Event::Routes(routes, domains)
            }
            ToGateway::Granted { id, ticket, peer } => self.settle(id, Ok(Grant { ticket, peer })),
            ToGateway::Refused { id, fault } => self.settle(id, Err(fault)),
            ToGateway::Dial { ticket, peer, join } => Event::Dial(Invitation { ticket, peer, join }),
            ToGateway::Visit { ticket, name } => Event::Visit(ticket, name),
            ToGateway::Publishing(said) => Event::Publishing(said),
            ToGateway::Revocations(bytes) => Event::Revocations(bytes),
            ToGateway::Draining => Event::Draining,
            ToGateway::Ping(n) => Event::Reply(ToHub::Pong(n)),
            ToGateway::Pong(_) => Event::Nothing,
            ToGateway::Arbiter { id, answer } => Event::Answer(id, answer),
        }
    }

    /// To be asked at least once a second.
    pub(crate) fn tick(&mut self, now: Instant) -> Due {
        if now.duration_since(self.heard) >= DEAD_AFTER {
            return Due::Dead;
        }
        let idle = now.duration_since(self.heard.max(self.pinged));
        if idle >= PING_EVERY {
            self.pinged = now;
            return Due::Ping(ToHub::Ping(self.next_id));
        }
        Due::Nothing
    }

    /// Everybody who still waits.
    pub(crate) fn end(&mut self) -> Vec<W> {
        self.pending.drain().map(|(_, waiter)| waiter).collect()
    }

    fn settle(&mut self, id: u64, result: Result<Grant, Fault>) -> Event<W> {
        match self.pending.remove(&id) {
            Some(waiter) => Event::Settled(waiter, result),
            None => Event::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::Place;
    use std::time::Duration;

    fn granted(id: u64) -> ToGateway {
        ToGateway::Granted {
            id,
            ticket: Ticket([1; 32]),
            peer: "spiffe://beta/gateway/gw1".parse().unwrap(),
        }
    }

    #[test]
    fn answers_reach_the_one_who_asked_and_only_once() {
        let now = Instant::now();
        let mut exchange = Exchange::new(now);
        let ids: Vec<_> = ["a", "b"]
            .iter()
            .map(|w| match exchange.request(Target::Issuer, *w, |_| false) {
                Ok(ToHub::Request { id, .. }) => id,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(matches!(
            exchange.message(granted(ids[1]), now),
            Event::Settled("b", Ok(_))
        ));
        assert_eq!(exchange.message(granted(ids[1]), now), Event::Nothing);
        let fault = Fault::new(Place::Policy, 403, "no", "", "");
        let refused = ToGateway::Refused {
            id: ids[0],
            fault: fault.clone(),
        };
        assert_eq!(exchange.message(refused, now), Event::Settled("a", Err(fault)));
        assert!(exchange.end().is_empty());
    }

    #[test]
    fn requests_are_bounded_and_those_given_up_make_room() {
        let mut exchange = Exchange::new(Instant::now());
        for n in 0..MAX_PENDING {
            assert!(exchange.request(Target::Issuer, n, |_| false).is_ok());
        }
        assert_eq!(exchange.request(Target::Issuer, 9999, |_| false), Err(9999));
        assert!(exchange.request(Target::Issuer, 9999, |w| w % 2 == 0).is_ok());
        assert_eq!(exchange.end().len(), MAX_PENDING / 2 + 1);
    }

    #[test]
    fn a_silent_hub_is_pinged_and_then_dead_while_a_speaking_one_lives() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut exchange = Exchange::<()>::new(start);
        assert_eq!(exchange.tick(at(4)), Due::Nothing);
        assert!(matches!(exchange.tick(at(5)), Due::Ping(_)));
        assert_eq!(exchange.tick(at(6)), Due::Nothing);
        assert_eq!(exchange.message(ToGateway::Pong(0), at(7)), Event::Nothing);
        assert_eq!(exchange.tick(at(11)), Due::Nothing);
        assert!(matches!(exchange.tick(at(12)), Due::Ping(_)));
        assert_eq!(exchange.tick(at(22)), Due::Dead);
    }

    #[test]
    fn routes_that_come_late_are_passed_over() {
        let now = Instant::now();
        let mut exchange = Exchange::<()>::new(now);
        let routes = |number| ToGateway::Routes {
            routes: vec![],
            domains: vec![],
            number,
        };
        assert!(matches!(exchange.message(routes(2), now), Event::Routes(..)));
        assert_eq!(exchange.message(routes(1), now), Event::Nothing);
        assert!(matches!(exchange.message(routes(3), now), Event::Routes(..)));
    }
}
