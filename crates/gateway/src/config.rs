//! The `[gateway]` table: what an operator writes ([`GatewayConfig`]), and the checked [`GatewayPlan`] that comes of it.
//! Every key has its unit and default in its documentation, from which the reference is made.

mod acme;
mod broker;
mod callbacks;
mod certificate;
mod inspect;
mod interface;
mod plan;
mod publish;
mod queue;
mod show;
#[cfg(test)]
mod tests;
mod traces;

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use acme::{AcmeConfig, AcmePlan, DnsConfig, DnsPlan, ExternalAccountConfig, TsigAlgorithm};
pub use broker::{BrokerConfig, BrokerPlan, BrokerTlsConfig};
pub use callbacks::{
    CallbackMode, CallbackRule, CallbackRuleConfig, CallbacksConfig, CallbacksPlan, OpenConfig,
    OverflowConfig,
};
pub use certificate::CertificatePlan;
pub use inspect::{InspectConfig, InspectPlan, InspectorConfig};
pub use interface::{DocumentPlan, InterfaceConfig, InterfacePlan};
pub use plan::{
    Beside, CarrierPlan, ConfigError, ExportPlan, FrontPlan, GatewayPlan, HealthPlan, ImportPlan, OriginPlan,
    OriginUrl,
};
pub use publish::{Allowed, LoginConfig, LoginPlan, OidcPlan, PublishConfig, PublishPlan, VisitorsConfig};
pub use queue::{QueueConfig, QueuePlan};
pub use traces::{Share, TracesConfig, TracesPlan};

/// `[gateway]`: joins this machine's domain to others through one or more hubs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Directory with the gateway's keys, certificates and database (mode 0700). Default: "/var/lib/hawser/gateway".
    pub state: PathBuf,
    /// Last part of the names under which clients call services: `http://SERVICE.DOMAIN.SUFFIX/`. One or more labels.
    /// Default: "hawser".
    pub suffix: String,
    /// How long calls in progress may go on after SIGTERM, as in "30s". Default: "30s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain: Duration,
    /// Life of the certificates that this gateway issues, if it is an issuer; from "10s" to "7d", and in
    /// earnest not under "10m". Default: "24h".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub certificate_life: Duration,
    /// What the services called are told of the client's network address. Default: "hidden".
    pub forwarded: Forwarded,
    /// File to which a line of JSON is written for each call that has ended. It may be moved away at any time. Default: none.
    pub access_log: Option<PathBuf>,
    /// `[[gateway.carrier]]`: ways out to the hubs, tried in this order. Default: direct TCP alone.
    pub carrier: Vec<CarrierConfig>,
    /// `[gateway.proxy]`: the web proxy through which clients call services by name. Default: none.
    pub proxy: Option<ProxyConfig>,
    /// `[[gateway.import]]`: local addresses that stand for one service each. Default: none.
    pub import: Vec<ImportConfig>,
    /// `[[gateway.export]]`: services of this domain that others may call. Default: none.
    pub export: Vec<ExportConfig>,
    /// `[[gateway.publish]]`: exported web services under public host names. Default: none.
    pub publish: Vec<PublishConfig>,
    /// `[gateway.callbacks]`: how services may call their clients back.
    pub callbacks: CallbacksConfig,
    /// `[gateway.limits]`: what one client can take.
    pub limits: LimitsConfig,
    /// `[gateway.inspect]`: what recorded exchanges may take.
    pub inspect: InspectorConfig,
    /// `[gateway.traces]`: a span for each HTTP call, to an OpenTelemetry collector. Default: none.
    pub traces: Option<TracesConfig>,
    /// `[gateway.broker]`: events of applications, to users' devices outside. Default: none.
    pub broker: Option<BrokerConfig>,
    /// `[gateway.acme]`: where the certificates of published names come from when no files are given. Default: none.
    pub acme: Option<AcmeConfig>,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            state: "/var/lib/hawser/gateway".into(),
            suffix: "hawser".into(),
            drain: Duration::from_secs(30),
            certificate_life: Duration::from_secs(24 * 3600),
            forwarded: Forwarded::default(),
            access_log: None,
            carrier: Vec::new(),
            proxy: None,
            import: Vec::new(),
            export: Vec::new(),
            publish: Vec::new(),
            callbacks: CallbacksConfig::default(),
            limits: LimitsConfig::default(),
            inspect: InspectorConfig::default(),
            traces: None,
            broker: None,
            acme: None,
        }
    }
}

