//! The web proxy joined to exports: what passes, what is added, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hawser_gateway::seam::Exports;
use http::Request;
use support::*;

const GET: &str = "GET http://web.beta.hawser/a?b=c HTTP/1.1\r\nHost: web.beta.hawser\r\n";

/// The whole answer to one request after which the connection closes.
async fn ask(world: &World, request: &str) -> String {
    let mut raw = world.raw().await;
    raw.send(request).await;
    raw.rest().await.0
}

/// Whether a new connection is reset at once: while it is made, or as soon as it is.
async fn turned_away(world: &World) -> bool {
    let reset = |e: std::io::Error| e.kind() == std::io::ErrorKind::ConnectionReset;
    match tokio::net::TcpStream::connect(world.proxy()).await {
        Ok(tcp) => Raw(tcp).rest().await == (String::new(), Some(std::io::ErrorKind::ConnectionReset)),
        Err(e) => reset(e),
    }
}

fn close(head: &str) -> String {
    format!("{head}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn a_request_arrives_with_our_headers_and_without_those_of_the_hop() {
    let world = World::web(origin(mirror).await).await;
    let answer = ask(
        &world,
        "GET http://Web.beta.hawser:80/a?b=c HTTP/1.1\r\nHost: other.example\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\
         Proxy-Authorization: Basic x\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nHawser-Service: other\r\n\
         X_Forwarded_For: 6.6.6.6\r\nTE: trailers\r\nX-Mine: 1\r\nVia: 1.0 fred\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    for part in [
        "GET /a?b=c HTTP/1.1\n",
        "\nhost: Web.beta.hawser:80\n",
        "\nforwarded: for=_hidden;host=\"Web.beta.hawser:80\";proto=http, for=_gw1.acme;by=_gw2.beta\n",
        "\nvia: 1.0 fred\nvia: 1.1 gw1.acme\nvia: 2.0 export.gw2.beta\n",
        "\nx-mine: 1\n",
        "\nte: trailers\n",
        "\nhawser-request-id: ",
        "\r\nvia: 1.1 export.gw2.beta\r\nvia: 2.0 gw1.acme\r\n",
    ] {
        assert!(answer.contains(part), "{part:?} is missing in {answer}");
    }
    let (head, seen) = answer.split_once("\r\n\r\n").unwrap();
    for gone in ["x-hop", "proxy-auth", "6.6.6.6", "hawser-", "other.example"] {
        assert!(!seen.contains(gone), "{gone:?} in {seen}");
    }
    assert!(head.contains("hawser-request-id: ") && !head.contains("hawser-fault"));
}

#[tokio::test]
async fn origin_form_with_a_host_under_the_suffix_is_as_good() {
    let world = World::web(origin(mirror).await).await;
    let answer = ask(&world, &close("GET /x HTTP/1.1\r\nHost: web.beta.hawser\r\n")).await;
    assert!(
        answer.contains("GET /x HTTP/1.1\nhost: web.beta.hawser\n")
            || answer.contains("\nhost: web.beta.hawser\n"),
        "{answer}"
    );
    let answer = ask(
        &world,
        &close("OPTIONS * HTTP/1.1\r\nHost: web.beta.hawser\r\nMax-Forwards: 5\r\n"),
    )
    .await;
    assert!(
        answer.contains("OPTIONS * HTTP/1.1\n") && answer.contains("max-forwards: 4"),
        "{answer}"
    );
    let answer = ask(
        &world,
        &close("OPTIONS * HTTP/1.1\r\nHost: web.beta.hawser\r\nMax-Forwards: 0\r\n"),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 204") && answer.contains("allow: GET"),
        "{answer}"
    );
}

#[tokio::test]
async fn http_2_with_prior_knowledge_works_on_the_same_address() {
    let world = World::web(origin(mirror).await).await;
    let mut client = h2(world.proxy()).await;
    let request = Request::post("http://web.beta.hawser/two")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(body("hello"))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = text(response.into_body()).await;
    assert!(
        seen.contains("POST /two HTTP/1.1\n") && seen.contains("\nbody=hello\n"),
        "{seen}"
    );
    assert!(seen.contains("\ncookie: a=1; b=2\n"), "{seen}");
    assert!(seen.contains("via: 2.0 gw1.acme"), "{seen}");
}

#[tokio::test]
async fn faults_say_where_and_what_to_do() {
    let world = World::new(
        "",
        &format!(
            "{}[[export]]\nname=\"shut\"\nhttp=\"http://127.0.0.1:1\"\nallow=[{{domains=[\"acme\"]}}]\n\
             [[export]]\nname=\"other\"\nhttp=\"http://127.0.0.1:1\"\nallow=[{{domains=[\"gamma\"]}}]\n",
            web(origin(mirror).await)
        ),
    )
    .await;
    for (request, status, code, place) in [
        (
            "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n",
            403,
            "name-elsewhere",
            "client-gateway",
        ),
        (
            "GET http://beta.hawser/ HTTP/1.1\r\nHost: beta.hawser\r\n",
            404,
            "name-malformed",
            "client-gateway",
        ),
        (
            "GET /x HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n",
            403,
            "name-elsewhere",
            "client-gateway",
        ),
        (
            "GET http://no.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            404,
            "service-unknown",
            "hub",
        ),
        (
            "GET http://shut.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            503,
            "origin-unreachable",
            "origin",
        ),
        (
            "GET http://other.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            403,
            "domain-not-allowed",
            "policy",
        ),
        (
            "GET https://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            400,
            "scheme-not-supported",
            "client-gateway",
        ),
        (
            "TRACE http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            405,
            "trace-refused",
            "client-gateway",
        ),
        (
            "GET http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\nVia: 1.1 gw1.acme\r\n",
            508,
            "loop",
            "client-gateway",
        ),
        (
            "GET http://u:p@web.beta.hawser/ HTTP/1.1\r\nHost: x\r\n",
            400,
            "host-malformed",
            "client-gateway",
        ),
    ] {
        let answer = ask(&world, &close(request)).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains("application/problem+json") && !head.contains("hawser-fault"),
            "{head}"
        );
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["type"], format!("urn:hawser:fault:{code}"), "{request}");
        assert_eq!(problem["where"], place, "{request}");
        assert!(!problem["advice"].as_str().unwrap().is_empty());
        let id = problem["instance"].as_str().unwrap().rsplit(':').next().unwrap();
        assert!(
            head.contains(&format!("hawser-request-id: {id}")),
            "the same id all along: {head} {problem}"
        );
    }
}

