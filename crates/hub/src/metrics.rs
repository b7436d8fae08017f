//! What the hub counts. Every label set is bounded: results and reasons are words of this crate, never names from outside.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hawser_proto::arbiter::Answer;
use hawser_session::relay::RelayCounters;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

type Labels = [(&'static str, &'static str); 1];

/// The hub's metrics; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) gateways: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) granted: Counter,
    handshakes: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    relays_ended: Family<Labels, Counter>,
    revocations: Family<Labels, Counter>,
    turned_away: Family<Labels, Counter>,
    asked: Family<Labels, Counter>,
    /// From the dialling side to the accepting one, and back.
    pub(crate) relayed: Arc<[RelayCounters; 2]>,
}

impl Metrics {
    /// Registers everything under `hub_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("hub");
        r.register("gateways", "Gateways connected", m.gateways.clone());
        r.register("sessions", "Data sessions being relayed", m.sessions.clone());
        r.register("sessions_granted", "Data sessions granted", m.granted.clone());
        r.register(
            "sessions_refused",
            "Data sessions and tickets refused, by reason",
            m.refused.clone(),
        );
        r.register(
            "handshakes",
            "Connections accepted, by what they proved to be",
            m.handshakes.clone(),
        );
        r.register("relays_ended", "Relays ended, by reason", m.relays_ended.clone());
        r.register(
            "revocations",
            "Revocations applied, by whom",
            m.revocations.clone(),
        );
        r.register(
            "unproved_turned_away",
            "Connections closed because too many had not proved who they are, by bound",
            m.turned_away.clone(),
        );
        r.register(
            "register_asked",
            "Questions of hosts to the register of who may run a machine, by answer",
            m.asked.clone(),
        );
        r.register_collector(Box::new(Relayed(m.relayed.clone())));
        m
    }

    pub(crate) fn handshake(&self, result: &'static str) {
        self.handshakes.get_or_create(&[("result", result)]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn asked(&self, answer: &Answer) {
        let word = match answer {
            Answer::Is(_) => "read",
            Answer::Changed(_) => "changed",
            Answer::Lost(_) => "lost",
            Answer::Denied(_) => "denied",
            Answer::Busy => "busy",
            Answer::Failed(_) => "failed",
        };
        self.asked.get_or_create(&[("answer", word)]).inc();
    }

    pub(crate) fn relay_ended(&self, reason: &'static str) {
        self.relays_ended.get_or_create(&[("reason", reason)]).inc();
    }

    pub(crate) fn revoked(&self, by: &'static str) {
        self.revocations.get_or_create(&[("by", by)]).inc();
    }

    /// Bytes relayed since the start, spliced and copied.
    pub(crate) fn relayed(&self) -> (u64, u64) {
        let sum = |of: fn(&RelayCounters) -> &AtomicU64| {
            self.relayed.iter().map(|c| of(c).load(Ordering::Relaxed)).sum()
        };
        (sum(|c| &c.spliced), sum(|c| &c.copied))
    }

    pub(crate) fn turned_away(&self, bound: &'static str) {
        self.turned_away.get_or_create(&[("bound", bound)]).inc();
    }
}

/// Shows the relays' own counters.
#[derive(Debug)]
struct Relayed(Arc<[RelayCounters; 2]>);

impl Collector for Relayed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "relayed",
            "Bytes relayed, by direction (from the gateway that asked for the session, or back to it) and how they moved",
            Some(&Unit::Bytes),
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (direction, counters) in ["there", "back"].into_iter().zip(&*self.0) {
            for (how, counter) in [("spliced", &counters.spliced), ("copied", &counters.copied)] {
                let labels = [("direction", direction), ("how", how)];
                let encoder = family.encode_family(&labels)?;
                ConstCounter::new(counter.load(Ordering::Relaxed)).encode(encoder)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_exposed_under_their_names() {
        let mut registry = Registry::default();
        let m = Metrics::register(&mut registry);
        m.handshake("control");
        m.refused("hub-full");
        m.relayed[1].spliced.fetch_add(7, Ordering::Relaxed);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "hub_handshakes_total{result=\"control\"} 1",
            "hub_sessions_refused_total{reason=\"hub-full\"} 1",
            "hub_relayed_bytes_total{direction=\"back\",how=\"spliced\"} 7",
            "hub_relayed_bytes_total{direction=\"there\",how=\"copied\"} 0",
            "hub_gateways 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
