//! The long-running process: starts what the configuration says, reloads it on SIGHUP, drains on SIGTERM.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use hawser_gateway::{
    Gateway,
    config::{BrokerConfig, GatewayPlan},
};
use hawser_hub::Hub;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    admin::{self, Health, Served, Source},
    beside, broker,
    config::{Config, ConfigErrors},
    failure,
    host::Host,
    logs,
};

/// What this build calls itself towards the other side.
pub(crate) const SOFTWARE: &str = concat!("hawser/", env!("CARGO_PKG_VERSION"));

/// Which tables of the configuration run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// All that are there.
    All,
    /// `[hub]` only.
    Hub,
    /// `[gateway]` only.
    Gateway,
    /// `[host]` only.
    Host,
}

/// Runs until a signal ends it.
pub(crate) fn run(path: &Path, which: Which) -> anyhow::Result<()> {
    let config = load(path, which)?;
    let log = logs::start(&config.log)?;
    raise_descriptor_limit();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not start")?
        .block_on(async {
            let (reload, end) = (Reload::new()?, End::new()?);
            let daemon = Daemon::start(path, which, config, log).await?;
            daemon.serve(reload, end).await
        })
}

/// Reads a configuration and checks everything in it that can be checked without running it.
pub(crate) fn load(path: &Path, which: Which) -> Result<Config, ConfigErrors> {
    let mut config = Config::read(path)?;
    let mut errors = ConfigErrors::new(path);
    match which {
        Which::All => {}
        Which::Hub => (config.gateway, config.host) = (None, None),
        Which::Gateway => (config.hub, config.host) = (None, None),
        Which::Host => (config.hub, config.gateway) = (None, None),
    }
    match which {
        Which::All if config.hub.is_none() && config.gateway.is_none() && config.host.is_none() => {
            errors.add("has neither a [hub] nor a [gateway] nor a [host] table: nothing would run");
        }
        Which::Hub if config.hub.is_none() => errors.add("has no [hub] table: nothing would run"),
        Which::Gateway if config.gateway.is_none() => errors.add("has no [gateway] table: nothing would run"),
        Which::Host if config.host.is_none() => errors.add("has no [host] table: nothing would run"),
        _ => {}
    }
    if let Some(Err(e)) = config.hub.as_ref().map(|c| c.check()) {
        e.to_string().lines().for_each(|l| errors.add(l));
    }
    if let Some(Err(e)) = config.gateway.as_ref().map(|c| c.check()) {
        e.to_string().lines().for_each(|l| errors.add(l));
    }
    if let Some(Err(e)) = config.host.as_ref().map(|c| c.check()) {
        errors.add(e.to_string());
    }
    if let (Some(Ok(hub)), Some(Ok(gateway))) = (
        config.hub.as_ref().map(|c| c.check()),
        config.gateway.as_ref().map(|c| c.check()),
    ) {
        beside::contradictions(&hub, &gateway, &mut errors);
    }
    let states = [
        ("hub", config.hub.as_ref().map(|c| &c.state)),
        ("gateway", config.gateway.as_ref().map(|c| &c.state)),
        ("host", config.host.as_ref().map(|c| &c.state)),
    ];
    for (i, (name, state)) in states.iter().enumerate() {
        for (other, _) in states
            .iter()
            .skip(i + 1)
            .filter(|(_, its)| state.is_some() && its == state)
        {
            errors.add(format!(
                "{name}.state and {other}.state are the same directory: each needs its own"
            ));
        }
    }
    errors.none().map(|()| config)
}

struct Daemon {
    path: PathBuf,
    which: Which,
    config: Config,
    log: logs::LogHandle,
    hub: Option<Arc<Hub>>,
    gateway: Option<Arc<Gateway>>,
    broker: Option<Arc<broker::Running>>,
    host: Option<Host>,
    health: Arc<Health>,
    _status: Vec<Served>,
    listener: Option<Served>,
}

