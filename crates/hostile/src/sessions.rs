//! Tickets and the seats they lead to, and the bringing together of two sides.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use hawser_proto::{
    NodeId,
    control::ToGateway,
    hop::{TICKET_LIFE, Ticket},
};
use hawser_session::hop::Half;
use tokio::{sync::oneshot, time::timeout};

use crate::{
    deal::{Asked, Deal},
    hub::{Event, Shared},
    middle::Ends,
};

/// How long both sides have to come: a ticket's life, and slack.
const PATIENCE: Duration = TICKET_LIFE.saturating_mul(2);

type Taken = (NodeId, Half);

/// Which tickets lead where. Unlike a real hub's, any number of times and for anybody.
#[derive(Default)]
pub(crate) struct Seats {
    waiting: HashMap<[u8; 32], oneshot::Sender<Taken>>,
    shown: HashSet<[u8; 32]>,
}

/// Where the one who shows a certain ticket will sit.
pub struct Seat(oneshot::Receiver<Taken>);

impl Seat {
    /// Waits for it: who it is, as TLS proved, and its connection. Cancel safe.
    pub async fn taken(self) -> Result<(NodeId, Half)> {
        self.0.await.context("the ticket was forgotten")
    }
}

impl Seats {
    /// A fresh ticket and its seat.
    pub(crate) fn seat(&mut self) -> (Ticket, Seat) {
        let mut ticket = [0; 32];
        // Only an exhausted system refuses; the ticket is then easy to guess, which helps no test.
        let _ = aws_lc_rs::rand::fill(&mut ticket);
        let ticket = Ticket(ticket);
        let seat = self.seat_for(ticket);
        (ticket, seat)
    }

    /// A seat for whoever shows this ticket next.
    pub(crate) fn seat_for(&mut self, ticket: Ticket) -> Seat {
        let (give, take) = oneshot::channel();
        self.waiting.insert(ticket.0, give);
        Seat(take)
    }

    /// Whether the ticket is shown for the first time.
    pub(crate) fn is_fresh(&mut self, ticket: &Ticket) -> bool {
        self.shown.insert(ticket.0)
    }

    /// The seat that a ticket leads to.
    pub(crate) fn take(&mut self, ticket: &Ticket) -> Option<oneshot::Sender<Taken>> {
        self.waiting.remove(&ticket.0)
    }

    /// No ticket given out so far leads anywhere.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

/// Answers request `id` with a session, and stays with it to its end.
pub(crate) async fn bring_together(shared: &Arc<Shared>, asked: Asked, id: u64, deal: Deal) -> Result<()> {
    let (cut, _here) = shared.enter();
    let (dial_ticket, dialling) = shared.seats().seat();
    let accepting = match &deal.partner {
        Some(partner) => {
            let (ticket, seat) = shared.seats().seat();
            shared.tell(
                partner,
                ToGateway::Dial {
                    ticket,
                    peer: Some(deal.announced.clone()),
                    join: None,
                },
            )?;
            Some(seat)
        }
        None => None,
    };
    shared.tell(
        &asked.from,
        ToGateway::Granted {
            id,
            ticket: dial_ticket,
            peer: deal.granted.clone(),
        },
    )?;
    let meet = async {
        let accepting = match accepting {
            Some(seat) => Some(seat.taken().await?.1.ready_go().await?),
            None => None,
        };
        let dialling = dialling.taken().await?.1.ready().await?;
        shared.note(Event::Paired(asked.clone()));
        anyhow::Ok(Ends {
            dialling,
            accepting,
            transcript: shared.transcript(&asked),
        })
    };
    let run = async {
        let ends = timeout(PATIENCE, meet).await.context("one side did not come")??;
        (deal.middle)(ends).await;
        Ok(())
    };
    cut.run_until_cancelled(run).await.unwrap_or(Ok(()))
}
