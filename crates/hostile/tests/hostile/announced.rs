//! The hub announces what is not there, or what is not its to give.

use hawser_hostile::{Deal, deal::Answer};
use hawser_proto::{
    NodeId,
    control::{Protocol, Route, RouteGateway},
};

use crate::world::{problem, world};

fn route(service: &str, protocol: Protocol, gateway: &str) -> Route {
    Route {
        service: service.parse().unwrap(),
        protocol,
        description: "announced by the hub".into(),
        gateways: vec![RouteGateway {
            name: gateway.parse().unwrap(),
            healthy: true,
        }],
    }
}

/// beta is not peered with gamma; the hub shows gamma's service to it and pairs whoever asks.
#[test]
fn a_service_of_a_domain_that_is_no_peer_is_refused_for_lack_of_its_root() {
    let w = world();
    let beta = w.beta.id.clone();
    let attack = w.attack(|hub| {
        hub.announce(move |eyes, mut routes| {
            if *eyes == beta {
                routes.push(route("vault.delta", Protocol::Http, "gw1"));
            }
            routes
        });
        // Whatever is asked for, gamma's gateway comes.
        hub.answer(|asked| {
            let partner = Some("spiffe://gamma/gateway/gw1".parse::<NodeId>().expect("a name"));
            Answer::Deal(Deal {
                partner,
                ..Deal::honest(asked)
            })
        });
    });
    for host in ["orders.gamma.hawser", "vault.delta.hawser"] {
        let answer = w.call_from_beta(&format!("http://{host}/echo")).call().unwrap();
        assert!([404, 502].contains(&answer.status), "{}", answer.text());
        problem(&answer, "client-gateway", answer.status);
        let text = answer.text();
        assert!(text.contains("gamma") || text.contains("delta"), "{text}");
    }
    attack.beta_warned("gamma");
    attack.nobody_was_served();
    attack.end();
}

#[test]
fn a_service_that_does_not_exist_is_refused_by_the_gateway_that_should_have_it() {
    let w = world();
    let attack = w.attack(|hub| {
        hub.announce(|_, mut routes| {
            routes.push(route("ghost.beta", Protocol::Http, "gw1"));
            routes.push(route("feed.acme", Protocol::Tcp, "gw1"));
            routes
        });
    });
    let answer = w.call_from_acme("http://ghost.beta.hawser/echo").call().unwrap();
    assert!([403, 404].contains(&answer.status), "{}", answer.text());
    assert!(
        ["policy", "server-gateway"].contains(&answer.json().unwrap()["where"].as_str().unwrap()),
        "{}",
        answer.text()
    );
    attack.nobody_was_served();
    attack.end();
}

/// A TCP service is called an HTTP service by the hub, and the other way round.
#[test]
fn a_service_announced_as_another_kind_serves_nobody() {
    let w = world();
    let attack = w.attack(|hub| {
        hub.announce(|_, routes| {
            let other = |p| {
                if p == Protocol::Http {
                    Protocol::Tcp
                } else {
                    Protocol::Http
                }
            };
            routes
                .into_iter()
                .map(|r| Route {
                    protocol: other(r.protocol),
                    ..r
                })
                .collect()
        });
    });
    let answer = w.call_from_acme("http://feed.beta.hawser/echo").call().unwrap();
    assert!(answer.status >= 400, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    attack.download(1000).was_reset();
    attack.nobody_was_served();
    attack.end();
}
