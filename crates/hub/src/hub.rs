//! A running hub: started, reloaded and drained as one thing.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawser_identity::{HubIdentity, IdentityError, Trust, tls};
use hawser_proto::hop::TICKET_LIFE;
use hawser_session::hop::HopServer;
use hawser_store::{Store, StoreError};
use prometheus_client::registry::Registry as MetricsRegistry;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    arbiter::Arbiter,
    config::{ConfigError, HubConfig, HubPlan, Limits},
    door::{Door, DoorLimits},
    front::Front,
    ledger::{Ledger, LedgerError},
    listen,
    lives::Cut,
    mailbox::{self, Mailbox, MailboxPlan},
    metrics::Metrics,
    registry::Registry,
    shared::{Parts, Shared},
    status::{DomainStatus, GatewayStatus, HubStatus},
    switch::Switch,
};

/// How often the hub looks for expired tickets, and whether it is drained.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often an idle drain is looked at.
const DRAIN_POLL: Duration = Duration::from_millis(20);
/// How long a database that could not be read is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// A running hub. It stops when it is dropped.
pub struct Hub {
    shared: Arc<Shared>,
    state: PathBuf,
    running: Mutex<Running>,
    /// One reload, or drain, at a time.
    changing: tokio::sync::Mutex<()>,
}

struct Running {
    public: String,
    mailbox: Option<MailboxPlan>,
    listeners: BTreeMap<SocketAddr, Listening>,
}

struct Listening {
    local: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Why a hub did not start or reload.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The hub's own key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the database holds.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another process using it, or does it need a privilege?"
    )]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A setting that cannot change while the hub runs.
    #[error("hub.{0} cannot change while the hub runs: restart it; nothing was changed")]
    NeedsRestart(&'static str),
    /// The hub is shutting down.
    #[error("the hub is shutting down: nothing was changed")]
    Draining,
}

impl Hub {
    /// Starts a hub. `software` is told to gateways and operators. Not cancel safe.
    pub async fn start(
        config: HubConfig,
        software: &str,
        metrics: &mut MetricsRegistry,
    ) -> Result<Self, HubError> {
        let plan = config.check()?;
        let identity = HubIdentity::load_or_create(&plan.state)?;
        let store = Store::open(&plan.state)?;
        let trust = Trust::new().shared();
        let hop = HopServer::new(
            tls::hub_hop(&identity, trust.clone())?,
            tls::hub_join(&identity)?,
            trust.clone(),
        );
        let listeners = bind(&plan.listen)?;
        let mut switch = Switch::new(
            Registry::new(plan.limits.registry()),
            plan.limits.tickets(),
            plan.policy.clone(),
            plan.limits.sessions,
        );
        switch.publishing = plan.publishing.clone();
        let stop = CancellationToken::new();
        let front = match &plan.mailbox {
            Some(table) => Some(Arc::new(Front::new(table, &identity, None)?)),
            None => None,
        };
        let mailbox = match &plan.mailbox {
            Some(table) => {
                let metrics = mailbox::Metrics::register(metrics);
                Some(Mailbox::open(table, &plan.state, metrics, stop.clone()).await?)
            }
            None => None,
        };
        let shared = Arc::new(Shared::new(Parts {
            stop,
            mailbox,
            front,
            identity,
            software: software.into(),
            hop,
            ledger: Ledger::new(&store),
            arbiter: Arbiter::new(&store),
            trust,
            switch,
            door: Door::new(door_limits(&plan.limits)),
            limits: plan.limits.clone(),
            metrics: Metrics::register(metrics),
        }));
        // Subscribed before the first reading, so that no change falls between.
        let changes = store.watch();
        shared.refresh().await?;
        tokio::spawn(watch(shared.clone(), changes));
        tokio::spawn(keep_house(shared.clone()));
        let hub = Self {
            state: plan.state.clone(),
            running: Mutex::new(Running {
                public: plan.public.to_string(),
                mailbox: plan.mailbox.clone(),
                listeners: BTreeMap::new(),
            }),
            changing: tokio::sync::Mutex::default(),
            shared,
        };
        hub.listen(listeners);
        let domains = hub.shared.trust.load().domains().count();
        tracing::info!(listen = ?hub.local_addrs(), pin = %hub.shared.identity.pin(), domains, "hub started");
        Ok(hub)
    }

