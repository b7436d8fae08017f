//! Traces: a span for each HTTP call, which goes to a collector by OTLP, and whose context (W3C Trace Context) goes on with the
//! request, so that both gateways stand between client and origin in the trace. Names follow OpenTelemetry's conventions for HTTP.
//!
//! A span says what the access log says, and never more: no query, no header, no body, no capability.

mod collector;
mod context;
mod queue;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawser_proto::{NodeId, session::RequestId};
use http::{HeaderMap, Method, StatusCode, Uri, header::HOST, uri::Authority};
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider, Span},
};

use self::{collector::Collector, queue::Queue};
use crate::{
    callbacks,
    calls::{Side, shorten},
    config::TracesPlan,
};

pub use self::collector::{CollectorError, ProbeError, probe};
pub(crate) use self::{collector::path, queue::Metrics};

/// How long what waits may take when a gateway ends, or its collector is another one from now on.
pub(crate) const LAST: Duration = Duration::from_secs(5);

/// Where calls are traced. Dropped, it sends what waits as long as the process lives.
#[derive(Debug)]
pub(crate) struct Traces {
    plan: TracesPlan,
    headers: HeaderMap,
    tracer: SdkTracer,
    queue: Queue,
}

/// A request whose span begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun<'a> {
    pub(crate) side: Side,
    pub(crate) id: RequestId,
    pub(crate) at: SystemTime,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
}

/// How it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended<'a> {
    /// A service that is exported or routed.
    pub(crate) service: Option<&'a str>,
    /// The domain on the other side of the tunnel.
    pub(crate) peer: Option<&'a str>,
    pub(crate) status: Option<StatusCode>,
    /// The code of the fault that was answered by this gateway.
    pub(crate) fault: Option<&'a str>,
    /// `broken` or `dropped`, if the answer did not reach its end.
    pub(crate) cut: Option<&'static str>,
}

/// The span of one call.
#[derive(Debug)]
pub(crate) struct Trace(Span);

impl Traces {
    /// Traces the calls of the gateway `own` as planned; the same as `before`, if nothing has changed. Reads files. Must be called
    /// within a Tokio runtime.
    pub(crate) fn start(
        own: &NodeId,
        plan: &TracesPlan,
        before: Option<Arc<Self>>,
        metrics: Metrics,
    ) -> Result<Arc<Self>, CollectorError> {
        let headers = collector::headers(plan)?;
        if let Some(same) = before.filter(|b| b.plan == *plan && b.headers == headers) {
            return Ok(same);
        }
        let collector = Collector::new(plan, headers.clone())?;
        let resource = resource(own);
        let described = ResourceAttributesWithSchema::from(&resource);
        let (entry, queue) = Queue::start(collector, described, (plan.queue, plan.delay), metrics);
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(sampler(plan.sample.0))
            .with_span_processor(entry)
            .build();
        let scope = InstrumentationScope::builder("hawser-gateway").with_version(env!("CARGO_PKG_VERSION"));
        Ok(Arc::new(Self {
            plan: plan.clone(),
            headers,
            tracer: provider.tracer_with_scope(scope.build()),
            queue,
        }))
    }

    /// Begins a call's span. Its request carries the span's context from here on, unless a signature covers what it carries.
    pub(crate) fn begin(&self, call: Begun<'_>, headers: &mut HeaderMap) -> Trace {
        let from = context::of(headers);
        let mut span = SpanBuilder::from_name(method(call.method).to_owned())
            .with_kind(SpanKind::Server)
            .with_start_time(call.at);
        // Whoever is outside decides neither what is sampled here nor what is one trace: its own is linked.
        let parent = match call.side {
            Side::Client | Side::Export => from,
            Side::Visit => {
                let outside = from.span().span_context().clone();
                span.links = outside.is_valid().then(|| vec![Link::with_context(outside)]);
                Context::new()
            }
        };
        let mut span = self.tracer.build_with_context(span, &parent);
        if span.is_recording() {
            span.set_attributes(attributes(&call, headers));
        }
        if !context::is_signed(headers) {
            context::carry(span.span_context(), headers);
        }
        Trace(span)
    }

    /// Sends what waits, for at most `within`; what ends later is lost.
    pub(crate) async fn finish(&self, within: Duration) {
        self.queue.finish(within).await;
    }
}

impl Trace {
    /// Ends it.
    pub(crate) fn end(mut self, call: Ended<'_>) {
        let span = &mut self.0;
        if !span.is_recording() {
            return;
        }
        if let Some(service) = call.service {
            span.set_attribute(KeyValue::new("hawser.service", service.to_owned()));
        }
        if let Some(peer) = call.peer {
            span.set_attribute(KeyValue::new("hawser.peer.domain", peer.to_owned()));
        }
        if let Some(status) = call.status {
            span.set_attribute(KeyValue::new(
                "http.response.status_code",
                i64::from(status.as_u16()),
            ));
        }
        if let Some(fault) = call.fault {
            span.set_attribute(KeyValue::new("hawser.fault", fault.to_owned()));
        }
        if let Some(error) = error(&call) {
            span.set_attribute(KeyValue::new("error.type", error));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// What went wrong, if anything did. That a caller asked for the wrong thing is no error of who answers.
fn error(call: &Ended<'_>) -> Option<String> {
    match (call.status, call.fault) {
        (Some(status), Some(fault)) if status.is_server_error() => Some(fault.to_owned()),
        (Some(status), None) if status.is_server_error() => Some(status.as_str().to_owned()),
        _ => call.cut.map(str::to_owned),
    }
}

fn attributes(call: &Begun<'_>, headers: &HeaderMap) -> Vec<KeyValue> {
    let name = method(call.method);
    let scheme = match call.side {
        Side::Visit => "https",
        Side::Client | Side::Export => "http",
    };
    let mut all = vec![
        KeyValue::new("http.request.method", name),
        KeyValue::new("url.scheme", scheme),
        KeyValue::new("url.path", shorten(&callbacks::path::shown(call.uri.path()))),
        KeyValue::new("hawser.request_id", call.id.to_string()),
        KeyValue::new("hawser.side", call.side.as_str()),
    ];
    if name == OTHER {
        all.push(KeyValue::new(
            "http.request.method_original",
            shorten(call.method.as_str()),
        ));
    }
    let named = call.uri.authority().cloned();
    let host = || headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok();
    if let Some(authority) = named.or_else(host) {
        all.push(KeyValue::new("server.address", shorten(authority.host())));
        if let Some(port) = authority.port_u16() {
            all.push(KeyValue::new("server.port", i64::from(port)));
        }
    }
    all
}

/// In place of methods that are not known: whoever asks cannot make up names.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
    ];
    KNOWN
        .into_iter()
        .find(|known| method.as_str() == *known)
        .unwrap_or(OTHER)
}

/// As whoever called decided; of traces that begin here this part.
fn sampler(part: f64) -> Sampler {
    Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(part)))
}

fn resource(own: &NodeId) -> Resource {
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", "hawser-gateway"),
            KeyValue::new("service.namespace", own.domain.to_string()),
            KeyValue::new("service.instance.id", own.to_string()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

#[cfg(test)]
mod tests;