impl GatewayConfig {
    /// Checks everything that can be checked without running: all that is wrong is reported at once.
    pub fn check(&self) -> Result<GatewayPlan, ConfigError> {
        plan::check(self)
    }
}

/// What `Forwarded` (RFC 7239) says of the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forwarded {
    /// `for=_hidden`: addresses inside this domain stay inside.
    #[default]
    Hidden,
    /// The client's IP address.
    Address,
}

/// `[[gateway.carrier]]`: one way out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum CarrierConfig {
    /// TCP straight to the hub.
    Direct {},
    /// TCP through an HTTP proxy's CONNECT method.
    Connect {
        /// The proxy, "HOST:PORT".
        proxy: String,
        /// User name for the proxy (Basic). Default: none.
        #[serde(default)]
        user: Option<String>,
        /// File with the user's password, and nothing else (a line end is ignored). Needed with `user`. Default: none.
        #[serde(default)]
        password_file: Option<PathBuf>,
    },
}

/// `[gateway.proxy]`: an HTTP proxy for names under the suffix, for HTTP/1.1 and HTTP/2 (prior knowledge).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Addresses to listen on, "IP:PORT". No default.
    pub listen: Vec<String>,
    /// Networks whose hosts may use the proxy. Default: ["127.0.0.0/8", "::1/128"].
    #[serde(default = "loopback")]
    #[schemars(with = "Vec<String>")]
    pub clients: Vec<IpNet>,
    /// `[[gateway.proxy.through]]`: hosts of other domains that the proxy's clients call by their own addresses. Default: none.
    #[serde(default)]
    pub through: Vec<ThroughConfig>,
}

/// `[[gateway.proxy.through]]`: hosts that are reached through the gateways of a domain, which must have them open
/// (`[[gateway.callbacks.open]]` there). For services that call back to an address as it stands in a signed message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThroughConfig {
    /// The hosts: "HOST:PORT", "*.DOMAIN:PORT", "NETWORK/BITS:PORT"; without a port, any. No default.
    pub hosts: Vec<String>,
    /// The domain. No default.
    pub domain: String,
}

/// `[[gateway.import]]`: a local address that stands for one service of another domain (or of this one).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportConfig {
    /// The service, "NAME.DOMAIN". No default.
    pub service: String,
    /// Address to listen on, "IP:PORT". No default.
    pub listen: String,
    /// How clients speak to it: "auto" takes what the exporting gateway registered. Default: "auto".
    #[serde(default)]
    pub protocol: ImportProtocol,
    /// Networks whose hosts may connect. Default: ["127.0.0.0/8", "::1/128"].
    #[serde(default = "loopback")]
    #[schemars(with = "Vec<String>")]
    pub clients: Vec<IpNet>,
}

/// How clients speak to an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImportProtocol {
    /// As the service is registered.
    #[default]
    Auto,
    /// HTTP.
    Http,
    /// A byte stream.
    Tcp,
}

