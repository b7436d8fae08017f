//! The `[hub]` table of the configuration file, and the plan that a checked one makes.

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hawser_identity::token::HubAddress;
use hawser_proto::HostName;
use serde::{Deserialize, Serialize};

use crate::{
    mailbox::{MailboxConfig, MailboxPlan},
    policy::{Policy, PolicyError},
    publish::{PublishError, Publishing},
    registry::RegistryLimits,
    tickets::TicketLimits,
    visit::VisitorLimits,
};

/// A hub: lets gateways of admitted domains find each other, and moves their bytes without reading them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HubConfig {
    /// Addresses to listen on for gateways and joiners, as IP:PORT (`[::]:8443` is every address of both families).
    #[serde(default = "default_listen")]
    pub listen: Vec<String>,
    /// Where the hub keeps its identity and database; made with mode 0700 if it is missing.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// How gateways reach this hub, as HOST:PORT: written into the tokens that it makes. A gateway in the same process takes the
    /// first address of `listen`.
    pub public: String,
    /// On shutdown, how long sessions that are open may go on.
    #[serde(default = "default_drain", with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain: Duration,
    /// Who may call what. Whatever no rule allows is refused.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// Who may publish what to clients outside. Whatever no rule allows is refused.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Bounds on what others can make the hub hold.
    #[serde(default)]
    pub limits: Limits,
    /// A mailbox for the devices of domains that have a broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<MailboxConfig>,
}

/// Lets the gateways of one domain call services of another; the other direction needs a rule of its own. A domain that
/// calls its own services through the hub needs a rule, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The calling domain.
    pub from: String,
    /// The domain whose services are called.
    pub to: String,
    /// Names of services without their domain, or ["*"] for all that the domain has.
    pub services: Vec<String>,
    /// Whether what is called may call back to the addresses that its callers name. Default: true.
    #[serde(default = "yes")]
    pub callbacks: bool,
}

fn yes() -> bool {
    true
}

/// Lets the gateways of a domain be reached from outside under host names, whose addresses must lead to this hub. What
/// clients say passes through it unread: TLS ends at the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The domain.
    pub domain: String,
    /// The names, as clients ask for them: ["devices.acme.example"]. A name belongs to one domain.
    pub names: Vec<String>,
}

/// Bounds on what others can make the hub hold. Over a bound the newcomer is refused, never somebody who is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections that have not proved yet who they are, of all sources.
    pub unproved: usize,
    /// Connections that have not proved yet who they are, from one IPv4 address or IPv6 /64.
    pub unproved_per_source: usize,
    /// Longest time for TLS and the first message of a connection; at most 10s.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub handshake: Duration,
    /// Gateways and hosts connected.
    pub gateways: usize,
    /// Gateways and hosts connected of one domain.
    pub gateways_per_domain: usize,
    /// Machines of one domain in the register of who may run them.
    pub machines_per_domain: usize,
    /// Data sessions open at a time. Each takes two file descriptors.
    pub sessions: usize,
    /// Data sessions that one gateway has asked for and that are not taken up by both sides.
    pub granted_per_gateway: usize,
    /// The same, from one gateway to one other.
    pub granted_per_pair: usize,
    /// Clients of published names at a time. Each takes a data session, too.
    pub visitors: usize,
    /// Clients of one published name at a time.
    pub visitors_per_name: usize,
    /// Clients of published names at a time, from one IPv4 address or IPv6 /64.
    pub visitors_per_source: usize,
    /// Idle pipes kept for moving bytes. Each takes two file descriptors.
    pub pipes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unproved: 1024,
            unproved_per_source: 256,
            handshake: HANDSHAKE_MOST,
            gateways: 4096,
            gateways_per_domain: 64,
            machines_per_domain: 1024,
            sessions: 16384,
            granted_per_gateway: 1024,
            granted_per_pair: 512,
            visitors: 8192,
            visitors_per_name: 4096,
            visitors_per_source: 256,
            pipes: 64,
        }
    }
}

impl Limits {
    /// What the registry needs of it.
    pub fn registry(&self) -> RegistryLimits {
        RegistryLimits {
            gateways: self.gateways,
            per_domain: self.gateways_per_domain,
        }
    }

    /// What counting visitors needs of it.
    pub(crate) fn visitors(&self) -> VisitorLimits {
        VisitorLimits {
            total: self.visitors,
            per_name: self.visitors_per_name,
            per_source: self.visitors_per_source,
        }
    }

    /// What tickets need of it.
    pub fn tickets(&self) -> TicketLimits {
        TicketLimits {
            per_gateway: self.granted_per_gateway,
            per_pair: self.granted_per_pair,
            remembered: REMEMBERED,
        }
    }
}

