//! What is counted and logged of each call, on the clients' side and on the exporting side.

use std::{
    fmt, io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hawser_proto::{DomainName, Fault, NodeId, session::RequestId};
use http::{Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use hawser_callback::Report;

use crate::{
    access_log::AccessLog,
    config::{InspectPlan, TracesPlan},
    inspect::{self, Exchange, Inspector, Seen, record::Recorder},
    problem::Answered,
    seam::{Body, BoxError},
    traces::{self, Begun, CollectorError, Ended, Trace, Traces},
};

/// Which of a gateway's two jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Side {
    /// Taking calls from clients.
    Client,
    /// Serving calls to exports.
    Export,
    /// Serving visitors of published names.
    Visit,
}

impl Side {
    /// As logs and spans name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Side::Client => "client",
            Side::Export => "export",
            Side::Visit => "visit",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    side: Side,
    /// A service that is exported or routed, or `unknown`: callers cannot make up labels.
    service: String,
    /// `2xx` and so on; `none` for a call that ended before an answer.
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabel {
    side: Side,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    side: Side,
    direction: Direction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Direction {
    Request,
    Response,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabel {
    outcome: LoginOutcome,
}

/// What came of a login that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum LoginOutcome {
    /// It was right.
    Accepted,
    /// It was wrong, or is not enough here.
    Refused,
    /// It was not looked at: too many before it were wrong, or too many are under way.
    Deferred,
    /// The provider where users log in gave nothing.
    Unavailable,
}

/// Counters of calls. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CallMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Family<CallLabels, Counter>,
    broken: Family<SideLabel, Counter>,
    bytes: Family<ByteLabels, Counter>,
    in_flight: Family<SideLabel, Gauge>,
    head_seconds: Family<SideLabel, Histogram>,
    turned_away: Counter,
    logins: Family<LoginLabel, Counter>,
    inspector: Inspector,
    /// Where ended calls are written, if anywhere.
    log: ArcSwapOption<AccessLog>,
    log_lost: Counter,
    /// Where calls are traced, if anywhere.
    traces: ArcSwapOption<Traces>,
    spans: traces::Metrics,
}

impl CallMetrics {
    /// Makes the counters known to `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let buckets = || {
            Histogram::new([
                0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0,
            ])
        };
        let m = Inner {
            calls: Family::default(),
            broken: Family::default(),
            bytes: Family::default(),
            in_flight: Family::default(),
            head_seconds: Family::new_with_constructor(buckets),
            turned_away: Counter::default(),
            logins: Family::default(),
            inspector: Inspector::default(),
            log: ArcSwapOption::empty(),
            log_lost: Counter::default(),
            traces: ArcSwapOption::empty(),
            spans: traces::Metrics::default(),
        };
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("calls", "Calls ended, by class of status", m.calls.clone());
        registry.register("calls_broken", "Calls whose answer broke off", m.broken.clone());
        registry.register("body_bytes", "Bytes of bodies and streams", m.bytes.clone());
        registry.register("calls_in_flight", "Calls under way", m.in_flight.clone());
        registry.register(
            "head_seconds",
            "Time to the head of the answer",
            m.head_seconds.clone(),
        );
        registry.register(
            "connections_turned_away",
            "Client connections closed at once: not allowed, or over the limit",
            m.turned_away.clone(),
        );
        registry.register("logins", "Logins of visitors, by outcome", m.logins.clone());
        registry.register(
            "access_log_lost",
            "Calls that the access log could not keep up with",
            m.log_lost.clone(),
        );
        m.spans.register(registry);
        Self(Arc::new(m))
    }

    /// The last calls.
    pub fn inspector(&self) -> &Inspector {
        &self.0.inspector
    }

    /// An access log to write to; none: nowhere. That which is written to already stays.
    pub(crate) fn access_log(&self, path: Option<&Path>) -> io::Result<Option<Arc<AccessLog>>> {
        let now = self.0.log.load_full();
        match (path, now) {
            (Some(path), Some(log)) if log.path() == path => Ok(Some(log)),
            (Some(path), _) => AccessLog::open(path, self.0.log_lost.clone()).map(|log| Some(Arc::new(log))),
            (None, _) => Ok(None),
        }
    }

    /// Writes ended calls there from now on.
    pub(crate) fn log_to(&self, log: Option<Arc<AccessLog>>) {
        self.0.log.store(log);
    }

    /// Where calls of the gateway `own` are to be traced; none: nowhere. That to which they go already stays, if nothing of it changes.
    pub(crate) fn traces(
        &self,
        own: &NodeId,
        plan: Option<&TracesPlan>,
    ) -> Result<Option<Arc<Traces>>, CollectorError> {
        let (now, spans) = (self.0.traces.load_full(), self.0.spans.clone());
        plan.map(|plan| Traces::start(own, plan, now, spans)).transpose()
    }

    /// Traces calls there from now on. What waits for another collector is still sent to it, for a bounded time. Must be called within
    /// a Tokio runtime.
    pub(crate) fn trace_to(&self, traces: Option<Arc<Traces>>) {
        let before = self.0.traces.swap(traces.clone());
        if let Some(before) = before
            && !traces.is_some_and(|now| Arc::ptr_eq(&now, &before))
        {
            tokio::spawn(async move { before.finish(traces::LAST).await });
        }
    }

    /// Sends the spans that wait, for at most `within`; no more are taken. Not cancel safe.
    pub(crate) async fn finish_traces(&self, within: Duration) {
        if let Some(traces) = self.0.traces.load_full() {
            traces.finish(within).await;
        }
    }

    /// A client's connection was closed at once.
    pub fn turned_away(&self) {
        self.0.turned_away.inc();
    }

    /// A visitor's login was looked at.
    pub(crate) fn login(&self, outcome: LoginOutcome) {
        self.0.logins.get_or_create(&LoginLabel { outcome }).inc();
    }

    /// Counts a request's body as it passes.
    pub fn request_body<B>(&self, side: Side, body: B) -> Body
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return crate::problem::empty();
        }
        let labels = ByteLabels {
            side,
            direction: Direction::Request,
        };
        let counter = self.0.bytes.get_or_create_owned(&labels);
        body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                counter.inc_by(data.len() as u64);
            }
            frame
        })
        .map_err(Into::into)
        .boxed_unsync()
    }

    /// Counts bytes of a stream that is no body.
    pub fn stream(&self, side: Side, sent: u64, received: u64) {
        for (direction, n) in [(Direction::Request, sent), (Direction::Response, received)] {
            self.0
                .bytes
                .get_or_create(&ByteLabels { side, direction })
                .inc_by(n);
        }
    }
}

