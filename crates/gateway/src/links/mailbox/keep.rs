//! Keeps a connection with each hub's mailbox up, and moves what is said on it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use hawser_identity::Fingerprint;
use hawser_proto::{
    Fault,
    broker::mailbox::{FetchAnswer, FromMailbox, Outcome, ToMailbox},
    control::DEAD_AFTER,
    frame::MAX_FRAME,
};
use hawser_session::hop::{ControlReceiver, ControlSender, HopError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    LinkError, MailboxEvent, MailboxLink, Reply, Request, What,
    talk::{ANSWER, Due, Heard, Talk},
};
use crate::links::{backoff::Backoff, chance::Chance, hub::Hub};

/// Requests of one connection that wait for their outcome; further ones wait to be sent.
const PENDING: usize = 1024;
/// KiB of messages of one connection that wait for the socket; further ones wait for room.
const OUTGOING: usize = 4096;
/// Longest wait for the mailbox's welcome.
const WELCOME: Duration = Duration::from_secs(10);
/// First and longest wait between tries to connect, and how long a connection must hold to count as stable.
const BACKOFF: (Duration, Duration, Duration) = (
    Duration::from_millis(100),
    Duration::from_secs(30),
    Duration::from_secs(10),
);
/// How long a hub that has no mailbox for us is left alone.
const REFUSED: Duration = Duration::from_secs(30);

/// What every connection is made with.
#[derive(Clone)]
pub(in crate::links) struct Keeping {
    /// Told to the hub.
    pub(in crate::links) software: Arc<str>,
    /// Changes when the gateway has a new certificate.
    pub(in crate::links) renewed: watch::Receiver<u64>,
    /// For jitter.
    pub(in crate::links) chance: Arc<Chance>,
    /// Where events go.
    pub(in crate::links) events: mpsc::Sender<MailboxEvent>,
}

