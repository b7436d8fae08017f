//! The client of one hub: keeps a control connection up, makes it anew before its certificate ends, and asks for sessions on
//! it. What is said on it is decided in [`super::exchange`]; what comes of it goes to a [`Sink`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use hawser_proto::{
    DomainName, Fault, HostName, UnixTime,
    arbiter::{Answer, Ask},
    control::{DEAD_AFTER, Publishing, RETIRE_AFTER, Route, Target, ToGateway, ToHub},
    hop::Ticket,
};
use hawser_session::hop::{ControlReceiver, ControlSender, HopClient, HopError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    asking::{AskError, Asking},
    backoff::Backoff,
    chance::Chance,
    exchange::{Due, Event, Exchange, Grant, Invitation},
    faults,
};

/// Commands that wait for the connection's task.
const COMMANDS: usize = 256;
/// Messages that wait for the socket.
const OUTGOING: usize = 256;
/// Longest wait for the hub's welcome and first routes.
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the hub's answer to a session request.
pub(crate) const GRANT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for an answer of the hub's register.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// First and longest wait between tries to connect, and how long a connection must hold to count as stable.
const BACKOFF: (Duration, Duration, Duration) = (
    Duration::from_millis(100),
    Duration::from_secs(30),
    Duration::from_secs(10),
);

/// Where a hub's news go. Calls return at once.
pub(crate) trait Sink: Send + Sync + 'static {
    /// What may be called through the hub now.
    fn routes(&self, hub: &Arc<Hub>, routes: Vec<Route>, domains: Vec<DomainName>);
    /// Whether the hub takes new sessions; if not, why.
    fn usable(&self, hub: &Arc<Hub>, usable: bool, why: &str);
    /// Somebody wants a session.
    fn invited(&self, hub: &Arc<Hub>, invitation: Invitation);
    /// Somebody outside asks for a name that this gateway publishes.
    fn visited(&self, hub: &Arc<Hub>, ticket: Ticket, name: HostName);
    /// What became of the names that this gateway publishes.
    fn publishing(&self, hub: &Arc<Hub>, said: Vec<Publishing>);
    /// A signed revocation list, which may be anything.
    fn revocations(&self, bytes: Vec<u8>);
    /// Lists of the own domain, for a hub that has just been connected.
    fn own_revocations(&self) -> Vec<Vec<u8>>;
    /// A message was read.
    fn counted(&self) {}
}

/// One hub.
pub(crate) struct Hub {
    /// `host:port`.
    pub(crate) key: Arc<str>,
    /// Makes connections to it.
    pub(crate) client: HopClient,
    connection: ArcSwapOption<Connection>,
    state: Mutex<HubState>,
    stop: CancellationToken,
}

/// A hub for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct HubState {
    /// Whether the control connection is up.
    pub connected: bool,
    /// Since when it has been up, or down.
    pub since: UnixTime,
    /// The hub's software, as it says.
    pub software: String,
    /// Whether the hub is shutting down.
    pub draining: bool,
    /// Why the last connection ended or failed.
    pub last_error: Option<String>,
}

impl HubState {
    fn down_since(since: UnixTime) -> Self {
        Self {
            connected: false,
            since,
            software: String::new(),
            draining: false,
            last_error: None,
        }
    }
}

/// A control connection that is up.
struct Connection {
    number: u64,
    commands: mpsc::Sender<Command>,
    retired: CancellationToken,
    ended: CancellationToken,
    /// It does not answer: another is made while it may go on.
    suspect: CancellationToken,
}

enum Command {
    Request {
        target: Target,
        reply: oneshot::Sender<Result<Grant, Fault>>,
    },
    Revocations(Vec<u8>),
    Ask {
        ask: Ask,
        reply: Asker,
    },
}

type Asker = oneshot::Sender<Result<Answer, AskError>>;
type Waiter = oneshot::Sender<Result<Grant, Fault>>;

/// What every connection to a hub is made with.
#[derive(Clone)]
pub(crate) struct Terms {
    /// Told to the hub.
    pub(crate) software: Arc<str>,
    /// The registration to send, first and whenever it changes.
    pub(crate) register: watch::Receiver<ToHub>,
    /// Changes when the gateway has a new certificate.
    pub(crate) renewed: watch::Receiver<u64>,
    /// Where news go.
    pub(crate) sink: Arc<dyn Sink>,
    /// For jitter.
    pub(crate) chance: Arc<Chance>,
}

