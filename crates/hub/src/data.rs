//! One side of a data session shows its ticket, the two sides come together, and their bytes are moved.
//!
//! The side that comes first holds a task that waits; the second hands its connection over and is done. What happens in
//! which order is decided by [`Pair`]. Under the hop TLS only until READY; what is relayed after that is the gateways' own.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use hawser_proto::hop::{TICKET_LIFE, Ticket};
use hawser_session::{
    hop::{Half, HopError, Visitor},
    relay::relay_counting,
};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::oneshot,
    time::{Instant as TokioInstant, sleep_until, timeout},
};

use crate::{
    door::Place,
    lives::{Cut, Living},
    pairing::{Event, Free, Met, Pair, Side, Step, Why},
    refusal::Refusal,
    shared::{Party, Shared},
    tickets::PairId,
    visit::{self, Stay},
};

/// What the first side leaves for the second: where to hand its connection over.
pub(crate) type Word = oneshot::Sender<Comer>;

/// One side, with its ticket taken.
#[derive(Debug)]
pub(crate) struct Comer {
    pub(crate) end: End,
    /// None for a joiner or visitor.
    pub(crate) party: Option<Arc<Party>>,
    /// Held by a joiner or visitor, which has proved no identity.
    pub(crate) place: Option<Place>,
}

/// The connection of one side.
#[derive(Debug)]
pub(crate) enum End {
    /// Under the hop TLS.
    Hop(Half),
    /// A client from outside, which knows nothing of hops, and speaks first without being told to.
    Visitor(Visitor, Stay),
}

/// The dialling side, told that it may speak.
struct Told {
    tcp: TcpStream,
    /// What it has said already.
    said: Vec<u8>,
    stay: Option<Box<Stay>>,
}

impl End {
    /// Completes when this side has gone away, or has spoken out of turn. Cancel safe.
    async fn closed(&mut self) {
        match self {
            End::Hop(half) => half.closed().await,
            End::Visitor(visitor, _) => visitor.closed().await,
        }
    }

    /// Tells the dialling side that it may speak.
    async fn ready(self) -> Result<Told, HopError> {
        match self {
            End::Hop(half) => Ok(Told {
                tcp: half.ready().await?,
                said: Vec::new(),
                stay: None,
            }),
            End::Visitor(Visitor { stream, hello, .. }, stay) => Ok(Told {
                tcp: stream,
                said: hello,
                stay: Some(Box::new(stay)),
            }),
        }
    }
}

/// A gateway shows a ticket.
pub(crate) async fn show(shared: Arc<Shared>, party: Arc<Party>, ticket: Ticket, half: Half) {
    let redeemed = shared.switch().redeem(Instant::now(), &ticket, &party.id);
    let redeemed = match redeemed {
        Ok(redeemed) => redeemed,
        Err(refusal) => {
            tracing::debug!(id = %party.id, reason = refusal.reason(), "ticket refused");
            return refuse(&shared, half, &refusal).await;
        }
    };
    tracing::debug!(id = %party.id, pair = %redeemed.pair, side = ?redeemed.side, "ticket taken");
    let comer = Comer {
        end: End::Hop(half),
        party: Some(party),
        place: None,
    };
    come(shared, redeemed.pair, redeemed.side, redeemed.expires, comer).await;
}

/// A side comes: it waits, or joins the one that waits.
pub(crate) async fn come(shared: Arc<Shared>, pair: PairId, side: Side, until: Instant, comer: Comer) {
    let met = shared.switch().meetings.meet(pair, oneshot::channel);
    match met {
        Met::First(other) => {
            let meeting = Meeting {
                living: shared.lives.enter(parties(side, comer.party.clone(), None)),
                shared,
                pair,
                until,
            };
            meeting.run(side, comer, other).await;
        }
        Met::Second(word) => {
            // The first side's task takes what it was promised, whatever becomes of the pair.
            if let Err(comer) = word.send(comer) {
                let gone = Refusal::Pairing(Why::Died(side.other()));
                turn_away(&shared, comer.end, &gone).await;
            }
        }
    }
}

