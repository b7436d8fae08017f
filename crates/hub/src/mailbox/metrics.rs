//! What the mailbox counts. Label sets are words of this crate.

use hawser_proto::broker::mailbox::Outcome;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

type Labels = [(&'static str, &'static str); 1];

/// The mailbox's metrics; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(super) devices: Gauge,
    pub(super) streams: Gauge,
    pub(super) envelopes: Gauge,
    pub(super) bytes: Gauge,
    pub(super) reports: Gauge,
    pub(super) written: Counter,
    pub(super) acknowledged: Counter,
    pub(super) expired: Counter,
    pub(super) slow: Counter,
    deposits: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers everything under `hub_mailbox_`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("hub_mailbox");
        r.register("devices", "Devices that may come", m.devices.clone());
        r.register(
            "streams",
            "Streams and waiting requests of devices",
            m.streams.clone(),
        );
        r.register("envelopes", "Envelopes queued", m.envelopes.clone());
        r.register("bytes", "Bytes queued", m.bytes.clone());
        r.register("reports", "Reports that wait for gateways", m.reports.clone());
        r.register(
            "written",
            "Envelopes written to devices, repeated ones included",
            m.written.clone(),
        );
        r.register(
            "acknowledged",
            "Acknowledgements of devices taken in",
            m.acknowledged.clone(),
        );
        r.register("expired", "Envelopes whose time was over", m.expired.clone());
        r.register(
            "slow_streams",
            "Streams cut because the device did not read",
            m.slow.clone(),
        );
        r.register(
            "deposits",
            "Envelopes that gateways brought, by outcome",
            m.deposits.clone(),
        );
        r.register(
            "requests",
            "Requests of devices, by what became of them",
            m.requests.clone(),
        );
        m
    }

    pub(super) fn deposited(&self, outcome: &Outcome) {
        self.deposit(match outcome {
            Outcome::Kept => "kept",
            Outcome::UnknownDevice => "unknown-device",
            Outcome::Revoked => "revoked",
            Outcome::Full => "full",
            Outcome::Busy => "busy",
            Outcome::Refused(_) => "refused",
        });
    }

    pub(super) fn deposit(&self, outcome: &'static str) {
        self.deposits.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// `result` is `done`, or the word of a problem.
    pub(super) fn request(&self, result: &'static str) {
        self.requests.get_or_create(&[("result", result)]).inc();
    }
}