impl Keeping {
    /// Follows the hubs that are joined until nobody takes events any more.
    pub(in crate::links) async fn run(self, mut hubs: watch::Receiver<Vec<(Fingerprint, Arc<Hub>)>>) {
        let mut known: Vec<Arc<Hub>> = Vec::new();
        let mut tasks = JoinSet::new();
        loop {
            let joined = hubs.borrow_and_update().clone();
            for (pin, hub) in &joined {
                if !known.iter().any(|k| Arc::ptr_eq(k, hub)) {
                    tasks.spawn(self.clone().keep(*pin, hub.clone()));
                }
            }
            known = joined.into_iter().map(|(_, hub)| hub).collect();
            tokio::select! {
                changed = hubs.changed() => if changed.is_err() { return },
                () = self.events.closed() => return,
                // A hub that was left.
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    async fn keep(mut self, pin: Fingerprint, hub: Arc<Hub>) {
        let stopped = hub.stopped();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, BACKOFF.2);
        let mut last_failure = String::new();
        loop {
            self.renewed.mark_unchanged();
            let met = tokio::select! {
                () = stopped.cancelled() => return,
                () = self.events.closed() => return,
                met = meet(&hub, pin, &self.software) => met,
            };
            let wait = match met {
                Ok((link, halves)) => {
                    last_failure.clear();
                    let since = Instant::now();
                    let end = self.serve(&link, halves, &stopped).await;
                    backoff.held(since.elapsed());
                    match end {
                        End::Stopped => return,
                        End::Renewed => continue,
                        End::Lost => backoff.failed(&self.chance),
                    }
                }
                Err(error) => {
                    let refused = matches!(error, HopError::Refused(_));
                    let why = error.to_string();
                    if why == last_failure {
                        debug!(hub = %hub.key, error = %why, "still no connection with the mailbox");
                    } else {
                        warn!(hub = %hub.key, error = %why, "no connection with the mailbox; will try again");
                        last_failure = why;
                    }
                    let wait = backoff.failed(&self.chance);
                    if refused { wait.max(REFUSED) } else { wait }
                }
            };
            tokio::select! {
                () = stopped.cancelled() => return,
                () = self.events.closed() => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Serves a connection until it ends, and says so.
    async fn serve(&mut self, link: &Arc<Link>, halves: Halves, stopped: &CancellationToken) -> End {
        info!(hub = %link.hub, url = %link.url, "connected with the mailbox");
        let Halves {
            sender,
            receiver,
            outgoing,
        } = halves;
        let (end, why) = tokio::select! {
            () = stopped.cancelled() => (End::Stopped, "the hub was left".to_owned()),
            // Break before make: two connections at a time would make two orders of what is deposited.
            _ = self.renewed.changed() => (End::Renewed, "the certificate was renewed".to_owned()),
            error = write(sender, outgoing) => (End::Lost, error.to_string()),
            error = read(link, receiver, &self.events) => (End::Lost, error.to_string()),
        };
        link.end();
        match end {
            End::Lost => warn!(hub = %link.hub, error = %why, "lost the connection with the mailbox"),
            _ => debug!(hub = %link.hub, reason = %why, "ended the connection with the mailbox"),
        }
        let down = MailboxEvent {
            link: link.clone(),
            what: What::Down(why),
        };
        match self.events.send(down).await {
            Ok(()) => end,
            Err(_) => End::Stopped,
        }
    }
}

enum End {
    Stopped,
    Renewed,
    Lost,
}

/// What a connection is served with.
struct Halves {
    sender: ControlSender<ToMailbox>,
    receiver: ControlReceiver<FromMailbox>,
    outgoing: mpsc::Receiver<Outgoing>,
}

/// A message on its way to the socket, and the room that it takes until it is there.
struct Outgoing {
    message: ToMailbox,
    _room: Option<OwnedSemaphorePermit>,
}

struct Waiter {
    answer: oneshot::Sender<Outcome>,
    /// Given up with the answer, so that those who stop waiting make no more room than there is.
    _place: OwnedSemaphorePermit,
}

/// One connection.
struct Link {
    hub: Arc<str>,
    pin: Fingerprint,
    url: String,
    talk: Mutex<Talk<Waiter>>,
    /// Held by the request that goes out next, so that they go out in the order in which they came.
    turn: Semaphore,
    places: Arc<Semaphore>,
    room: Arc<Semaphore>,
    out: mpsc::Sender<Outgoing>,
    ended: CancellationToken,
}

/// Connects, and waits for the welcome.
async fn meet(hub: &Arc<Hub>, pin: Fingerprint, software: &str) -> Result<(Arc<Link>, Halves), HopError> {
    let (sender, mut receiver) = hub.client.mailbox(software).await?;
    let first = timeout(WELCOME, receiver.recv())
        .await
        .map_err(|_| HopError::Timeout {
            with: "hub",
            seconds: WELCOME.as_secs(),
        })??;
    let mut talk = Talk::new(Instant::now());
    let url = match talk.message(first, Instant::now()) {
        Heard::Welcome(url) => url,
        Heard::Refused(fault) => return Err(HopError::Refused(fault)),
        _ => {
            return Err(HopError::Protocol {
                with: "hub",
                what: "its mailbox's first message is no welcome",
            });
        }
    };
    // Bounded by the room that its messages take, and the few that take none.
    let (out, outgoing) = mpsc::channel(OUTGOING);
    let link = Link {
        hub: hub.key.clone(),
        pin,
        url,
        talk: Mutex::new(talk),
        turn: Semaphore::new(1),
        places: Arc::new(Semaphore::new(PENDING)),
        room: Arc::new(Semaphore::new(OUTGOING)),
        out,
        ended: CancellationToken::new(),
    };
    let halves = Halves {
        sender,
        receiver,
        outgoing,
    };
    Ok((Arc::new(link), halves))
}

impl Link {
    fn talk(&self) -> MutexGuard<'_, Talk<Waiter>> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> LinkError {
        LinkError::Ended(self.hub.clone())
    }

    /// Nobody is answered any more.
    fn end(&self) {
        self.ended.cancel();
        self.turn.close();
        self.places.close();
        self.room.close();
        drop(self.talk().end());
    }

    /// Hands a message to the socket's task when there is room.
    async fn say(&self, message: ToMailbox) -> Result<(), LinkError> {
        let length = length(&message);
        if length > MAX_FRAME {
            return Err(LinkError::TooLong(length));
        }
        let kib = length.div_ceil(1024).min(OUTGOING) as u32;
        let room = self.room.clone().acquire_many_owned(kib).await;
        let outgoing = Outgoing {
            message,
            _room: Some(room.map_err(|_| self.gone())?),
        };
        self.out.send(outgoing).await.map_err(|_| self.gone())
    }

    async fn ask(&self, request: Request) -> Result<Outcome, LinkError> {
        let turn = self.turn.acquire().await.map_err(|_| self.gone())?;
        let place = self.places.clone().acquire_owned().await;
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter {
            answer,
            _place: place.map_err(|_| self.gone())?,
        };
        let (id, message) = self.talk().request(request, waiter).map_err(|_| self.gone())?;
        let unsent = Unsent { link: self, id };
        self.say(message).await?;
        std::mem::forget(unsent);
        drop(turn);
        match timeout(ANSWER, answered).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => {
                self.talk().forget(id);
                Err(LinkError::Silent(self.hub.clone()))
            }
        }
    }
}

/// A request that is not sent yet; dropped, it never will be.
struct Unsent<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.link.talk().forget(self.id);
    }
}

impl MailboxLink for Link {
    fn hub(&self) -> &str {
        &self.hub
    }

