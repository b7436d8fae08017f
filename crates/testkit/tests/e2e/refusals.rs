//! What must not be possible is not: connections from outside, and calls against the policy.

use std::time::Duration;

use hawser_testkit::{
    gate,
    origin::{HttpOrigin, RawOrigin, raw::Manner},
    wait,
    world::{PROXY_PORT, Service, Spec},
};

use crate::{calls, talk};

/// How long a connection is waited for that should not succeed, and for one that should.
const FOR_NOTHING: Duration = Duration::from_millis(500);
const FOR_CERTAIN: Duration = Duration::from_secs(20);

#[test]
fn nobody_connects_into_a_domain() {
    if !gate::networks("inbound connections refused") {
        return;
    }
    let (world, _origins) = calls::web_world(|s| s);
    for domain in 0..2 {
        let site = world.site(domain);
        let firewall = site.firewall.as_ref().unwrap();
        assert_eq!(
            firewall.inbound_dropped().unwrap(),
            0,
            "the tunnel came up without a single inbound connection"
        );
    }
    for way in world.ways() {
        way.curl("web", "/echo").expect(200).unwrap();
    }
    for domain in 0..2 {
        let site = world.site(domain);
        let firewall = site.firewall.as_ref().unwrap();
        assert_eq!(
            firewall.inbound_dropped().unwrap(),
            0,
            "both ways were used without one, too"
        );
        let doors = [
            site.gateways[0].at(PROXY_PORT),
            site.gateways[0].at(calls::WEB_IMPORT),
            site.app.at(8080),
        ];
        for door in doors {
            for from in [&world.sites.net, &world.sites.hub, &world.site(1 - domain).app] {
                assert!(
                    !from.connects(door, FOR_NOTHING).unwrap(),
                    "{} reaches {door}",
                    from.name()
                );
            }
        }
        assert!(
            firewall.inbound_dropped().unwrap() >= 6,
            "the firewall counted them"
        );
    }
    // The control: with the rules off, the same connections succeed.
    for site in &world.sites.domains {
        site.firewall.as_ref().unwrap().off().unwrap();
    }
    for domain in 0..2 {
        let site = world.site(domain);
        for door in [site.gateways[0].at(PROXY_PORT), site.app.at(8080)] {
            for from in [&world.sites.net, &world.sites.hub, &world.site(1 - domain).app] {
                assert!(
                    from.connects(door, FOR_CERTAIN).unwrap(),
                    "{} does not reach {door}",
                    from.name()
                );
            }
        }
    }
}

#[test]
fn the_hub_refuses_what_its_policy_does_not_allow() {
    if !gate::networks("policy at the hub") {
        return;
    }
    let open = Service::http("open", 8080).imported(9001);
    let closed = Service::http("closed", 8081).imported(9002);
    let closed_tcp = Service::tcp("closed-tcp", 8082).imported(9003);
    let mut world = Spec::new([open, closed, closed_tcp])
        .hub_allows(&["open"])
        .start()
        .unwrap();
    let _open = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let closed = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8081).unwrap());
    let _closed_tcp =
        [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8082, Manner::ResetAfter(10)).unwrap());
    for way in world.ways() {
        way.curl("open", "/echo").expect(200).unwrap();
        for curl in [way.curl("closed", "/echo"), way.curl_import(9002, "/echo")] {
            let answer = curl.call().unwrap();
            assert!([403, 404].contains(&answer.status), "{answer:?}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
        // It is not even shown.
        let sees = world.gateways[way.from][0].sees();
        assert!(!sees.iter().any(|s| s.starts_with("closed")), "{sees:?}");
    }
    assert!(
        closed.iter().all(|o| o.served() == 0),
        "a refused call reached the origin"
    );

    // The policy is changed while it runs: nothing is allowed now.
    let hub = world.hub().unwrap();
    let config = std::fs::read_to_string(hub.config()).unwrap();
    let (without, _) = config.split_once("[[hub.allow]]").unwrap();
    let (without, config) = (without.to_owned(), config.clone());
    hub.reload(&without).unwrap();
    let way = world.ways()[0];
    let status = |wanted: &[u16]| {
        wait::for_condition(wait::SOON, "the policy to be in force", || {
            wanted.contains(&way.curl("open", "/echo").call().unwrap().status)
        })
    };
    status(&[403, 404, 503]).unwrap();
    world.hub.as_ref().unwrap().reload(&config).unwrap();
    status(&[200]).unwrap();
}

/// The hub pairs everybody here: the exporting gateway has the last word.
#[test]
fn the_exporting_gateway_refuses_what_its_policy_does_not_allow() {
    if !gate::networks("policy at the gateway") {
        return;
    }
    let nobody = Service::http("nobody", 8080).imported(9001).allow("[]");
    let other = Service::http("other", 8080).allow("[{ domains = [\"gamma\"] }]");
    let some = Service::http("some", 8080)
        .allow("[{ domains = [\"*\"], methods = [\"GET\", \"HEAD\"], paths = [\"/echo\", \"/status/**\"] }]");
    let tcp = Service::tcp("tcp", 8081).imported(9002).allow("[]");
    let world = Spec::new([nobody, other, some, tcp]).start().unwrap();
    let origins = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let _tcp = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8081, Manner::Echo).unwrap());
    for way in world.ways() {
        let refused = [
            way.curl("nobody", "/echo"),
            way.curl_import(9001, "/echo").http2(),
            way.curl("other", "/echo"),
            way.curl("some", "/mirror"),
            way.curl("some", "/echo").post("x"),
            way.curl("some", "/status/../mirror").args(["--path-as-is"]),
            way.curl("some", "/echo/..%2fmirror").args(["--path-as-is"]),
            way.curl("some", "/status/%2e%2e/mirror").args(["--path-as-is"]),
        ];
        for curl in refused {
            let answer = curl.call().unwrap();
            assert!([400, 403].contains(&answer.status), "{answer:?}");
            let problem = answer.json().unwrap();
            assert!(
                ["policy", "client-gateway", "server-gateway"].contains(&problem["where"].as_str().unwrap())
            );
        }
        assert_eq!(origins[way.to].served(), 0, "a refused call reached the origin");
        way.curl("some", "/echo").expect(200).unwrap();
        way.curl("some", "/status/204").expect(204).unwrap();
        assert_eq!(origins[way.to].served(), 2);
        let refused = way
            .client()
            .enter(|| talk::is_ended_at_once(way.import(9002)))
            .unwrap();
        assert!(refused, "a TCP connection against the policy stays open");
    }
}