/// `[[gateway.export]]`: a service of this domain. Exactly one of `http` and `tcp` says where it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportConfig {
    /// Its name within the domain: one DNS label. No default.
    pub name: String,
    /// The web service's base: `http://HOST[:PORT]` or `https://HOST[:PORT]`, without a path. Default: none.
    #[serde(default)]
    pub http: Option<String>,
    /// The TCP service's address: "HOST:PORT". Default: none.
    #[serde(default)]
    pub tcp: Option<String>,
    /// Whether this is what clients here are called back by, for those who write the services: an interface to be read, at which
    /// nothing is called. In place of `http` and `tcp`; needs `interface` with a file or a URL. Default: false.
    #[serde(default)]
    pub callbacks: bool,
    /// HTTP version spoken to the origin. "auto": HTTP/2 for gRPC, else HTTP/1.1. Default: "auto".
    #[serde(default)]
    pub version: OriginVersion,
    /// The `Host` that the origin sees: "preserve", as the client wrote it, or "origin", as in `http`. Default: "preserve".
    #[serde(default)]
    pub host: HostHeader,
    /// PEM file with the certificate authorities that may vouch for an `https` origin. Default: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// For people who look for the service; at most 256 bytes. Default: "".
    #[serde(default)]
    pub description: String,
    /// What the service says of itself. Default: nothing is registered; descriptions that it serves are made fit for callers all
    /// the same.
    #[serde(default)]
    pub interface: Option<InterfaceConfig>,
    /// How the service's health is checked. Default: not at all; it counts as healthy.
    #[serde(default)]
    pub health: Option<HealthConfig>,
    /// Messages that are accepted now and delivered when the service is there. Default: none.
    #[serde(default)]
    pub queue: Option<QueueConfig>,
    /// Has the exchanges recorded whole, in memory, for `hawser inspect`. Default: method, path and status alone are kept.
    #[serde(default)]
    pub inspect: Option<InspectConfig>,
    /// Who may do what. A call is allowed if one rule allows it. Default: nobody, nothing.
    #[serde(default)]
    pub allow: Vec<AllowConfig>,
    /// Longest wait for a connection to the origin, as in "5s". Default: "5s".
    #[serde(default = "five_seconds", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Longest silence of the origin until the head of its answer (an upload in progress is no silence), as in "60s".
    /// Default: "60s".
    #[serde(default = "a_minute", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub response_timeout: Duration,
}

/// HTTP version spoken to an origin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum OriginVersion {
    /// HTTP/2 for gRPC, else HTTP/1.1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// HTTP/1.1 always.
    #[serde(rename = "1")]
    One,
    /// HTTP/2 always (in clear text with prior knowledge).
    #[serde(rename = "2")]
    Two,
}

/// The `Host` that an origin sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostHeader {
    /// As the client wrote it.
    #[default]
    Preserve,
    /// Host and port of the origin's URL.
    Origin,
}

/// Health check of an export: an HTTP GET answered by 2xx or 3xx, or a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Path (and query) to GET; for HTTP exports only. Default: "/".
    pub path: Option<String>,
    /// Time between checks, as in "5s". Default: "5s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub interval: Duration,
    /// Longest wait for one check, as in "2s". Default: "2s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Good checks in a row after which an unhealthy service is healthy again. Default: 2.
    pub rise: u32,
    /// Bad checks in a row after which a healthy service is unhealthy. Default: 2.
    pub fall: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            path: None,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 2,
        }
    }
}

/// One rule of an export: these domains may use these methods on these paths.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowConfig {
    /// Calling domains; "*" is every domain that this gateway's domain peers with. No default.
    pub domains: Vec<String>,
    /// HTTP methods. Default: all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Paths: "*" stands for any characters within a segment, "**" as a whole segment for any number of segments:
    /// "/v1/**" is "/v1" and all beneath. Default: all.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// `[gateway.limits]`: what one client can take. Each applies to every listener by itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Open connections per listener; further ones are closed at once. Default: 4096.
    pub connections: usize,
    /// Bytes of a request's head. Default: 65536.
    pub header_bytes: usize,
    /// Number of a request's headers. Default: 200.
    pub headers: usize,
    /// Bytes of a request's target. Default: 16384.
    pub uri_bytes: usize,
    /// Longest wait for a request's whole head, and for the next request on an idle HTTP/1.1 connection. Default: "30s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub header_timeout: Duration,
    /// Concurrent requests per HTTP/2 connection of a client. Default: 256.
    pub streams: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_bytes: 64 * 1024,
            headers: 200,
            uri_bytes: 16 * 1024,
            header_timeout: Duration::from_secs(30),
            streams: 256,
        }
    }
}

fn loopback() -> Vec<IpNet> {
    [
        IpNet::V4(ipnet::Ipv4Net::new_assert(
            std::net::Ipv4Addr::new(127, 0, 0, 0),
            8,
        )),
        IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    ]
    .to_vec()
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}
