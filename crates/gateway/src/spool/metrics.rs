//! What is counted of messages that wait. Labels are the queues of the configuration.

use std::sync::Arc;

use hawser_store::spool::Totals;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    queue: String,
}

/// Counters and gauges. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    accepted: Family<Queue, Counter>,
    delivered: Family<Queue, Counter>,
    failed: Family<Queue, Counter>,
    dead: Family<Queue, Counter>,
    waiting: Family<Queue, Gauge>,
    dead_now: Family<Queue, Gauge>,
    bytes: Family<Queue, Gauge>,
    oldest: Family<Queue, Gauge>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let registry = registry.sub_registry_with_prefix("gateway_queue");
        registry.register("accepted", "Messages accepted", m.accepted.clone());
        registry.register("delivered", "Messages delivered", m.delivered.clone());
        registry.register(
            "attempts_failed",
            "Attempts after which a message waits again",
            m.failed.clone(),
        );
        registry.register("given_up", "Messages given up", m.dead.clone());
        registry.register("waiting", "Messages that wait", m.waiting.clone());
        registry.register("dead", "Dead messages", m.dead_now.clone());
        registry.register("bytes", "Bytes of both", m.bytes.clone());
        registry.register(
            "oldest_seconds",
            "Age of the oldest message that waits",
            m.oldest.clone(),
        );
        m
    }

    pub(super) fn accepted(&self, queue: &Arc<str>) {
        self.accepted.get_or_create(&label(queue)).inc();
    }

    pub(super) fn delivered(&self, queue: &Arc<str>) {
        self.delivered.get_or_create(&label(queue)).inc();
    }

    pub(super) fn failed(&self, queue: &Arc<str>) {
        self.failed.get_or_create(&label(queue)).inc();
    }

    pub(super) fn dead(&self, queue: &Arc<str>) {
        self.dead.get_or_create(&label(queue)).inc();
    }

    /// Sets the gauges at a time in milliseconds since 1970.
    pub(super) fn count(&self, totals: &[Totals], now: u64) {
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for t in totals {
            let queue = label(&t.queue);
            self.waiting.get_or_create(&queue).set(gauge(t.waiting));
            self.dead_now.get_or_create(&queue).set(gauge(t.dead));
            self.bytes.get_or_create(&queue).set(gauge(t.bytes));
            let age = t.oldest.map_or(0, |oldest| now.saturating_sub(oldest) / 1000);
            self.oldest.get_or_create(&queue).set(gauge(age));
        }
    }
}

fn label(queue: &Arc<str>) -> Queue {
    Queue {
        queue: queue.to_string(),
    }
}