impl Daemon {
    async fn start(path: &Path, which: Which, config: Config, log: logs::LogHandle) -> anyhow::Result<Self> {
        let mut registry = Registry::with_prefix("hawser");
        let mut sources: Vec<Arc<dyn Source>> = Vec::new();
        let mut status = Vec::new();
        let mut hub = None;
        let directories = config
            .hub
            .iter()
            .map(|c| &c.state)
            .chain(config.gateway.iter().map(|c| &c.state))
            .chain(config.host.iter().map(|c| &c.state));
        for directory in directories {
            admin::refuse_second(directory).await?;
        }
        let plan = beside::gateway(&config)?;
        if let (Some(hub), Some(gateway)) = (&config.hub, &plan) {
            beside::introduce(&hub.check()?, gateway).await?;
            if let Some(warning) = beside::warning(hub, gateway) {
                tracing::warn!("{warning}");
            }
        }
        if let Some(c) = &config.hub {
            let started = Hub::start(c.clone(), SOFTWARE, &mut registry)
                .await
                .context("the hub could not start")?;
            let started = Arc::new(started);
            let source: Arc<dyn Source> = Arc::new(HubSource(started.clone()));
            status.push(admin::serve_status(&c.state, source.clone()).await?);
            sources.push(source);
            hub = Some(started);
        }
        let (mut gateway, mut broker) = (None, None);
        if let Some(plan) = plan {
            let state = plan.state.clone();
            let started = Gateway::start_plan(plan.clone(), SOFTWARE, &mut registry)
                .await
                .context("the gateway could not start")?;
            let started = Arc::new(started);
            broker = start_broker(&plan, &started, &mut registry).await?;
            let source: Arc<dyn Source> = Arc::new(GatewaySource(started.clone(), broker.clone()));
            status.push(admin::serve_status(&state, source.clone()).await?);
            sources.push(source);
            gateway = Some(started);
        }
        let mut host = None;
        if let Some(c) = &config.host {
            let started = Host::start(c, &mut registry)
                .await
                .context("the host's agent could not start")?;
            let source: Arc<dyn Source> = Arc::new(started.source());
            status.push(admin::serve_status(&c.state, source.clone()).await?);
            sources.push(source);
            host = Some(started);
        }
        let health = Arc::new(Health {
            registry: Mutex::new(registry),
            sources,
        });
        let listener = match config.admin.listen {
            Some(listen) => Some(admin::serve_health(listen, health.clone()).await?),
            None => None,
        };
        tracing::info!(software = SOFTWARE, config = %path.display(), "running");
        notify("READY=1");
        Ok(Self {
            path: path.into(),
            which,
            config,
            log,
            hub,
            gateway,
            broker,
            host,
            health,
            _status: status,
            listener,
        })
    }

    async fn serve(mut self, mut reload: Reload, mut end: End) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = reload.wanted() => {
                    notify("RELOADING=1");
                    match self.reload().await {
                        Ok(()) => tracing::info!(config = %self.path.display(), "configuration reloaded"),
                        Err(e) => {
                            for line in failure::message(&e).lines() {
                                tracing::error!("configuration not reloaded, nothing changed: {line}");
                            }
                        }
                    }
                    notify("READY=1");
                }
                () = end.wanted() => break,
            }
        }
        notify("STOPPING=1");
        let (for_gateway, for_hub) = (
            self.config.gateway.as_ref().map_or(Duration::ZERO, |c| c.drain),
            self.config.hub.as_ref().map_or(Duration::ZERO, |c| c.drain),
        );
        tracing::info!("draining; a second signal stops at once");
        let drained = async {
            if let Some(host) = &self.host {
                host.drain().await;
            }
            if let Some(broker) = &self.broker {
                broker.drain(for_gateway).await;
            }
            // The gateway goes first: what it still does may need the hub beside it.
            if let Some(gateway) = &self.gateway {
                gateway.drain(for_gateway).await;
            }
            if let Some(hub) = &self.hub {
                hub.drain(for_hub).await;
            }
        };
        tokio::select! {
            () = drained => tracing::info!("drained"),
            () = end.wanted() => tracing::warn!("stopped at once by a second signal; calls under way are cut"),
        }
        Ok(())
    }

    /// Either all of the new configuration is in force afterwards, or none.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let new = load(&self.path, self.which)?;
        self.refuse_what_needs_a_restart(&new)?;
        let listener = match new.admin.listen {
            Some(listen) if self.config.admin.listen != new.admin.listen => {
                Some(admin::serve_health(listen, self.health.clone()).await?)
            }
            _ => None,
        };
        if let (Some(hub), Some(c)) = (&self.hub, &new.hub) {
            hub.reload(c.clone()).await.context("[hub]")?;
        }
        if let Err(e) = self.reload_gateway(&new).await {
            if let (Some(hub), Some(old)) = (&self.hub, &self.config.hub) {
                hub.reload(old.clone())
                    .await
                    .context("[hub] could not go back to what it was")?;
            }
            return Err(e).context("[gateway]");
        }
        self.log.reload(&new.log)?;
        if self.config.admin.listen != new.admin.listen {
            self.listener = listener;
        }
        self.config = new;
        Ok(())
    }

    async fn reload_gateway(&self, new: &Config) -> anyhow::Result<()> {
        let (Some(gateway), Some(plan)) = (&self.gateway, beside::gateway(new)?) else {
            return Ok(());
        };
        gateway.reload_plan(plan.clone()).await?;
        // Last, for it only writes when the hub's address has changed, and then nothing else can fail.
        if let Some(hub) = &new.hub
            && let Err(e) = beside::introduce(&hub.check()?, &plan).await
        {
            if let Some(old) = beside::gateway(&self.config)? {
                gateway.reload_plan(old).await?;
            }
            return Err(e);
        }
        Ok(())
    }

    fn refuse_what_needs_a_restart(&self, new: &Config) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::new(&self.path);
        let old = &self.config;
        if old.hub.is_some() != new.hub.is_some() {
            errors.add("the [hub] table came or went: that needs a restart");
        }
        if old.gateway.is_some() != new.gateway.is_some() {
            errors.add("the [gateway] table came or went: that needs a restart");
        }
        if old
            .hub
            .as_ref()
            .zip(new.hub.as_ref())
            .is_some_and(|(o, n)| o.state != n.state)
        {
            errors.add("hub.state changed: that needs a restart");
        }
        if old.host != new.host {
            errors.add("the [host] table changed: that needs a restart");
        }
        if old
            .gateway
            .as_ref()
            .zip(new.gateway.as_ref())
            .is_some_and(|(o, n)| o.state != n.state)
        {
            errors.add("gateway.state changed: that needs a restart");
        }
        let broker = |c: &Config| c.gateway.as_ref().and_then(|g| g.broker.clone());
        if !same_broker(broker(old), broker(new)) {
            errors.add("[gateway.broker] changed in more than certificate and key: that needs a restart");
        }
        if old.log.format != new.log.format {
            errors.add("log.format changed: that needs a restart");
        }
        errors.none()
    }
}

