//! A hub in a directory of its own, domains with roots and issuers, and gateways that do what a test tells them.

use std::{future::Future, sync::Arc, time::Duration};

use hawser_hub::{Allow, Hub, HubConfig, Limits, Publish, make_token};
use hawser_identity::{
    Credentials, HubAddress, HubToken, Issuer, NodeKey, RevocationList, RootAuthority, SharedCredentials,
};
use hawser_proto::{
    DomainName, Fault, NodeId, UnixTime,
    control::{JoinOffer, Protocol, Registration, Route, Target, ToGateway, ToHub},
    hop::{JoinHello, Ticket, admit_statement},
};
use hawser_session::{
    BoxedCarrier,
    carrier::Ways,
    hop::{ControlReceiver, ControlSender, HopClient, HopError, Side, join_admit},
};
use hawser_store::Store;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Rig {
    pub(crate) hub: Hub,
    /// As the command line has it: another connection to the same database.
    pub(crate) store: Store,
    pub(crate) config: HubConfig,
    pub(crate) metrics: Registry,
    _dir: Arc<tempfile::TempDir>,
}

/// Rules as (from, to), for every service.
pub(crate) fn allow(rules: &[(&str, &str)]) -> Vec<Allow> {
    rules
        .iter()
        .map(|(from, to)| Allow {
            from: from.to_string(),
            to: to.to_string(),
            services: vec!["*".into()],
            callbacks: false,
        })
        .collect()
}

impl Rig {
    pub(crate) async fn new(rules: &[(&str, &str)]) -> Self {
        Self::with(allow(rules), Limits::default()).await
    }

    pub(crate) async fn with(allow: Vec<Allow>, limits: Limits) -> Self {
        Self::changed(|config| (config.allow, config.limits) = (allow, limits)).await
    }

    pub(crate) async fn publishing(publish: Vec<Publish>, limits: Limits) -> Self {
        Self::changed(|config| (config.publish, config.limits) = (publish, limits)).await
    }

    /// With a configuration that is otherwise the plainest.
    pub(crate) async fn changed(change: impl FnOnce(&mut HubConfig)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = HubConfig {
            listen: vec!["127.0.0.1:0".into()],
            state: dir.path().join("hub"),
            public: "127.0.0.1:1".into(),
            drain: Duration::from_secs(1),
            allow: Vec::new(),
            publish: Vec::new(),
            limits: Limits::default(),
            mailbox: None,
        };
        change(&mut config);
        Self::start(config, dir).await
    }

    async fn start(config: HubConfig, dir: Arc<tempfile::TempDir>) -> Self {
        let mut metrics = Registry::default();
        let hub = Hub::start(config.clone(), "hub-test/1", &mut metrics)
            .await
            .unwrap();
        Self {
            store: Store::open(&config.state).unwrap(),
            hub,
            config,
            metrics,
            _dir: dir,
        }
    }

    /// The hub dies without a word, and another starts from what is on disk.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            hub,
            store,
            config,
            _dir: dir,
            ..
        } = self;
        drop((hub, store));
        Self::start(config, dir).await
    }

    pub(crate) fn address(&self) -> HubAddress {
        self.hub.local_addrs()[0].to_string().parse().unwrap()
    }

    pub(crate) async fn token(&self, domain: &str, life: Duration) -> HubToken {
        let domain = domain.parse().unwrap();
        make_token(&self.store, self.hub.identity(), self.address(), domain, life)
            .await
            .unwrap()
    }

    pub(crate) async fn admit(&self, domain: &Domain) {
        let token = self.token(domain.name.as_str(), DAY).await;
        domain.ask(&token).await.unwrap();
    }

    /// A domain that is admitted.
    pub(crate) async fn domain(&self, name: &str) -> Domain {
        let domain = Domain::new(name);
        self.admit(&domain).await;
        domain
    }

    /// A client of this hub with these credentials.
    pub(crate) fn client(&self, own: &SharedCredentials) -> HopClient {
        let pin = self.hub.identity().pin();
        HopClient::new(Arc::new(Ways::default()), self.address(), pin, own.clone()).unwrap()
    }

    /// A gateway that is connected and registered nothing.
    pub(crate) async fn connect(&self, domain: &Domain, name: &str) -> Gateway {
        Gateway::connect(self.client(&domain.gateway(name)), domain.id(name))
            .await
            .unwrap()
    }

    /// A gateway that is connected and exports these services.
    pub(crate) async fn gateway(&self, domain: &Domain, name: &str, services: &[&str]) -> Gateway {
        let mut gateway = self.connect(domain, name).await;
        gateway.register(services).await;
        gateway
    }

    pub(crate) fn metric(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text.lines()
            .find_map(|l| l.strip_prefix(line)?.trim().parse().ok())
            .unwrap_or(0)
    }
}

