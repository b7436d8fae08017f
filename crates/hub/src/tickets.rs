//! The right to one data session: two tickets, one for each side, each single use, short-lived, and bound to one identity.
//!
//! Sans-I/O: time is given with each call. A ticket is 32 bytes from the CSPRNG; whoever shows one must also have proved, by
//! TLS, to be the identity that it was given to. Imports names and messages only.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use hawser_proto::{
    NodeId,
    hop::{TICKET_LIFE, Ticket},
};

use crate::pairing::Side;

/// Identifies a data session within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PairId(u64);

impl std::fmt::Display for PairId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many sessions may be granted and not yet taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TicketLimits {
    /// By one asking gateway.
    pub per_gateway: usize,
    /// From one asking gateway (or all joiners, or all visitors) to one accepting gateway.
    pub per_pair: usize,
    /// Of all gateways together, those taken up in the last [`TICKET_LIFE`] included.
    pub remembered: usize,
}

/// Who is at the dialling side of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Asker {
    /// A node, which gets a ticket.
    Node(Arc<NodeId>),
    /// A joiner, which is already there and needs none.
    Joiner,
    /// A client from outside, which is already there, too.
    Visitor,
}

impl Asker {
    fn node(&self) -> Option<&Arc<NodeId>> {
        match self {
            Asker::Node(id) => Some(id),
            Asker::Joiner | Asker::Visitor => None,
        }
    }
}

/// A session granted.
#[derive(Debug)]
pub struct Grant {
    /// Of the session.
    pub pair: PairId,
    /// For the dialling side; none for one that is already there.
    pub dialling: Option<Ticket>,
    /// For the accepting side.
    pub accepting: Ticket,
    /// When both tickets end.
    pub expires: Instant,
}

/// A ticket taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemed {
    /// Of the session.
    pub pair: PairId,
    /// Which side the holder is.
    pub side: Side,
    /// Who will be at the other end; none for a joiner or visitor.
    pub peer: Option<Arc<NodeId>>,
    /// Until when it may wait for the other side.
    pub expires: Instant,
}

/// Why a ticket was not given or not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The asking gateway has too many outstanding.
    #[error("too many sessions of this gateway are granted and not taken up")]
    GatewayCap,
    /// There are too many outstanding between these two.
    #[error("too many sessions between these two gateways are granted and not taken up")]
    PairCap,
    /// The hub remembers as many as it may.
    #[error("the hub has granted as many sessions at a time as it may")]
    HubCap,
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
    /// No such ticket, or one that ended a while ago.
    #[error("the ticket is not known: it was never given, or ended a while ago")]
    Unknown,
    /// It came too late.
    #[error("the ticket has expired")]
    Expired,
    /// It has been used before.
    #[error("the ticket has been used before")]
    Replayed,
    /// It was given to somebody else.
    #[error("the ticket was given to another identity")]
    Foreign,
    /// The other side has come and gone.
    #[error("the other side of the session is gone")]
    Void,
}

/// All tickets that are not over.
pub struct Tickets {
    limits: TicketLimits,
    tickets: HashMap<Ticket, (PairId, Side)>,
    sessions: HashMap<PairId, Session>,
    /// In the order in which they end.
    order: VecDeque<PairId>,
    /// Outstanding sessions by asking gateway.
    asked: HashMap<Arc<NodeId>, usize>,
    /// Outstanding sessions by both ends.
    between: HashMap<Ends, usize>,
    next: u64,
}

type Ends = (Asker, Arc<NodeId>);

struct Session {
    ends: Ends,
    dialling: Option<Ticket>,
    accepting: Ticket,
    dialling_used: bool,
    accepting_used: bool,
    void: bool,
    expires: Instant,
}

impl Session {
    /// Whether a ticket of it can still be taken up.
    fn outstanding(&self) -> bool {
        !self.void && (!self.dialling_used || !self.accepting_used)
    }
}

impl Tickets {
    /// No tickets yet.
    pub fn new(limits: TicketLimits) -> Self {
        Self {
            limits,
            tickets: HashMap::new(),
            sessions: HashMap::new(),
            order: VecDeque::new(),
            asked: HashMap::new(),
            between: HashMap::new(),
            next: 0,
        }
    }

    /// Other limits from now on; what is granted stays granted.
    pub fn limit(&mut self, limits: TicketLimits) {
        self.limits = limits;
    }