impl Hub {
    /// Starts to keep a connection to the hub up, until [`Hub::stop`].
    pub(crate) fn start(key: Arc<str>, client: HopClient, terms: Terms) -> Arc<Self> {
        let hub = Arc::new(Self {
            key,
            client,
            connection: ArcSwapOption::empty(),
            state: Mutex::new(HubState::down_since(UnixTime::now())),
            stop: CancellationToken::new(),
        });
        tokio::spawn(hub.clone().keep(terms));
        hub
    }

    /// Ends the control connection for good.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        if let Some(connection) = self.connection.swap(None) {
            connection.retired.cancel();
        }
    }

    /// Cancelled when the hub was left for good.
    pub(crate) fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks for a session. Waits at most [`GRANT_TIMEOUT`]. Cancel safe.
    pub(crate) async fn request(&self, target: Target) -> Result<Grant, Fault> {
        // Twice: a connection may be replaced under our feet.
        for _ in 0..2 {
            let Some(connection) = self.connection.load_full() else {
                return Err(faults::hub_not_connected(&self.key, &self.why()));
            };
            let (reply, answer) = oneshot::channel();
            let command = Command::Request {
                target: target.clone(),
                reply,
            };
            match connection.commands.try_send(command) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => return Err(faults::hub_busy(&self.key)),
                Err(mpsc::error::TrySendError::Closed(_)) => continue,
            }
            match timeout(GRANT_TIMEOUT, answer).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) => {}
                Err(_) => {
                    let fault = faults::hub_silent(&self.key, GRANT_TIMEOUT);
                    warn!(hub = %self.key, %fault, "a request for a session was not answered");
                    return Err(fault);
                }
            }
        }
        Err(faults::hub_lost(&self.key))
    }

    /// Asks the hub's register. Waits at most [`ASK_TIMEOUT`]. Dropped, a change may be made or not.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        // Twice: a connection may be replaced under our feet.
        for _ in 0..2 {
            let Some(connection) = self.connection.load_full() else {
                return Err(AskError::Unsent(format!(
                    "the hub {} is not connected: {}",
                    self.key,
                    self.why()
                )));
            };
            let (reply, answer) = oneshot::channel();
            let command = Command::Ask {
                ask: ask.clone(),
                reply,
            };
            match connection.commands.try_send(command) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => return Err(self.too_many()),
                Err(mpsc::error::TrySendError::Closed(_)) => continue,
            }
            match timeout(ASK_TIMEOUT, answer).await {
                Ok(Ok(result)) => return result,
                // The connection ended before it was sent.
                Ok(Err(_)) => {}
                Err(_) => {
                    warn!(hub = %self.key, "a question to the register was not answered: reconnecting");
                    connection.suspect.cancel();
                    return Err(AskError::Unknown(format!(
                        "the hub {} did not answer within {} s",
                        self.key,
                        ASK_TIMEOUT.as_secs()
                    )));
                }
            }
        }
        Err(AskError::Unsent(format!(
            "the connection to the hub {} was lost",
            self.key
        )))
    }

    fn too_many(&self) -> AskError {
        AskError::Unsent(format!("too many questions wait for the hub {}", self.key))
    }

    /// Gives the hub a revocation list, if it is connected; on connection it gets all.
    pub(crate) fn tell(&self, revocations: Vec<u8>) {
        if let Some(connection) = self.connection.load_full() {
            // Full means that nothing gets through; the connection will end, and the next one starts with all lists.
            let _ = connection.commands.try_send(Command::Revocations(revocations));
        }
    }

    /// For people's eyes.
    pub(crate) fn state(&self) -> HubState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut HubState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn why(&self) -> String {
        self.state()
            .last_error
            .unwrap_or_else(|| "still connecting".into())
    }

    async fn keep(self: Arc<Self>, mut terms: Terms) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, BACKOFF.2);
        let mut number = 0;
        let stop = self.stop.clone();
        loop {
            number += 1;
            terms.renewed.mark_unchanged();
            let connected = tokio::select! {
                () = stop.cancelled() => return,
                connected = self.clone().connect(number, &terms) => connected,
            };
            match connected {
                Ok(connection) => {
                    let since = Instant::now();
                    let lost = tokio::select! {
                        () = stop.cancelled() => return,
                        () = connection.ended.cancelled() => true,
                        // Make before break: the next round replaces this connection.
                        changed = terms.renewed.changed() => changed.is_err(),
                        () = connection.suspect.cancelled() => false,
                    };
                    backoff.held(since.elapsed());
                    if !lost {
                        debug!(hub = %self.key, "certificate renewed, or no answer: reconnecting");
                        continue;
                    }
                }
                Err(e) => self.failed(&e),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(backoff.failed(&terms.chance)) => {}
            }
        }
    }

    fn failed(self: &Arc<Self>, error: &HopError) {
        warn!(hub = %self.key, %error, "cannot connect to the hub; will try again");
        self.change(|s| s.last_error = Some(error.to_string()));
    }

    /// Connects, registers and waits for the first routes; only then the connection is the current one.
    async fn connect(self: Arc<Self>, number: u64, terms: &Terms) -> Result<Arc<Connection>, HopError> {
        let (sender, receiver) = self.client.control(&terms.software).await?;
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (ready, is_ready) = oneshot::channel();
        let connection = Arc::new(Connection {
            number,
            commands,
            retired: CancellationToken::new(),
            ended: CancellationToken::new(),
            suspect: CancellationToken::new(),
        });
        let talk = Talk {
            hub: self.clone(),
            connection: connection.clone(),
            sink: terms.sink.clone(),
            ready: Some(ready),
        };
        let abandon = connection.retired.clone().drop_guard();
        tokio::spawn(talk.run(sender, receiver, queue, terms.register.clone()));
        match timeout(SETUP_TIMEOUT, is_ready).await {
            Ok(Ok(set_up)) => set_up?,
            Ok(Err(_)) => {
                return Err(HopError::Protocol {
                    with: "hub",
                    what: "it closed before it sent routes",
                });
            }
            Err(_) => {
                return Err(HopError::Timeout {
                    with: "hub",
                    seconds: SETUP_TIMEOUT.as_secs(),
                });
            }
        }
        abandon.disarm();
        Ok(connection)
    }

    fn is_current(&self, connection: &Connection) -> bool {
        self.connection
            .load()
            .as_ref()
            .is_some_and(|c| c.number == connection.number)
    }
}

