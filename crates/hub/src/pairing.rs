//! How the two sides of a data session come together: READY to the accepting side, GO from it, and only then READY to the
//! dialling side.
//!
//! Sans-I/O: [`Pair`] takes events and says what to do next; [`Meetings`] finds the side that came first. Whichever side that
//! is, it waits; the death of one frees the other at once, and time frees both.

use std::collections::HashMap;

use crate::tickets::PairId;

/// One side of a data session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Asked for the session, and speaks first in it.
    Dialling,
    /// Was asked to dial in, and stays silent until the other has spoken.
    Accepting,
}

impl Side {
    /// The side at the other end.
    pub fn other(self) -> Self {
        match self {
            Side::Dialling => Side::Accepting,
            Side::Accepting => Side::Dialling,
        }
    }
}

/// What happened to a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A side showed its ticket.
    Arrived(Side),
    /// A side's connection ended.
    Died(Side),
    /// The accepting side answered READY with GO.
    Went,
    /// READY is written to the dialling side.
    Told,
    /// The time for coming together is over.
    Expired,
    /// One of the identities may not go on.
    Cut,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Watch the side that is there, and wait for the other.
    Wait(Side),
    /// Send READY to the accepting side and wait for its GO; watch the dialling side.
    Offer,
    /// Send READY to the dialling side.
    Tell,
    /// Move bytes.
    Relay,
    /// It is over.
    Free(Free),
    /// Nothing: the event came after the end, or cannot be.
    Ignore,
}

/// Who is left, and how to let it go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Is told why.
    pub refuse: Option<Side>,
    /// Has had READY, so that only closing is understood.
    pub close: Option<Side>,
    /// Why.
    pub why: Why,
}

/// Why a pair did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// This side's connection ended.
    Died(Side),
    /// This side did not come, or did not answer, in time.
    Late(Side),
    /// An identity was revoked, or the hub is going.
    Cut,
}

/// The state of one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pair(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Nobody,
    Waiting(Side),
    /// READY is with the accepting side.
    Offered,
    /// GO came; READY goes to the dialling side.
    Going,
    Open,
    Over,
}

impl Pair {
    /// What an event leads to.
    pub fn on(&mut self, event: Event) -> Step {
        use Event::*;
        use State::*;
        match (self.0, event) {
            (Nobody, Arrived(side)) => {
                self.0 = Waiting(side);
                Step::Wait(side)
            }
            (Waiting(first), Arrived(side)) if side != first => {
                self.0 = Offered;
                Step::Offer
            }
            (Offered, Went) => {
                self.0 = Going;
                Step::Tell
            }
            (Going, Told) => {
                self.0 = Open;
                Step::Relay
            }
            (Waiting(first), Died(side)) if side == first => self.over(None, None, Why::Died(side)),
            (Waiting(first), Expired) => self.over(Some(first), None, Why::Late(first.other())),
            (Waiting(first), Cut) => self.over(Some(first), None, Why::Cut),
            (Offered, Died(Side::Dialling)) => {
                self.over(None, Some(Side::Accepting), Why::Died(Side::Dialling))
            }
            (Offered, Died(Side::Accepting)) => {
                self.over(Some(Side::Dialling), None, Why::Died(Side::Accepting))
            }
            (Offered, Expired) => self.over(
                Some(Side::Dialling),
                Some(Side::Accepting),
                Why::Late(Side::Accepting),
            ),
            (Offered, Cut) => self.over(Some(Side::Dialling), Some(Side::Accepting), Why::Cut),
            // READY may be on its way to the dialling side already, so neither side would understand a refusal.
            (Going, Died(side)) => self.over(None, Some(side.other()), Why::Died(side)),
            (Going, Expired) => self.over(None, Some(Side::Accepting), Why::Late(Side::Dialling)),
            (Going, Cut) => self.over(None, Some(Side::Accepting), Why::Cut),
            _ => Step::Ignore,
        }
    }

    fn over(&mut self, refuse: Option<Side>, close: Option<Side>, why: Why) -> Step {
        self.0 = State::Over;
        Step::Free(Free { refuse, close, why })
    }
}

/// Where the side that came first leaves word (`W`) for the other. Bounded by the tickets outstanding.
#[derive(Debug)]
pub struct Meetings<W>(HashMap<PairId, W>);

