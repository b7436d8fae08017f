//! A node that is no gateway: a host. It keeps its control connections up, its certificate fresh and its trust current by the
//! same code as a gateway does, exports and calls nothing, and asks the hub's register who may run a machine.

use std::{path::PathBuf, sync::Arc};

use hawser_identity::{Credentials, Fingerprint, HubAddress, SharedCredentials, SharedTrust, Trust};
use hawser_proto::{
    DomainName, HostName, NodeId, Role, UnixTime,
    arbiter::{Answer, Ask},
    control::{Publishing, Route, ToHub},
    hop::Ticket,
};
use hawser_session::carrier::Ways;
use hawser_store::Store;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, info};

use crate::callbacks::keys::Keys;

use super::{
    asking::AskError,
    assembly::{LinksError, follow},
    chance::Chance,
    exchange::Invitation,
    hub::{Hub, Sink, Terms},
    hubs::Hubs,
    issuing::Issuing,
    live::Live,
    metrics::{Hub as HubLabel, Metrics},
    renewal::Renewal,
    sessions::Dialler,
    status::{CertificateStatus, HubStatus},
    trust::Keeper,
};

/// What a node starts from.
pub struct NodeSettings {
    /// Its state directory, as joining made it.
    pub dir: PathBuf,
    /// Ways out to the hubs.
    pub ways: Ways,
    /// Told to hubs.
    pub software: String,
    /// The hub whose register counts; may be left out where one hub was joined.
    pub register: Option<HubAddress>,
}

/// A running node. It ends when it is dropped.
pub struct Node {
    hubs: Arc<Hubs>,
    own: SharedCredentials,
    trust: SharedTrust,
    keeper: Keeper,
    live: Live,
    register: Register,
    /// What a host registers. It never changes.
    _nothing: watch::Sender<ToHub>,
    /// End with the node.
    _tasks: JoinSet<()>,
}

/// State of a node, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// This node.
    pub host: NodeId,
    /// Its certificate.
    pub certificate: CertificateStatus,
    /// The way out that worked last.
    pub way: String,
    /// The hubs that it has joined.
    pub hubs: Vec<HubStatus>,
}

