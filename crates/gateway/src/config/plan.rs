//! A checked configuration: values parsed, defaults filled in, contradictions refused.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use hawser_identity::HubAddress;
use hawser_proto::{DomainName, ServiceId, ServiceName, control::MAX_DESCRIPTION, control::MAX_SERVICES};
use http::{Uri, uri::Authority, uri::PathAndQuery, uri::Scheme};
use ipnet::IpNet;

use super::{
    CarrierConfig, ExportConfig, Forwarded, GatewayConfig, HealthConfig, HostHeader, ImportConfig,
    ImportProtocol, LimitsConfig, OriginVersion,
    acme::{self, AcmePlan},
    broker::{self, BrokerPlan},
    callbacks::{self, CallbacksPlan},
    inspect::{self, InspectPlan},
    interface::{self, InterfacePlan},
    publish::{self, PublishPlan},
    queue::{self, QueuePlan},
    traces::{self, TracesPlan},
};
use crate::{
    callbacks::targets::Targets,
    export::policy::Policy,
    front::target::Suffix,
    ingress::{By, Wanted},
};

/// What is wrong with a configuration: every complaint names its key and says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .complaints.join("\n"))]
pub struct ConfigError {
    /// One per mistake, each with the key that it is about.
    pub complaints: Vec<String>,
}

/// What a gateway will run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayPlan {
    /// State directory.
    pub state: PathBuf,
    /// How long calls in progress may go on when draining.
    pub drain: Duration,
    /// Life of certificates that are issued here.
    pub certificate_life: Duration,
    /// Where ended calls are written, if anywhere.
    pub access_log: Option<PathBuf>,
    /// Ways out in the order of preference; at least one.
    pub carriers: Vec<CarrierPlan>,
    /// The hub in the same process, if there is one; not from this table.
    pub beside: Option<Beside>,
    /// Where clients come in.
    pub front: FrontPlan,
    /// What is exported.
    pub exports: Vec<ExportPlan>,
    /// What is published.
    pub publish: Vec<PublishPlan>,
    /// Bytes of memory for recorded exchanges.
    pub inspect_memory: usize,
    /// Where spans of calls go, if anywhere.
    pub traces: Option<TracesPlan>,
    /// How services may call their clients back.
    pub callbacks: CallbacksPlan,
    /// The enterprise's side of the broker, if it runs here.
    pub broker: Option<BrokerPlan>,
    /// Where certificates without files come from.
    pub acme: Option<AcmePlan>,
}

impl GatewayPlan {
    /// Where clients' calls are taken.
    pub(crate) fn listening(&self) -> Vec<SocketAddr> {
        let imports = self.front.imports.iter().map(|i| &i.listen);
        let all = self.front.proxy.iter().chain(imports);
        all.chain(&self.callbacks.listen).copied().collect()
    }

    /// Every address that it listens on.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut all = self.listening();
        all.extend(self.broker.iter().flat_map(|b| &b.listen));
        all
    }

    /// The queues that there are, by their names.
    pub(crate) fn queues(&self) -> HashMap<Arc<str>, QueuePlan> {
        let exports = self
            .exports
            .iter()
            .filter_map(|e| Some((e.name.as_str().into(), e.queue.clone()?)));
        let callbacks = self.callbacks.queue.clone();
        exports
            .chain(callbacks.map(|q| (ServiceName::CALLBACKS.into(), q)))
            .collect()
    }

    /// The names that are published.
    pub(crate) fn published(&self) -> Vec<Wanted> {
        let broker = self.broker.iter().map(|b| Wanted {
            name: b.name.clone(),
            certificate: b.certificate.clone(),
            by: By::Given,
        });
        let exports = self.publish.iter().map(|p| Wanted {
            name: p.name.clone(),
            certificate: p.certificate.clone(),
            by: By::Public,
        });
        broker.chain(exports).collect()
    }
}

/// A hub in the same process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beside {
    /// How others reach it.
    pub hub: HubAddress,
    /// Where it listens, as this machine reaches it.
    pub at: SocketAddr,
}