    fn pin(&self) -> Fingerprint {
        self.pin
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, request: Request) -> BoxFuture<'_, Result<Outcome, LinkError>> {
        Box::pin(self.ask(request))
    }

    fn reply(&self, reply: Reply) -> BoxFuture<'_, Result<(), LinkError>> {
        Box::pin(self.say(reply.into()))
    }

    fn is_up(&self) -> bool {
        !self.ended.is_cancelled()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.hub)
    }
}

/// Bytes of a message in a frame, at the most.
fn length(message: &ToMailbox) -> usize {
    const FRAMING: usize = 512;
    FRAMING
        + match message {
            ToMailbox::Deposit { envelope, .. } => envelope.len(),
            ToMailbox::Skip { record, .. } => record.len(),
            ToMailbox::Piece { bytes, .. } => bytes.len(),
            ToMailbox::Fetched {
                answer: FetchAnswer::Refused { reason, .. },
                ..
            } => reason.len(),
            _ => 0,
        }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error("nothing came from it for {} s", DEAD_AFTER.as_secs())]
    Silent,
    #[error("it takes none of our messages")]
    Stuck,
    #[error("it refused: {0}")]
    Refused(Fault),
    #[error("nobody takes events")]
    Unheard,
}

/// Announces the connection and reads until it ends. While nobody takes an event, nothing is read.
async fn read(
    link: &Arc<Link>,
    mut receiver: ControlReceiver<FromMailbox>,
    events: &mpsc::Sender<MailboxEvent>,
) -> Lost {
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if let Err(lost) = hand_on(link, What::Up, events, &mut tick).await {
        return lost;
    }
    loop {
        let message = tokio::select! {
            message = receiver.recv() => message,
            _ = tick.tick() => match ticked(link) {
                Ok(()) => continue,
                Err(lost) => return lost,
            }
        };
        let heard = match message {
            Ok(message) => link.talk().message(message, Instant::now()),
            Err(error) => return error.into(),
        };
        let what = match heard {
            Heard::Nothing | Heard::Welcome(_) => continue,
            Heard::Refused(fault) => return Lost::Refused(fault),
            Heard::Done(waiter, outcome) => {
                // Gone when it waits no longer.
                let _ = waiter.answer.send(outcome);
                continue;
            }
            Heard::Answer(message) => match at_once(link, message) {
                Ok(()) => continue,
                Err(lost) => return lost,
            },
            Heard::Event(what) => what,
        };
        if let Err(lost) = hand_on(link, what, events, &mut tick).await {
            return lost;
        }
    }
}

/// Waits for somebody to take an event; the mailbox hears of us meanwhile.
async fn hand_on(
    link: &Arc<Link>,
    what: What,
    events: &mpsc::Sender<MailboxEvent>,
    tick: &mut tokio::time::Interval,
) -> Result<(), Lost> {
    let event = MailboxEvent {
        link: link.clone(),
        what,
    };
    let sending = events.send(event);
    tokio::pin!(sending);
    loop {
        tokio::select! {
            sent = &mut sending => {
                link.talk().taken(Instant::now());
                return sent.map_err(|_| Lost::Unheard);
            }
            _ = tick.tick() => {
                link.talk().taken(Instant::now());
                ticked(link)?;
            }
        }
    }
}

fn ticked(link: &Link) -> Result<(), Lost> {
    let due = link.talk().tick(Instant::now());
    match due {
        Due::Nothing => Ok(()),
        Due::Ping(ping) => at_once(link, ping),
        Due::Dead => Err(Lost::Silent),
    }
}

/// Small messages that wait for nothing. (The queue has a place for each KiB of room, and messages take one at least.)
fn at_once(link: &Link, message: ToMailbox) -> Result<(), Lost> {
    let outgoing = Outgoing { message, _room: None };
    link.out.try_send(outgoing).map_err(|_| Lost::Stuck)
}

/// Writes what is queued; a write that takes [`DEAD_AFTER`] ends the connection.
async fn write(mut sender: ControlSender<ToMailbox>, mut outgoing: mpsc::Receiver<Outgoing>) -> Lost {
    while let Some(Outgoing { message, _room }) = outgoing.recv().await {
        match timeout(DEAD_AFTER, sender.send(&message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Lost::Stuck,
        }
    }
    Lost::Unheard
}
