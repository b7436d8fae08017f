//! `[gateway.broker]`: the enterprise's side of the broker, of which this crate runs the way in from outside.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, time::Duration};

use hawser_proto::HostName;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    certificate::{CertificatePlan, Said},
    loopback,
    plan::{Complaints, listen},
};

/// `[gateway.broker]`: hands events of applications in this domain to users' devices outside. One gateway of a domain has this
/// table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    /// Host name under which devices reach this gateway, by way of the hubs whose operators let this domain publish it
    /// (`[[hub.publish]]`) and whose addresses it must lead to. No default.
    pub name: String,
    /// PEM file with the certificate for `name`, and those that lead to its authority: what browsers verify. Read again when
    /// it changes. Default: none; command-line devices alone can enrol.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// PEM file with the certificate's private key, readable by this program. Needed with `certificate`. Default: none.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Whether the certificate is got and renewed by `[gateway.acme]`, in place of `certificate` and `key`. Default: false.
    #[serde(default)]
    pub acme: bool,
    /// Port of the hub, as devices reach it: part of enrolment links. Default: 443.
    #[serde(default = "https")]
    pub port: u16,
    /// Addresses at which applications publish events, "IP:PORT". Default: ["127.0.0.1:8500"].
    #[serde(default = "publishing")]
    pub listen: Vec<String>,
    /// Networks whose hosts may publish. Default: ["127.0.0.0/8", "::1/128"].
    #[serde(default = "loopback")]
    #[schemars(with = "Vec<String>")]
    pub clients: Vec<IpNet>,
    /// How long an event is kept for devices that do not collect it, where its publisher does not say; up to "30d".
    /// Default: "3d".
    #[serde(default = "three_days", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// Bytes of adapted content up to which it is sent with the notice; what is larger is fetched by the device. At most
    /// 131072. Default: 4096.
    #[serde(default = "four_kib")]
    pub inline_max: usize,
    /// `[gateway.broker.tls]`: TLS where applications publish. Default: none.
    #[serde(default)]
    pub tls: Option<BrokerTlsConfig>,
}

/// `[gateway.broker.tls]`: TLS where applications publish. With it they can prove themselves by client certificates, too.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BrokerTlsConfig {
    /// PEM file with the certificate, and those that lead to its authority. No default.
    pub certificate: PathBuf,
    /// PEM file with its private key. No default.
    pub key: PathBuf,
}

/// The checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerPlan {
    /// Name under which devices reach this gateway.
    pub name: HostName,
    /// Certificate for browsers.
    pub certificate: CertificatePlan,
    /// Port of the hub, as devices reach it.
    pub port: u16,
    /// Where applications publish.
    pub listen: Vec<SocketAddr>,
    /// Who may publish.
    pub clients: Vec<IpNet>,
    /// Life of an event whose publisher does not say.
    pub ttl: Duration,
    /// Most bytes of content that is sent with the notice.
    pub inline_max: usize,
    /// TLS where applications publish.
    pub tls: Option<BrokerTlsConfig>,
}

pub(super) fn check(
    c: &BrokerConfig,
    acme: bool,
    seen: &mut HashSet<SocketAddr>,
    bad: &mut Complaints,
) -> Option<BrokerPlan> {
    let name = bad.take("gateway.broker.name", c.name.parse::<HostName>());
    let said = Said {
        certificate: &c.certificate,
        key: &c.key,
        acme: c.acme,
    };
    let certificate = said.check("gateway.broker", acme, bad);
    if c.listen.is_empty() {
        bad.add(
            "gateway.broker.listen",
            "is empty: no application could publish; name an address, as in [\"127.0.0.1:8500\"]",
        );
    }
    if c.port == 0 {
        bad.add("gateway.broker.port", "0 is no port: expected that of the hub");
    }
    let listen = c
        .listen
        .iter()
        .filter_map(|a| listen("gateway.broker.listen", a, seen, bad))
        .collect();
    bad.between(
        "gateway.broker.ttl",
        c.ttl,
        Duration::from_secs(1),
        Duration::from_secs(30 * 86_400),
    );
    bad.between("gateway.broker.inline_max", c.inline_max, 0, 128 * 1024);
    Some(BrokerPlan {
        name: name?,
        certificate: certificate?,
        port: c.port,
        listen,
        clients: c.clients.clone(),
        ttl: c.ttl,
        inline_max: c.inline_max,
        tls: c.tls.clone(),
    })
}

fn https() -> u16 {
    443
}

fn publishing() -> Vec<String> {
    vec!["127.0.0.1:8500".into()]
}

fn three_days() -> Duration {
    Duration::from_secs(3 * 86_400)
}

fn four_kib() -> usize {
    4096
}
