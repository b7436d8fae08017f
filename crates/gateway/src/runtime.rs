//! A running gateway: configuration in, front, exports and tunnel started, changed and ended together.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use hawser_identity::{Credentials, IdentityError};
use hawser_proto::{Fault, NodeId, ServiceId, UnixTime};
use hawser_store::{Store, StoreError};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet, time::interval};
use tracing::{info, warn};

use crate::{
    access_log::AccessLog,
    acme::{Acme, Keep},
    admin::AdminError,
    callbacks::{Callbacks, keys::Keys},
    calls::CallMetrics,
    carriers::{self, CarrierError},
    config::{CertificatePlan, ConfigError, GatewayConfig, GatewayPlan},
    export::{
        ExportError, Exporter,
        interface::{self, InterfaceView},
        replay::Replayed,
    },
    front::{Front, FrontError},
    ingress::{Handler, Ingress, PublicCertificate, PublishedStatus},
    inspect::{Exchange, Shown},
    links::{
        assembly::{Assembly, LinksError, Settings},
        mailbox::MailboxEvent,
        routes::ServiceView,
        status::LinksStatus,
    },
    public::{Public, PublishError},
    seam::Links,
    spool::{self, Spool, admin::Order},
    traces::{self, CollectorError},
};

/// How often the metric of public certificates' ends is set.
const EXPIRIES_EVERY: Duration = Duration::from_secs(5);

/// A gateway that runs until it is dropped. To end it well, [`Gateway::drain`] it first.
pub struct Gateway {
    id: NodeId,
    plan: Mutex<GatewayPlan>,
    exporter: Exporter,
    callbacks: Callbacks,
    spool: Spool,
    metrics: CallMetrics,
    front: Front,
    public: Public,
    ingress: Arc<Ingress>,
    acme: Arc<Acme>,
    /// Ends with the gateway.
    _tasks: JoinSet<()>,
    tunnel: Assembly,
}

/// Why a gateway did not start, or did not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A way out.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A published name.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The keys for calls back.
    #[error(transparent)]
    Keys(#[from] Box<AdminError>),
    /// A listener for clients.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// The tunnel.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// The access log.
    #[error("gateway.access_log: {path} cannot be written: {error}", path = path.display())]
    AccessLog {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The collector of traces.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// A key that only a start can change.
    #[error("gateway.{0} cannot be changed while the gateway runs: restart it")]
    NeedsRestart(&'static str),
}

/// State of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GatewayStatus {
    /// The tunnel.
    #[serde(flatten)]
    pub links: LinksStatus,
    /// Services that some hub shows to this gateway.
    pub services: usize,
    /// Services that it exports: name and whether it is healthy.
    pub exports: Vec<ExportStatus>,
    /// Messages that wait to be delivered, by queue.
    pub queues: Vec<QueueStatus>,
    /// What the hubs say of the names that it publishes.
    pub published: Vec<PublishedStatus>,
    /// The certificates of these names.
    pub certificates: Vec<PublicCertificate>,
}

/// A queue of messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// The exported service, or `hawser-callbacks`.
    pub queue: String,
    /// Messages that wait.
    pub waiting: u64,
    /// Messages that were given up.
    pub dead: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// An exported service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportStatus {
    /// Its name.
    pub name: String,
    /// Whether its health check passes.
    pub healthy: bool,
}

fn access_log(metrics: &CallMetrics, plan: &GatewayPlan) -> Result<Option<Arc<AccessLog>>, GatewayError> {
    let path = plan.access_log.as_deref();
    metrics.access_log(path).map_err(|error| GatewayError::AccessLog {
        path: path.unwrap_or(Path::new("")).to_owned(),
        error,
    })
}

impl Gateway {
    /// Starts a gateway from its configuration. `software` is told to hubs. Must be called within a Tokio runtime.
    pub async fn start(
        config: &GatewayConfig,
        software: &str,
        registry: &mut Registry,
    ) -> Result<Self, GatewayError> {
        Self::start_plan(config.check()?, software, registry).await
    }