/// One way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CarrierPlan {
    /// TCP straight to the hub.
    Direct,
    /// Through an HTTP proxy.
    Connect {
        /// Host of the proxy.
        host: String,
        /// Port of the proxy.
        port: u16,
        /// User and the file with the password, if the proxy wants them.
        credentials: Option<(String, PathBuf)>,
    },
}

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontPlan {
    /// Last part of service names.
    pub suffix: Suffix,
    /// What exporting gateways are told of clients.
    pub forwarded: Forwarded,
    /// Addresses of the web proxy.
    pub proxy: Vec<SocketAddr>,
    /// Who may use the web proxy.
    pub proxy_clients: Vec<IpNet>,
    /// Hosts that are called by their own addresses, and the domain of each.
    pub through: Vec<(Targets, DomainName)>,
    /// Addresses for calls back alone.
    pub callbacks: Vec<SocketAddr>,
    /// Who may connect there.
    pub callback_clients: Vec<IpNet>,
    /// Addresses that stand for one service.
    pub imports: Vec<ImportPlan>,
    /// What one client can take.
    pub limits: LimitsConfig,
}

/// A local address that stands for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportPlan {
    /// The service.
    pub service: ServiceId,
    /// The address.
    pub listen: SocketAddr,
    /// How clients speak to it.
    pub protocol: ImportProtocol,
    /// Who may connect.
    pub clients: Vec<IpNet>,
}

/// An exported service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPlan {
    /// Its name within the domain.
    pub name: ServiceName,
    /// Where it is.
    pub origin: OriginPlan,
    /// For people.
    pub description: String,
    /// What it says of itself, if that is registered.
    pub interface: Option<InterfacePlan>,
    /// How its health is checked, if at all.
    pub health: Option<HealthPlan>,
    /// Messages that are delivered later, if any.
    pub queue: Option<QueuePlan>,
    /// How its exchanges are recorded, if at all.
    pub inspect: Option<Arc<InspectPlan>>,
    /// Who may do what.
    pub policy: Policy,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
}

/// Where an exported service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPlan {
    /// A web service.
    Http {
        /// Scheme, host and port.
        url: OriginUrl,
        /// HTTP version to speak.
        version: OriginVersion,
        /// The `Host` it sees.
        host: HostHeader,
        /// Who may vouch for it, other than the system's authorities.
        ca: Option<PathBuf>,
        /// Longest silence before the head of its answer.
        response_timeout: Duration,
    },
    /// Nowhere: clients that are called back at addresses in messages, of which there is a description.
    Clients,
    /// A byte stream.
    Tcp {
        /// Host.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Scheme and authority of a web service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Host, and port if not the scheme's own.
    pub authority: Authority,
}

impl OriginUrl {
    /// `http` or `https`.
    pub fn scheme(&self) -> Scheme {
        if self.tls { Scheme::HTTPS } else { Scheme::HTTP }
    }

    /// The host without brackets, as resolvers take it.
    pub fn host(&self) -> &str {
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    /// The port, that of the scheme if none is written.
    pub fn port(&self) -> u16 {
        self.authority
            .port_u16()
            .unwrap_or(if self.tls { 443 } else { 80 })
    }
}

impl FromStr for OriginUrl {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wanted = || format!("{s:?} is no origin: expected \"http://HOST:PORT\" or \"https://HOST:PORT\"");
        let parts = s.parse::<Uri>().map_err(|_| wanted())?.into_parts();
        let tls = match parts.scheme.as_ref().map(Scheme::as_str) {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wanted()),
        };
        let authority = parts.authority.ok_or_else(wanted)?;
        if authority.as_str().contains('@') {
            return Err(
                "an origin's URL carries no user or password: let the caller send Authorization".into(),
            );
        }
        if parts.path_and_query.is_some_and(|p| p.as_str() != "/") {
            return Err(format!(
                "{s:?} has a path: paths pass unchanged, so name scheme, host and port alone"
            ));
        }
        Ok(Self { tls, authority })
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority)
    }
}

/// How an export's health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthPlan {
    /// What to GET; a TCP export is only connected to.
    pub path: PathAndQuery,
    /// Time between checks.
    pub interval: Duration,
    /// Longest wait for one.
    pub timeout: Duration,
    /// Good checks in a row that make it healthy.
    pub rise: u32,
    /// Bad checks in a row that make it unhealthy.
    pub fall: u32,
}

/// Gathers complaints, so that an operator sees all at once.
#[derive(Default)]
pub(super) struct Complaints(Vec<String>);

impl Complaints {
    pub(super) fn add(&mut self, key: &str, what: impl fmt::Display) {
        self.0.push(format!("{key}: {what}"));
    }

    pub(super) fn take<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.add(key, e)).ok()
    }

    pub(super) fn between<T: PartialOrd + fmt::Debug>(&mut self, key: &str, value: T, least: T, most: T) {
        if value < least || value > most {
            self.add(
                key,
                format_args!("{value:?} is out of range: expected {least:?} to {most:?}"),
            );
        }
    }
}