impl<W> Default for Meetings<W> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<W> Meetings<W> {
    /// Takes the word that the first side left, or leaves one made by `word`.
    pub fn meet<R>(&mut self, pair: PairId, word: impl FnOnce() -> (W, R)) -> Met<W, R> {
        match self.0.remove(&pair) {
            Some(first) => Met::Second(first),
            None => {
                let (word, rest) = word();
                self.0.insert(pair, word);
                Met::First(rest)
            }
        }
    }

    /// The first side goes. False when the other has taken its word already, and is on its way.
    pub fn leave(&mut self, pair: PairId) -> bool {
        self.0.remove(&pair).is_some()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Who came first.
#[derive(Debug)]
pub enum Met<W, R> {
    /// This one: it waits by what is here.
    First(R),
    /// The other: here is its word.
    Second(W),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tickets::{Asker, TicketLimits, Tickets};
    use hawser_proto::{
        NodeId,
        hop::{TICKET_LIFE, Ticket},
    };
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    /// What one end of the session has seen.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum End {
        Away,
        Here,
        Dead,
        Refused,
        Closed,
        Relayed,
    }

    /// Everything that can happen from outside.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Act {
        Show(Side),
        Steal(Side),
        Die(Side),
        Go,
        Told,
        Tick,
        Cut,
    }

    const ACTS: [Act; 10] = [
        Act::Show(Side::Dialling),
        Act::Show(Side::Accepting),
        Act::Steal(Side::Dialling),
        Act::Steal(Side::Accepting),
        Act::Die(Side::Dialling),
        Act::Die(Side::Accepting),
        Act::Go,
        Act::Told,
        Act::Tick,
        Act::Cut,
    ];

    /// The hub and both gateways as a model: tickets, meeting place and pair wired as the shell wires them.
    struct World {
        now: Instant,
        ids: [Arc<NodeId>; 2],
        tickets: Tickets,
        meetings: Meetings<()>,
        pair: Pair,
        id: PairId,
        shown: [Ticket; 2],
        ends: [End; 2],
        redeemed: [u32; 2],
        offered: bool,
        went: bool,
        ready: [u32; 2],
    }

    fn at(side: Side) -> usize {
        side as usize
    }

    impl World {
        fn new() -> Self {
            let now = Instant::now();
            let ids: [Arc<NodeId>; 2] =
                ["acme", "beta"].map(|d| Arc::new(format!("spiffe://{d}/gateway/g").parse().unwrap()));
            let mut tickets = Tickets::new(TicketLimits {
                per_gateway: 4,
                per_pair: 4,
                remembered: 16,
            });
            let grant = tickets
                .grant(now, Asker::Node(ids[0].clone()), ids[1].clone())
                .unwrap();
            Self {
                now,
                ids,
                tickets,
                meetings: Meetings::default(),
                pair: Pair::default(),
                id: grant.pair,
                shown: [grant.dialling.unwrap(), grant.accepting],
                ends: [End::Away; 2],
                redeemed: [0; 2],
                offered: false,
                went: false,
                ready: [0; 2],
            }
        }

        fn act(&mut self, act: Act) {
            match act {
                Act::Show(side) => self.show(side),
                Act::Steal(side) => {
                    let thief = &self.ids[at(side.other())].clone();
                    assert!(
                        self.tickets
                            .redeem(self.now, &self.shown[at(side)], thief)
                            .is_err()
                    );
                }
                Act::Die(side) => {
                    if self.ends[at(side)] == End::Here {
                        self.ends[at(side)] = End::Dead;
                        self.event(Event::Died(side));
                    }
                }
                // A gateway answers GO, and a write completes, only after the READY that it belongs to.
                Act::Go => {
                    if self.offered && self.ends[1] == End::Here && !self.went {
                        self.went = true;
                        self.event(Event::Went);
                    }
                }
                Act::Told => {
                    if self.ready[0] == 1 && self.ends[0] == End::Here {
                        self.event(Event::Told);
                    }
                }
                Act::Tick => {
                    self.now += TICKET_LIFE + Duration::from_millis(1);
                    self.tickets.purge(self.now);
                    self.event(Event::Expired);
                }
                Act::Cut => self.event(Event::Cut),
            }
        }