    /// Starts a gateway from a checked configuration.
    pub async fn start_plan(
        plan: GatewayPlan,
        software: &str,
        registry: &mut Registry,
    ) -> Result<Self, GatewayError> {
        let own = Credentials::load(&plan.state)?;
        let store = Store::open(&plan.state)?;
        let id = own.id().clone();
        info!(gateway = %id, "starting");
        plan.warnings().iter().for_each(|warning| warn!("{warning}"));
        let metrics = CallMetrics::register(registry);
        metrics.log_to(access_log(&metrics, &plan)?);
        metrics.trace_to(metrics.traces(&id, plan.traces.as_ref())?);
        metrics.inspector().memory().bound(plan.inspect_memory);
        if dir_has_issuer(&plan) {
            Keys::new(&store).ensure().await.map_err(Box::new)?;
        }
        let callbacks = Callbacks::start(id.clone(), &plan, &store).await?;
        let spool = Spool::open(&plan.state, spool::Metrics::register(registry)).await?;
        spool.reload(plan.queues());
        let exporter = Exporter::start(id.clone(), &plan.exports, callbacks.clone(), metrics.clone())?;
        exporter.queue(spool.clone());
        let own = own.shared();
        let public = Public::new(exporter.clone(), metrics.clone(), &store, &plan)?;
        let ingress = Ingress::new(
            own.clone(),
            Keep::new(&plan.state),
            &plan.published(),
            Arc::new(public.clone()),
        )?;
        let acme = Arc::new(Acme::new(&plan.state, &plan, registry));
        let settings = Settings {
            dir: plan.state.clone(),
            store,
            own,
            ways: carriers::of(&plan)?,
            software: software.into(),
            certificate_life: plan.certificate_life,
            shared: callbacks.shared(),
        };
        let exports = Arc::new(exporter.clone());
        let tunnel = Assembly::start(settings, exports, ingress.clone(), registry).await?;
        let front = Front::start(
            &id,
            &plan.front,
            tunnel.links(),
            callbacks.clone(),
            metrics.clone(),
        )?;
        let mut tasks = JoinSet::new();
        let running = acme.clone();
        tasks.spawn(async move { running.run().await });
        tasks.spawn(expiries(ingress.clone(), registry));
        Ok(Self {
            id,
            plan: Mutex::new(plan),
            exporter,
            callbacks,
            spool,
            metrics,
            front,
            public,
            ingress,
            acme,
            _tasks: tasks,
            tunnel,
        })
    }

    /// Takes a new configuration without dropping a call. On an error nothing changes.
    pub async fn reload(&self, config: &GatewayConfig) -> Result<(), GatewayError> {
        self.reload_plan(config.check()?).await
    }

    /// Takes a new checked configuration.
    pub async fn reload_plan(&self, plan: GatewayPlan) -> Result<(), GatewayError> {
        let before = self.plan().clone();
        if plan.state != before.state {
            return Err(GatewayError::NeedsRestart("state"));
        }
        // Everything that can fail comes before anything that changes.
        let other_ways = match plan.carriers != before.carriers || plan.beside != before.beside {
            true => Some(carriers::of(&plan)?),
            false => None,
        };
        let published = self.ingress.prepare(&plan.published())?;
        let public = self.public.prepare(&plan)?;
        let log = access_log(&self.metrics, &plan)?;
        let traces = self.metrics.traces(&self.id, plan.traces.as_ref())?;
        self.callbacks.reload(&plan);
        if let Err(error) = self.exporter.reload(&plan.exports) {
            self.callbacks.reload(&before);
            return Err(error.into());
        }
        if let Err(error) = self.front.reload(&plan.front) {
            self.callbacks.reload(&before);
            self.exporter.reload(&before.exports)?;
            return Err(error.into());
        }
        self.tunnel.reload(other_ways, plan.certificate_life).await?;
        self.public.apply(public);
        self.spool.reload(plan.queues());
        self.ingress.apply(published);
        self.acme.reload(&plan);
        self.metrics.log_to(log);
        self.metrics.trace_to(traces);
        self.metrics.inspector().memory().bound(plan.inspect_memory);
        plan.warnings().iter().for_each(|warning| warn!("{warning}"));
        *self.plan() = plan;
        info!("took the new configuration");
        Ok(())
    }

    /// Ends well: no new connections of clients, other gateways are asked to go elsewhere, and what is under way ends, at
    /// the latest after `within`. What is left then is cut.
    pub async fn drain(&self, within: Duration) {
        let deadline = Instant::now() + within;
        info!(?within, "draining");
        let left = || deadline.saturating_duration_since(Instant::now());
        tokio::join!(self.front.drain(left()), self.tunnel.begin_drain());
        if !self.tunnel.quiet(deadline).await {
            warn!("some calls were still under way at the end of the draining time; they are cut");
        }
        self.spool.drain(left()).await;
        self.exporter.drain(left()).await;
        self.tunnel.stop();
        // A collector that is away holds nothing up for long, even if draining took all its time.
        self.metrics.finish_traces(traces::LAST).await;
        info!("drained");
    }

