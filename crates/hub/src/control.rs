//! The control connection of one node: keeps its registration, answers its requests, and tells it what it may see.
//!
//! One task, which alone writes to the gateway; everybody else leaves messages in its bounded queue.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hawser_proto::{
    Role, UnixTime, VERSION,
    arbiter::{Answer, Ask, Denial},
    control::{DEAD_AFTER, PING_EVERY, Publishing, RETIRE_AFTER, Target, ToGateway, ToHub},
};
use hawser_session::hop::{ControlReceiver, ControlSender, HopError};
use tokio::{
    sync::mpsc,
    time::{Instant as TokioInstant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    arbiter::{Asker, Places},
    ledger::KnownList,
    lives::{Cut, Life},
    refusal::Refusal,
    registry::{ConnectionId, Registered, RegistryError, Snapshot},
    shared::{ControlHandle, ListError, Party, Shared},
};

/// Messages to a gateway that wait to be written.
const QUEUE: usize = 1024;

/// Changes within this time after the gateway was told of one are told together: a gateway that registers all the time
/// costs those who see it little.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a replaced connection goes on at most: its node closes it before.
const OUTLIVES: Duration = RETIRE_AFTER.saturating_add(Duration::from_secs(2));

/// Why a control connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error("it took none of our messages for {} s", DEAD_AFTER.as_secs())]
    Stuck,
    #[error("nothing came from it for {} s", DEAD_AFTER.as_secs())]
    Silent,
    #[error("its certificate has ended")]
    Expired,
    #[error("cut: {}", .0.as_str())]
    Cut(Cut),
    #[error("the hub stops")]
    Stopped,
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(
        "it is a host, and registered what only a gateway may: services, an issuer, join offers or published names"
    )]
    Host,
    #[error("it sent a revocation list that is none: {0}")]
    List(ListError),
}

/// Serves a control connection until it ends.
pub(crate) async fn run(
    shared: Arc<Shared>,
    party: Arc<Party>,
    software: Arc<str>,
    sender: ControlSender<ToGateway>,
    receiver: ControlReceiver<ToHub>,
) {
    let id = party.id.clone();
    match serve(shared, party, software, sender, receiver).await {
        End::Host => tracing::warn!(%id, reason = %End::Host, "refused a host's registration"),
        End::Registry(error) => tracing::warn!(%id, %error, "refused a gateway"),
        End::List(error) => {
            tracing::warn!(%id, %error, "closed a gateway's connection for its revocation list")
        }
        end => tracing::info!(%id, reason = %end, "gateway disconnected"),
    }
}