/// The first side's task until both sides are there, or one of them is freed.
struct Meeting {
    shared: Arc<Shared>,
    pair: PairId,
    until: Instant,
    living: Living<Party>,
}

impl Meeting {
    async fn run(self, side: Side, mut first: Comer, mut other: oneshot::Receiver<Comer>) {
        let mut state = Pair::default();
        state.on(Event::Arrived(side));
        let (event, second) = self.wait(side, &mut first, &mut other).await;
        let second = match (state.on(event), second) {
            (Step::Offer, Some(second)) => second,
            (Step::Free(free), _) => return self.part(free, first, other).await,
            _ => return,
        };
        let (dialling, accepting) = match side {
            Side::Dialling => (first, second),
            Side::Accepting => (second, first),
        };
        self.offer(state, dialling, accepting).await;
    }

    /// Until the other side comes, or something else happens.
    async fn wait(
        &self,
        side: Side,
        first: &mut Comer,
        other: &mut oneshot::Receiver<Comer>,
    ) -> (Event, Option<Comer>) {
        if self
            .shared
            .judge(&parties(side, first.party.clone(), None))
            .is_some()
        {
            return (Event::Cut, None);
        }
        let until = TokioInstant::from_std(self.until);
        tokio::select! {
            biased;
            () = self.living.life().token().cancelled() => (Event::Cut, None),
            second = other => match second {
                Ok(second) => (Event::Arrived(side.other()), Some(second)),
                // The second side sends what it took the word for; if not, the pair ignores this and the first is let go.
                Err(_) => (Event::Died(side.other()), None),
            },
            () = first.end.closed() => (Event::Died(side), None),
            () = sleep_until(until) => (Event::Expired, None),
        }
    }

    /// The first side is let go before the second came, or while it was coming.
    async fn part(self, free: Free, first: Comer, other: oneshot::Receiver<Comer>) {
        let alone = {
            let mut switch = self.shared.switch();
            switch.tickets.void(self.pair);
            switch.meetings.leave(self.pair)
        };
        let refusal = Refusal::Pairing(free.why);
        self.log(&refusal);
        if free.refuse.is_some() {
            turn_away(&self.shared, first.end, &refusal).await;
        }
        if !alone && let Ok(second) = other.await {
            turn_away(&self.shared, second.end, &refusal).await;
        }
    }

    /// Both are there: READY, GO, READY, and bytes.
    async fn offer(self, mut state: Pair, mut dialling: Comer, accepting: Comer) {
        let served = match (&dialling.end, &accepting.party) {
            (End::Visitor(visitor, _), Some(party)) => Some(party.publishing(visitor.name.clone())),
            (_, party) => party.clone(),
        };
        let both = [dialling.party.clone(), served];
        let End::Hop(accepting) = accepting.end else {
            // Visitors are never the accepting side.
            return;
        };
        self.living.belongs_to(both.clone());
        let deadline = sleep_until(TokioInstant::now() + TICKET_LIFE);
        let cut = self.living.life().token();
        let mut raw = None;
        let event = match self.shared.judge(&both) {
            Some(why) => {
                self.living.life().cut(why);
                Event::Cut
            }
            None => tokio::select! {
                biased;
                () = cut.cancelled() => Event::Cut,
                gone = accepting.ready_go() => match gone {
                    Ok(tcp) => { raw = Some(tcp); Event::Went }
                    Err(_) => Event::Died(Side::Accepting),
                },
                () = dialling.end.closed() => Event::Died(Side::Dialling),
                () = deadline => Event::Expired,
            },
        };
        match (state.on(event), raw) {
            (Step::Tell, Some(accepting)) => self.tell(state, dialling, accepting).await,
            (Step::Free(free), _) => {
                let refusal = Refusal::Pairing(free.why);
                self.log(&refusal);
                if free.refuse == Some(Side::Dialling) {
                    turn_away(&self.shared, dialling.end, &refusal).await;
                }
            }
            _ => {}
        }
    }

