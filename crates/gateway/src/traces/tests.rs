//! Spans as they would go to a collector, looked at in the queue's place.

use std::sync::Mutex;

use opentelemetry::{Value, trace::SpanContext};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanProcessor},
};

use super::*;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Kept {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Traces that keep their spans; the queue goes nowhere.
fn traces(sample: f64) -> (Traces, Kept) {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource(&"spiffe://acme/gateway/gw1".parse().unwrap()))
        .with_sampler(sampler(sample))
        .with_span_processor(kept.clone())
        .build();
    let plan = TracesPlan {
        collector: "http://127.0.0.1:9".parse().unwrap(),
        path: path(None),
        ca: None,
        headers_file: None,
        sample: crate::config::Share(sample),
        queue: 1,
        delay: Duration::from_secs(1),
    };
    let collector = Collector::new(&plan, HeaderMap::new()).unwrap();
    let described = ResourceAttributesWithSchema::default();
    let (_, queue) = Queue::start(collector, described, (1, plan.delay), Metrics::default());
    let traces = Traces {
        plan,
        headers: HeaderMap::new(),
        tracer: provider.tracer("test"),
        queue,
    };
    (traces, kept)
}

fn begin(traces: &Traces, side: Side, uri: &str, headers: &mut HeaderMap) -> Trace {
    let call = Begun {
        side,
        id: RequestId([7; 16]),
        at: SystemTime::now(),
        method: &Method::POST,
        uri: &uri.parse().unwrap(),
    };
    traces.begin(call, headers)
}

const FINE: Ended<'_> = Ended {
    service: Some("orders.beta"),
    peer: Some("beta"),
    status: Some(StatusCode::OK),
    fault: None,
    cut: None,
};

fn with(parent: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", http::HeaderValue::from_static(parent));
    headers
}

fn carried(headers: &HeaderMap) -> SpanContext {
    context::of(headers).span().span_context().clone()
}

fn value(span: &SpanData, key: &str) -> Option<Value> {
    let found = span.attributes.iter().find(|a| a.key.as_str() == key);
    found.map(|a| a.value.clone())
}

#[tokio::test]
async fn a_span_stands_between_who_calls_and_who_is_called() {
    let (traces, kept) = traces(0.0);
    let mut headers = with(SAMPLED);
    begin(
        &traces,
        Side::Client,
        "http://orders.beta.hawser/in?token=geheim",
        &mut headers,
    )
    .end(FINE);
    let spans = kept.0.lock().unwrap().clone();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(span.parent_span_id.to_string(), "00f067aa0ba902b7");
    let next = carried(&headers);
    assert_eq!(next.trace_id(), span.span_context.trace_id());
    assert_eq!(next.span_id(), span.span_context.span_id());
    assert!(next.is_sampled());
    assert_eq!(value(span, "url.path"), Some("/in".into()));
    assert_eq!(value(span, "server.address"), Some("orders.beta.hawser".into()));
    assert_eq!(value(span, "http.response.status_code"), Some(200.into()));
    assert_eq!(value(span, "error.type"), None);
    assert!(!format!("{span:?}").contains("geheim"));
}

#[tokio::test]
async fn callers_decide_for_their_traces_and_the_share_for_ours() {
    for (sample, parent, recorded) in [
        (0.0, Some(SAMPLED), 1),
        (1.0, Some(UNSAMPLED), 0),
        (1.0, None, 1),
        (0.0, None, 0),
        (1.0, Some("00-nonsense"), 1),
    ] {
        let (traces, kept) = traces(sample);
        let mut headers = parent.map(with).unwrap_or_default();
        begin(&traces, Side::Export, "/", &mut headers).end(FINE);
        assert_eq!(kept.0.lock().unwrap().len(), recorded, "{sample} {parent:?}");
        // Whether it is recorded or not, the next one is told.
        let next = carried(&headers);
        assert!(next.is_valid(), "{sample} {parent:?}");
        assert_eq!(next.is_sampled(), recorded == 1, "{sample} {parent:?}");
    }
}

#[tokio::test]
async fn visitors_from_outside_begin_a_new_trace() {
    let (traces, kept) = traces(1.0);
    let mut headers = with(UNSAMPLED);
    headers.insert("tracestate", http::HeaderValue::from_static("outside=1"));
    begin(&traces, Side::Visit, "/", &mut headers).end(FINE);
    let spans = kept.0.lock().unwrap().clone();
    let link = &spans[0].links.links[0].span_context;
    assert_eq!(link.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_ne!(carried(&headers).trace_id(), link.trace_id());
    assert!(!headers.contains_key("tracestate"));
}

#[tokio::test]
async fn a_signed_context_stays() {
    let (traces, kept) = traces(1.0);
    let mut headers = with(SAMPLED);
    let covers = http::HeaderValue::from_static("sig1=(\"traceparent\")");
    headers.insert("signature-input", covers);
    let before = headers.clone();
    begin(&traces, Side::Client, "/", &mut headers).end(FINE);
    assert_eq!(headers, before);
    assert_eq!(kept.0.lock().unwrap().len(), 1, "it is recorded all the same");
}

#[tokio::test]
async fn capabilities_are_masked_and_made_up_words_counted_as_one() {
    let (traces, kept) = traces(1.0);
    let capability = "k1.0123456789abcdefghijklmnopqrstuvwxyz";
    let method = Method::from_bytes(b"MADEUP").unwrap();
    let uri = format!("http://gw/.hawser/cb/acme/{capability}/more?x=geheim")
        .parse()
        .unwrap();
    let call = Begun {
        side: Side::Client,
        id: RequestId([7; 16]),
        at: SystemTime::now(),
        method: &method,
        uri: &uri,
    };
    traces.begin(call, &mut HeaderMap::new()).end(FINE);
    let spans = kept.0.lock().unwrap().clone();
    let text = format!("{:?}", spans[0]);
    assert!(!text.contains(capability) && !text.contains("geheim"), "{text}");
    assert!(text.contains("…/more"), "{text}");
    assert_eq!(value(&spans[0], "http.request.method"), Some("_OTHER".into()));
}

#[tokio::test]
async fn errors_are_those_of_who_answers() {
    let end = |status, fault, cut| Ended {
        status,
        fault,
        cut,
        ..FINE
    };
    let s = |code| Some(StatusCode::from_u16(code).unwrap());
    for (ended, expected) in [
        (end(s(200), None, None), None),
        (end(s(404), Some("service-unknown"), None), None),
        (end(s(500), None, None), Some("500")),
        (
            end(s(503), Some("origin-unreachable"), None),
            Some("origin-unreachable"),
        ),
        (end(s(200), None, Some("broken")), Some("broken")),
        (end(None, None, Some("dropped")), Some("dropped")),
    ] {
        assert_eq!(error(&ended).as_deref(), expected, "{ended:?}");
    }
}
