//! Ended spans on their way to the collector: a bounded queue, and a task that sends batches of it. Calls never wait for it: what finds
//! no room is lost and counted.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use prost::Message;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::collector::{Collector, Refused};

/// Spans in one request to the collector.
const BATCH: usize = 512;
/// Pause after the first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// Longest pause.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Longest pause that a collector can ask for.
const WISH_LONGEST: Duration = Duration::from_secs(30);
/// At most one complaint in this time.
const COMPLAIN: Duration = Duration::from_secs(60);

/// What became of spans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    exported: Counter,
    dropped: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Why,
}

/// Why a span is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Why {
    /// Too many wait.
    Full,
    /// The collector does not want it.
    Refused,
    /// The gateway, or its export of spans, ended first.
    Ended,
}

impl Metrics {
    /// Makes the counters known.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "spans_exported",
            "Spans that the collector took",
            self.exported.clone(),
        );
        registry.register(
            "spans_dropped",
            "Spans that were lost, by reason",
            self.dropped.clone(),
        );
    }

    fn dropped(&self, reason: Why, n: u64) {
        if n > 0 {
            self.dropped.get_or_create(&Reason { reason }).inc_by(n);
        }
    }
}

/// The way into the queue, for the library.
#[derive(Debug)]
pub(super) struct Entry {
    spans: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

impl SpanProcessor for Entry {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        match self.spans.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.dropped(Why::Full, 1),
            Err(TrySendError::Closed(_)) => self.metrics.dropped(Why::Ended, 1),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task behind the queue. It ends by itself when nobody can bring spans any more.
#[derive(Debug)]
pub(super) struct Queue {
    ending: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Queue {
    /// A queue of so many spans, which go to the collector after at most `delay`. Must be called within a Tokio runtime.
    pub(super) fn start(
        collector: Collector,
        resource: ResourceAttributesWithSchema,
        (length, delay): (usize, Duration),
        metrics: Metrics,
    ) -> (Entry, Self) {
        let (spans, waiting) = mpsc::channel(length);
        let ending = CancellationToken::new();
        let sender = Sender {
            waiting,
            unsent: 0,
            collector,
            resource,
            delay,
            ending: ending.clone(),
            metrics: metrics.clone(),
            complained: None,
        };
        let task = Mutex::new(Some(tokio::spawn(sender.run())));
        (Entry { spans, metrics }, Self { ending, task })
    }

    /// Takes no more, and sends what waits, for at most `within`; the rest is lost. Not cancel safe.
    pub(super) async fn finish(&self, within: Duration) {
        self.ending.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if timeout(within, &mut task).await.is_err() {
            task.abort();
            // It ends at its next wait, and counts what is lost.
            let _ = task.await;
        }
    }
}

struct Sender {
    waiting: mpsc::Receiver<SpanData>,
    /// Spans of the batch that is being sent.
    unsent: u64,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    delay: Duration,
    ending: CancellationToken,
    metrics: Metrics,
    complained: Option<Instant>,
}

impl Sender {
    async fn run(mut self) {
        loop {
            let batch = self.batch().await;
            if batch.is_empty() {
                return;
            }
            self.unsent = batch.len() as u64;
            let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
            let encoded = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
            self.send(encoded.into()).await;
            self.unsent = 0;
        }
    }

    /// The next batch: full, or as many as came in time. Empty at the end.
    async fn batch(&mut self) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let ending = self.ending.clone();
        tokio::select! {
            n = self.waiting.recv_many(&mut batch, BATCH) => if n == 0 { return batch },
            () = ending.cancelled() => self.waiting.close(),
        }
        let late = sleep(self.delay);
        tokio::pin!(late);
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                n = self.waiting.recv_many(&mut batch, room) => if n == 0 { break },
                () = ending.cancelled(), if !self.waiting.is_closed() => self.waiting.close(),
                () = &mut late => break,
            }
        }
        batch
    }

    async fn send(&mut self, batch: Bytes) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.collector.send(batch.clone()).await {
                Ok(rejected) => {
                    let rejected = rejected.min(self.unsent);
                    self.metrics.exported.inc_by(self.unsent - rejected);
                    self.metrics.dropped(Why::Refused, rejected);
                    return;
                }
                Err(Refused::Never(why)) => {
                    self.metrics.dropped(Why::Refused, self.unsent);
                    self.complain(&why);
                    return;
                }
                Err(Refused::Later(why, wish)) => {
                    self.complain(&why);
                    sleep(wish.map_or(pause, |wish| wish.clamp(pause, WISH_LONGEST))).await;
                    pause = (pause * 2).min(RETRY_LONGEST);
                }
            }
        }
    }

    fn complain(&mut self, why: &str) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            self.complained = Some(Instant::now());
            tracing::warn!(
                why,
                "the collector of traces takes no spans: those that find no room in the queue are lost"
            );
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let waiting = self.waiting.len() as u64;
        self.metrics.dropped(Why::Ended, waiting + self.unsent);
    }
}
