//! `[gateway.callbacks]`: how services may call their clients back, and where messages name the addresses for it.

use std::{collections::HashSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::HeaderName;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use hawser_callback::{JsonPointer, Overflow, Rules};
use hawser_proto::{DomainName, ServiceId};

use super::{
    loopback,
    plan::{Complaints, OriginUrl, listen},
    queue::{self, QueueConfig, QueuePlan},
};
use crate::callbacks::targets::{Target, Targets};

/// `[gateway.callbacks]`: addresses in messages by which a service in another domain should call back are replaced by
/// addresses at that domain's gateway, and calls to such addresses come back to here. SOAP needs no rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallbacksConfig {
    /// Whether addresses in messages are replaced, and calls back are taken. Default: true.
    pub enabled: bool,
    /// How services of this domain reach this gateway to call back: "http://HOST:PORT". Default: the first address of
    /// `listen`, else of [gateway.proxy]; without one, or if that is a wildcard such as 0.0.0.0, services here cannot call back.
    pub base: Option<String>,
    /// Addresses for calls back besides those of [gateway.proxy], "IP:PORT". Default: none.
    pub listen: Vec<String>,
    /// Networks whose hosts may connect to `listen`. Default: ["127.0.0.0/8", "::1/128"].
    #[schemars(with = "Vec<String>")]
    pub clients: Vec<IpNet>,
    /// How long a replaced address is good, as in "24h"; from "10s" to "90d". Default: "24h".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub expire: Duration,
    /// Where calls back may lead, besides the very client that named the address: "HOST:PORT", "*.DOMAIN:PORT",
    /// "NETWORK/BITS:PORT"; without a port, any. Loopback addresses only as "IP:PORT". Default: [].
    pub targets: Vec<String>,
    /// `[[gateway.callbacks.open]]`: what services of other domains may call by its own address, through their gateway as HTTP proxy.
    /// Default: none.
    pub open: Vec<OpenConfig>,
    /// PEM file with the certificate authorities that may vouch for `https` addresses. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// Longest wait for a connection to a client that is called back. Default: "5s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// Longest silence of a client that is called back, until the head of its answer. Default: "60s".
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub response_timeout: Duration,
    /// `[[gateway.callbacks.rule]]`: what messages to a service hold. Default: SOAP alone, for every service.
    pub rule: Vec<CallbackRuleConfig>,
    /// `[gateway.callbacks.queue]`: calls back that are accepted now and delivered when the client is there. Default: none.
    pub queue: Option<QueueConfig>,
}

impl Default for CallbacksConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            base: None,
            listen: Vec::new(),
            clients: loopback(),
            expire: Duration::from_secs(24 * 3600),
            targets: Vec::new(),
            open: Vec::new(),
            ca: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            rule: Vec::new(),
            queue: None,
        }
    }
}

/// `[[gateway.callbacks.open]]`: hosts of this domain that services of others may call by their own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenConfig {
    /// The domains whose services may. No default.
    pub domains: Vec<String>,
    /// What they may call, in the form of `targets`. No default.
    pub targets: Vec<String>,
}

