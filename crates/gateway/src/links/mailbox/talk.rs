//! The conversation with a mailbox, without the connection: requests, messages and time in, messages and events out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hawser_proto::{
    Fault,
    broker::mailbox::{FromMailbox, Outcome, ToMailbox},
    control::{DEAD_AFTER, PING_EVERY},
};

use super::{Reply, Request, What};

/// Longest wait for the outcome of one request.
pub(super) const ANSWER: Duration = Duration::from_secs(30);

/// State of a conversation. `W` waits for the outcome of a request.
#[derive(Debug)]
pub(super) struct Talk<W> {
    next_id: u64,
    pending: HashMap<u64, W>,
    heard: Instant,
    said: Instant,
    over: bool,
}

/// What a message means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<W> {
    /// Nothing to do.
    Nothing,
    /// The first message: where devices reach the mailbox.
    Welcome(String),
    /// There is no mailbox for us.
    Refused(Fault),
    /// To be said.
    Answer(ToMailbox),
    /// What became of a request.
    Done(W, Outcome),
    /// For the broker.
    Event(What),
}

/// What the clock asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// To be said.
    Ping(ToMailbox),
    /// Nothing was heard for [`DEAD_AFTER`].
    Dead,
}

impl<W> Talk<W> {
    /// A conversation that begins.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_id: 0,
            pending: HashMap::new(),
            heard: now,
            said: now,
            over: false,
        }
    }

    /// The message for a request, and its number; gives `waiter` back when the conversation is over.
    pub(super) fn request(&mut self, request: Request, waiter: W) -> Result<(u64, ToMailbox), W> {
        if self.over {
            return Err(waiter);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.pending.insert(id, waiter);
        let message = match request {
            Request::Admit {
                device,
                thumbprint,
                epoch,
            } => ToMailbox::Admit {
                id,
                device,
                thumbprint,
                epoch,
            },
            Request::Revoke { device } => ToMailbox::Revoke { id, device },
            Request::Deposit { envelope } => ToMailbox::Deposit { id, envelope },
            Request::Skip {
                device,
                from,
                to,
                record,
            } => ToMailbox::Skip {
                id,
                device,
                from,
                to,
                record,
            },
        };
        Ok((id, message))
    }

    /// Nobody waits for this request's outcome any more.
    pub(super) fn forget(&mut self, id: u64) {
        self.pending.remove(&id);
    }

    /// What `message` means.
    pub(super) fn message(&mut self, message: FromMailbox, now: Instant) -> Heard<W> {
        self.heard = now;
        match message {
            FromMailbox::Welcome { url, .. } => Heard::Welcome(url),
            FromMailbox::Refused(fault) => Heard::Refused(fault),
            FromMailbox::Done { id, outcome } => match self.pending.remove(&id) {
                Some(waiter) => Heard::Done(waiter, outcome),
                None => Heard::Nothing,
            },
            FromMailbox::Reports(reports) => Heard::Event(What::Reports(reports)),
            FromMailbox::Fetch { id, device, request } => Heard::Event(What::Fetch { id, device, request }),
            FromMailbox::Pull { id, offset } => Heard::Event(What::Pull { id, offset }),
            FromMailbox::Over(id) => Heard::Event(What::Over(id)),
            FromMailbox::Contact {
                device,
                connected,
                at,
            } => Heard::Event(What::Contact {
                device,
                connected,
                at,
            }),
            FromMailbox::Ping(n) => Heard::Answer(ToMailbox::Pong(n)),
            FromMailbox::Pong(_) => Heard::Nothing,
        }
    }

    /// An event was taken, for which reading had to wait: the silence meanwhile was ours.
    pub(super) fn taken(&mut self, now: Instant) {
        self.heard = now;
    }

    /// To be asked at least once a second. Pings also when much is heard: the mailbox must hear of us, too.
    pub(super) fn tick(&mut self, now: Instant) -> Due {
        if now.duration_since(self.heard) >= DEAD_AFTER {
            return Due::Dead;
        }
        if now.duration_since(self.said) >= PING_EVERY {
            self.said = now;
            return Due::Ping(ToMailbox::Ping(self.next_id));
        }
        Due::Nothing
    }

    /// It is over: those who still wait.
    pub(super) fn end(&mut self) -> Vec<W> {
        self.over = true;
        self.pending.drain().map(|(_, waiter)| waiter).collect()
    }
}

impl From<Reply> for ToMailbox {
    fn from(reply: Reply) -> Self {
        match reply {
            Reply::Taken(number) => ToMailbox::Taken(number),
            Reply::Fetched { id, answer } => ToMailbox::Fetched { id, answer },
            Reply::Piece { id, bytes } => ToMailbox::Piece { id, bytes },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::broker::DeviceHandle;

    fn device() -> DeviceHandle {
        DeviceHandle([7; 16])
    }

    fn ask(talk: &mut Talk<&'static str>, who: &'static str) -> u64 {
        talk.request(Request::Revoke { device: device() }, who).unwrap().0
    }

    #[test]
    fn outcomes_reach_those_who_asked_once_and_in_any_order() {
        let now = Instant::now();
        let mut talk = Talk::new(now);
        let (a, b) = (ask(&mut talk, "a"), ask(&mut talk, "b"));
        let done = |id| FromMailbox::Done {
            id,
            outcome: Outcome::Kept,
        };
        assert_eq!(talk.message(done(b), now), Heard::Done("b", Outcome::Kept));
        assert_eq!(talk.message(done(b), now), Heard::Nothing);
        assert_eq!(talk.message(done(99), now), Heard::Nothing);
        talk.forget(a);
        assert_eq!(talk.message(done(a), now), Heard::Nothing);
        let c = ask(&mut talk, "c");
        assert_eq!(talk.end(), ["c"]);
        assert_eq!(talk.request(Request::Revoke { device: device() }, "d"), Err("d"));
        assert_eq!(talk.message(done(c), now), Heard::Nothing);
    }

    #[test]
    fn a_mailbox_is_pinged_even_while_it_speaks_and_dead_when_it_does_not() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut talk = Talk::<()>::new(start);
        assert_eq!(talk.tick(at(4)), Due::Nothing);
        talk.message(FromMailbox::Pong(0), at(4));
        assert!(matches!(talk.tick(at(5)), Due::Ping(_)));
        assert_eq!(talk.tick(at(6)), Due::Nothing);
        assert!(matches!(talk.tick(at(10)), Due::Ping(_)));
        assert_eq!(talk.tick(at(19)), Due::Dead);
        talk.taken(at(19));
        assert!(
            matches!(talk.tick(at(19)), Due::Ping(_)),
            "it was us who did not listen"
        );
        assert_eq!(
            talk.message(FromMailbox::Ping(5), at(20)),
            Heard::Answer(ToMailbox::Pong(5))
        );
    }

    #[test]
    fn what_devices_ask_for_is_told() {
        let now = Instant::now();
        let mut talk = Talk::<()>::new(now);
        let fetch = FromMailbox::Fetch {
            id: 3,
            device: device(),
            request: vec![1],
        };
        let told = What::Fetch {
            id: 3,
            device: device(),
            request: vec![1],
        };
        assert_eq!(talk.message(fetch, now), Heard::Event(told));
    }
}