/// How a server outside is reached: straight, or by the gateway's ways out.
pub(super) fn ways(direct: bool, carriers: &[CarrierPlan]) -> Vec<CarrierPlan> {
    match direct {
        true => vec![CarrierPlan::Direct],
        false => carriers.to_vec(),
    }
}

pub(super) fn check(c: &GatewayConfig) -> Result<GatewayPlan, ConfigError> {
    let mut bad = Complaints::default();
    let mut seen = HashSet::new();
    let front = front(c, &mut seen, &mut bad);
    let proxy = front.as_ref().map(|f| &*f.proxy).unwrap_or_default();
    let callbacks = callbacks::check(&c.callbacks, proxy, &mut seen, &mut bad);
    let broker = c
        .broker
        .as_ref()
        .and_then(|broker| broker::check(broker, c.acme.is_some(), &mut seen, &mut bad));
    let exports = exports(&c.export, &mut bad);
    let carriers = carriers(&c.carrier, &mut bad);
    let around = publish::Around {
        exports: &exports,
        carriers: &carriers,
        broker: broker.as_ref().map(|b| &b.name),
        acme: c.acme.is_some(),
    };
    let publish = publish::check(&c.publish, &around, &mut bad);
    let acme = c
        .acme
        .as_ref()
        .and_then(|acme| acme::check(acme, &carriers, &mut bad));
    inspect::memory(&c.inspect, &mut bad);
    let traces = c.traces.as_ref().and_then(|t| traces::check(t, &mut bad));
    let minute = Duration::from_secs(60);
    bad.between(
        "gateway.certificate_life",
        c.certificate_life,
        Duration::from_secs(10),
        minute * 60 * 24 * 7,
    );
    bad.between("gateway.drain", c.drain, Duration::ZERO, minute * 60);
    if c.state.as_os_str().is_empty() {
        bad.add("gateway.state", "is empty: expected a directory");
    }
    match front.zip(callbacks) {
        Some((mut front, callbacks)) if bad.0.is_empty() => Ok({
            front.callbacks.clone_from(&callbacks.listen);
            front.callback_clients.clone_from(&callbacks.clients);
            GatewayPlan {
                access_log: c.access_log.clone(),
                state: c.state.clone(),
                drain: c.drain,
                certificate_life: c.certificate_life,
                carriers,
                beside: None,
                front,
                exports,
                publish,
                inspect_memory: c.inspect.memory_bytes,
                traces,
                callbacks,
                broker,
                acme,
            }
        }),
        _ => Err(ConfigError { complaints: bad.0 }),
    }
}

fn front(c: &GatewayConfig, seen: &mut HashSet<SocketAddr>, bad: &mut Complaints) -> Option<FrontPlan> {
    let suffix = bad.take("gateway.suffix", c.suffix.parse::<Suffix>());
    let mut proxy = Vec::new();
    for a in c.proxy.iter().flat_map(|p| &p.listen) {
        proxy.extend(listen("gateway.proxy.listen", a, seen, bad));
    }
    if c.proxy.as_ref().is_some_and(|p| p.listen.is_empty()) {
        bad.add(
            "gateway.proxy.listen",
            "is empty: name an address, as in [\"127.0.0.1:3128\"], or leave out [gateway.proxy]",
        );
    }
    let imports = c
        .import
        .iter()
        .enumerate()
        .filter_map(|(i, import)| one_import(i, import, seen, bad))
        .collect();
    limits(&c.limits, bad);
    let mut through = Vec::new();
    for (i, t) in c.proxy.iter().flat_map(|p| p.through.iter().enumerate()) {
        let key = format!("gateway.proxy.through[{i}]");
        let domain = bad.take(&format!("{key}.domain"), t.domain.parse::<DomainName>());
        let hosts = callbacks::targets(&format!("{key}.hosts"), &t.hosts, bad);
        through.extend(domain.map(|domain| (hosts, domain)));
    }
    Some(FrontPlan {
        suffix: suffix?,
        forwarded: c.forwarded,
        proxy,
        through,
        callbacks: Vec::new(),
        callback_clients: Vec::new(),
        proxy_clients: c.proxy.as_ref().map(|p| p.clients.clone()).unwrap_or_default(),
        imports,
        limits: c.limits.clone(),
    })
}