const HANDSHAKE_MOST: Duration = Duration::from_secs(10);
/// Most granted sessions remembered, to tell a replayed ticket from an unknown one.
const REMEMBERED: usize = 65536;

fn default_listen() -> Vec<String> {
    vec!["0.0.0.0:8443".into()]
}

fn default_state() -> PathBuf {
    "/var/lib/hawser/hub".into()
}

fn default_drain() -> Duration {
    Duration::from_secs(30)
}

/// Why a configuration was refused. Nothing of it is in force then.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An address to listen on.
    #[error("hub.listen: {0:?} is not an address: expected IP:PORT, as in \"0.0.0.0:8443\" or \"[::]:8443\"")]
    Listen(String),
    /// No address to listen on.
    #[error("hub.listen is empty: nobody could connect; name at least one address, as in [\"0.0.0.0:8443\"]")]
    NoListen,
    /// The same address twice.
    #[error("hub.listen: {0} is named twice: delete one")]
    ListenTwice(SocketAddr),
    /// The public address.
    #[error("hub.public: {0:?} is not an address: expected HOST:PORT, as in \"hub.example.org:8443\"")]
    Public(String),
    /// A limit that would refuse everybody, or is too high.
    #[error("hub.limits.{key} = {value}: expected {expected}")]
    Limit {
        /// Which one.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What may.
        expected: &'static str,
    },
    /// The mailbox's name.
    #[error(
        "hub.mailbox.name: {0:?} is not a host name: expected one that devices reach this hub by, as in \"mail.example.org\""
    )]
    MailboxName(String),
    /// A certificate without its key, or the other way round.
    #[error("hub.mailbox.certificate and hub.mailbox.key belong together: set both, or neither")]
    MailboxKey,
    /// Port 0.
    #[error("hub.mailbox.port = 0: expected the port by which devices reach this hub")]
    MailboxPort,
    /// A limit of the mailbox.
    #[error("hub.mailbox.limits.{key} = {value}: expected {least} to {most}")]
    MailboxLimit {
        /// Which one.
        key: &'static str,
        /// What stands there.
        value: u64,
        /// The lowest.
        least: u64,
        /// The highest.
        most: u64,
    },
    /// A rule.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A name that is published, and is the mailbox's.
    #[error(
        "hub.mailbox.name: {0} is published by a domain, too ([[hub.publish]]): one name leads to one place"
    )]
    MailboxPublished(HostName),
    /// A rule of who may publish what.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl HubConfig {
    /// Checks everything that can be checked without touching the machine, and says what would run.
    pub fn check(&self) -> Result<HubPlan, ConfigError> {
        let public: HubAddress = self
            .public
            .parse()
            .map_err(|_| ConfigError::Public(self.public.clone()))?;
        let mailbox = self.mailbox.as_ref().map(|m| m.check(&public)).transpose()?;
        let publishing = Publishing::new(&self.publish)?;
        if let Some(mailbox) = &mailbox
            && publishing.owner(&mailbox.name).is_some()
        {
            return Err(ConfigError::MailboxPublished(mailbox.name.clone()));
        }
        Ok(HubPlan {
            listen: addresses(&self.listen)?,
            state: self.state.clone(),
            mailbox,
            public,
            drain: self.drain,
            policy: Policy::new(&self.allow)?,
            publishing,
            limits: checked(&self.limits)?,
        })
    }
}

/// What a checked configuration makes the hub do. Prints as lines for people.
#[derive(Debug, Clone)]
pub struct HubPlan {
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) state: PathBuf,
    pub(crate) public: HubAddress,
    pub(crate) drain: Duration,
    pub(crate) policy: Policy,
    pub(crate) publishing: Publishing,
    pub(crate) limits: Limits,
    pub(crate) mailbox: Option<MailboxPlan>,
}

impl HubPlan {
    /// Where it listens.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where it keeps its state.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// How gateways reach it.
    pub fn public(&self) -> &HubAddress {
        &self.public
    }

    /// How long open sessions may go on at shutdown.
    pub fn drain(&self) -> Duration {
        self.drain
    }

    /// The mailbox, if it has one.
    pub fn mailbox(&self) -> Option<&MailboxPlan> {
        self.mailbox.as_ref()
    }

    /// Who may call what.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Who may publish what.
    pub fn publishing(&self) -> &Publishing {
        &self.publishing
    }
}