    /// Puts another configuration into force, by the same checks as at the start. If it cannot be, nothing changes. Listeners
    /// that did not change, and what runs and is still allowed, stay. Not cancel safe.
    pub async fn reload(&self, config: HubConfig) -> Result<(), HubError> {
        let plan = config.check()?;
        let _changing = self.changing.lock().await;
        if self.shared.switch().draining {
            return Err(HubError::Draining);
        }
        if plan.state != self.state {
            return Err(HubError::NeedsRestart("state"));
        }
        if plan.limits.pipes != self.shared.limits.load().pipes {
            return Err(HubError::NeedsRestart("limits.pipes"));
        }
        let new: Vec<_> = {
            let running = self.running();
            if let Some(key) = restarts(running.mailbox.as_ref(), plan.mailbox.as_ref()) {
                return Err(HubError::NeedsRestart(key));
            }
            plan.listen
                .iter()
                .filter(|a| !running.listeners.contains_key(a))
                .copied()
                .collect()
        };
        let before = self.shared.front.load_full();
        let front = match &plan.mailbox {
            Some(table) => Some(Arc::new(Front::new(
                table,
                &self.shared.identity,
                before.as_deref(),
            )?)),
            None => None,
        };
        let bound = bind(&new)?;
        // Nothing fails from here on.
        self.shared.front.store(front);
        self.apply(&plan);
        self.listen(bound);
        self.running()
            .listeners
            .retain(|address, _| plan.listen.contains(address));
        tracing::info!(listen = ?self.local_addrs(), rules = plan.policy.len(), "hub reloaded");
        Ok(())
    }

    /// Shuts down gracefully: grants no more sessions, tells the gateways, and gives those that are open this long before it
    /// cuts them. Returns when nothing is left. Cancelled, it leaves a hub that grants nothing.
    pub async fn drain(&self, life: Duration) {
        let _changing = self.changing.lock().await;
        let deadline = Instant::now() + life;
        self.shared.change(|s| s.draining = true);
        tracing::info!(sessions = self.shared.switch().open, ?life, "hub is draining");
        // Sessions granted already may still be taken up, so the listeners go once there are none.
        let granted = async {
            while self.shared.switch().tickets.outstanding() > 0 {
                sleep(DRAIN_POLL).await;
            }
        };
        let _ = timeout(life.min(TICKET_LIFE), granted).await;
        self.running().listeners.clear();
        let sessions = &self.shared.sessions;
        sessions.close();
        if tokio::time::timeout_at(deadline, sessions.wait()).await.is_err() {
            let cut = self.shared.lives.cut(|_| Some(Cut::Drained));
            tracing::warn!(
                cut,
                "sessions were still open when the time for draining was over"
            );
            sessions.wait().await;
        }
        self.shared.stop.cancel();
        tracing::info!("hub is drained");
    }

    /// What the hub is doing now.
    pub fn status(&self) -> HubStatus {
        let shared = &self.shared;
        let trust = shared.trust.load();
        let domains = trust
            .domains()
            .map(|(name, root)| DomainStatus {
                name: name.clone(),
                root: root.to_string(),
            })
            .collect();
        let (public, listen) = {
            let running = self.running();
            (running.public.clone(), locals(&running))
        };
        let (bytes_spliced, bytes_copied) = shared.metrics.relayed();
        let mailbox = shared.mailbox.as_ref().map(|m| m.status());
        let switch = shared.switch();
        let gateways = switch
            .registry
            .gateways()
            .map(|g| {
                let what = g.registered.as_ref();
                GatewayStatus {
                    id: (*g.id).clone(),
                    software: g.handle.software.to_string(),
                    since: g.handle.since,
                    certificate_ends: g.handle.not_after,
                    services: what.map_or(0, |r| r.services.len()),
                    publishes: what.map(|r| r.publishes.clone()).unwrap_or_default(),
                    issuer: what.is_some_and(|r| r.issuer),
                    draining: what.is_some_and(|r| r.draining),
                }
            })
            .collect();
        HubStatus {
            software: shared.software.clone(),
            pin: shared.identity.pin().to_string(),
            public,
            listen,
            draining: switch.draining,
            domains,
            gateways,
            sessions: switch.open,
            granted: switch.tickets.outstanding(),
            unproved: shared.door.len(),
            bytes_spliced,
            bytes_copied,
            visitors: shared.visitors.len(),
            mailbox,
            allows: switch.policy.lines().collect(),
            publishes: switch.publishing.lines().collect(),
        }
    }