#[tokio::test]
async fn a_grpc_client_reads_faults_in_its_own_form() {
    let world = World::new(
        "",
        "[[export]]\nname=\"web\"\nhttp=\"http://127.0.0.1:1\"\nallow=[{domains=[\"acme\"]}]\n",
    )
    .await;
    let mut client = h2(world.proxy()).await;
    let request = Request::post("http://web.beta.hawser/pkg.Service/Call")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body("12345"))
        .unwrap();
    let response = client.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert!(
        response.headers()["grpc-message"]
            .to_str()
            .unwrap()
            .contains("origin")
    );
}

#[tokio::test]
async fn a_request_that_was_never_sent_goes_another_way() {
    let world = World::web(origin(mirror).await).await;
    world.fake.give_back.store(2, Ordering::SeqCst);
    let answer = ask(
        &world,
        &format!(
            "{}Content-Length: 3\r\nConnection: close\r\n\r\nabc",
            GET.replacen("GET", "POST", 1)
        ),
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("body=abc"),
        "{answer}"
    );
    assert_eq!(world.fake.leases.load(Ordering::SeqCst), 3);
    world.fake.give_back.store(9, Ordering::SeqCst);
    let answer = ask(&world, &close(GET)).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(world.fake.leases.load(Ordering::SeqCst), 6, "and not for ever");
}

