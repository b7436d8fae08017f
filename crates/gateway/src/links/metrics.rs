//! What the tunnel's side of a gateway counts. Labels come from bounded sets only: the hubs of the configuration, and words of
//! ours.

use hawser_session::EndToEnd;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Counters and gauges of `links`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// 1 while the control connection to a hub is up.
    pub(crate) hub_connected: Family<Hub, Gauge>,
    /// Control connections made.
    pub(crate) hub_connections: Family<Hub, Counter>,
    /// End-to-end sessions made.
    pub(crate) sessions: Family<Session, Counter>,
    /// Key exchanges with other gateways.
    pub(crate) key_exchanges: Family<KeyExchange, Counter>,
    /// End-to-end sessions that failed to come about.
    pub(crate) session_failures: Family<Failure, Counter>,
    /// Live carriers of sessions, both directions.
    pub(crate) sessions_live: Gauge,
    /// Requests sent to other gateways.
    pub(crate) requests: Counter,
    /// Requests sent a second time, since the first try got no answer.
    pub(crate) retries: Counter,
    /// TCP connections opened to other gateways.
    pub(crate) connections: Counter,
    /// Certificate renewals.
    pub(crate) renewals: Family<Outcome, Counter>,
    /// Certificates issued to nodes of the own domain.
    pub(crate) issued: Family<Outcome, Counter>,
    /// Sessions cut since their peer is not trusted any more.
    pub(crate) cuts: Counter,
    /// End of the gateway's certificate, seconds since 1970.
    pub(crate) certificate_expiry: Gauge<i64>,
    /// End of the issuer certificate, seconds since 1970; zero where there is none.
    pub(crate) issuer_expiry: Gauge<i64>,
    /// Control messages read.
    pub(crate) control_messages: Counter,
}

/// A hub of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Hub {
    /// `host:port`.
    pub(crate) hub: String,
}

/// A kind of session and who dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Session {
    /// `http`, `bulk`, `tcp`, `renew` or `join`.
    pub(crate) kind: &'static str,
    /// `dialled` or `accepted`.
    pub(crate) side: &'static str,
}

/// How the keys of a session were agreed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KeyExchange {
    /// The group's name, `none` or `other`.
    pub(crate) group: &'static str,
    /// `dialled` or `accepted`.
    pub(crate) side: &'static str,
}

impl KeyExchange {
    /// Of a session.
    pub(crate) fn of(session: &EndToEnd, side: &'static str) -> Self {
        let group = session.group.map_or("none", |g| g.as_str().unwrap_or("other"));
        Self { group, side }
    }
}

/// Where a session failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Failure {
    /// [`hawser_proto::Place`] as a word.
    pub(crate) place: &'static str,
}

/// How something went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// `ok` or `failed`.
    pub(crate) outcome: &'static str,
}

impl Outcome {
    /// Of a result.
    pub(crate) fn of<T, E>(result: &Result<T, E>) -> Self {
        Self {
            outcome: if result.is_ok() { "ok" } else { "failed" },
        }
    }
}

impl Metrics {
    /// Metrics registered below `gateway`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("gateway");
        r.register(
            "hub_connected",
            "1 while the control connection to the hub is up",
            m.hub_connected.clone(),
        );
        r.register(
            "hub_connections",
            "Control connections made",
            m.hub_connections.clone(),
        );
        r.register("sessions", "End-to-end sessions made", m.sessions.clone());
        r.register(
            "key_exchanges",
            "Key exchanges with other gateways, by group",
            m.key_exchanges.clone(),
        );
        r.register(
            "session_failures",
            "End-to-end sessions that failed",
            m.session_failures.clone(),
        );
        r.register(
            "sessions_live",
            "Live end-to-end sessions, both directions",
            m.sessions_live.clone(),
        );
        r.register(
            "tunnel_requests",
            "Requests sent to other gateways",
            m.requests.clone(),
        );
        r.register("tunnel_retries", "Requests sent a second time", m.retries.clone());
        r.register(
            "tunnel_connections",
            "TCP connections opened to other gateways",
            m.connections.clone(),
        );
        r.register("renewals", "Renewals of the own certificate", m.renewals.clone());
        r.register(
            "issued",
            "Certificates issued to nodes of the own domain",
            m.issued.clone(),
        );
        r.register(
            "cuts",
            "Sessions cut since their peer is not trusted any more",
            m.cuts.clone(),
        );
        r.register(
            "certificate_expiry_seconds",
            "End of the gateway's certificate, seconds since 1970",
            m.certificate_expiry.clone(),
        );
        r.register(
            "issuer_expiry_seconds",
            "End of the issuer's certificate, seconds since 1970; 0 where there is none",
            m.issuer_expiry.clone(),
        );
        r.register(
            "control_messages",
            "Messages read from hubs",
            m.control_messages.clone(),
        );
        m
    }
}