    /// Grants a session.
    pub fn grant(
        &mut self,
        now: Instant,
        dialling: Asker,
        accepting: Arc<NodeId>,
    ) -> Result<Grant, TicketError> {
        self.purge(now);
        self.make_room()?;
        let ends = (dialling, accepting);
        if let Some(id) = ends.0.node()
            && self.asked.get(id).is_some_and(|n| *n >= self.limits.per_gateway)
        {
            return Err(TicketError::GatewayCap);
        }
        if self
            .between
            .get(&ends)
            .is_some_and(|n| *n >= self.limits.per_pair)
        {
            return Err(TicketError::PairCap);
        }
        let dialling = ends.0.node().map(|_| random()).transpose()?;
        let accepting = random()?;
        let expires = now + TICKET_LIFE;
        let pair = PairId(self.next);
        self.next += 1;

        if let Some(id) = ends.0.node() {
            *self.asked.entry(id.clone()).or_default() += 1;
        }
        *self.between.entry(ends.clone()).or_default() += 1;
        if let Some(ticket) = dialling {
            self.tickets.insert(ticket, (pair, Side::Dialling));
        }
        self.tickets.insert(accepting, (pair, Side::Accepting));
        self.order.push_back(pair);
        let session = Session {
            ends,
            dialling,
            accepting,
            dialling_used: dialling.is_none(),
            accepting_used: false,
            void: false,
            expires,
        };
        self.sessions.insert(pair, session);
        Ok(Grant {
            pair,
            dialling,
            accepting,
            expires,
        })
    }

    /// Takes up a ticket shown by `who`. Shown by another, it stays good for its holder.
    pub fn redeem(&mut self, now: Instant, ticket: &Ticket, who: &NodeId) -> Result<Redeemed, TicketError> {
        let (pair, side) = *self.tickets.get(ticket).ok_or(TicketError::Unknown)?;
        let session = self.sessions.get_mut(&pair).ok_or(TicketError::Unknown)?;
        let (used, holder, peer) = match side {
            Side::Dialling => (
                &mut session.dialling_used,
                session.ends.0.node().map(|id| &**id),
                Some(&session.ends.1),
            ),
            Side::Accepting => (
                &mut session.accepting_used,
                Some(&*session.ends.1),
                session.ends.0.node(),
            ),
        };
        if holder != Some(who) {
            return Err(TicketError::Foreign);
        }
        if *used {
            return Err(TicketError::Replayed);
        }
        if session.expires <= now {
            return Err(TicketError::Expired);
        }
        if session.void {
            return Err(TicketError::Void);
        }
        *used = true;
        let redeemed = Redeemed {
            pair,
            side,
            peer: peer.cloned(),
            expires: session.expires,
        };
        if !session.outstanding() {
            let ends = session.ends.clone();
            self.release(&ends);
        }
        Ok(redeemed)
    }

    /// One side came and went, or could not be told: the other's ticket is good for nothing any more.
    pub fn void(&mut self, pair: PairId) {
        let Some(session) = self.sessions.get_mut(&pair) else {
            return;
        };
        let was = session.outstanding();
        session.void = true;
        let ends = session.ends.clone();
        if was {
            self.release(&ends);
        }
    }

    /// Forgets what has expired.
    pub fn purge(&mut self, now: Instant) {
        while let Some(pair) = self.order.front().copied() {
            if self.sessions.get(&pair).is_some_and(|s| s.expires > now) {
                return;
            }
            self.order.pop_front();
            self.forget(pair);
        }
    }

    /// How many sessions are granted and not taken up by both sides.
    pub fn outstanding(&self) -> usize {
        self.between.values().sum()
    }

    /// Lets the oldest session go when as many as allowed are remembered, unless it still waits to be taken up.
    fn make_room(&mut self) -> Result<(), TicketError> {
        while self.order.len() >= self.limits.remembered {
            let Some(pair) = self.order.front().copied() else {
                return Err(TicketError::HubCap);
            };
            if self.sessions.get(&pair).is_some_and(Session::outstanding) {
                return Err(TicketError::HubCap);
            }
            self.order.pop_front();
            self.forget(pair);
        }
        Ok(())
    }

    fn forget(&mut self, pair: PairId) {
        let Some(session) = self.sessions.remove(&pair) else {
            return;
        };
        if let Some(ticket) = &session.dialling {
            self.tickets.remove(ticket);
        }
        self.tickets.remove(&session.accepting);
        if session.outstanding() {
            self.release(&session.ends);
        }
    }