fn one_import(
    i: usize,
    c: &ImportConfig,
    seen: &mut HashSet<SocketAddr>,
    bad: &mut Complaints,
) -> Option<ImportPlan> {
    let key = format!("gateway.import[{i}]");
    let service = bad.take(&format!("{key}.service"), c.service.parse::<ServiceId>());
    let listen = listen(&format!("{key}.listen"), &c.listen, seen, bad);
    Some(ImportPlan {
        service: service?,
        listen: listen?,
        protocol: c.protocol,
        clients: c.clients.clone(),
    })
}

pub(super) fn listen(
    key: &str,
    text: &str,
    seen: &mut HashSet<SocketAddr>,
    bad: &mut Complaints,
) -> Option<SocketAddr> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        bad.add(
            key,
            format_args!(
                "{text:?} is no address: expected IP:PORT, as in \"127.0.0.1:3128\" or \"[::1]:3128\""
            ),
        );
        return None;
    };
    if address.port() != 0 && !seen.insert(address) {
        bad.add(
            key,
            format_args!("{address} is used twice: give each listener an address of its own"),
        );
        return None;
    }
    Some(address)
}

fn limits(l: &LimitsConfig, bad: &mut Complaints) {
    bad.between("gateway.limits.connections", l.connections, 1, 1 << 20);
    bad.between("gateway.limits.header_bytes", l.header_bytes, 8192, 1 << 20);
    bad.between("gateway.limits.headers", l.headers, 10, 10_000);
    bad.between("gateway.limits.uri_bytes", l.uri_bytes, 256, 1 << 16);
    bad.between("gateway.limits.streams", l.streams, 1, 1 << 16);
    bad.between(
        "gateway.limits.header_timeout",
        l.header_timeout,
        Duration::from_secs(1),
        Duration::from_secs(600),
    );
}

fn carriers(all: &[CarrierConfig], bad: &mut Complaints) -> Vec<CarrierPlan> {
    if all.is_empty() {
        return vec![CarrierPlan::Direct];
    }
    let mut plans = Vec::new();
    for (i, c) in all.iter().enumerate() {
        let key = format!("gateway.carrier[{i}]");
        match c {
            CarrierConfig::Direct {} => plans.push(CarrierPlan::Direct),
            CarrierConfig::Connect {
                proxy,
                user,
                password_file,
            } => {
                let Some((host, port)) = bad.take(&format!("{key}.proxy"), host_port(proxy)) else {
                    continue;
                };
                let credentials = match (user, password_file) {
                    (None, None) => None,
                    (Some(user), Some(_)) if user.contains(':') => {
                        bad.add(&key, "a user name for Basic credentials has no ':' (RFC 7617)");
                        continue;
                    }
                    (Some(user), Some(file)) => Some((user.clone(), file.clone())),
                    _ => {
                        bad.add(&key, "user and password_file go together: write both or neither");
                        continue;
                    }
                };
                plans.push(CarrierPlan::Connect {
                    host,
                    port,
                    credentials,
                });
            }
        }
    }
    plans
}

fn exports(all: &[ExportConfig], bad: &mut Complaints) -> Vec<ExportPlan> {
    if all.len() > MAX_SERVICES {
        bad.add(
            "gateway.export",
            format_args!("{} services are too many: at most {MAX_SERVICES}", all.len()),
        );
    }
    let mut names = HashSet::new();
    let plans: Vec<_> = all
        .iter()
        .enumerate()
        .filter_map(|(i, e)| one_export(i, e, bad))
        .collect();
    for plan in &plans {
        if plan.name.is_callbacks() {
            bad.add(
                "gateway.export",
                format_args!(
                    "{} is the name of calls back to this domain: choose another",
                    plan.name
                ),
            );
        }
        if !names.insert(plan.name.clone()) {
            bad.add(
                "gateway.export",
                format_args!("{} is exported twice: one export per name", plan.name),
            );
        }
    }
    plans
}