async fn serve(
    shared: Arc<Shared>,
    party: Arc<Party>,
    software: Arc<str>,
    sender: ControlSender<ToGateway>,
    mut receiver: ControlReceiver<ToHub>,
) -> End {
    let parties = [Some(party.clone()), None];
    let living = shared.lives.enter(parties.clone());
    if let Some(cut) = shared.judge(&parties) {
        return End::Cut(cut);
    }
    let (queue, mut queued) = mpsc::channel(QUEUE);
    let (answers, places) = (queue.clone(), shared.arbiter.places());
    let handle = ControlHandle {
        queue,
        life: living.life().clone(),
        replaced: CancellationToken::new(),
        software,
        since: UnixTime::now(),
        not_after: party.proved.not_after,
    };
    let replaced = handle.replaced.clone();
    let connected = match Connected::new(&shared, &party, handle) {
        Ok(connected) => connected,
        Err(error) => return error.into(),
    };
    let mut control = Control {
        connected,
        sender,
        queue: answers,
        places,
        registered: false,
        routes: None,
        number: 0,
        publishing: Vec::new(),
        lists: HashMap::new(),
        told_draining: false,
        heard: Instant::now(),
    };
    let mut changes = shared.changes();
    let mut lists = shared.lists.subscribe();
    let (mut told, mut due) = (None::<TokioInstant>, None::<TokioInstant>);
    let mut ends = None::<TokioInstant>;
    let mut tick = interval(PING_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let welcome = ToGateway::Welcome {
        version: VERSION,
        software: shared.software.clone(),
    };
    if let Err(end) = control.say(&welcome).await {
        return end;
    }
    loop {
        let done = tokio::select! {
            () = living.life().token().cancelled() => Err(End::Cut(living.life().why().unwrap_or(Cut::Drained))),
            () = shared.stop.cancelled() => Err(End::Stopped),
            () = replaced.cancelled(), if ends.is_none() => {
                ends = Some(TokioInstant::now() + OUTLIVES);
                control.connected.end_before();
                Ok(())
            }
            () = sleep_until(ends.unwrap_or_else(TokioInstant::now)), if ends.is_some() => Err(End::Cut(Cut::Replaced)),
            message = receiver.recv() => match message {
                Ok(message) => control.hear(message).await,
                Err(error) => Err(error.into()),
            },
            Some(message) = queued.recv() => control.say(&message).await,
            _ = changes.changed() => {
                let now = TokioInstant::now();
                due.get_or_insert(told.map_or(now, |told| now.max(told + SETTLE)));
                Ok(())
            }
            () = sleep_until(due.unwrap_or_else(TokioInstant::now)), if due.is_some() => {
                (told, due) = (Some(TokioInstant::now()), None);
                control.tell().await
            }
            _ = lists.changed() => control.tell().await,
            _ = tick.tick() => control.tick().await,
        };
        if let Err(end) = done {
            return end;
        }
    }
}

/// A place in the registry, left when it is dropped.
///
/// A node that renews its certificate makes its next connection before it breaks the last one, and answers are under way on
/// the last one meanwhile: one lost there leaves a host in doubt whether the register was changed. So the connection that this
/// one replaced goes on for a while, but ends when this one is itself replaced or ends: a node holds two at most.
struct Connected {
    shared: Arc<Shared>,
    party: Arc<Party>,
    connection: ConnectionId,
    /// The connection that this one replaced.
    before: Option<Life>,
}

impl Connected {
    fn new(shared: &Arc<Shared>, party: &Arc<Party>, handle: ControlHandle) -> Result<Self, RegistryError> {
        let software = handle.software.clone();
        let (connection, old) = shared.change(|s| s.registry.connect(&party.id, handle))?;
        let before = old.map(|old| {
            old.replaced.cancel();
            old.life
        });
        tracing::info!(id = %party.id, %software, replaced = before.is_some(), "gateway connected");
        Ok(Self {
            shared: shared.clone(),
            party: party.clone(),
            connection,
            before,
        })
    }

    fn end_before(&mut self) {
        if let Some(before) = self.before.take() {
            before.cut(Cut::Replaced);
        }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.shared
            .change(|s| s.registry.disconnect(&self.party.id, self.connection));
        self.end_before();
    }
}

struct Control {
    connected: Connected,
    sender: ControlSender<ToGateway>,
    /// The way of answers that take a while.
    queue: mpsc::Sender<ToGateway>,
    /// For questions to the register.
    places: Places,
    registered: bool,
    /// What the gateway was told last.
    routes: Option<Arc<Snapshot>>,
    number: u64,
    /// What the gateway was told last of the names that it publishes.
    publishing: Vec<Publishing>,
    /// Numbers of the revocation lists that the gateway knows, by key.
    lists: HashMap<String, u64>,
    told_draining: bool,
    heard: Instant,
}

/// What a gateway has not been told yet.
struct News {
    routes: Option<Arc<Snapshot>>,
    lists: Vec<KnownList>,
    publishing: Option<Vec<Publishing>>,
    draining: bool,
}

impl Control {
    async fn hear(&mut self, message: ToHub) -> Result<(), End> {
        self.heard = Instant::now();
        match message {
            ToHub::Register {
                services,
                issuer,
                draining,
                joins,
                publishes,
            } => {
                self.register(Registered {
                    services,
                    issuer,
                    draining,
                    joins,
                    publishes,
                })
                .await
            }
            ToHub::Request { id, target } => {
                let answer = self.request(id, &target);
                self.say(&answer).await
            }
            ToHub::Revocations(bytes) => self.take_list(bytes).await,
            ToHub::Ping(n) => self.say(&ToGateway::Pong(n)).await,
            ToHub::Pong(_) => Ok(()),
            ToHub::Arbiter { id, ask } => match self.ask(id, ask) {
                None => Ok(()),
                Some(answer) => self.say(&ToGateway::Arbiter { id, answer }).await,
            },
        }
    }

    async fn register(&mut self, what: Registered) -> Result<(), End> {
        if self.connected.party.id.role == Role::Host
            && (what.issuer
                || !what.services.is_empty()
                || !what.joins.is_empty()
                || !what.publishes.is_empty())
        {
            return Err(End::Host);
        }
        let (shared, id) = (&self.connected.shared, &self.connected.party.id);
        tracing::debug!(%id, services = what.services.len(), issuer = what.issuer, draining = what.draining, "registration");
        let connection = self.connected.connection;
        let conflicts = match shared.change(|s| s.registry.register(id, connection, what)) {
            // What the newer connection says counts; this one still has answers to carry.
            Err(RegistryError::Replaced) => return Ok(()),
            conflicts => conflicts?,
        };
        for service in conflicts {
            tracing::warn!(%id, %service, "another gateway of the domain registers this service with another protocol: only one of the two is routed to");
        }
        self.registered = true;
        self.tell().await
    }

    /// Has the register answer a host in a task of its own; what can be said at once comes back.
    fn ask(&self, id: u64, ask: Ask) -> Option<Answer> {
        let (shared, party) = (&self.connected.shared, &self.connected.party);
        if party.id.role != Role::Host {
            return Some(Answer::Denied(Denial::NoHost));
        }
        let Some(place) = self.places.take() else {
            shared.metrics.asked(&Answer::Busy);
            return Some(Answer::Busy);
        };
        let (shared, party, queue) = (shared.clone(), party.clone(), self.queue.clone());
        tokio::spawn(async move {
            let parties = [Some(party.clone()), None];
            let asker = Asker {
                id: &party.id,
                machines: shared.limits.load().machines_per_domain,
                stands: &|| shared.judge(&parties).is_none(),
            };
            let answer = shared.arbiter.answer(asker, ask).await;
            shared.metrics.asked(&answer);
            // Gone when the connection is; the host asks again on its next one.
            let _ = queue.send(ToGateway::Arbiter { id, answer }).await;
            drop(place);
        });
        None
    }

    /// Grants a session and tells the other side, or says why not.
    fn request(&self, id: u64, target: &Target) -> ToGateway {
        let (shared, asker) = (&self.connected.shared, &self.connected.party.id);
        let now = Instant::now();
        let granted = shared.switch().request(now, asker, target);
        let refused = match granted {
            Ok(granted) => {
                let dial = ToGateway::Dial {
                    ticket: granted.accepting,
                    peer: Some((**asker).clone()),
                    join: None,
                };
                match (granted.peer_handle.queue.try_send(dial), granted.dialling) {
                    (Ok(()), Some(ticket)) => {
                        shared.metrics.granted.inc();
                        tracing::debug!(from = %asker, to = %granted.peer, pair = %granted.pair, "session granted");
                        return ToGateway::Granted {
                            id,
                            ticket,
                            peer: (*granted.peer).clone(),
                        };
                    }
                    _ => {
                        shared.switch().tickets.void(granted.pair);
                        Refusal::GatewayBusy((*granted.peer).clone())
                    }
                }
            }
            Err(refusal) => refusal,
        };
        shared.metrics.refused(refused.reason());
        tracing::debug!(from = %asker, reason = refused.reason(), "session refused");
        ToGateway::Refused {
            id,
            fault: refused.fault(),
        }
    }

    async fn take_list(&mut self, bytes: Vec<u8>) -> Result<(), End> {
        let (shared, id) = (&self.connected.shared, &self.connected.party.id);
        match shared.take_list(id, bytes).await {
            Ok(()) => Ok(()),
            // The hub's own trouble is no reason to lose the gateway, which sends its list again when it reconnects.
            Err(ListError::Ledger(error)) => {
                tracing::error!(%id, %error, "cannot keep a revocation list");
                Ok(())
            }
            Err(error) => Err(End::List(error)),
        }
    }

    /// Tells the gateway whatever it does not know yet.
    async fn tell(&mut self) -> Result<(), End> {
        let news = self.news();
        if let Some(routes) = news.routes {
            self.number += 1;
            let message = ToGateway::Routes {
                routes: routes.routes.clone(),
                domains: routes.domains.clone(),
                number: self.number,
            };
            if routes.left_out > 0 {
                let domain = &self.connected.party.id.domain;
                tracing::warn!(%domain, left_out = routes.left_out, "a domain may see more services than one message holds: narrow its rules");
            }
            self.routes = Some(routes);
            self.say(&message).await?;
        }
        for list in news.lists {
            self.lists.insert(list.key, list.number);
            self.say(&ToGateway::Revocations(list.bytes)).await?;
        }
        if let Some(publishing) = news.publishing {
            self.publishing.clone_from(&publishing);
            self.say(&ToGateway::Publishing(publishing)).await?;
        }
        if news.draining {
            self.told_draining = true;
            self.say(&ToGateway::Draining).await?;
        }
        Ok(())
    }

    fn news(&self) -> News {
        let shared = &self.connected.shared;
        let domain = &self.connected.party.id.domain;
        let lists = shared.lists.borrow().clone();
        let mut switch = shared.switch();
        let switch = &mut *switch;
        // Hosts call nothing, and have to do with nobody else's revocations.
        let host = self.connected.party.id.role == Role::Host;
        let routes = self
            .registered
            .then(|| match host {
                true => Arc::new(Snapshot::default()),
                false => switch.registry.snapshot(domain, &switch.policy),
            })
            .filter(|new| {
                self.routes
                    .as_ref()
                    .is_none_or(|old| !Arc::ptr_eq(old, new) && old != new)
            });
        let lists = lists
            .iter()
            .filter(|l| l.domain == *domain || (!host && switch.policy.related(domain, &l.domain)))
            .filter(|l| self.lists.get(&l.key).is_none_or(|known| *known < l.number))
            .cloned()
            .collect();
        let publishing: Vec<_> = switch
            .registry
            .gateway(&self.connected.party.id)
            .and_then(|g| g.registered.as_ref())
            .into_iter()
            .flat_map(|registered| &registered.publishes)
            .map(|name| Publishing {
                name: name.clone(),
                allowed: switch.publishing.allows(domain, name),
            })
            .collect();
        News {
            routes,
            publishing: (publishing != self.publishing).then_some(publishing),
            lists,
            draining: switch.draining && !self.told_draining,
        }
    }

    async fn tick(&mut self) -> Result<(), End> {
        if self.connected.party.proved.not_after <= UnixTime::now() {
            return Err(End::Expired);
        }
        let silent = self.heard.elapsed();
        if silent >= DEAD_AFTER {
            return Err(End::Silent);
        }
        if silent >= PING_EVERY / 2 {
            self.say(&ToGateway::Ping(silent.as_secs())).await?;
        }
        // Lists are told before registration, too.
        self.tell().await
    }

    async fn say(&mut self, message: &ToGateway) -> Result<(), End> {
        match timeout(DEAD_AFTER, self.sender.send(message)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(End::Stuck),
        }
    }
}
