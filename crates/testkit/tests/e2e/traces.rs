//! Traces: both gateways' spans at a collector, between those of client and origin; nothing secret in them; nobody waits for it.

use hawser_testkit::{
    authority::Authority,
    curl::{Answer, Curl},
    gate,
    origin::{Collector, HttpOrigin, Inbox, Letters, collector::Span},
    wait,
    world::{Service, Spec, Way, World},
};
use hyper::StatusCode;
use rustix::process::Signal;

const WEB: u16 = 8400;
const EVENTS: u16 = 8401;
const COLLECTOR: u16 = 4318;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";
/// What nobody but the origin may see.
const SECRET: &str = "streng-geheim-7c1f";
const TOKEN: &str = "token-of-the-collector";
const EXPORTED: &str = "hawser_gateway_spans_exported_total";
const DROPPED: &str = "hawser_gateway_spans_dropped_total";

fn spec() -> Spec {
    let queue = "queue = { retry_first = \"100ms\", retry_longest = \"300ms\" }";
    Spec::new([
        Service::http("web", WEB),
        Service::http("events", EVENTS).more(queue),
    ])
}

/// A world whose gateways send spans to the collector of their own domain, on its application host.
fn traced(world: &mut World, more: &str) {
    for domain in 0..2 {
        let at = world.site(domain).app.at(COLLECTOR);
        reload(
            world,
            domain,
            &format!("endpoint = \"http://{at}\"\ndelay = \"20ms\"\n{more}"),
        );
    }
}

/// Has a domain's gateway take `[gateway.traces]` with these lines.
fn reload(world: &World, domain: usize, lines: &str) {
    let gateway = &world.gateways[domain][0];
    let text = world
        .spec
        .gateway_config(&world.sites, domain, &gateway.host, &gateway.state);
    let daemon = gateway.daemon.as_ref().unwrap();
    let before = taken(world);
    daemon
        .reload(&format!("{text}\n[gateway.traces]\n{lines}"))
        .unwrap();
    wait::for_condition(wait::SOON, "the new configuration", || taken(world) > before).unwrap();
}

fn taken(world: &World) -> usize {
    world.logs().matches("configuration reloaded").count()
}

fn collectors(world: &World) -> [Collector; 2] {
    [0, 1].map(|domain| Collector::start(&world.site(domain).app, COLLECTOR, None).unwrap())
}

/// The first span of this kind of call.
fn span(collector: &Collector, side: &str, path: &str) -> Span {
    spans(collector, side, path, 1).remove(0)
}