impl fmt::Display for HubPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listen: Vec<_> = self.listen.iter().map(SocketAddr::to_string).collect();
        writeln!(f, "hub reached as {}", self.public)?;
        writeln!(f, "  listens on {}", listen.join(", "))?;
        writeln!(f, "  keeps its state in {}", self.state.display())?;
        writeln!(
            f,
            "  holds at most {} gateways ({} of a domain) and {} sessions",
            self.limits.gateways, self.limits.gateways_per_domain, self.limits.sessions
        )?;
        writeln!(f, "  on shutdown gives open sessions {}", humantime(self.drain))?;
        if let Some(mailbox) = &self.mailbox {
            let certificate = match &mailbox.certificate {
                Some((certificate, _)) => format!("certificate {}", certificate.display()),
                None => "for devices that pin the hub's key alone".into(),
            };
            writeln!(
                f,
                "  keeps a mailbox for devices, reached as {}, {certificate}",
                mailbox.url
            )?;
        }
        if self.policy.is_empty() {
            write!(
                f,
                "  allows nothing: no domain may call another until there is an [[hub.allow]] rule"
            )?;
        } else {
            write!(f, "  allows:")?;
            self.policy
                .lines()
                .try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        if !self.publishing.is_empty() {
            write!(f, "\n  passes clients from outside through:")?;
        }
        self.publishing
            .lines()
            .try_for_each(|line| write!(f, "\n    {line}"))
    }
}

fn humantime(d: Duration) -> String {
    humantime_serde::re::humantime::format_duration(d).to_string()
}

fn addresses(values: &[String]) -> Result<Vec<SocketAddr>, ConfigError> {
    if values.is_empty() {
        return Err(ConfigError::NoListen);
    }
    let mut seen = BTreeSet::new();
    let mut addresses = Vec::new();
    for value in values {
        let address: SocketAddr = value.parse().map_err(|_| ConfigError::Listen(value.clone()))?;
        // Port 0 is a port of the system's choice each time.
        if address.port() != 0 && !seen.insert(address) {
            return Err(ConfigError::ListenTwice(address));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn checked(limits: &Limits) -> Result<Limits, ConfigError> {
    let counts = [
        ("unproved", limits.unproved),
        ("unproved_per_source", limits.unproved_per_source),
        ("gateways", limits.gateways),
        ("gateways_per_domain", limits.gateways_per_domain),
        ("sessions", limits.sessions),
        ("granted_per_gateway", limits.granted_per_gateway),
        ("granted_per_pair", limits.granted_per_pair),
        ("visitors", limits.visitors),
        ("visitors_per_name", limits.visitors_per_name),
        ("visitors_per_source", limits.visitors_per_source),
    ];
    if let Some((key, value)) = counts.into_iter().find(|(_, n)| !(1..=1_000_000).contains(n)) {
        return Err(ConfigError::Limit {
            key,
            value: value.to_string(),
            expected: "1 to 1000000",
        });
    }
    if !(Duration::from_millis(100)..=HANDSHAKE_MOST).contains(&limits.handshake) {
        return Err(ConfigError::Limit {
            key: "handshake",
            value: humantime(limits.handshake),
            expected: "100ms to 10s",
        });
    }
    Ok(limits.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HubConfig {
        HubConfig {
            listen: default_listen(),
            state: default_state(),
            public: "hub.example.org:8443".into(),
            drain: default_drain(),
            allow: Vec::new(),
            publish: Vec::new(),
            limits: Limits::default(),
            mailbox: None,
        }
    }

    #[test]
    fn a_plan_says_what_would_run() {
        let mut c = config();
        assert!(c.check().unwrap().to_string().contains("allows nothing"));
        c.allow.push(Allow {
            from: "acme".into(),
            to: "beta".into(),
            services: vec!["orders".into(), "ledger".into()],
            callbacks: false,
        });
        c.publish.push(Publish {
            domain: "acme".into(),
            names: vec!["devices.acme.example".into()],
        });
        let plan = c.check().unwrap().to_string();
        for line in [
            "acme may publish devices.acme.example",
            "hub reached as hub.example.org:8443",
            "listens on 0.0.0.0:8443",
            "gives open sessions 30s",
            "acme may call ledger, orders of beta",
        ] {
            assert!(plan.contains(line), "{plan}");
        }
    }

    #[test]
    fn what_cannot_run_is_refused_and_named() {
        type Break = fn(&mut HubConfig);
        let cases: [(Break, &str); 7] = [
            (|c| c.listen.clear(), "hub.listen is empty"),
            (
                |c| c.listen = vec!["hub:8443".into()],
                "\"hub:8443\" is not an address",
            ),
            (|c| c.listen.push("0.0.0.0:8443".into()), "named twice"),
            (|c| c.public = "hub".into(), "hub.public"),
            (|c| c.limits.sessions = 0, "hub.limits.sessions = 0"),
            (
                |c| c.limits.handshake = Duration::from_secs(60),
                "hub.limits.handshake = 1m",
            ),
            (
                |c| {
                    c.allow.push(Allow {
                        from: "acme".into(),
                        to: "beta".into(),
                        services: vec![],
                        callbacks: false,
                    })
                },
                "rule 1: services is empty",
            ),
        ];
        for (change, word) in cases {
            let mut c = config();
            change(&mut c);
            let error = c.check().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
