//! A running broker: opened from a gateway's state directory, fed with what the mailbox says, and serving applications and
//! devices.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use hawser_proto::DomainName;
use hawser_seal::{SealError, SenderKey};
use hawser_store::Store;
use ipnet::IpNet;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    control::Control,
    conversation::Conversation,
    core::Core,
    delivery::Machine,
    directory::{Directory, DirectoryError},
    engine::Engine,
    fetching::Fetching,
    link::Heard,
    listening::{ListenError, Listeners},
    metrics::Metrics,
    outbox::{Outbox, OutboxError},
    publishing::Publishing,
    reconcile,
    sealing::Sealer,
    web,
};

/// File of the domain's sender key in the state directory (mode 0600).
pub const SENDER_KEY: &str = "sender.key";
/// How often it is written down which devices came and went.
const CONTACTS: Duration = Duration::from_secs(10);

/// What a broker is started with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The gateway's state directory.
    pub state: PathBuf,
    /// Its domain.
    pub domain: DomainName,
    /// `https://NAME[:PORT]`: where devices reach control.
    pub control: String,
    /// Where applications publish.
    pub listen: Vec<SocketAddr>,
    /// Who may connect there.
    pub clients: Vec<IpNet>,
    /// TLS there, if any; it may ask for client certificates.
    pub tls: Option<Arc<ServerConfig>>,
    /// Life of an event whose publisher does not say.
    pub ttl: Duration,
    /// Most bytes of adapted content that is sent with the notice.
    pub inline_max: usize,
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The sender key.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread of this process.
    #[error("the outbox could not be opened: its thread failed")]
    Thread,
}

/// State of a broker, for people's eyes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokerStatus {
    /// Where devices reach control.
    pub control: String,
    /// Where devices reach the mailbox, while it is connected.
    pub mailbox: Option<String>,
    /// Where applications publish.
    pub listen: Vec<SocketAddr>,
    /// Users.
    pub users: usize,
    /// Devices that are not revoked.
    pub devices: usize,
    /// Events that are not done.
    pub events: usize,
    /// Whether the outbox can be written.
    pub outbox: bool,
}

/// A broker that runs until it is dropped. To end it well, [`Broker::drain`] it first.
pub struct Broker {
    core: Arc<Core>,
    conversation: Arc<Conversation>,
    control: Arc<Control>,
    listeners: Listeners,
    drain: CancellationToken,
    /// Aborted when the broker is dropped.
    _tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broker({})", self.core.domain)
    }
}

impl Broker {
    /// Opens what is kept, and goes on with it. `store` is the gateway's. Must be called within a Tokio runtime.
    pub async fn start(
        settings: Settings,
        store: &Store,
        registry: &mut Registry,
    ) -> Result<Self, BrokerError> {
        let directory = Directory::new(store);
        let state = settings.state.clone();
        let (sender, outbox) = tokio::task::spawn_blocking(move || -> Result<_, BrokerError> {
            let sender = SenderKey::load_or_create(&state.join(SENDER_KEY))?;
            Ok((sender, Outbox::open(&state)?))
        })
        .await
        .map_err(|_| BrokerError::Thread)??;
        let snapshot = directory.snapshot().await?;
        let home = directory.home().await?;
        let machine = Machine::restore(outbox.restore().await?);
        info!(
            events = machine.len(),
            control = settings.control,
            "the broker starts"
        );
        let sealer = Sealer::new(settings.domain.clone(), sender, settings.inline_max);
        let metrics = Metrics::register(registry);
        let core = Arc::new(Core::new(
            settings.domain.clone(),
            settings.control.clone(),
            directory,
            outbox,
            sealer,
            snapshot,
            machine,
            metrics,
        ));
        let fetching = Arc::new(Fetching::new(core.clone()));
        let conversation = Arc::new(Conversation::new(core.clone(), fetching, home));
        let publishing = Arc::new(Publishing::new(core.clone(), settings.ttl));
        let drain = CancellationToken::new();
        let listeners = Listeners::start(&settings, publishing, drain.clone()).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(Engine::new(core.clone()).run());
        tasks.spawn(reconcile::run(core.clone()));
        tasks.spawn(contacts(conversation.clone()));
        Ok(Self {
            control: Arc::new(Control::new(core.clone())),
            core,
            conversation,
            listeners,
            drain,
            _tasks: Mutex::new(tasks),
        })
    }

    /// Takes what a mailbox said. To be called for everything in its order; waits while the outbox is busy.
    pub async fn heard(&self, heard: Heard) {
        self.conversation.heard(heard).await;
    }

    /// Serves a device, or a browser with the device page, on a connection whose TLS has ended here under the published name.
    /// `drain` ends it after the request under way.
    pub async fn visit<S>(&self, stream: S, drain: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let control = self.control.clone();
        web::connection(
            stream,
            drain,
            Arc::new(move |request| control.clone().serve(request)),
        )
        .await;
    }

    /// For people's eyes.
    pub fn status(&self) -> BrokerStatus {
        let (users, devices) = self.core.snapshot.load().size();
        BrokerStatus {
            control: self.core.control.clone(),
            mailbox: self.core.link().map(|link| link.url().to_owned()),
            listen: self.listeners.addresses().to_vec(),
            users,
            devices,
            events: self.core.machine().len(),
            outbox: !self.core.is_broken(),
        }
    }

    /// Whether applications can publish, and what they publish goes out.
    pub fn is_ready(&self) -> bool {
        self.core.link().is_some() && !self.core.is_broken()
    }

    /// Takes no new events, and lets requests under way end, at the latest after `within`. What is accepted is on disk already.
    pub async fn drain(&self, within: Duration) {
        self.drain.cancel();
        let _ = timeout(within, self.listeners.ended()).await;
        self.conversation.write_contacts().await;
    }
}

async fn contacts(conversation: Arc<Conversation>) {
    let mut ticks = interval(CONTACTS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        conversation.write_contacts().await;
    }
}