impl Node {
    /// Starts a host. Must be called within a Tokio runtime. Not cancel safe.
    pub async fn start(settings: NodeSettings, registry: &mut Registry) -> Result<Self, LinksError> {
        let NodeSettings {
            dir,
            ways,
            software,
            register,
        } = settings;
        let own = Credentials::load(&dir)?;
        if own.id().role != Role::Host {
            return Err(LinksError::Role {
                dir,
                id: own.id().clone(),
                expected: Role::Host,
            });
        }
        info!(host = %own.id(), "starting");
        let store = Store::open(&dir)?;
        let own = own.shared();
        let metrics = Metrics::register(registry.sub_registry_with_prefix("host"));
        let trust = Trust::new().shared();
        let live = Live::default();
        // Of a certificate that is never issued here.
        let life = hawser_identity::LEAF_LIFE;
        let issuing = Issuing::load(dir.clone(), &store, trust.clone(), life, metrics.clone())?;
        let issuing = Arc::new(issuing);
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
        let renewed = watch::Sender::new(0);
        let nothing = watch::Sender::new(ToHub::Register {
            services: Vec::new(),
            issuer: false,
            draining: false,
            joins: Vec::new(),
            publishes: Vec::new(),
        });
        let terms = Terms {
            software: software.into(),
            register: nothing.subscribe(),
            renewed: renewed.subscribe(),
            sink: Arc::new(News {
                hubs: hubs.clone(),
                keeper: keeper.clone(),
                metrics: metrics.clone(),
            }),
            chance: Arc::new(Chance::new()),
        };
        let renewal = Renewal {
            dir,
            own: own.clone(),
            trust: trust.clone(),
            issuing,
            dialler: Arc::new(dialler),
            keys: Keys::new(&store),
            renewed,
            metrics,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(work.run());
        tasks.spawn(renewal.run());
        tasks.spawn(follow(hubs.clone(), terms.clone(), store));
        hubs.follow(&terms).await?;
        Ok(Self {
            register: Register {
                hubs: hubs.clone(),
                at: register.map(|hub| hub.to_string().into()),
            },
            hubs,
            own,
            trust,
            keeper,
            live,
            _nothing: nothing,
            _tasks: tasks,
        })
    }

    /// Who this node is.
    pub fn id(&self) -> NodeId {
        self.own.load().id().clone()
    }

    /// What it presents; replaced by each renewal.
    pub fn credentials(&self) -> SharedCredentials {
        self.own.clone()
    }

    /// Whom it trusts; replaced by each revocation.
    pub fn trust(&self) -> SharedTrust {
        self.trust.clone()
    }

    /// Changes whenever [`Node::trust`] was replaced: whoever holds connections asks it then whether they stand.
    pub fn trust_changes(&self) -> watch::Receiver<u64> {
        self.keeper.trust_changes()
    }

    /// The register of who may run a machine.
    pub fn register(&self) -> Register {
        self.register.clone()
    }

    /// Whether the hub with the register is connected.
    pub fn is_ready(&self) -> bool {
        self.register.chosen().is_ok_and(|(_, hub)| hub.state().connected)
    }

    /// For people's eyes.
    pub fn status(&self) -> NodeStatus {
        let own = self.own.load();
        NodeStatus {
            host: own.id().clone(),
            certificate: CertificateStatus {
                ends: own.not_after(),
                seconds_left: UnixTime::now().until(own.not_after()).as_secs(),
            },
            way: self.hubs.way(),
            hubs: self
                .hubs
                .states()
                .into_iter()
                .map(|(hub, state)| HubStatus {
                    hub: hub.to_string(),
                    state,
                })
                .collect(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.hubs.stop();
        self.live.cut_all();
    }
}

/// The hub's register, as a host asks it. Clones are the same.
#[derive(Clone)]
pub struct Register {
    hubs: Arc<Hubs>,
    /// `host:port` of the hub, where it was named.
    at: Option<Arc<str>>,
}

impl Register {
    /// Asks, on the control connection that is up: one round trip. An answer takes three seconds at most. Dropped, a change
    /// may be made or not. What is asked at the same time may be answered in another order.
    pub async fn ask(&self, ask: Ask) -> Result<Answer, AskError> {
        let (_, hub) = self.chosen()?;
        hub.ask(ask).await
    }

    /// The hub that holds the register, and its key. Hosts that protect each other's machines must agree on the key: two
    /// registers would let two hosts run one machine.
    pub fn hub(&self) -> Result<(String, Fingerprint), AskError> {
        self.chosen().map(|(pin, hub)| (hub.key.to_string(), pin))
    }

    fn chosen(&self) -> Result<(Fingerprint, Arc<Hub>), AskError> {
        self.hubs.only(self.at.as_deref()).map_err(AskError::Unsent)
    }
}

/// What hubs tell a host.
struct News {
    hubs: Arc<Hubs>,
    keeper: Keeper,
    metrics: Metrics,
}

impl Sink for News {
    fn routes(&self, hub: &Arc<Hub>, routes: Vec<Route>, domains: Vec<DomainName>) {
        self.hubs.shows(hub, routes, domains);
    }

    fn usable(&self, hub: &Arc<Hub>, usable: bool, why: &str) {
        let label = HubLabel {
            hub: hub.key.to_string(),
        };
        let connected = self.metrics.hub_connected.get_or_create(&label);
        connected.set(usable.into());
        if usable {
            self.metrics.hub_connections.get_or_create(&label).inc();
        }
        self.hubs.usable(hub, usable, why);
    }

    fn invited(&self, hub: &Arc<Hub>, _: Invitation) {
        debug!(hub = %hub.key, "the hub invites this host to a session, which it does not take");
    }

    fn visited(&self, hub: &Arc<Hub>, _: Ticket, name: HostName) {
        debug!(hub = %hub.key, %name, "the hub has a visitor for this host, which publishes nothing");
    }

    fn publishing(&self, _: &Arc<Hub>, _: Vec<Publishing>) {}

    fn revocations(&self, bytes: Vec<u8>) {
        self.keeper.offer(bytes);
    }

    fn own_revocations(&self) -> Vec<Vec<u8>> {
        self.keeper.own_lists()
    }

    fn counted(&self) {
        self.metrics.control_messages.inc();
    }
}
