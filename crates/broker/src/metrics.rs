//! Figures of a broker.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// How one ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    pub(crate) outcome: &'static str,
}

/// See the module page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) published: Family<Outcome, Counter>,
    pub(crate) sealed: Counter,
    pub(crate) deposits: Family<Outcome, Counter>,
    pub(crate) acks: Family<Outcome, Counter>,
    pub(crate) fetches: Family<Outcome, Counter>,
    pub(crate) enrolments: Family<Outcome, Counter>,
    pub(crate) revocations: Counter,
    pub(crate) live: Gauge,
    pub(crate) stored: Gauge,
    pub(crate) devices: Gauge,
    pub(crate) mailbox: Gauge,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("broker");
        r.register(
            "events",
            "Events published, by what became of the request",
            m.published.clone(),
        );
        r.register("envelopes_sealed", "Envelopes sealed", m.sealed.clone());
        r.register(
            "deposits",
            "Envelopes given to the mailbox, by its answer",
            m.deposits.clone(),
        );
        r.register(
            "acknowledgements",
            "Acknowledgements of devices, by code",
            m.acks.clone(),
        );
        r.register(
            "fetches",
            "Requests of devices for content, by outcome",
            m.fetches.clone(),
        );
        r.register(
            "enrolments",
            "Requests of devices to be let in, by outcome",
            m.enrolments.clone(),
        );
        r.register(
            "revocations",
            "Devices revoked while the broker ran",
            m.revocations.clone(),
        );
        r.register("outbox_events", "Events that are not done", m.live.clone());
        r.register(
            "outbox_bytes",
            "Bytes of contents in the outbox",
            m.stored.clone(),
        );
        r.register("devices", "Devices that are not revoked", m.devices.clone());
        r.register(
            "mailbox_connected",
            "Whether the mailbox is connected",
            m.mailbox.clone(),
        );
        m
    }
}

/// Counts one of a family.
pub(crate) fn count(family: &Family<Outcome, Counter>, outcome: &'static str) {
    family.get_or_create(&Outcome { outcome }).inc();
}