    /// A session is outstanding no longer.
    fn release(&mut self, ends: &Ends) {
        if let Some(id) = ends.0.node() {
            less(&mut self.asked, id);
        }
        less(&mut self.between, ends);
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(n) = counts.get_mut(key) {
        *n -= 1;
        if *n == 0 {
            counts.remove(key);
        }
    }
}

fn random() -> Result<Ticket, TicketError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| TicketError::Random)?;
    Ok(Ticket(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: TicketLimits = TicketLimits {
        per_gateway: 3,
        per_pair: 2,
        remembered: 16,
    };

    fn id(s: &str) -> Arc<NodeId> {
        Arc::new(format!("spiffe://{s}/gateway/gw").parse().unwrap())
    }

    #[test]
    fn a_ticket_is_good_once_for_its_holder() {
        let (now, a, b) = (Instant::now(), id("acme"), id("beta"));
        let mut t = Tickets::new(LIMITS);
        let g = t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        let ticket = g.dialling.unwrap();
        assert_eq!(t.redeem(now, &ticket, &b), Err(TicketError::Foreign));
        let r = t.redeem(now, &ticket, &a).unwrap();
        assert_eq!((r.side, r.peer.as_ref()), (Side::Dialling, Some(&b)));
        assert_eq!(t.redeem(now, &ticket, &a), Err(TicketError::Replayed));
        assert_eq!(t.redeem(now, &g.accepting, &a), Err(TicketError::Foreign));
        let r = t.redeem(now, &g.accepting, &b).unwrap();
        assert_eq!((r.side, r.peer.as_ref()), (Side::Accepting, Some(&a)));
        assert_eq!(t.redeem(now, &g.accepting, &b), Err(TicketError::Replayed));
        assert_eq!(t.redeem(now, &Ticket([7; 32]), &a), Err(TicketError::Unknown));
        assert_eq!(t.outstanding(), 0);
    }

    #[test]
    fn a_ticket_ends_and_is_forgotten() {
        let (now, a, b) = (Instant::now(), id("acme"), id("beta"));
        let mut t = Tickets::new(LIMITS);
        let g = t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        let late = now + TICKET_LIFE;
        assert!(
            t.redeem(late - Duration::from_millis(1), &g.accepting, &b)
                .is_ok()
        );
        assert_eq!(
            t.redeem(late, &g.dialling.unwrap(), &a),
            Err(TicketError::Expired)
        );
        t.purge(late);
        assert_eq!(
            t.redeem(late, &g.dialling.unwrap(), &a),
            Err(TicketError::Unknown)
        );
        assert_eq!(t.outstanding(), 0);
        assert!(t.tickets.is_empty() && t.sessions.is_empty() && t.order.is_empty());
        assert!(t.asked.is_empty() && t.between.is_empty());
    }

    #[test]
    fn a_void_session_is_over_for_both() {
        let (now, a, b) = (Instant::now(), id("acme"), id("beta"));
        let mut t = Tickets::new(LIMITS);
        let g = t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        t.redeem(now, &g.dialling.unwrap(), &a).unwrap();
        t.void(g.pair);
        t.void(g.pair);
        assert_eq!(t.redeem(now, &g.accepting, &b), Err(TicketError::Void));
        assert_eq!(t.outstanding(), 0);
        t.purge(now + TICKET_LIFE);
        assert_eq!(t.outstanding(), 0);
    }

    #[test]
    fn outstanding_sessions_are_capped_per_pair_gateway_and_hub() {
        let (now, a, b, c) = (Instant::now(), id("acme"), id("beta"), id("gamma"));
        let mut t = Tickets::new(LIMITS);
        let first = t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        assert_eq!(
            t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap_err(),
            TicketError::PairCap
        );
        t.grant(now, Asker::Node(a.clone()), c.clone()).unwrap();
        assert_eq!(
            t.grant(now, Asker::Node(a.clone()), c.clone()).unwrap_err(),
            TicketError::GatewayCap
        );
        // The other direction, and joiners, are other pairs.
        t.grant(now, Asker::Node(b.clone()), a.clone()).unwrap();
        t.grant(now, Asker::Joiner, a.clone()).unwrap();
        t.grant(now, Asker::Joiner, a.clone()).unwrap();
        assert_eq!(
            t.grant(now, Asker::Joiner, a.clone()).unwrap_err(),
            TicketError::PairCap
        );
        // Visitors take nothing from joiners.
        t.grant(now, Asker::Visitor, a.clone()).unwrap();
        // Taken up by both sides, it counts no more.
        t.redeem(now, &first.dialling.unwrap(), &a).unwrap();
        assert_eq!(
            t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap_err(),
            TicketError::GatewayCap
        );
        t.redeem(now, &first.accepting, &b).unwrap();
        t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        // Expired, neither.
        let later = now + TICKET_LIFE;
        t.grant(later, Asker::Node(a.clone()), b.clone()).unwrap();
        assert_eq!(t.outstanding(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, a, b) = (Instant::now(), id("acme"), id("beta"));
        let mut t = Tickets::new(TicketLimits {
            per_gateway: 100,
            per_pair: 100,
            remembered: 4,
        });
        let first = t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        for _ in 0..3 {
            t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        }
        assert_eq!(
            t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap_err(),
            TicketError::HubCap
        );
        t.redeem(now, &first.dialling.unwrap(), &a).unwrap();
        t.redeem(now, &first.accepting, &b).unwrap();
        t.grant(now, Asker::Node(a.clone()), b.clone()).unwrap();
        assert_eq!(t.sessions.len(), 4);
        assert_eq!(
            t.redeem(now, &first.accepting, &b),
            Err(TicketError::Unknown),
            "forgotten, so still not good"
        );
    }
}