        fn show(&mut self, side: Side) {
            let who = self.ids[at(side)].clone();
            if self
                .tickets
                .redeem(self.now, &self.shown[at(side)], &who)
                .is_err()
            {
                return;
            }
            self.redeemed[at(side)] += 1;
            assert_eq!(self.ends[at(side)], End::Away, "a ticket was taken twice");
            self.ends[at(side)] = End::Here;
            let first = matches!(self.meetings.meet(self.id, || ((), ())), Met::First(()));
            assert_eq!(
                first,
                self.pair == Pair::default(),
                "the meeting place and the pair agree"
            );
            self.event(Event::Arrived(side));
        }

        fn event(&mut self, event: Event) {
            let before = self.pair;
            match self.pair.on(event) {
                Step::Wait(_) | Step::Ignore => {}
                Step::Offer => {
                    assert_eq!(self.ends, [End::Here; 2]);
                    self.offered = true;
                    self.ready[1] += 1;
                }
                Step::Tell => {
                    assert!(self.went, "READY to the dialling side before GO");
                    assert_eq!(self.ends[0], End::Here);
                    self.ready[0] += 1;
                }
                Step::Relay => self.ends = [End::Relayed; 2],
                Step::Free(free) => {
                    if matches!(before.0, State::Waiting(_)) {
                        assert!(self.meetings.leave(self.id));
                    }
                    self.tickets.void(self.id);
                    for (side, end) in [(free.refuse, End::Refused), (free.close, End::Closed)] {
                        if let Some(side) = side {
                            assert_eq!(
                                self.ends[at(side)],
                                End::Here,
                                "{side:?} is not there to be freed"
                            );
                            assert!(end != End::Refused || self.ready[at(side)] == 0);
                            self.ends[at(side)] = end;
                        }
                    }
                    if before.0 == State::Going && self.ends[0] == End::Here {
                        // The write of READY that is under way is dropped with its connection.
                        self.ends[0] = End::Closed;
                    }
                }
            }
            assert!(self.ready.iter().all(|n| *n <= 1), "READY twice");
            assert!(self.ready[0] == 0 || self.went);
        }

        /// After the last act, time alone must end everything that is not open.
        fn finish(mut self) {
            self.act(Act::Tick);
            assert!(self.meetings.is_empty(), "somebody waits for ever");
            assert_eq!(self.tickets.outstanding(), 0);
            assert!(
                self.ends.iter().all(|e| *e != End::Here),
                "half a pair is left: {:?}",
                self.ends
            );
            assert_eq!(
                self.ends[0] == End::Relayed,
                self.ends[1] == End::Relayed,
                "half a pair is open"
            );
            assert!(self.redeemed.iter().all(|n| *n <= 1));
            assert!(self.ends[0] != End::Relayed || self.went);
            for act in ACTS {
                self.act(act);
            }
            assert!(
                self.redeemed.iter().all(|n| *n <= 1),
                "a ticket was good after the end"
            );
        }
    }

    #[test]
    fn every_interleaving_of_arrivals_deaths_thefts_and_time_ends_well() {
        // Every sequence of six acts, and so of fewer.
        const LENGTH: u32 = 6;
        let mut opened = 0;
        for n in 0..ACTS.len().pow(LENGTH) {
            let mut world = World::new();
            let mut rest = n;
            for _ in 0..LENGTH {
                world.act(ACTS[rest % ACTS.len()]);
                rest /= ACTS.len();
            }
            opened += usize::from(world.ends[0] == End::Relayed);
            world.finish();
        }
        assert!(opened > 0, "the model never opens a session");
    }

    #[test]
    fn ready_go_ready() {
        for (first, second) in [
            (Side::Dialling, Side::Accepting),
            (Side::Accepting, Side::Dialling),
        ] {
            let mut pair = Pair::default();
            assert_eq!(pair.on(Event::Arrived(first)), Step::Wait(first));
            assert_eq!(pair.on(Event::Went), Step::Ignore);
            assert_eq!(pair.on(Event::Arrived(second)), Step::Offer);
            assert_eq!(pair.on(Event::Told), Step::Ignore);
            assert_eq!(pair.on(Event::Went), Step::Tell);
            assert_eq!(pair.on(Event::Told), Step::Relay);
            assert_eq!(pair.on(Event::Cut), Step::Ignore, "the relay has its own end");
        }
    }
}