/// Whether two tables differ in nothing but what the gateway takes up while it runs.
fn same_broker(old: Option<BrokerConfig>, new: Option<BrokerConfig>) -> bool {
    let fixed = |config: Option<BrokerConfig>| {
        config.map(|config| BrokerConfig {
            certificate: None,
            key: None,
            acme: false,
            ..config
        })
    };
    fixed(old) == fixed(new)
}

/// What readiness says of a process that ends.
const DRAINING: &str = "draining";

struct HubSource(Arc<Hub>);

impl Source for HubSource {
    fn name(&self) -> &'static str {
        "hub"
    }

    fn status(&self) -> Value {
        json(self.0.status())
    }

    fn services(&self) -> Value {
        Value::Array(Vec::new())
    }

    fn ready(&self) -> Result<(), String> {
        if self.0.status().draining {
            Err(DRAINING.into())
        } else {
            Ok(())
        }
    }
}

/// Starts the broker, where the gateway's table has one.
async fn start_broker(
    plan: &GatewayPlan,
    gateway: &Gateway,
    registry: &mut Registry,
) -> anyhow::Result<Option<Arc<broker::Running>>> {
    let Some(table) = &plan.broker else {
        return Ok(None);
    };
    let started = broker::Running::start(plan, table, gateway, registry).await;
    Ok(Some(Arc::new(started.context("the broker could not start")?)))
}

/// A gateway, and the broker that runs on it, if one does.
struct GatewaySource(Arc<Gateway>, Option<Arc<broker::Running>>);

impl Source for GatewaySource {
    fn name(&self) -> &'static str {
        "gateway"
    }

    fn status(&self) -> Value {
        let mut status = json(self.0.status());
        if let (Value::Object(all), Some(broker)) = (&mut status, &self.1) {
            all.insert("broker".into(), json(broker.status()));
        }
        status
    }

    fn services(&self) -> Value {
        json(self.0.services())
    }

    fn look(&self, path: &str) -> Option<Value> {
        (path == "/exchanges").then(|| json(self.0.exchanges()))
    }

    fn act(&self, path: &str, body: Value) -> Option<BoxFuture<'static, Result<Value, String>>> {
        let gateway = self.0.clone();
        let wanted = |key: &str| {
            body.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match path {
            "/interface" => {}
            "/exchange" => {
                let shown = gateway.exchange(&wanted("request")).map(json);
                return Some(Box::pin(std::future::ready(shown)));
            }
            "/replay" => {
                let id = wanted("request");
                return Some(Box::pin(async move { gateway.replay(&id).await.map(json) }));
            }
            _ => return gateway.queue(path, body),
        }
        Some(Box::pin(async move {
            let service = body.get("service").and_then(Value::as_str).unwrap_or_default();
            let service = service
                .parse()
                .map_err(|e: hawser_proto::NameError| e.to_string())?;
            let interface = gateway
                .interface(&service)
                .await
                .map_err(|fault| fault.to_string())?;
            Ok(json(interface))
        }))
    }

    fn ready(&self) -> Result<(), String> {
        if self.0.status().links.draining {
            Err(DRAINING.into())
        } else if self.0.is_ready() {
            Ok(())
        } else {
            Err("not connected to any hub".into())
        }
    }
}

fn json(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_else(|e| Value::String(format!("cannot be shown: {e}")))
}

struct Reload(Signal);

impl Reload {
    fn new() -> anyhow::Result<Self> {
        listen(SignalKind::hangup()).map(Self)
    }

    /// Waits for SIGHUP. Cancel safe.
    async fn wanted(&mut self) {
        self.0.recv().await;
    }
}

struct End {
    terminate: Signal,
    interrupt: Signal,
}

impl End {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal that ends the process. Cancel safe.
    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("signals cannot be received")
}

/// Every connection takes a descriptor, and a session at the hub two: all that the machine's administrator allows are used.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit of open files cannot be raised");
    }
}

/// Tells the service manager, if one asked to be told (sd_notify(3)).
fn notify(state: &str) {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = std::os::unix::net::UnixDatagram::unbound()
    {
        // Only a courtesy: the service manager times out by itself.
        let _ = socket.send_to(state.as_bytes(), path);
    }
}