fn one_export(i: usize, c: &ExportConfig, bad: &mut Complaints) -> Option<ExportPlan> {
    let key = format!("gateway.export[{i}]");
    let name = bad.take(&format!("{key}.name"), c.name.parse::<ServiceName>());
    let origin = origin(&key, c, bad);
    let policy = bad.take(&format!("{key}.allow"), Policy::new(&c.allow));
    let health = match &c.health {
        Some(h) => Some(health(&format!("{key}.health"), h, c.tcp.is_some(), bad)?),
        None => None,
    };
    let interface = match &c.interface {
        Some(i) => Some(interface::check(
            &format!("{key}.interface"),
            i,
            (c.tcp.is_some(), c.callbacks),
            bad,
        )?),
        None => None,
    };
    let queue = match &c.queue {
        Some(_) if c.http.is_none() => {
            bad.add(&format!("{key}.queue"), "is for http exports: leave it out");
            None
        }
        Some(q) => Some(queue::check(&format!("{key}.queue"), q, bad)?),
        None => None,
    };
    let inspect = c.inspect.as_ref().map(|i| {
        let key = format!("{key}.inspect");
        Arc::new(inspect::check(&key, i, c.http.is_some(), bad))
    });
    if c.description.len() > MAX_DESCRIPTION {
        bad.add(
            &format!("{key}.description"),
            format_args!("is over {MAX_DESCRIPTION} bytes"),
        );
    }
    let second = Duration::from_secs(1);
    bad.between(
        &format!("{key}.connect_timeout"),
        c.connect_timeout,
        second / 10,
        second * 60,
    );
    bad.between(
        &format!("{key}.response_timeout"),
        c.response_timeout,
        second / 10,
        second * 86_400,
    );
    Some(ExportPlan {
        name: name?,
        origin: origin?,
        description: c.description.clone(),
        interface,
        health,
        queue,
        inspect,
        policy: policy?,
        connect_timeout: c.connect_timeout,
    })
}

fn origin(key: &str, c: &ExportConfig, bad: &mut Complaints) -> Option<OriginPlan> {
    match (&c.http, &c.tcp, c.callbacks) {
        (Some(http), None, false) => {
            let url = bad.take(&format!("{key}.http"), http.parse::<OriginUrl>())?;
            if c.ca.is_some() && !url.tls {
                bad.add(
                    &format!("{key}.ca"),
                    "has no use without an https origin: leave it out",
                );
            }
            Some(OriginPlan::Http {
                url,
                version: c.version,
                host: c.host,
                ca: c.ca.clone(),
                response_timeout: c.response_timeout,
            })
        }
        (None, Some(tcp), false) => {
            if c.allow
                .iter()
                .any(|a| !a.methods.is_empty() || !a.paths.is_empty())
            {
                bad.add(
                    &format!("{key}.allow"),
                    "methods and paths are for http exports: leave them out, or export with `http`",
                );
            }
            let (host, port) = bad.take(&format!("{key}.tcp"), host_port(tcp))?;
            Some(OriginPlan::Tcp { host, port })
        }
        (None, None, true) => {
            if c.interface.is_none() || c.health.is_some() {
                bad.add(
                    &format!("{key}.callbacks"),
                    "needs `interface`, and has no `health`: nothing is called there",
                );
            }
            Some(OriginPlan::Clients)
        }
        _ => {
            bad.add(
                key,
                "expected one of http = \"http://HOST:PORT\", tcp = \"HOST:PORT\" and callbacks = true",
            );
            None
        }
    }
}

fn health(key: &str, c: &HealthConfig, tcp: bool, bad: &mut Complaints) -> Option<HealthPlan> {
    if tcp && c.path.is_some() {
        bad.add(key, "a tcp export is checked by connecting: leave out `path`");
    }
    let path = c.path.as_deref().unwrap_or("/");
    let parsed = path
        .parse::<PathAndQuery>()
        .ok()
        .filter(|_| path.starts_with('/'));
    let path = bad.take(
        &format!("{key}.path"),
        parsed.ok_or_else(|| format!("{path:?} is no path: expected /...")),
    );
    bad.between(
        &format!("{key}.interval"),
        c.interval,
        Duration::from_millis(100),
        Duration::from_secs(3600),
    );
    bad.between(
        &format!("{key}.timeout"),
        c.timeout,
        Duration::from_millis(10),
        Duration::from_secs(60),
    );
    bad.between(&format!("{key}.rise"), c.rise, 1, 100);
    bad.between(&format!("{key}.fall"), c.fall, 1, 100);
    Some(HealthPlan {
        path: path?,
        interval: c.interval,
        timeout: c.timeout,
        rise: c.rise,
        fall: c.fall,
    })
}

/// `HOST:PORT`, IPv6 addresses in brackets.
fn host_port(s: &str) -> Result<(String, u16), String> {
    let wanted =
        || format!("{s:?} is no address: expected HOST:PORT, as in \"db.internal:5432\" or \"[::1]:5432\"");
    let authority = s.parse::<Authority>().map_err(|_| wanted())?;
    let port = authority.port_u16().filter(|&p| p != 0).ok_or_else(wanted)?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || s.contains('@') {
        return Err(wanted());
    }
    Ok((host.to_owned(), port))
}