/// `[[gateway.callbacks.rule]]`: where the messages to one service name addresses to call back. The first rule that names the
/// service counts, else that for "*", else SOAP alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallbackRuleConfig {
    /// The service, "NAME.DOMAIN", or "*" for all others. No default.
    pub service: String,
    /// "rewrite": addresses are replaced. "keep": they stay, and the service calls them through its gateway as HTTP proxy, as
    /// signed messages need it. "off": nothing is looked for. Default: "rewrite".
    #[serde(default)]
    pub mode: CallbackMode,
    /// Whether SOAP is looked through: WS-Addressing, WS-Eventing, WS-ReliableMessaging. Default: true.
    #[serde(default = "yes")]
    pub soap: bool,
    /// Whether the member `sink` of CloudEvents subscriptions is replaced. Default: false.
    #[serde(default)]
    pub cloudevents: bool,
    /// Headers that hold an address, as in ["X-Callback"], of requests, and of answers at the gateway that exports the service, as in
    /// ["Location", "Link"]. Default: [].
    #[serde(default)]
    pub headers: Vec<String>,
    /// Places in JSON that hold an address, as JSON pointers (RFC 6901) in which a segment "*" stands for any: ["/callbackUrl"].
    /// Default: [].
    #[serde(default)]
    pub json: Vec<String>,
    /// Fields of forms (application/x-www-form-urlencoded) that hold an address. Default: [].
    #[serde(default)]
    pub form: Vec<String>,
    /// Query parameters that hold an address. Default: [].
    #[serde(default)]
    pub query: Vec<String>,
    /// Where calls back may lead, besides what [gateway.callbacks] allows. Default: [].
    #[serde(default)]
    pub targets: Vec<String>,
    /// Bytes of a message that are held at most until it is known what is to be replaced. Default: 262144.
    #[serde(default = "window")]
    pub window: usize,
    /// Longest address in bytes that the service takes, where it says so: from 80 to 4096. One that would be longer is kept by the
    /// domain's gateways and gets a short name. Default: none; an address then holds all there is to know of it.
    #[serde(default)]
    pub max_length: Option<usize>,
    /// What becomes of a message that cannot be looked through (it needs a larger window, an unknown coding, or is malformed):
    /// "refuse" or "pass", as it is. Default: "refuse".
    #[serde(default)]
    pub overflow: OverflowConfig,
}

/// What becomes of addresses in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallbackMode {
    /// They are replaced.
    #[default]
    Rewrite,
    /// They stay; the server's gateway is told where they lead.
    Keep,
    /// They are not looked for.
    Off,
}

/// What becomes of a message that cannot be looked through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OverflowConfig {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes as it is.
    Pass,
}

/// The checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbacksPlan {
    /// Whether anything of this is done.
    pub enabled: bool,
    /// How services of this domain reach this gateway.
    pub base: Option<OriginUrl>,
    /// Addresses for calls back alone.
    pub listen: Vec<SocketAddr>,
    /// Who may connect there.
    pub clients: Vec<IpNet>,
    /// Life of a replaced address.
    pub expire: Duration,
    /// Where calls back may lead.
    pub targets: Targets,
    /// What domains may call by its own address.
    pub open: Vec<(Vec<DomainName>, Targets)>,
    /// Who may vouch for `https` targets.
    pub ca: Option<PathBuf>,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest silence before an answer.
    pub response_timeout: Duration,
    /// By service; `None` is the rule for all others.
    pub rules: Vec<(Option<ServiceId>, Arc<CallbackRule>)>,
    /// Calls back that are delivered later, if any.
    pub queue: Option<QueuePlan>,
}

impl Default for CallbacksPlan {
    fn default() -> Self {
        let c = CallbacksConfig::default();
        Self {
            enabled: c.enabled,
            base: None,
            listen: Vec::new(),
            clients: c.clients,
            expire: c.expire,
            targets: Targets::default(),
            open: Vec::new(),
            ca: None,
            connect_timeout: c.connect_timeout,
            response_timeout: c.response_timeout,
            rules: Vec::new(),
            queue: None,
        }
    }
}

/// What is done with messages to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackRule {
    /// What becomes of addresses.
    pub mode: CallbackMode,
    /// Where they are.
    pub rules: Rules,
    /// Where calls back may lead, besides what the plan says.
    pub targets: Targets,
    /// Longest address that the service takes, in bytes.
    pub longest: Option<usize>,
}

impl Default for CallbackRule {
    fn default() -> Self {
        Self {
            mode: CallbackMode::Rewrite,
            rules: Rules::default(),
            targets: Targets::default(),
            longest: None,
        }
    }
}

impl CallbacksPlan {
    /// The rule for messages to `service`.
    pub fn rule(&self, service: &ServiceId) -> Arc<CallbackRule> {
        let named = self.rules.iter().find(|(s, _)| s.as_ref() == Some(service));
        let rule = named.or_else(|| self.rules.iter().find(|(s, _)| s.is_none()));
        rule.map(|(_, rule)| rule.clone()).unwrap_or_default()
    }
}