pub(crate) struct Domain {
    pub(crate) name: DomainName,
    pub(crate) root: RootAuthority,
    pub(crate) issuer: Issuer,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        let name: DomainName = name.parse().unwrap();
        let root = RootAuthority::create(&name).unwrap();
        let issuer = Issuer::create(&root, &name, &"i1".parse().unwrap()).unwrap();
        Self { name, root, issuer }
    }

    pub(crate) fn id(&self, name: &str) -> NodeId {
        NodeId::gateway(self.name.clone(), name.parse().unwrap())
    }

    pub(crate) fn gateway(&self, name: &str) -> SharedCredentials {
        self.gateway_for(name, DAY)
    }

    pub(crate) fn gateway_for(&self, name: &str, life: Duration) -> SharedCredentials {
        let key = NodeKey::create().unwrap();
        let chain = self
            .issuer
            .issue(&self.id(name), &key.csr().unwrap(), life)
            .unwrap();
        Credentials::new(chain, &key).unwrap().shared()
    }

    pub(crate) fn hello(&self, token: &HubToken) -> JoinHello {
        let secret = *token.secret.expose();
        let statement = admit_statement(&self.name, &token.pin.0, &secret);
        JoinHello::Admit {
            domain: self.name.clone(),
            secret,
            root: self.root.certificate().to_vec(),
            signature: self.issuer.sign(&statement).unwrap(),
            issuer: self.issuer.certificate().to_vec(),
        }
    }

    pub(crate) async fn ask(&self, token: &HubToken) -> Result<(), HopError> {
        join_admit(&Ways::default(), token, &self.hello(token)).await
    }

    pub(crate) fn list(&self, number: u64, revoked: Vec<NodeId>) -> RevocationList {
        let now = UnixTime::now();
        RevocationList {
            domain: self.name.clone(),
            number,
            this_update: now,
            next_update: now.plus(DAY),
            revoked,
        }
    }

    /// A list signed by the issuer, as it travels.
    pub(crate) fn signed(&self, number: u64, names: &[&str]) -> Vec<u8> {
        let revoked = names.iter().map(|n| self.id(n)).collect();
        let list = self.list(number, revoked);
        self.issuer.sign_revocations(&list).unwrap().to_bytes().unwrap()
    }
}

/// A connected gateway.
pub(crate) struct Gateway {
    pub(crate) id: NodeId,
    pub(crate) hop: HopClient,
    sender: ControlSender<ToHub>,
    receiver: ControlReceiver<ToGateway>,
    /// What came and nobody has asked for yet.
    unread: Vec<ToGateway>,
    next: u64,
    /// Number of the last routes that were looked at.
    pub(crate) routes: u64,
}

impl Gateway {
    pub(crate) async fn connect(hop: HopClient, id: NodeId) -> Result<Self, HopError> {
        let (sender, mut receiver) = within(hop.control("gateway-test/1")).await?;
        let welcome = within(receiver.recv()).await?;
        assert!(
            matches!(welcome, ToGateway::Welcome { .. }),
            "the first word is Welcome: {welcome:?}"
        );
        Ok(Self {
            id,
            hop,
            sender,
            receiver,
            unread: Vec::new(),
            next: 0,
            routes: 0,
        })
    }

    pub(crate) async fn send(&mut self, message: ToHub) {
        within(self.sender.send(&message)).await.unwrap();
    }

    pub(crate) async fn register(&mut self, services: &[&str]) {
        self.register_as(services, false, Vec::new()).await;
    }

    pub(crate) async fn register_as(&mut self, services: &[&str], issuer: bool, joins: Vec<JoinOffer>) {
        let services = services
            .iter()
            .map(|name| Registration {
                name: name.parse().unwrap(),
                protocol: Protocol::Http,
                healthy: true,
                description: String::new(),
            })
            .collect();
        self.send(ToHub::Register {
            services,
            issuer,
            draining: false,
            joins,
            publishes: Vec::new(),
        })
        .await;
        // The hub answers a ping in order, so that it has the registration when this returns.
        self.send(ToHub::Ping(7)).await;
        self.find(|m| matches!(m, ToGateway::Pong(7)).then_some(())).await;
    }

