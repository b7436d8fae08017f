//! What the gateways of one domain know together of addresses for calls back: short ones, and those that ended.

use std::time::{Duration, Instant};

use hawser_testkit::{
    curl::{Answer, Curl},
    gate,
    origin::HttpOrigin,
    parties::{self, Happening},
    wait,
    world::{Service, Spec, Way, World},
};
use serde_json::{Value, json};

use super::{alarms::alarms, tunnel::stage};

const PORT: u16 = 8205;
const LISTENER: u16 = 9100;
const IMPORT: u16 = 9001;
const LIMIT: Duration = Duration::from_secs(60);
/// Longest address that the service is said to take.
const LONGEST: usize = 100;

/// The service calls an address that it was given.
fn called(way: &Way, url: &str) -> Answer {
    Curl::new(way.server(), url).call().unwrap()
}

/// The service calls `url` until each gateway of `domain` that takes such calls has refused one, as ended.
fn ended_everywhere(world: &World, domain: usize, url: &str) {
    let way = &world.ways()[domain];
    wait::until(LIMIT, "the address to end at every gateway", || {
        called(way, url);
        let refused = world.gateways[domain].iter().all(|gateway| {
            let seen = gateway.daemon.as_ref().map(|d| d.ask("/exchanges"));
            let Some(Ok(Value::Array(seen))) = seen else {
                return false;
            };
            // As logs show it: not whole.
            let name = url.rsplit('/').next().unwrap_or_default();
            let shown = &name[..if name.contains('.') { 16 } else { 6 }];
            let of_url = seen
                .iter()
                .filter(|e| e["service"] == "hawser-callbacks" && e["what"].to_string().contains(shown));
            let last = of_url.max_by_key(|e| e["at"].as_u64());
            last.is_some_and(|e| e["status"] == 410)
        });
        Ok(refused.then_some(()))
    })
    .unwrap();
}

/// Each gateway of `domain` alone gives the service that calls `url` this status.
fn at_each_alone(world: &mut World, domain: usize, url: &str, status: u16) {
    for alone in 0..2 {
        world.gateways[domain][1 - alone]
            .running()
            .unwrap()
            .process
            .kill()
            .unwrap();
        let way = &world.ways()[domain];
        let what = format!("an answer by gateway {alone} alone");
        // Until the hub has told the service's gateway that the other is gone, its calls may find nobody.
        let answer = wait::until(LIMIT, &what, || {
            let answer = called(way, url);
            Ok((answer.status != 502 && answer.status != 503).then_some(answer))
        })
        .unwrap();
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        world.gateways[domain][1 - alone].start().unwrap();
        world.wait_connected(LIMIT).unwrap();
    }
}

#[test]
fn a_short_address_works_at_all_gateways_until_an_operator_ends_it() {
    let what = "short addresses for calls back";
    if !gate::networks(what) {
        return;
    }
    let spec = Spec::new([Service::http("web", PORT).imported(IMPORT)]).gateways(2);
    let rule = format!(
        "[[gateway.callbacks.rule]]\nservice = \"*\"\njson = [\"/callbackUrl\"]\nmax_length = {LONGEST}"
    );
    let mut world = spec.gateway_tables(&rule).start().unwrap();
    let _origins = [0, 1].map(|n| HttpOrigin::start(&world.site(n).app, PORT).unwrap());
    let (url, _listener) = {
        let way = &world.ways()[0];
        let listener = HttpOrigin::start(way.client(), LISTENER).unwrap();
        let own = format!("http://{}/echo", way.client().at(LISTENER));
        let body = json!({ "callbackUrl": own }).to_string();
        let mirrored = way
            .curl_import(IMPORT, "/mirror")
            .header("Content-Type: application/json")
            .post(&body)
            .expect(200)
            .unwrap();
        let seen = mirrored.json().unwrap();
        let url = seen["callbackUrl"].as_str().unwrap().to_owned();
        assert!(url.contains("/.hawser/cb/acme/"), "{url}");
        assert!(url.len() <= LONGEST, "{url}");
        // Several times, so that both gateways get it, at once.
        for n in 0..8 {
            let answer = called(way, &format!("{url}/more?n={n}"));
            assert_eq!(
                answer.json().unwrap()["path"],
                format!("/echo/more?n={n}"),
                "{}",
                answer.text()
            );
        }
        let at = url.rfind('/').unwrap() + 1;
        let first = if url.as_bytes()[at] == b'A' { 'B' } else { 'A' };
        let other = called(way, &format!("{}{first}{}", &url[..at], &url[at + 1..]));
        assert!((400..500).contains(&other.status), "{}", other.text());
        (url, listener)
    };
    // Gateways remember, whichever was asked to make it.
    at_each_alone(&mut world, 0, &url, 200);

    let said = world.gateways[0][1]
        .command(&["callbacks", "end", &url], "")
        .unwrap();
    assert!(said.contains(&format!(":{LISTENER}/echo")), "{said}");
    ended_everywhere(&world, 0, &url);
    at_each_alone(&mut world, 0, &url, 410);

    let foreign = world.gateways[1][0].command(&["callbacks", "end", &url], "");
    let refused = format!("{:#}", foreign.unwrap_err());
    assert!(
        refused.contains("no address for calls back to the domain beta"),
        "{refused}"
    );
}

#[test]
fn a_subscriptions_addresses_last_and_end_with_it() {
    let what = "addresses of subscriptions";
    if !(gate::networks(what) && parties::are_installed(what)) {
        return;
    }
    let spec = Spec::new([Service::http("alarms", 8206).imported(IMPORT)]).gateways(2);
    let mut world = spec
        .gateway_tables("[gateway.callbacks]\nexpire = \"10s\"")
        .start()
        .unwrap();
    let ended = {
        let ways = world.ways();
        let stage = stage(&world, &ways[1], 8206);
        let mut done = alarms(&stage);
        let told = |party: &mut parties::Party, kind: &str| {
            let all = party.happenings().into_iter();
            all.filter(|h: &Happening| h.kind() == kind).collect::<Vec<_>>()
        };
        let subscriptions = told(&mut done.source, "subscribe");
        let notify_to = |n: usize| subscriptions[n].text("notify_to").to_owned();
        assert_eq!(subscriptions.len(), 3, "{subscriptions:?}");
        let from = &ways[1];
        // The first was ended by the subscriber, the third by the source: at once, where that passed.
        for n in [0, 2] {
            let url = notify_to(n);
            ended_everywhere(&world, 1, &url);
            let answer = called(from, &url);
            assert!(answer.text().contains("was ended"), "{}", answer.text());
        }
        // A fourth lasts by its lease alone: what was sealed for it is good for ten seconds.
        let began = Instant::now();
        done.subscriber.tell("subscribe PT2H").unwrap();
        done.subscriber
            .wait_for("subscribed", |h| h.text("expires") == "PT2H")
            .unwrap();
        wait::for_condition(LIMIT, "what was sealed to expire", || {
            began.elapsed() > Duration::from_secs(12)
        })
        .unwrap();
        done.source.tell("fire late").unwrap();
        done.subscriber
            .wait_for("alarm", |h| h.text("text") == "late")
            .unwrap();
        notify_to(0)
    };
    at_each_alone(&mut world, 1, &ended, 410);
}
