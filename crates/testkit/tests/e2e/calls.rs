//! Web calls in every manner that the gateway offers, in both directions.

use hawser_testkit::{
    curl::{Answer, Curl},
    gate,
    origin::HttpOrigin,
    world::{Service, Spec, Way, World},
};

use crate::talk;

const PORT: u16 = 8080;
const IMPORT: u16 = 9001;

/// A world with one web service, and the origins of both domains.
pub(crate) fn web_world(spec: impl FnOnce(Spec) -> Spec) -> (World, [HttpOrigin; 2]) {
    let service = Service::http("web", PORT).imported(IMPORT);
    let world = spec(Spec::new([service])).start().unwrap();
    let origins = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, PORT).unwrap());
    (world, origins)
}

/// Port of the listener for `web` of [`web_world`].
pub(crate) const WEB_IMPORT: u16 = IMPORT;

#[test]
fn curl_calls_in_every_manner_both_ways() {
    if !gate::networks("curl through the tunnel") {
        return;
    }
    let (world, _origins) = web_world(|s| s);
    for way in world.ways() {
        let url = way.url("web", "/echo?q=1");
        let by_proxy = || Curl::new(way.client(), &url).proxy(way.proxy());
        let by_import = || way.curl_import(IMPORT, "/echo?q=1");
        let to_proxy = || {
            let there = format!("{}:80:{}", way.host("web"), way.proxy());
            Curl::new(way.client(), &url).args(["--connect-to", &there])
        };
        let manners = [
            ("absolute form", by_proxy(), "1.1"),
            ("CONNECT", by_proxy().args(["--proxytunnel"]), "1.1"),
            (
                "CONNECT, HTTP/2 inside",
                by_proxy().args(["--proxytunnel"]).http2(),
                "2",
            ),
            ("import", by_import(), "1.1"),
            ("import, HTTP/2", by_import().http2(), "2"),
            ("web proxy as server, HTTP/2", to_proxy().http2(), "2"),
        ];
        for (manner, curl, version) in manners {
            let said = format!("{}, {manner}", way.words());
            let answer = curl.header("X-Sent: yes").post("some body").call().unwrap();
            assert_eq!(
                (answer.exit, answer.status),
                (0, 200),
                "{said}: {answer:?} {}",
                answer.text()
            );
            assert_eq!(answer.version, version, "{said}");
            check_echo(&said, &answer, &way);
        }
    }
}

fn check_echo(said: &str, answer: &Answer, way: &Way) {
    let seen = answer.json().unwrap();
    assert_eq!(seen["method"], "POST", "{said}");
    assert_eq!(seen["path"], "/echo?q=1", "{said}");
    assert_eq!(seen["body"], "some body", "{said}");
    let header = |name: &str| -> Vec<String> {
        let all = seen["headers"].as_array().unwrap();
        all.iter()
            .filter(|h| h[0] == name)
            .map(|h| h[1].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(header("x-sent"), ["yes"], "{said}");
    assert_eq!(header("forwarded").len(), 1, "{said}: {seen}");
    for internal in [
        "hawser-service",
        "hawser-request-id",
        "hawser-fault",
        "proxy-connection",
    ] {
        assert!(
            header(internal).is_empty(),
            "{said}: {internal} reached the origin"
        );
    }
    assert!(answer.header("hawser-fault").is_none(), "{said}");
    assert_ne!(way.client().address(), way.server().address());
}

#[test]
fn events_arrive_one_by_one_both_ways() {
    if !gate::networks("server-sent events") {
        return;
    }
    let (world, origins) = web_world(|s| s);
    for way in world.ways() {
        let manners = [
            ("proxy", way.curl("web", "/events/proxy")),
            ("import", way.curl_import(IMPORT, "/events/import")),
            ("two", way.curl_import(IMPORT, "/events/two").http2()),
        ];
        for (key, curl) in manners {
            let mut stream = curl.stream().unwrap();
            talk::events(&origins[way.to], key, &mut stream.out);
            origins[way.to].end_events(key);
            assert_eq!(stream.end().unwrap().0, 0, "{} {key}", way.words());
        }
    }
}

#[test]
fn a_fault_says_where_it_is_and_what_to_do() {
    if !gate::networks("faults") {
        return;
    }
    let (world, mut origins) = web_world(|s| s);
    let way = world.ways()[0];
    let ask = |curl: Curl| {
        let answer = curl.call().unwrap();
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{answer:?}"
        );
        let problem = answer.json().unwrap();
        assert_eq!(problem["status"], answer.status);
        for field in ["type", "title", "detail", "where", "advice", "instance"] {
            assert!(
                problem[field].as_str().is_some_and(|s| !s.is_empty()),
                "{field}: {problem}"
            );
        }
        (answer.status, problem["where"].as_str().unwrap().to_owned())
    };
    let client = || "client-gateway".to_owned();
    assert_eq!(ask(way.curl("nowhere", "/")), (404, client()));
    let other_domain = Curl::new(way.client(), "http://web.gamma.hawser/").proxy(way.proxy());
    assert_eq!(ask(other_domain), (404, client()));
    let outside = Curl::new(way.client(), "http://example.org/")
        .proxy(way.proxy())
        .call()
        .unwrap();
    assert!((400..500).contains(&outside.status), "{outside:?}");

    // The origin answers with an error of its own: that is no fault of ours.
    let own = way.curl("web", "/status/503").call().unwrap();
    assert_eq!((own.status, own.text().as_str()), (503, "as asked\n"));

    // The origin is gone.
    origins[way.to].stop();
    let (status, place) = ask(way.curl("web", "/"));
    assert!([502, 503].contains(&status), "{status}");
    assert_eq!(place, "origin");
}