    /// The first message, read already or still to come, that `choose` wants. Others wait their turn.
    pub(crate) async fn find<T>(&mut self, mut choose: impl FnMut(&ToGateway) -> Option<T>) -> T {
        for (i, message) in self.unread.iter().enumerate() {
            if let Some(found) = choose(message) {
                self.unread.remove(i);
                return found;
            }
        }
        loop {
            let message = within(self.receiver.recv()).await.unwrap();
            if let ToGateway::Ping(n) = message {
                self.send(ToHub::Pong(n)).await;
            } else if let Some(found) = choose(&message) {
                return found;
            } else {
                self.unread.push(message);
            }
        }
    }

    /// Reads on until the services that this gateway may see are these. What it was told before is forgotten.
    pub(crate) async fn sees(&mut self, services: &[&str]) -> Vec<Route> {
        let wanted: Vec<_> = services.iter().map(|s| s.to_string()).collect();
        let (found, number) = self
            .find(|m| match m {
                ToGateway::Routes { routes, number, .. } => {
                    let names: Vec<_> = routes.iter().map(|r| r.service.to_string()).collect();
                    (names == wanted).then(|| (routes.clone(), *number))
                }
                _ => None,
            })
            .await;
        assert!(number > self.routes, "routes are numbered");
        self.routes = number;
        self.unread
            .retain(|m| !matches!(m, ToGateway::Routes { number: n, .. } if *n < number));
        found
    }

    pub(crate) async fn request(&mut self, target: Target) -> Result<Ticket, Fault> {
        self.next += 1;
        let id = self.next;
        self.send(ToHub::Request { id, target }).await;
        self.find(|m| match m {
            ToGateway::Granted { id: i, ticket, .. } if *i == id => Some(Ok(*ticket)),
            ToGateway::Refused { id: i, fault } if *i == id => Some(Err(fault.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn ask_for(&mut self, peer: &NodeId) -> Result<Ticket, Fault> {
        self.request(Target::Gateway(peer.clone())).await
    }

    /// The ticket of the next session that somebody wants with this gateway.
    pub(crate) async fn told(&mut self) -> (Ticket, Option<NodeId>) {
        self.find(|m| match m {
            ToGateway::Dial { ticket, peer, .. } => Some((*ticket, peer.clone())),
            _ => None,
        })
        .await
    }

    /// How much of what came and was not asked for is like this.
    pub(crate) fn heard(&self, like: impl Fn(&ToGateway) -> bool) -> usize {
        self.unread.iter().filter(|m| like(m)).count()
    }

    pub(crate) async fn revocations(&mut self) -> Vec<u8> {
        self.find(|m| match m {
            ToGateway::Revocations(bytes) => Some(bytes.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for the hub to close the control connection.
    pub(crate) async fn closed(&mut self) {
        while within(self.receiver.recv()).await.is_ok() {}
    }
}

/// Both ends of a session between two gateways, through the hub.
pub(crate) async fn pair(from: &mut Gateway, to: &mut Gateway) -> (BoxedCarrier, BoxedCarrier) {
    let dialling = from.ask_for(&to.id).await.unwrap();
    let (accepting, peer) = to.told().await;
    assert_eq!(peer.as_ref(), Some(&from.id));
    let (a, b) = tokio::join!(
        within(from.hop.session(dialling, Side::Dialling)),
        within(to.hop.session(accepting, Side::Accepting)),
    );
    (a.unwrap(), b.unwrap())
}

/// Bytes cross in both directions.
pub(crate) async fn alive(a: &mut BoxedCarrier, b: &mut BoxedCarrier) {
    let mut five = [0; 5];
    a.write_all(b"hello").await.unwrap();
    within(b.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"hello");
    b.write_all(b"world").await.unwrap();
    within(a.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"world");
}

/// Waits until this end was reset or closed.
pub(crate) async fn dead(end: &mut BoxedCarrier) {
    let mut rest = [0; 64];
    while !matches!(within(end.read(&mut rest)).await, Ok(0) | Err(_)) {}
}

pub(crate) fn fault(result: Result<BoxedCarrier, HopError>) -> Fault {
    match result {
        Err(HopError::Refused(fault)) => fault,
        Err(other) => panic!("expected a refusal, got {other}"),
        Ok(_) => panic!("expected a refusal, got a session"),
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(LONG, work).await.expect("it took too long")
}

/// Tries until it holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..LONG.as_millis() / 10 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never held: {what}");
}