fn spans(collector: &Collector, side: &str, path: &str, n: usize) -> Vec<Span> {
    wait::until(wait::SOON, &format!("{n} spans of {side} for {path}"), || {
        let mut all = collector.spans()?;
        all.retain(|s| {
            s.attribute("hawser.side").as_deref() == Some(side)
                && s.attribute("url.path").as_deref() == Some(path)
        });
        Ok((all.len() >= n).then_some(all))
    })
    .unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A header as the origin saw it.
fn seen(answer: &Answer, name: &str) -> Option<String> {
    let echo = answer.json().unwrap();
    let headers = echo["headers"].as_array().unwrap();
    let mut found = headers.iter().filter(|h| h[0] == name);
    let value = found.next().map(|h| h[1].as_str().unwrap().to_owned());
    assert!(found.next().is_none(), "{name} stands there twice");
    value
}

fn from_client(way: &Way, path: &str) -> Curl {
    way.curl("web", path)
        .header(&format!("traceparent: 00-{TRACE}-{CLIENT}-01"))
        .header("tracestate: vendor=1")
}

#[test]
fn a_trace_leads_from_the_client_through_both_gateways_to_the_origin() {
    if !gate::networks("traces") {
        return;
    }
    let mut world = spec().start().unwrap();
    let _origin = HttpOrigin::start(&world.site(1).app, WEB).unwrap();
    // Off: what the client says passes as it is, valid or not.
    let untouched = from_client(&world.ways()[0], "/echo").expect(200).unwrap();
    assert_eq!(
        seen(&untouched, "traceparent").unwrap(),
        format!("00-{TRACE}-{CLIENT}-01")
    );
    let odd = world.ways()[0]
        .curl("web", "/echo")
        .header("traceparent: nonsense");
    assert_eq!(
        seen(&odd.expect(200).unwrap(), "traceparent").unwrap(),
        "nonsense"
    );

    let collectors = collectors(&world);
    let headers = world.dir().join("headers");
    std::fs::write(&headers, format!("Authorization: Bearer {TOKEN}\n")).unwrap();
    traced(&mut world, &format!("headers_file = \"{}\"\n", headers.display()));
    let way = world.ways()[0];
    let call = from_client(&way, &format!("/echo?key={SECRET}"))
        .header(&format!("Authorization: Bearer {SECRET}"))
        .header(&format!("X-Note: {SECRET}"))
        .post(SECRET);
    let answer = call.expect(200).unwrap();
    let (a, b) = (
        span(&collectors[0], "client", "/echo"),
        span(&collectors[1], "export", "/echo"),
    );
    for (s, domain) in [(&a, "acme"), (&b, "beta")] {
        assert_eq!(hex(&s.span.trace_id), TRACE);
        assert_eq!(s.span.trace_state, "vendor=1");
        assert_eq!(s.attribute("http.request.method").as_deref(), Some("POST"));
        assert_eq!(s.attribute("http.response.status_code").as_deref(), Some("200"));
        assert_eq!(s.attribute("server.address").as_deref(), Some("web.beta.hawser"));
        assert_eq!(s.resource("service.name").as_deref(), Some("hawser-gateway"));
        let id = format!("spiffe://{domain}/gateway/gw1");
        assert_eq!(s.resource("service.instance.id"), Some(id));
        assert!(s.resource("service.version").is_some());
        assert_eq!(
            s.attribute("hawser.request_id").as_deref(),
            answer.header("hawser-request-id")
        );
        assert!(s.span.start_time_unix_nano <= s.span.end_time_unix_nano);
    }
    assert_eq!(hex(&a.span.parent_span_id), CLIENT);
    assert_eq!(b.span.parent_span_id, a.span.span_id);
    assert_eq!(
        seen(&answer, "traceparent").unwrap(),
        format!("00-{TRACE}-{}-01", hex(&b.span.span_id))
    );
    assert_eq!(seen(&answer, "tracestate").as_deref(), Some("vendor=1"));
    assert_eq!(a.attribute("hawser.peer.domain").as_deref(), Some("beta"));
    assert_eq!(b.attribute("hawser.peer.domain").as_deref(), Some("acme"));

    // The origin saw the secret in query, credentials, header and body; the collectors did not.
    assert_eq!(answer.text().matches(SECRET).count(), 4, "{}", answer.text());
    for (head, body) in collectors.iter().flat_map(Collector::requests) {
        assert_eq!(head["authorization"], format!("Bearer {TOKEN}"));
        let found = body.windows(SECRET.len()).any(|part| part == SECRET.as_bytes());
        assert!(!found, "a secret left with the spans");
    }
    // What it looked through does hold what it should: the search would have found it.
    let all: Vec<u8> = collectors[0]
        .requests()
        .iter()
        .flat_map(|(_, b)| b.to_vec())
        .collect();
    assert!(all.windows(5).any(|part| part == b"/echo"));

    // Nothing valid: a new trace begins. A signed context: it stays as it is.
    let odd = way
        .curl("web", "/echo/odd")
        .header("traceparent: nonsense")
        .expect(200);
    let fresh = seen(&odd.unwrap(), "traceparent").unwrap();
    let (a, b) = (
        span(&collectors[0], "client", "/echo/odd"),
        span(&collectors[1], "export", "/echo/odd"),
    );
    assert!(a.span.parent_span_id.is_empty());
    assert_eq!(
        fresh,
        format!("00-{}-{}-01", hex(&a.span.trace_id), hex(&b.span.span_id))
    );
    let signed = from_client(&way, "/echo/signed")
        .header("Signature-Input: sig1=(\"@method\" \"traceparent\");keyid=\"k\"")
        .expect(200);
    assert_eq!(
        seen(&signed.unwrap(), "traceparent").unwrap(),
        format!("00-{TRACE}-{CLIENT}-01")
    );
    // Not sampled by the client: nor here, which the origin is told.
    let quiet = way
        .curl("web", "/echo/quiet")
        .header(&format!("traceparent: 00-{TRACE}-{CLIENT}-00"));
    assert!(
        seen(&quiet.expect(200).unwrap(), "traceparent")
            .unwrap()
            .ends_with("-00")
    );
    // Who is to blame: the origin is away.
    from_client(&way.world.ways()[1], "/away").expect(503).unwrap();
    let failed = span(&collectors[0], "export", "/away");
    assert_eq!(
        failed.attribute("error.type").as_deref(),
        Some("origin-unreachable")
    );
    assert!(collectors.iter().all(|c| {
        let spans = c.spans().unwrap();
        spans
            .iter()
            .all(|s| s.attribute("url.path").as_deref() != Some("/echo/quiet"))
    }));
}

#[test]
fn a_delivery_is_part_of_the_trace_of_the_message() {
    if !gate::networks("traces of messages that wait") {
        return;
    }
    let mut world = spec().start().unwrap();
    let collectors = collectors(&world);
    traced(&mut world, "");
    let way = world.ways()[0];
    way.curl("events", "/in")
        .header(&format!("traceparent: 00-{TRACE}-{CLIENT}-01"))
        .post("later")
        .expect(202)
        .unwrap();
    // Accepted, and tried in vain; then its target comes.
    let tried = spans(&collectors[1], "export", "/in", 2);
    let letters = Letters::default();
    let _inbox = Inbox::start(way.server(), EVENTS, &letters).unwrap();
    let letter = wait::until(wait::SOON, "the message", || Ok(letters.taken().first().cloned())).unwrap();
    let accepted = tried
        .iter()
        .find(|s| s.attribute("http.response.status_code").as_deref() == Some("202"));
    let accepted = accepted.unwrap();
    let parent = letter.header("traceparent").unwrap().to_owned();
    let delivered = wait::until(wait::SOON, "the span of the delivery", || {
        let all = collectors[1].spans()?;
        Ok(all
            .into_iter()
            .find(|s| parent == format!("00-{TRACE}-{}-01", hex(&s.span.span_id))))
    });
    assert_eq!(delivered.unwrap().span.parent_span_id, accepted.span.span_id);
    let first = span(&collectors[0], "client", "/in");
    assert_eq!(accepted.span.parent_span_id, first.span.span_id);
}

#[test]
fn calls_go_on_while_the_collector_is_away_and_spans_come_when_it_is_back() {
    if !gate::networks("traces without a collector") {
        return;
    }
    const CALLS: usize = 40;
    const QUEUE: usize = 8;
    let mut world = spec().start().unwrap();
    let _origin = HttpOrigin::start(&world.site(1).app, WEB).unwrap();
    traced(&mut world, &format!("queue = {QUEUE}\n"));
    let way = world.ways()[0];
    for n in 0..CALLS {
        way.curl("web", &format!("/bytes/{n}")).expect(200).unwrap();
    }
    let metric = |name: &str, labels: &[&str]| {
        let daemon = world.gateways[0][0].daemon.as_ref().unwrap();
        daemon.metrics().unwrap().sum(name, labels)
    };
    wait::for_condition(wait::SOON, "spans that found no room", || {
        metric(DROPPED, &["reason=\"Full\""]) > 0.0
    })
    .unwrap();
    assert_eq!(metric(EXPORTED, &[]), 0.0);
    let doctor = || {
        let daemon = world.gateways[0][0].daemon.as_ref().unwrap();
        daemon.doctor("traces").unwrap()["verdict"].clone()
    };
    assert_eq!(doctor(), "warn");
    // Back, and busy at first: it is asked again.
    let collectors = collectors(&world);
    collectors[0].refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    wait::for_condition(wait::SOON, "a question", || collectors[0].asked() > 0).unwrap();
    collectors[0].refuse(None);
    wait::for_condition(wait::SOON, "what waited", || {
        metric(EXPORTED, &[]) + metric(DROPPED, &[]) >= CALLS as f64
    })
    .unwrap();
    assert_eq!(doctor(), "ok");
    let came = collectors[0].spans().unwrap().len();
    assert!(came >= QUEUE, "{came} spans: as many as had room");
    assert_eq!(metric(EXPORTED, &[]) as usize, came);
    // What it refuses for good is not sent again.
    collectors[0].refuse(Some(StatusCode::UNAUTHORIZED));
    assert_eq!(doctor(), "warn");
    way.curl("web", "/bytes/1").expect(200).unwrap();
    wait::for_condition(wait::SOON, "a refusal", || {
        metric(DROPPED, &["reason=\"Refused\""]) == 1.0
    })
    .unwrap();
}

#[test]
fn a_collector_behind_tls_gets_the_last_spans_of_a_gateway_that_ends() {
    if !gate::networks("traces over TLS") {
        return;
    }
    let mut world = spec().start().unwrap();
    let _origin = HttpOrigin::start(&world.site(1).app, WEB).unwrap();
    let authority = Authority::new(world.dir()).unwrap();
    let host = world.site(0).app.clone();
    let name = host.address().to_string();
    let (certificate, key) = authority.issue(&name).unwrap();
    let collector = Collector::start(&host, COLLECTOR, Some((&certificate, &key))).unwrap();
    let ca = authority.certificate();
    // Spans wait for a minute: only the end of the gateway sends them.
    let lines = format!(
        "endpoint = \"https://{}/v1/traces\"\nca = \"{}\"\ndelay = \"1m\"\n",
        collector.address(),
        ca.display()
    );
    reload(&world, 0, &lines);
    world.ways()[0].curl("web", "/bytes/1").expect(200).unwrap();
    assert_eq!(collector.asked(), 0);
    let mut daemon = world.gateways[0][0].daemon.take().unwrap();
    daemon.process.signal(Signal::TERM).unwrap();
    let ended = daemon.process.wait_end(wait::SOON).unwrap();
    assert!(ended.success(), "{ended}");
    span(&collector, "client", "/bytes/1");
}