#[tokio::test]
async fn policy_is_per_method_and_path() {
    let at = origin(mirror).await;
    let export = format!(
        "[[export]]\nname=\"web\"\nhttp=\"http://{at}\"\nhost=\"origin\"\n\
         allow=[{{domains=[\"acme\"],methods=[\"GET\"],paths=[\"/v1/**\"]}}]\n"
    );
    let world = World::new("", &export).await;
    for (line, status) in [
        ("GET http://web.beta.hawser/v1/a?x=.. HTTP/1.1", 200),
        ("POST http://web.beta.hawser/v1/a HTTP/1.1", 403),
        ("GET http://web.beta.hawser/v2 HTTP/1.1", 403),
        ("GET http://web.beta.hawser/v1/../v2 HTTP/1.1", 400),
        ("GET http://web.beta.hawser/v1/%2e%2e/v2 HTTP/1.1", 400),
        ("GET http://web.beta.hawser//v1/a HTTP/1.1", 400),
    ] {
        let answer = ask(&world, &close(&format!("{line}\r\nHost: x\r\n"))).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{line}: {answer}"
        );
        if status == 200 {
            assert!(answer.contains(&format!("\nhost: {at}\n")), "{answer}");
            assert!(
                answer.contains("\nx-forwarded-host: web.beta.hawser\n"),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn limits_hold() {
    let export = web(origin(mirror).await);
    let world = World::new("[limits]\nuri_bytes=300\n", &export).await;
    let long = format!(
        "GET http://web.beta.hawser/{} HTTP/1.1\r\nHost: x\r\n",
        "a".repeat(300)
    );
    let answer = ask(&world, &close(&long)).await;
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
    let world = World::new("[limits]\nconnections=1\nheader_timeout=\"1s\"\n", &export).await;
    let mut first = world.raw().await;
    first.send("GET http://web").await;
    assert!(turned_away(&world).await, "over the limit");
    let (got, _) = first.rest().await;
    assert!(
        got.is_empty() || got.starts_with("HTTP/1.1 408"),
        "a slow head is given up: {got}"
    );
}

#[tokio::test]
async fn large_headers_pass_and_larger_ones_do_not() {
    let world = World::web(origin(mirror).await).await;
    let ticket = "x".repeat(48 * 1024);
    let answer = ask(&world, &close(&format!("{GET}Authorization: Basic {ticket}\r\n"))).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(&ticket),
        "{}",
        &answer[..200]
    );
    let answer = ask(
        &world,
        &close(&format!("{GET}X-A: {}\r\n", "x".repeat(70 * 1024))),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn clients_that_are_not_listed_are_turned_away_and_a_reload_lets_them_in() {
    let export = web(origin(mirror).await);
    let shut = "[proxy]\nlisten=[\"127.0.0.1:0\"]\nclients=[\"10.0.0.0/8\"]\n";
    let world = World::new(shut, &export).await;
    let address = world.proxy();
    assert!(turned_away(&world).await);
    assert!(
        world
            .metrics()
            .contains("gateway_connections_turned_away_total 1"),
        "{}",
        world.metrics()
    );
    let plan = config(&shut.replace("10.0", "127.0"), &export).check().unwrap();
    world.front.reload(&plan.front).unwrap();
    assert_eq!(world.proxy(), address, "the listener stays");
    assert!(ask(&world, &close(GET)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn exports_are_swapped_and_a_taken_address_changes_nothing() {
    let world = World::web(origin(|_| async { http::Response::new(body("one")) }).await).await;
    assert!(ask(&world, &close(GET)).await.ends_with("one"));
    let two = web(origin(|_| async { http::Response::new(body("two")) }).await);
    world
        .exporter
        .reload(&config("", &two).check().unwrap().exports)
        .unwrap();
    assert!(ask(&world, &close(GET)).await.ends_with("two"));
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bad = format!(
        "[proxy]\nlisten=[\"127.0.0.1:0\"]\n[[import]]\nservice=\"web.beta\"\nlisten=\"{}\"\n",
        taken.local_addr().unwrap()
    );
    let e = world
        .front
        .reload(&config(&bad, "").check().unwrap().front)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("gateway.import.listen") && e.contains("another program"),
        "{e}"
    );
    assert!(ask(&world, &close(GET)).await.ends_with("two"));
    world.exporter.reload(&[]).unwrap();
    assert!(ask(&world, &close(GET)).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn an_import_stands_for_one_service() {
    let front = "[[import]]\nservice=\"web.beta\"\nlisten=\"127.0.0.1:0\"\n";
    let world = World::new(front, &web(origin(mirror).await)).await;
    let at = world.front.import_addrs(&"web.beta".parse().unwrap())[0];
    let mut raw = Raw::connect(at).await;
    raw.send(format!(
        "GET /x HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
    ))
    .await;
    let answer = raw.rest().await.0;
    assert!(answer.contains(&format!("\nhost: {at}\n")), "{answer}");
    let mut raw = Raw::connect(at).await;
    raw.send("GET /x HTTP/1.0\r\n\r\n").await;
    assert!(
        raw.rest().await.0.contains("GET /x HTTP/1.1\n"),
        "HTTP/1.0 without Host"
    );
    let mut raw = Raw::connect(at).await;
    raw.send("CONNECT web.beta.hawser:80 HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 405"));
}

#[tokio::test]
async fn draining_ends_idle_connections_and_lets_calls_end() {
    let gate = Arc::new(tokio::sync::Notify::new());
    let opened = gate.clone();
    let at = origin(move |_| {
        let opened = opened.clone();
        async move {
            opened.notified().await;
            http::Response::new(body("late"))
        }
    })
    .await;
    let world = World::web(at).await;
    let address = world.proxy();
    let mut busy = world.raw().await;
    busy.send(format!("{GET}\r\n")).await;
    let mut idle = world.raw().await;
    while world.fake.leases.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    let front = world.front.clone();
    let drained = tokio::spawn(async move { front.drain(LONG).await });
    assert_eq!(idle.rest().await.0, "");
    gate.notify_one();
    let (answer, end) = busy.rest().await;
    assert!(answer.ends_with("late") && end.is_none(), "{answer}");
    drained.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn health_is_registered_as_it_changes() {
    let healthy = Arc::new(AtomicUsize::new(503));
    let status = healthy.clone();
    let at = origin(move |r| {
        let status = if r.uri().path() == "/up" {
            status.load(Ordering::SeqCst)
        } else {
            404
        };
        async move {
            http::Response::builder()
                .status(status as u16)
                .body(body(""))
                .unwrap()
        }
    })
    .await;
    let export = format!(
        "{}health={{path=\"/up\",interval=\"100ms\",rise=2,fall=1}}\n",
        web(at)
    );
    let world = World::new("", &export).await;
    let mut seen = world.exporter.registrations();
    assert!(
        !seen.borrow().first().unwrap().healthy,
        "not before the first check"
    );
    healthy.store(204, Ordering::SeqCst);
    tokio::time::timeout(LONG, seen.wait_for(|r| r[0].healthy))
        .await
        .unwrap()
        .unwrap();
    healthy.store(500, Ordering::SeqCst);
    tokio::time::timeout(LONG, seen.wait_for(|r| !r[0].healthy))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn calls_are_counted_under_bounded_names() {
    let world = World::web(origin(mirror).await).await;
    ask(&world, &close(GET)).await;
    ask(
        &world,
        &close("GET http://made.up.hawser/ HTTP/1.1\r\nHost: x\r\n"),
    )
    .await;
    let text = world.metrics();
    for line in [
        "gateway_calls_total{side=\"Client\",service=\"web.beta\",status=\"2xx\"} 1",
        "gateway_calls_total{side=\"Export\",service=\"web\",status=\"2xx\"} 1",
        "gateway_calls_total{side=\"Client\",service=\"unknown\",status=\"4xx\"} 1",
        "gateway_calls_in_flight{side=\"Client\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("made"));
}
