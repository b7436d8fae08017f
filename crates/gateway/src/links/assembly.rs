//! Puts the tunnel's parts together, keeps their tasks, and takes them down in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::BoxFuture, stream};
use hawser_identity::{IdentityError, SharedCredentials, Trust};
use hawser_proto::{
    HostName, NodeId, Role, UnixTime,
    control::{JoinOffer, MAX_PUBLISHED, MAX_SERVICES, Registration, ToHub},
};
use hawser_session::{carrier::Ways, end_to_end::Binding, http::Class};
use hawser_store::{Store, StoreError};
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{
    accept::Acceptor,
    chance::Chance,
    hub::Terms,
    hubs::Hubs,
    internal,
    issuing::{CONCERN, Issuing},
    live::Live,
    mailbox::{EVENTS, Keeping, MailboxEvent},
    metrics::Metrics,
    peer::Peer,
    renewal::Renewal,
    sessions::Dialler,
    siblings::Siblings,
    status::{CertificateStatus, HubStatus, IssuerStatus, LinksStatus, PeerStatus},
    trust::Keeper,
    tunnel::{Caller, Tunnel},
    visits::Visits,
};
use crate::{
    callbacks::{keys::Keys, shared::Shared},
    ingress::Ingress,
    seam::{Exports, Links},
};

/// Most join offers told to a hub.
const MAX_OFFERS: usize = 256;
/// How often idle sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often new sessions are told the revocation lists.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often the registration is composed anew without a reason: join offers end by time.
const COMPOSE_EVERY: Duration = Duration::from_secs(30);
/// Peers that are told of a revocation at the same time.
const TELL_AT_ONCE: usize = 16;
/// How long a draining gateway waits for the hubs to tell the others, before it ends sessions.
const WORD_SPREADS: Duration = Duration::from_millis(500);
/// How often a draining gateway looks whether all is quiet.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the tunnel's side is made from.
pub(crate) struct Settings {
    /// State directory.
    pub(crate) dir: PathBuf,
    /// Its database.
    pub(crate) store: Store,
    /// The gateway's credentials.
    pub(crate) own: SharedCredentials,
    /// Ways out to the hubs.
    pub(crate) ways: Ways,
    /// Told to hubs.
    pub(crate) software: Arc<str>,
    /// Of certificates issued here.
    pub(crate) certificate_life: Duration,
    /// What the gateways of the domain know together.
    pub(crate) shared: Option<Shared>,
}

/// Why the tunnel's side did not start.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// Keys, certificates or files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory is that of another kind of node.
    #[error("{} holds the identity {id}: expected that of a {expected}; name another state directory, or join with a token of `hawser token {expected}`", dir.display())]
    Role {
        /// The state directory.
        dir: PathBuf,
        /// Whose it is.
        id: NodeId,
        /// What was to start.
        expected: Role,
    },
}

/// The running tunnel's side of a gateway.
pub(crate) struct Assembly {
    tunnel: Arc<Tunnel>,
    acceptor: Arc<Acceptor>,
    hubs: Arc<Hubs>,
    terms: Terms,
    own: SharedCredentials,
    issuing: Arc<Issuing>,
    live: Live,
    draining: watch::Sender<bool>,
    /// Ends with the assembly.
    tasks: Mutex<JoinSet<()>>,
}