/// One call, from its request's head to the end of its answer. Counted and logged when dropped.
pub struct Call {
    metrics: CallMetrics,
    side: Side,
    id: RequestId,
    who: String,
    method: Method,
    /// For the log: host or service and path, never the query, which may hold secrets.
    what: String,
    /// Who logged in, if anybody did.
    user: Option<String>,
    /// For the metrics.
    service: Option<String>,
    started: Instant,
    /// In milliseconds since 1970.
    at: u64,
    status: Option<StatusCode>,
    bytes: u64,
    outcome: Outcome,
    seen: Seen,
    recorder: Option<Recorder>,
    replays: Option<String>,
    /// Its span, if it is traced.
    trace: Option<Trace>,
    /// The domain on the other side of the tunnel.
    peer: Option<DomainName>,
    /// The code of the fault that was its answer.
    fault: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Dropped,
    Complete,
    Broken,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({})", self.id)
    }
}

impl Call {
    /// A call that begins now.
    pub fn begin(
        metrics: &CallMetrics,
        side: Side,
        id: RequestId,
        who: String,
        method: Method,
        what: String,
    ) -> Self {
        metrics.0.in_flight.get_or_create(&SideLabel { side }).inc();
        Self {
            metrics: metrics.clone(),
            side,
            id,
            who,
            method,
            what,
            user: None,
            service: None,
            started: Instant::now(),
            at: inspect::now(),
            status: None,
            bytes: 0,
            outcome: Outcome::Dropped,
            seen: Seen::default(),
            recorder: None,
            replays: None,
            trace: None,
            peer: None,
            fault: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// Names the service for the metrics, once it is known to exist.
    pub fn service(&mut self, name: impl fmt::Display) {
        self.service = Some(name.to_string());
    }

    /// Names the user who logged in.
    pub(crate) fn user(&mut self, name: &str) {
        self.user = Some(shorten(name));
    }

    /// Names the domain on the other side of the tunnel.
    pub(crate) fn peer(&mut self, domain: &DomainName) {
        self.peer = Some(domain.clone());
    }

    /// Begins its span, if calls are traced. The request is part of that from here on.
    pub(crate) fn trace<B>(&mut self, request: &mut Request<B>) {
        let Some(traces) = self.metrics.0.traces.load_full() else {
            return;
        };
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let now = SystemTime::now();
        let call = Begun {
            side: self.side,
            id: self.id,
            at: now.checked_sub(self.started.elapsed()).unwrap_or(now),
            method: &method,
            uri: &uri,
        };
        self.trace = Some(traces.begin(call, request.headers_mut()));
    }

    /// Notes the fault that is its outcome.
    pub(crate) fn failed(&mut self, fault: &Fault) {
        self.fault = Some(fault.code.clone());
    }

    /// Notes what was seen in the request.
    pub fn seen(&mut self, report: &Report) {
        self.seen.report(report);
    }

    /// It sends the request of this exchange again.
    pub fn replays(&mut self, first: String) {
        self.replays = Some(first);
    }

    /// Records it whole, if there is a plan to and room; the request goes on with a body that is copied as it passes.
    pub(crate) fn record(
        &mut self,
        plan: Option<&Arc<InspectPlan>>,
        peer: &NodeId,
        request: Request<Body>,
    ) -> Request<Body> {
        let Some(plan) = plan else {
            return request;
        };
        let memory = self.metrics.inspector().memory();
        let (recorder, request) = Recorder::begin(memory, plan, peer, request);
        self.recorder = recorder;
        request
    }

    /// Follows an answer to its end. `abort` is set when the body breaks off.
    pub fn follow(mut self, response: Response<Body>, abort: Option<Arc<AtomicBool>>) -> Response<Body> {
        self.head(response.status());
        if let Some(Answered(code)) = response.extensions().get() {
            self.fault = Some(code.clone());
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.answered(response.status(), response.headers());
        }
        if http_body::Body::is_end_stream(response.body()) {
            if let Some(recorder) = &mut self.recorder {
                recorder.answer_body().nothing();
            }
            self.outcome = Outcome::Complete;
            return response;
        }
        response.map(|body| {
            Followed {
                body,
                call: self,
                abort,
            }
            .boxed_unsync()
        })
    }

    /// Ends a call whose answer was followed by a stream of bytes.
    pub fn end_stream(mut self, status: StatusCode, sent: u64, received: u64, complete: bool) {
        self.head(status);
        self.metrics.stream(self.side, sent, 0);
        self.bytes = received;
        self.outcome = if complete {
            Outcome::Complete
        } else {
            Outcome::Broken
        };
    }

    fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
        let seconds = self.started.elapsed().as_secs_f64();
        self.metrics
            .0
            .head_seconds
            .get_or_create(&SideLabel { side: self.side })
            .observe(seconds);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let m = &self.metrics.0;
        let side = self.side;
        m.in_flight.get_or_create(&SideLabel { side }).dec();
        m.bytes
            .get_or_create(&ByteLabels {
                side,
                direction: Direction::Response,
            })
            .inc_by(self.bytes);
        if self.outcome == Outcome::Broken {
            m.broken.get_or_create(&SideLabel { side }).inc();
        }
        let status = match self.status.map(|s| s.as_u16() / 100) {
            None => "none",
            Some(1) => "1xx",
            Some(2) => "2xx",
            Some(3) => "3xx",
            Some(4) => "4xx",
            Some(_) => "5xx",
        };
        let outcome = match self.outcome {
            Outcome::Dropped => "dropped",
            Outcome::Complete => "complete",
            Outcome::Broken => "broken",
        };
        if let Some(trace) = self.trace.take() {
            trace.end(Ended {
                service: self.service.as_deref(),
                peer: self.peer.as_ref().map(DomainName::as_str),
                status: self.status,
                fault: self.fault.as_deref(),
                cut: (self.outcome != Outcome::Complete).then_some(outcome),
            });
        }
        let service = self.service.take().unwrap_or_else(|| "unknown".into());
        let ended = Exchange {
            at: self.at,
            request: self.id.to_string(),
            side: side.as_str(),
            who: shorten(&self.who),
            user: self.user.take(),
            service: service.clone(),
            method: shorten(self.method.as_str()),
            what: shorten(&self.what),
            status: self.status.map(|s| s.as_u16()),
            ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes: self.bytes,
            outcome,
            soap: self.seen.soap.take(),
            replaced: std::mem::take(&mut self.seen.replaced),
            left: std::mem::take(&mut self.seen.left),
            answers: Vec::new(),
            replays: self.replays.take(),
            recorded: false,
            recording: self.recorder.take().map(Recorder::finish),
        };
        if let Some(log) = m.log.load().as_ref() {
            log.note(&ended);
        }
        m.inspector.keep(ended);
        m.calls
            .get_or_create(&CallLabels {
                side,
                service,
                status,
            })
            .inc();
        tracing::debug!(
            request = %self.id,
            side = ?self.side,
            who = %self.who,
            method = %self.method,
            what = %self.what,
            status = self.status.map(|s| s.as_u16()),
            bytes = self.bytes,
            outcome = ?self.outcome,
            ms = self.started.elapsed().as_millis() as u64,
            "call"
        );
    }
}

/// Enough of a text that came from outside to know it by.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(256).collect()
}

/// An answer's body that tells its [`Call`] how it ended.
struct Followed {
    body: Body,
    call: Call,
    abort: Option<Arc<AtomicBool>>,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(recorder) = &mut this.call.recorder {
            match &frame {
                Some(Ok(frame)) => recorder.answer_body().frame(frame),
                None => recorder.answer_body().end(),
                Some(Err(_)) => {}
            }
            if this.body.is_end_stream() {
                recorder.answer_body().end();
            }
        }
        match &frame {
            Some(Ok(frame)) => {
                this.call.bytes += frame.data_ref().map_or(0, |d| d.len() as u64);
                if this.body.is_end_stream() {
                    this.call.outcome = Outcome::Complete;
                }
            }
            None => this.call.outcome = Outcome::Complete,
            Some(Err(e)) => {
                this.call.outcome = Outcome::Broken;
                if let Some(abort) = &this.abort {
                    abort.store(true, Ordering::Release);
                }
                tracing::debug!(request = %this.call.id, error = %e, "the answer broke off");
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