    /// Where it listens, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        locals(&self.running())
    }

    /// Its identity, for making tokens.
    pub fn identity(&self) -> &HubIdentity {
        &self.shared.identity
    }

    fn apply(&self, plan: &HubPlan) {
        let shared = &self.shared;
        shared.door.limit(door_limits(&plan.limits));
        shared.visitors.limit(plan.limits.visitors());
        shared.limits.store(Arc::new(plan.limits.clone()));
        shared.change(|s| {
            s.registry.limit(plan.limits.registry());
            s.tickets.limit(plan.limits.tickets());
            s.sessions = plan.limits.sessions;
            if s.policy != plan.policy || s.publishing != plan.publishing {
                s.policy = plan.policy.clone();
                s.publishing = plan.publishing.clone();
                s.registry.changed();
            }
        });
        if let (Some(mailbox), Some(plan)) = (&shared.mailbox, &plan.mailbox) {
            mailbox.limit(&plan.limits);
        }
        let mut running = self.running();
        running.public = plan.public.to_string();
        running.mailbox = plan.mailbox.clone();
        drop(running);
        shared.cut();
    }

    fn listen(&self, bound: Vec<(SocketAddr, tokio::net::TcpListener)>) {
        let mut running = self.running();
        for (address, listener) in bound {
            let stop = self.shared.stop.child_token();
            let local = listener.local_addr().unwrap_or(address);
            tokio::spawn(listen::run(self.shared.clone(), listener, stop.clone()));
            running.listeners.insert(address, Listening { local, stop });
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        self.shared.lives.cut(|_| Some(Cut::Drained));
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({:?})", self.local_addrs())
    }
}

/// What of the mailbox cannot change while the hub runs: devices were told where it is.
fn restarts(old: Option<&MailboxPlan>, new: Option<&MailboxPlan>) -> Option<&'static str> {
    match (old, new) {
        (None, None) => None,
        (Some(old), Some(new)) if old.name == new.name && old.url == new.url => None,
        (Some(_), Some(_)) => Some("mailbox.name"),
        _ => Some("mailbox"),
    }
}

fn bind(addresses: &[SocketAddr]) -> Result<Vec<(SocketAddr, tokio::net::TcpListener)>, HubError> {
    addresses
        .iter()
        .map(|&address| match listen::bind(address) {
            Ok(listener) => Ok((address, listener)),
            Err(source) => Err(HubError::Listen { address, source }),
        })
        .collect()
}

fn locals(running: &Running) -> Vec<SocketAddr> {
    running.listeners.values().map(|l| l.local).collect()
}

fn door_limits(limits: &Limits) -> DoorLimits {
    DoorLimits {
        total: limits.unproved,
        per_source: limits.unproved_per_source,
    }
}

/// Follows the database, which the command line changes, too.
async fn watch(shared: Arc<Shared>, mut changes: tokio::sync::watch::Receiver<u64>) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
        while let Err(error) = shared.refresh().await {
            tracing::error!(%error, "cannot read the database: what was in force stays so");
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = sleep(RETRY) => {}
            }
        }
    }
}

/// Forgets tickets that have expired, and reads the mailbox's certificate again when its files change.
async fn keep_house(shared: Arc<Shared>) {
    let mut tick = interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = tick.tick() => shared.switch().tickets.purge(std::time::Instant::now()),
        }
        let Some(front) = shared.front.load_full() else {
            continue;
        };
        // Fails only when the runtime ends.
        let Ok(looked) = tokio::task::spawn_blocking(move || front.refresh()).await else {
            return;
        };
        let error = match looked {
            Ok(new) => {
                if new {
                    tracing::info!("took the mailbox's new certificate");
                }
                trouble = None;
                continue;
            }
            Err(error) => error.to_string(),
        };
        if trouble.as_ref() != Some(&error) {
            tracing::warn!(%error, "cannot take the mailbox's new certificate; the old one stays");
            trouble = Some(error);
        }
    }
}