pub(super) fn check(
    c: &CallbacksConfig,
    proxy: &[SocketAddr],
    seen: &mut HashSet<SocketAddr>,
    bad: &mut Complaints,
) -> Option<CallbacksPlan> {
    let listen: Vec<_> = c
        .listen
        .iter()
        .filter_map(|a| listen("gateway.callbacks.listen", a, seen, bad))
        .collect();
    let base = match &c.base {
        Some(base) => Some(bad.take("gateway.callbacks.base", base.parse::<OriginUrl>())?),
        None => listen
            .iter()
            .chain(proxy)
            .next()
            .filter(|a| !a.ip().is_unspecified() && a.port() != 0)
            .and_then(|a| format!("http://{a}").parse().ok()),
    };
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    bad.between("gateway.callbacks.expire", c.expire, second * 10, day * 90);
    bad.between(
        "gateway.callbacks.connect_timeout",
        c.connect_timeout,
        second / 10,
        second * 60,
    );
    bad.between(
        "gateway.callbacks.response_timeout",
        c.response_timeout,
        second / 10,
        day,
    );
    let targets = targets("gateway.callbacks.targets", &c.targets, bad);
    let mut open = Vec::new();
    for (i, o) in c.open.iter().enumerate() {
        let key = format!("gateway.callbacks.open[{i}]");
        let domains = o
            .domains
            .iter()
            .filter_map(|d| bad.take(&format!("{key}.domains"), d.parse::<DomainName>()));
        let domains = domains.collect();
        open.push((domains, self::targets(&format!("{key}.targets"), &o.targets, bad)));
    }
    let mut rules = Vec::new();
    for (i, rule) in c.rule.iter().enumerate() {
        let Some(rule) = one_rule(&format!("gateway.callbacks.rule[{i}]"), rule, bad) else {
            continue;
        };
        if rules.iter().any(|(service, _)| *service == rule.0) {
            bad.add(
                "gateway.callbacks.rule",
                format_args!("{:?} has two rules: make one of them", c.rule[i].service),
            );
        }
        rules.push(rule);
    }
    let queue = match &c.queue {
        Some(q) => Some(queue::check("gateway.callbacks.queue", q, bad)?),
        None => None,
    };
    Some(CallbacksPlan {
        queue,
        enabled: c.enabled,
        base,
        listen,
        clients: c.clients.clone(),
        expire: c.expire,
        targets,
        open,
        ca: c.ca.clone(),
        connect_timeout: c.connect_timeout,
        response_timeout: c.response_timeout,
        rules,
    })
}

fn one_rule(
    key: &str,
    c: &CallbackRuleConfig,
    bad: &mut Complaints,
) -> Option<(Option<ServiceId>, Arc<CallbackRule>)> {
    let service = match c.service.as_str() {
        "*" => None,
        name => Some(bad.take(&format!("{key}.service"), name.parse::<ServiceId>())?),
    };
    bad.between(&format!("{key}.window"), c.window, 4096, 16 << 20);
    if let Some(longest) = c.max_length {
        bad.between(&format!("{key}.max_length"), longest, 80, 4096);
    }
    let headers = c.headers.iter().filter_map(|name| {
        let parsed = name
            .parse::<HeaderName>()
            .map_err(|_| format!("{name:?} is no header's name"));
        bad.take(&format!("{key}.headers"), parsed)
    });
    let headers = headers.collect();
    let json = c
        .json
        .iter()
        .filter_map(|p| bad.take(&format!("{key}.json"), p.parse::<JsonPointer>()));
    let json = json.collect();
    let rules = Rules {
        soap: c.soap,
        headers,
        json,
        form: c.form.clone(),
        query: c.query.clone(),
        cloudevents: c.cloudevents,
        overflow: match c.overflow {
            OverflowConfig::Refuse => Overflow::Refuse,
            OverflowConfig::Pass => Overflow::Pass,
        },
        window: c.window,
    };
    let rule = CallbackRule {
        mode: c.mode,
        rules,
        longest: c.max_length,
        targets: targets(&format!("{key}.targets"), &c.targets, bad),
    };
    Some((service, rule.into()))
}

pub(super) fn targets(key: &str, all: &[String], bad: &mut Complaints) -> Targets {
    let parsed = all.iter().filter_map(|t| bad.take(key, t.parse::<Target>()));
    Targets::new(parsed.collect())
}

fn yes() -> bool {
    true
}

fn window() -> usize {
    256 * 1024
}