    /// For people's eyes.
    pub fn status(&self) -> GatewayStatus {
        use crate::seam::Exports;
        let exports = self.exporter.registrations();
        let exports = exports
            .borrow()
            .iter()
            .map(|r| ExportStatus {
                name: r.name.to_string(),
                healthy: r.healthy,
            })
            .collect();
        let totals = self.spool.totals();
        let queues = totals.iter().map(|t| QueueStatus {
            queue: t.queue.to_string(),
            waiting: t.waiting,
            dead: t.dead,
            bytes: t.bytes,
        });
        GatewayStatus {
            links: self.tunnel.status(),
            services: self.services().len(),
            exports,
            queues: queues.collect(),
            published: self.ingress.status(),
            certificates: self.certificates(),
        }
    }

    fn certificates(&self) -> Vec<PublicCertificate> {
        let mut attempts = self.acme.status();
        let one = |(name, source, ends)| {
            let (source, attempt) = match source {
                CertificatePlan::None | CertificatePlan::Files { .. } => ("files", None),
                CertificatePlan::Acme => ("acme", attempts.remove(&name)),
            };
            PublicCertificate {
                name,
                source,
                ends,
                next_attempt: attempt.as_ref().map(|a| a.next),
                error: attempt.and_then(|a| a.error),
            }
        };
        self.ingress.certificates().into_iter().map(one).collect()
    }

    /// The services that can be called from here.
    pub fn services(&self) -> Vec<ServiceView> {
        self.links().routes().view()
    }

    /// What a service that can be called from here says of itself, with addresses that work here. Cancel safe.
    pub async fn interface(&self, service: &ServiceId) -> Result<InterfaceView, Fault> {
        let suffix = self.plan().front.suffix.clone();
        interface::ask(&self.links(), &suffix, service).await
    }

    /// The last exchanges of each service.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.metrics.inspector().exchanges()
    }

    /// What an operator asks of the messages that wait, or does with them; none when the path says nothing of them. Not cancel safe:
    /// what was ordered may be done in part.
    pub fn queue(&self, path: &str, question: Value) -> Option<BoxFuture<'static, Result<Value, String>>> {
        Order::of(path).map(|order| self.spool.clone().asked(order, question))
    }

    /// An exchange, by its id or the beginning of that, with what is recorded of it, secrets masked.
    pub fn exchange(&self, id: &str) -> Result<Shown, String> {
        self.exporter.shown(id)
    }

    /// Sends a recorded request to its origin again. Cancel safe.
    pub async fn replay(&self, id: &str) -> Result<Replayed, String> {
        self.exporter.replay(id).await
    }

    /// Whether calls can be expected to work: some hub is connected, or none has been joined yet.
    pub fn is_ready(&self) -> bool {
        self.tunnel.is_ready()
    }

    /// The listeners for clients.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// The tunnel, for those who call services from within this process.
    pub fn links(&self) -> Links {
        self.tunnel.links()
    }

    /// Publishes the names of the configuration from now on, and has this handler serve who comes. To be called once.
    pub fn publish(&self, handler: Arc<dyn Handler>) {
        self.ingress.serve(handler);
    }

    /// Begins to keep a connection with the mailbox of each hub up: for the broker, which calls this once and takes what
    /// comes. Ends when the receiver is dropped, or with the gateway.
    pub fn mailboxes(&self) -> mpsc::Receiver<MailboxEvent> {
        self.tunnel.mailboxes()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, GatewayPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Published {
    name: String,
}

/// Keeps the metric of public certificates' ends.
fn expiries(ingress: Arc<Ingress>, registry: &mut Registry) -> impl Future<Output = ()> + Send + 'static {
    let ends = Family::<Published, Gauge>::default();
    registry.sub_registry_with_prefix("gateway").register(
        "public_certificate_expiry_seconds",
        "End of a published name's certificate, seconds since 1970",
        ends.clone(),
    );
    async move {
        let mut tick = interval(EXPIRIES_EVERY);
        loop {
            tick.tick().await;
            let now = ingress.certificates();
            ends.clear();
            for (name, _, end) in now {
                let name = name.to_string();
                if let Some(UnixTime(end)) = end {
                    let end = i64::try_from(end).unwrap_or(i64::MAX);
                    ends.get_or_create(&Published { name }).set(end);
                }
            }
        }
    }
}

fn dir_has_issuer(plan: &GatewayPlan) -> bool {
    plan.state.join(hawser_identity::file::ISSUER_KEY).exists()
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gateway")
    }
}