    async fn tell(self, mut state: Pair, dialling: Comer, accepting: TcpStream) {
        let told = tokio::select! {
            biased;
            () = self.living.life().token().cancelled() => Err(Event::Cut),
            told = dialling.end.ready() => told.map_err(|_| Event::Died(Side::Dialling)),
        };
        drop(dialling.place);
        let (event, told) = match told {
            Ok(told) => (Event::Told, Some(told)),
            Err(event) => (event, None),
        };
        match (state.on(event), told) {
            // A task of its own, and a small one: an idle session must cost little.
            (Step::Relay, Some(told)) => self.relay(told, accepting).await,
            (Step::Free(free), _) => {
                let refusal = Refusal::Pairing(free.why);
                tracing::debug!(pair = %self.pair, reason = refusal.reason(), "session came to nothing");
            }
            _ => {}
        }
    }

    /// Hands over what the dialling side has said already, and leaves the rest to the relay.
    async fn relay(self, told: Told, mut accepting: TcpStream) {
        let Told { tcp, said, stay } = told;
        if !said.is_empty() {
            let handed = tokio::select! {
                biased;
                () = self.living.life().token().cancelled() => return,
                handed = timeout(TICKET_LIFE, accepting.write_all(&said)) => handed,
            };
            if !matches!(handed, Ok(Ok(()))) {
                tracing::debug!(pair = %self.pair, "the gateway did not take what its visitor said first");
                return;
            }
            let there = &self.shared.metrics.relayed[0];
            there.copied.fetch_add(said.len() as u64, Ordering::Relaxed);
        }
        let sessions = self.shared.sessions.clone();
        let relayed = relayed(self.shared, self.pair, tcp, accepting, self.living, stay);
        sessions.spawn(relayed);
    }

    fn log(&self, refusal: &Refusal) {
        tracing::debug!(pair = %self.pair, reason = refusal.reason(), "session came to nothing");
    }
}

/// Moves bytes until the session ends.
async fn relayed(
    shared: Arc<Shared>,
    pair: PairId,
    dialling: TcpStream,
    accepting: TcpStream,
    living: Living<Party>,
    _stay: Option<Box<Stay>>,
) {
    let open = Open::new(&shared);
    let cut = living.life().token().clone();
    let counters = shared.metrics.relayed.each_ref();
    let end = relay_counting(dialling, accepting, &shared.pipes, counters, cut).await;
    drop(open);
    let reason = living.life().why().map_or(end.as_str(), Cut::as_str);
    shared.metrics.relay_ended(reason);
    tracing::debug!(%pair, reason, "session ended");
}

/// Counts an open session while it lives.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.switch().open += 1;
        shared.metrics.sessions.inc();
        Self(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.switch().open -= 1;
        self.0.metrics.sessions.dec();
    }
}

/// Tells one side why it is not to be, as far as it understands.
async fn turn_away(shared: &Shared, end: End, refusal: &Refusal) {
    match end {
        End::Hop(half) => refuse(shared, half, refusal).await,
        End::Visitor(visitor, _stay) => {
            shared.metrics.refused(refusal.reason());
            if let Err(error) = visitor.refuse(visit::alert(refusal)).await {
                tracing::debug!(%error, "could not tell a visitor of a refusal");
            }
        }
    }
}

/// Tells a gateway why it is not to be.
pub(crate) async fn refuse(shared: &Shared, half: Half, refusal: &Refusal) {
    shared.metrics.refused(refusal.reason());
    if let Err(error) = half.refuse(refusal.fault()).await {
        tracing::debug!(%error, "could not tell of a refusal");
    }
}

/// The dialling side first.
fn parties(side: Side, own: Option<Arc<Party>>, other: Option<Arc<Party>>) -> [Option<Arc<Party>>; 2] {
    match side {
        Side::Dialling => [own, other],
        Side::Accepting => [other, own],
    }
}