impl Assembly {
    /// Starts everything: trust first, hubs last.
    pub(crate) async fn start(
        settings: Settings,
        exports: Arc<dyn Exports>,
        ingress: Arc<Ingress>,
        registry: &mut Registry,
    ) -> Result<Self, LinksError> {
        let Settings {
            dir,
            store,
            own,
            ways,
            software,
            certificate_life,
            shared,
        } = settings;
        if own.load().id().role != Role::Gateway {
            return Err(LinksError::Role {
                dir,
                id: own.load().id().clone(),
                expected: Role::Gateway,
            });
        }
        let metrics = Metrics::register(registry);
        let trust = Trust::new().shared();
        let live = Live::default();
        let issuing = Issuing::load(
            dir.clone(),
            &store,
            trust.clone(),
            certificate_life,
            metrics.clone(),
        )?;
        let issuing = Arc::new(issuing);
        issuing.tend()?;
        let (keeper, mut work) = Keeper::new(
            &store,
            trust.clone(),
            own.clone(),
            issuing.clone(),
            live.clone(),
            metrics.clone(),
        );
        work.settle().await?;

        let hubs = Arc::new(Hubs::new(&store, ways, own.clone()));
        let dialler = Dialler::new(
            hubs.clone(),
            own.clone(),
            trust.clone(),
            live.clone(),
            metrics.clone(),
        );
        let dialler = Arc::new(dialler);
        let acceptor = Arc::new(Acceptor {
            own: own.clone(),
            trust: trust.clone(),
            live: live.clone(),
            exports: exports.clone(),
            issuing: issuing.clone(),
            keeper: keeper.clone(),
            shared: shared.clone(),
            metrics: metrics.clone(),
            drain: CancellationToken::new(),
            answering: Acceptor::answering(),
            serving: Arc::new(AtomicUsize::new(0)),
        });
        let visits = Arc::new(Visits::new(
            ingress.clone(),
            live.clone(),
            metrics.clone(),
            acceptor.drain.clone(),
            acceptor.serving.clone(),
        ));
        let tunnel = Arc::new(Tunnel::new(
            hubs.clone(),
            dialler.clone(),
            (acceptor.clone(), visits),
            keeper.clone(),
            metrics.clone(),
        ));

        let draining = watch::Sender::new(false);
        let composer = Composer {
            exports,
            issuing: issuing.clone(),
            published: ingress.published(),
            draining: draining.subscribe(),
        };
        let register = watch::Sender::new(composer.compose().await?);
        let renewed = watch::Sender::new(0);
        let terms = Terms {
            software,
            register: register.subscribe(),
            renewed: renewed.subscribe(),
            sink: tunnel.clone(),
            chance: Arc::new(Chance::new()),
        };
        let renewal = Renewal {
            dir,
            own: own.clone(),
            trust: trust.clone(),
            issuing: issuing.clone(),
            dialler,
            keys: Keys::new(&store),
            renewed,
            metrics,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(work.run());
        tasks.spawn(renewal.run());
        tasks.spawn(composer.run(register, store.clone()));
        tasks.spawn(follow(hubs.clone(), terms.clone(), store));
        tasks.spawn(ingress.tend());
        if let Some(shared) = shared {
            tasks.spawn(Siblings::new(tunnel.clone(), shared, own.load().id().clone()).run());
        }
        tasks.spawn(tend(tunnel.clone(), keeper, live.clone(), own.clone()));
        hubs.follow(&terms).await?;
        Ok(Self {
            tunnel,
            acceptor,
            hubs,
            terms,
            own,
            issuing,
            live,
            draining,
            tasks: Mutex::new(tasks),
        })
    }

    /// For the clients' side.
    pub(crate) fn links(&self) -> Links {
        Links::new(Arc::new(Caller(self.tunnel.clone())))
    }

    /// Begins to keep a connection with each hub's mailbox up, until the receiver is dropped.
    pub(crate) fn mailboxes(&self) -> mpsc::Receiver<MailboxEvent> {
        let (events, taken) = mpsc::channel(EVENTS);
        let keeping = Keeping {
            software: self.terms.software.clone(),
            renewed: self.terms.renewed.clone(),
            chance: self.terms.chance.clone(),
            events,
        };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(keeping.run(self.hubs.joined()));
        taken
    }

    /// Other ways out, if given, and another life for certificates issued from now on.
    pub(crate) async fn reload(
        &self,
        ways: Option<Ways>,
        certificate_life: Duration,
    ) -> Result<(), LinksError> {
        self.issuing.set_life(certificate_life);
        if let Some(ways) = ways {
            self.hubs.rewire(ways, &self.terms).await?;
        }
        Ok(())
    }

    /// Asks others to come no more; what is under way goes on.
    pub(crate) async fn begin_drain(&self) {
        self.draining.send_replace(true);
        sleep(WORD_SPREADS).await;
        self.acceptor.drain.cancel();
    }

    /// Waits until nothing is under way, at most until `deadline`; whether it was so.
    pub(crate) async fn quiet(&self, deadline: Instant) -> bool {
        let quiet = async {
            while self.acceptor.serving.load(Ordering::Relaxed) > 0 || self.tunnel.load() > 0 {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout_at(deadline.into(), quiet).await.is_ok()
    }

    /// Ends everything at once.
    pub(crate) fn stop(&self) {
        self.tunnel.draining.store(true, Ordering::Relaxed);
        self.hubs.stop();
        self.live.cut_all();
    }

    /// For people's eyes.
    pub(crate) fn status(&self) -> LinksStatus {
        let now = UnixTime::now();
        let own = self.own.load();
        let mut peers: Vec<_> = self
            .tunnel
            .known()
            .into_iter()
            .map(|peer| {
                let (sessions, warm) = peer.sessions();
                PeerStatus {
                    gateway: peer.node().clone(),
                    sessions,
                    warm,
                    in_flight: peer.in_flight(),
                }
            })
            .collect();
        peers.sort_by(|a, b| a.gateway.cmp(&b.gateway));
        LinksStatus {
            gateway: own.id().clone(),
            certificate: CertificateStatus {
                ends: own.not_after(),
                seconds_left: now.until(own.not_after()).as_secs(),
            },
            issuer: self.issuing.issuer().map(|issuer| {
                let left = now.until(issuer.not_after());
                IssuerStatus {
                    ends: issuer.not_after(),
                    seconds_left: left.as_secs(),
                    warning: (left < CONCERN).then(|| {
                        "the issuer's certificate ends soon: put root.key into the state directory for a moment".into()
                    }),
                }
            }),
            way: self.hubs.way(),
            hubs: self
                .hubs
                .states()
                .into_iter()
                .map(|(hub, state)| HubStatus { hub: hub.to_string(), state })
                .collect(),
            peers,
            sessions: self.live.len(),
            draining: *self.draining.borrow(),
        }
    }

    /// Whether some hub is connected; true when none is known.
    pub(crate) fn is_ready(&self) -> bool {
        let states = self.hubs.states();
        states.is_empty() || states.iter().any(|(_, state)| state.connected)
    }
}

impl Drop for Assembly {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Says what this gateway registers at its hubs.
struct Composer {
    exports: Arc<dyn Exports>,
    issuing: Arc<Issuing>,
    published: watch::Receiver<Vec<HostName>>,
    draining: watch::Receiver<bool>,
}

impl Composer {
    async fn compose(&self) -> Result<ToHub, StoreError> {
        let mut services: Vec<Registration> = self.exports.registrations().borrow().clone();
        services.truncate(MAX_SERVICES);
        let offers = self.issuing.offers().await?;
        Ok(ToHub::Register {
            services,
            issuer: self.issuing.issuer().is_some(),
            draining: *self.draining.borrow(),
            joins: offers
                .into_iter()
                .take(MAX_OFFERS)
                .map(|(hash, expires)| JoinOffer { hash, expires })
                .collect(),
            publishes: self
                .published
                .borrow()
                .iter()
                .take(MAX_PUBLISHED)
                .cloned()
                .collect(),
        })
    }

    async fn run(mut self, register: watch::Sender<ToHub>, store: Store) {
        let mut exports = self.exports.registrations();
        let mut changes = store.watch();
        let mut tick = interval(COMPOSE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = exports.changed() => {}
                Ok(()) = changes.changed() => {}
                Ok(()) = self.draining.changed() => {}
                Ok(()) = self.published.changed() => {}
                _ = tick.tick() => {}
            }
            match self.compose().await {
                Ok(composed) => {
                    register.send_if_modified(|last| {
                        let changed = *last != composed;
                        if changed {
                            *last = composed;
                        }
                        changed
                    });
                }
                Err(error) => error!(%error, "the store failed; the registration stays as it is"),
            }
        }
    }
}

/// Keeps the hubs in step with the store.
pub(super) async fn follow(hubs: Arc<Hubs>, terms: Terms, store: Store) {
    let mut changes = store.watch();
    while changes.changed().await.is_ok() {
        if let Err(error) = hubs.follow(&terms).await {
            error!(%error, "the store failed; the hubs stay as they are");
        }
    }
}

/// Sweeps sessions, and spreads the own domain's revocation lists.
async fn tend(tunnel: Arc<Tunnel>, keeper: Keeper, live: Live, own: SharedCredentials) {
    let mut lists = keeper.watch();
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tell = interval(TELL_EVERY);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut telling = JoinSet::new();
    let mut ageing = JoinSet::new();
    loop {
        tokio::select! {
            _ = sweep.tick() => {
                tunnel.sweep(Instant::now());
                if ageing.is_empty() {
                    let due = live.ageing(UnixTime::now(), Instant::now());
                    if !due.is_empty() {
                        ageing.spawn(again_all(tunnel.clone(), live.clone(), due));
                    }
                }
            }
            Some(_) = ageing.join_next() => {}
            Ok(()) = lists.changed() => {
                let state = *lists.borrow_and_update();
                for hub in tunnel.hubs.all() {
                    keeper.own_lists().into_iter().for_each(|list| hub.tell(list));
                }
                // A newer state replaces one that is still being told.
                telling.abort_all();
                let nodes = audience(&tunnel, &live, &own);
                telling.spawn(tell_all(tunnel.clone(), keeper.clone(), state, nodes, true));
            }
            _ = tell.tick(), if telling.is_empty() => {
                let state = *lists.borrow();
                let nodes = tunnel.known().iter().map(|p| p.node().clone()).collect();
                telling.spawn(tell_all(tunnel.clone(), keeper.clone(), state, nodes, false));
            }
            Some(_) = telling.join_next() => {}
        }
    }
}

/// Authenticates sessions again that are past half of their time and still live, each by a fresher session with the same peer.
async fn again_all(tunnel: Arc<Tunnel>, live: Live, due: BTreeMap<NodeId, Vec<Binding>>) {
    let hubs: Vec<_> = tunnel.hubs.all().iter().map(|hub| hub.key.clone()).collect();
    let one = |(node, bindings): (NodeId, Vec<Binding>)| {
        let (peer, live, hubs) = (tunnel.peer(&node), live.clone(), hubs.clone());
        again(peer, live, hubs, bindings)
    };
    stream::iter(due).for_each_concurrent(TELL_AT_ONCE, one).await;
}

fn again(peer: Arc<Peer>, live: Live, hubs: Vec<Arc<str>>, bindings: Vec<Binding>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let slot = match peer.http(Class::Ordinary).slot(&hubs).await {
            Ok(slot) => slot,
            Err(fault) => {
                debug!(peer = %peer.node(), %fault, "no session to authenticate others by; will try again");
                return;
            }
        };
        let Some(fresh) = live.peer_of(slot.session().binding()) else {
            return;
        };
        let older = live.older(&bindings, fresh.expires);
        if older.is_empty() {
            return;
        }
        let Some(named) = internal::name(slot, &older).await else {
            debug!(peer = %peer.node(), "sessions were not authenticated again; will try again");
            return;
        };
        let done = live.prolong(&fresh, &named, UnixTime::now());
        debug!(peer = %peer.node(), sessions = done.len(), until = fresh.expires.0, "authenticated sessions again");
    })
}

/// Who is to hear of a revocation at once: everybody with a live session, and the own domain's gateways.
fn audience(tunnel: &Tunnel, live: &Live, own: &SharedCredentials) -> BTreeSet<NodeId> {
    let own = own.load();
    let routes = tunnel.hubs.routes();
    let siblings = routes
        .services
        .values()
        .flat_map(|s| &s.gateways)
        .map(|c| c.node.clone())
        .filter(|node| node.domain == own.id().domain);
    live.peers()
        .into_iter()
        .chain(siblings)
        .filter(|node| node != own.id() && node.role == Role::Gateway)
        .collect()
}

/// Tells gateways of the own domain's revocation lists, and asks them for theirs. `dial`: makes a session for it.
async fn tell_all(tunnel: Arc<Tunnel>, keeper: Keeper, state: u64, nodes: BTreeSet<NodeId>, dial: bool) {
    let lists = Arc::new(keeper.own_lists());
    let hubs: Vec<_> = tunnel.hubs.all().iter().map(|hub| hub.key.clone()).collect();
    let one = |node| {
        let peer = tunnel.peer(&node);
        exchange_lists(peer, keeper.clone(), state, lists.clone(), hubs.clone(), dial)
    };
    stream::iter(nodes).for_each_concurrent(TELL_AT_ONCE, one).await;
}

fn exchange_lists(
    peer: Arc<Peer>,
    keeper: Keeper,
    state: u64,
    own: Arc<Vec<Vec<u8>>>,
    hubs: Vec<Arc<str>>,
    dial: bool,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        if dial {
            let made = peer.http(Class::Ordinary).slot(&hubs).await;
            if let Err(fault) = made {
                debug!(peer = %peer.node(), %fault, "cannot tell it of a revocation; its hub will");
            }
        }
        peer.tell(state, &own).await;
        if let Some(session) = peer.session(&hubs).await {
            peer.ask(session, &keeper).await;
        }
    })
}