/// One connection's task.
struct Talk {
    hub: Arc<Hub>,
    connection: Arc<Connection>,
    sink: Arc<dyn Sink>,
    ready: Option<oneshot::Sender<Result<(), HopError>>>,
}

impl Talk {
    async fn run(
        mut self,
        sender: ControlSender<ToHub>,
        receiver: ControlReceiver<ToGateway>,
        queue: mpsc::Receiver<Command>,
        register: watch::Receiver<ToHub>,
    ) {
        let _ended = self.connection.ended.clone().drop_guard();
        let (out, outgoing) = mpsc::channel(OUTGOING);
        let mut exchange = Exchange::new(Instant::now());
        let mut asking = Asking::new();
        let error = tokio::select! {
            error = write(sender, outgoing) => error,
            error = self.talk((&mut exchange, &mut asking), receiver, queue, register, out) => error,
        };
        for waiter in exchange.end() {
            let _ = waiter.send(Err(faults::hub_lost(&self.hub.key)));
        }
        for asker in asking.end() {
            let why = format!("the connection to the hub {} was lost", self.hub.key);
            let _ = asker.send(Err(AskError::Unknown(why)));
        }
        self.over(error);
    }

    /// Reads, answers and asks until the connection ends. None: it was retired.
    async fn talk(
        &mut self,
        (exchange, asking): (&mut Exchange<Waiter>, &mut Asking<Asker>),
        mut receiver: ControlReceiver<ToGateway>,
        mut queue: mpsc::Receiver<Command>,
        mut register: watch::Receiver<ToHub>,
        out: mpsc::Sender<ToHub>,
    ) -> Option<HopError> {
        let mut tick = interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stuck = || HopError::Protocol {
            with: "hub",
            what: "it reads nothing",
        };
        let mut retired_at = None;
        register.mark_changed();
        loop {
            let message = tokio::select! {
                message = receiver.recv() => match message {
                    Ok(message) => self.heard(exchange.message(message, Instant::now()), asking),
                    Err(e) => return Some(e),
                },
                Ok(()) = register.changed() => Some(register.borrow_and_update().clone()),
                Some(command) = queue.recv() => self.commanded(exchange, asking, command),
                _ = tick.tick() => match exchange.tick(Instant::now()) {
                    Due::Nothing => None,
                    Due::Ping(ping) => Some(ping),
                    Due::Dead => return Some(HopError::Timeout { with: "hub", seconds: DEAD_AFTER.as_secs() }),
                },
                () = self.connection.retired.cancelled(), if retired_at.is_none() => {
                    retired_at = Some(Instant::now());
                    None
                }
            };
            if let Some(message) = message
                && out.try_send(message).is_err()
            {
                return Some(stuck());
            }
            if let Some(at) = retired_at
                && (at.elapsed() > RETIRE_AFTER || self.hub.stop.is_cancelled())
            {
                return None;
            }
        }
    }

    fn commanded(
        &self,
        exchange: &mut Exchange<Waiter>,
        asking: &mut Asking<Asker>,
        command: Command,
    ) -> Option<ToHub> {
        match command {
            // Given up before it was sent: the asker must be able to rely on that it is not sent later.
            Command::Ask { reply, .. } if reply.is_closed() => None,
            Command::Ask { ask, reply } => match asking.ask(ask, reply, |w| w.is_closed()) {
                Ok(message) => Some(message),
                Err(reply) => {
                    let _ = reply.send(Err(self.hub.too_many()));
                    None
                }
            },
            Command::Request { target, reply } => match exchange.request(target, reply, |w| w.is_closed()) {
                Ok(message) => Some(message),
                Err(reply) => {
                    let _ = reply.send(Err(faults::hub_busy(&self.hub.key)));
                    None
                }
            },
            Command::Revocations(bytes) => Some(ToHub::Revocations(bytes)),
        }
    }

    fn heard(&mut self, event: Event<Waiter>, asking: &mut Asking<Asker>) -> Option<ToHub> {
        self.sink.counted();
        match event {
            Event::Nothing => {}
            Event::Reply(message) => return Some(message),
            Event::Welcome(software) => self.hub.change(|s| s.software = software),
            Event::Routes(routes, domains) => self.routes(routes, domains),
            Event::Settled(waiter, result) => {
                // Gone when the caller has given up; the ticket expires by itself.
                let _ = waiter.send(result);
            }
            Event::Answer(id, answer) => {
                if let Some((asker, answer)) = asking.answered(id, answer) {
                    let _ = asker.send(Ok(answer));
                }
            }
            Event::Visit(ticket, name) => self.sink.visited(&self.hub, ticket, name),
            Event::Publishing(said) => self.sink.publishing(&self.hub, said),
            Event::Dial(invitation) => self.sink.invited(&self.hub, invitation),
            Event::Revocations(bytes) => self.sink.revocations(bytes),
            Event::Draining => {
                info!(hub = %self.hub.key, "the hub is shutting down: no new sessions through it");
                self.hub.change(|s| s.draining = true);
                self.sink.usable(&self.hub, false, "the hub is shutting down");
            }
        }
        None
    }

    fn routes(&mut self, routes: Vec<Route>, domains: Vec<DomainName>) {
        if self.connection.retired.is_cancelled() {
            return;
        }
        if let Some(ready) = self.ready.take() {
            self.up();
            let _ = ready.send(Ok(()));
        }
        if self.hub.is_current(&self.connection) {
            self.sink.routes(&self.hub, routes, domains);
        }
    }

    /// This connection is the current one from now on.
    fn up(&self) {
        let before = self.hub.connection.swap(Some(self.connection.clone()));
        for list in self.sink.own_revocations() {
            self.hub.tell(list);
        }
        match before {
            Some(before) => before.retired.cancel(),
            None => info!(hub = %self.hub.key, "connected to the hub"),
        }
        self.hub.change(|s| {
            if !s.connected {
                s.since = UnixTime::now();
            }
            s.connected = true;
            s.draining = false;
            s.last_error = None;
        });
        self.sink.usable(&self.hub, true, "");
    }

    fn over(&mut self, error: Option<HopError>) {
        if let Some(ready) = self.ready.take() {
            if let Some(error) = error {
                let _ = ready.send(Err(error));
            }
            return;
        }
        if !self.hub.is_current(&self.connection) {
            return;
        }
        let why = error.map_or_else(|| "stopped".to_owned(), |e| e.to_string());
        warn!(hub = %self.hub.key, error = %why, "lost the connection to the hub");
        self.hub.connection.store(None);
        self.hub.change(|s| {
            s.connected = false;
            s.since = UnixTime::now();
            s.last_error = Some(why.clone());
        });
        self.sink.usable(&self.hub, false, &why);
    }
}

/// Writes what is queued; a write that takes [`DEAD_AFTER`] ends the connection.
async fn write(mut sender: ControlSender<ToHub>, mut outgoing: mpsc::Receiver<ToHub>) -> Option<HopError> {
    while let Some(message) = outgoing.recv().await {
        match timeout(DEAD_AFTER, sender.send(&message)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Some(e),
            Err(_) => {
                return Some(HopError::Timeout {
                    with: "hub",
                    seconds: DEAD_AFTER.as_secs(),
                });
            }
        }
    }
    None
}
