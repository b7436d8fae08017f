//! Forged ends: the hub itself terminates the end-to-end TLS, with every certificate that it could make or steal.

use hawser_hostile::{Deal, Mask, deal::Answer};
use hawser_identity::{CertificateDer, HubIdentity, file};
use hawser_proto::{NodeId, ServiceName};
use rcgen::KeyPair;

use crate::world::{World, world};

/// The hub's real key, from its state directory.
fn hub_key(w: &World) -> KeyPair {
    KeyPair::from_pem(&std::fs::read_to_string(w.hub_state.join(file::HUB_KEY)).unwrap()).unwrap()
}

fn root_of(w: &World, domain: &str) -> CertificateDer<'static> {
    w.hub
        .roots()
        .remove(&domain.parse().unwrap())
        .expect("an admitted root in the hub's database")
}

/// Everything that a hub could show in a gateway's place: with its real key as an authority, with roots from its database,
/// with certificates that it saw.
fn masks(w: &World, victim: &NodeId, state: &std::path::Path) -> Vec<(&'static str, Mask)> {
    let root = root_of(w, victim.domain.as_str());
    let (key, own) = (hub_key(w), KeyPair::generate().unwrap());
    let hub = HubIdentity::load_or_create(&w.hub_state).unwrap();
    vec![
        (
            "the hub's key as root, the real root shown",
            Mask::minted(&key, victim, &root, true).unwrap(),
        ),
        (
            "the hub's key as root, a copy shown",
            Mask::minted(&key, victim, &root, false).unwrap(),
        ),
        (
            "a fresh key as root",
            Mask::minted(&own, victim, &root, true).unwrap(),
        ),
        (
            "signed by the hub's certificate",
            Mask::signed_by_hub(&key, hub.certificate(), victim).unwrap(),
        ),
        ("self-signed", Mask::self_signed(victim).unwrap()),
        (
            "the real certificates without their key",
            Mask::without_key(state).unwrap(),
        ),
        (
            "a peered gateway's key as an authority",
            Mask::signed_by_gateway(&w.gamma.state, victim).unwrap(),
        ),
        (
            "a peered domain's issuer",
            Mask::by_issuer_of(&w.gamma.state, victim).unwrap(),
        ),
    ]
}

#[test]
fn as_the_server_with_a_certificate_of_its_own_it_is_refused() {
    let w = world();
    for (what, mask) in masks(&w, &w.beta.id, &w.beta.state) {
        eprintln!("{what}");
        let attack = w.attack(|hub| hub.take_the_place(mask.in_its_place(hub.forger_notes())));
        attack.calls_fail("client-gateway", 502);
        attack.acme_warned("did not prove");
        attack.forger_failed(2);
    }
    w.attack(|hub| hub.behave()).end();
}

#[test]
fn as_a_client_with_a_certificate_of_its_own_it_is_refused() {
    let w = world();
    for (what, mask) in masks(&w, &w.acme.id, &w.acme.state) {
        eprintln!("{what}");
        let attack = w.attack(|_| ());
        // Once as the HTTP caller, once as the TCP caller.
        calls_are_refused(&w, &mask, &w.beta.id, &w.acme.id);
        attack.nobody_was_served();
        attack.beta_warned("no session");
        attack.end();
    }
}

fn calls_are_refused(w: &World, mask: &Mask, victim: &NodeId, claimed: &NodeId) {
    let orders: ServiceName = "orders".parse().unwrap();
    let feed: ServiceName = "feed".parse().unwrap();
    let (_, stream) = w.hub.lure(victim, claimed).unwrap();
    let called = w.hub.block_on(mask.call(stream, &orders, victim));
    assert!(called.is_err(), "{called:?}");
    let (_, stream) = w.hub.lure(victim, claimed).unwrap();
    let opened = w.hub.block_on(mask.open(stream, &feed));
    assert!(opened.is_err(), "{opened:?}");
}

/// gamma is one whom acme trusts, as gamma.
#[test]
fn another_domains_certificate_in_the_place_of_the_called_gateway_is_refused() {
    let w = world();
    let mask = Mask::stolen(&w.gamma.state).unwrap();
    let attack = w.attack(|hub| hub.take_the_place(mask.in_its_place(hub.forger_notes())));
    attack.calls_fail("client-gateway", 502);
    attack.acme_warned("did not prove");
    attack.forger_failed(2);
    attack.end();
}

#[test]
fn another_domains_certificate_in_the_place_of_the_caller_is_refused() {
    let w = world();
    let gamma = Mask::stolen(&w.gamma.state).unwrap();
    // beta does not know gamma: refused in the handshake, whoever the hub says it is.
    let attack = w.attack(|_| ());
    for claimed in [&w.acme.id, &w.gamma.id] {
        calls_are_refused(&w, &gamma, &w.beta.id, claimed);
    }
    attack.beta_warned("no session");
    // acme knows gamma, but announced was beta: refused before a request is read.
    calls_are_refused(&w, &gamma, &w.acme.id, &w.beta.id);
    w.acme.warned(attack.acme, "announced").unwrap();
    attack.nobody_was_served();
    // Announced as itself gamma is let in, and may call nothing: the exporting gateway has the last word.
    let orders = "orders".parse().unwrap();
    let (_, stream) = w.hub.lure(&w.acme.id, &w.gamma.id).unwrap();
    let (status, body) = w.hub.block_on(gamma.call(stream, &orders, &w.acme.id)).unwrap();
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("\"policy\""), "{body}");
    let (_, stream) = w.hub.lure(&w.acme.id, &w.gamma.id).unwrap();
    let opened = w
        .hub
        .block_on(gamma.open(stream, &"feed".parse().unwrap()))
        .unwrap();
    assert!(format!("{opened:?}").contains("Refused"), "{opened:?}");
    attack.nobody_was_served();
    attack.end();
}

#[test]
fn swapped_peers_are_noticed() {
    let w = world();
    // What is granted is called beta, and gamma's real gateway is at the other end.
    let gamma = w.gamma.id.clone();
    let to_gamma = gamma.clone();
    let attack = w.attack(|hub| {
        hub.answer(move |asked| {
            let partner = Some(to_gamma.clone());
            Answer::Deal(Deal {
                partner,
                ..Deal::honest(asked)
            })
        });
    });
    attack.calls_fail("client-gateway", 502);
    attack.acme_warned("did not prove");
    attack.end();
    // What is granted is called gamma, though beta was asked for.
    let attack = w.attack(|hub| {
        hub.answer(move |asked| {
            let (granted, partner) = (gamma.clone(), Some(gamma.clone()));
            Answer::Deal(Deal {
                granted,
                partner,
                ..Deal::honest(asked)
            })
        });
    });
    attack.calls_fail("hub", 502);
    attack.acme_warned("somebody else");
    attack.end();
    // beta is told that gamma calls, and acme is at the other end.
    let attack = w.attack(|hub| {
        hub.answer(|asked| {
            let announced = "spiffe://gamma/gateway/gw1".parse().expect("a name");
            Answer::Deal(Deal {
                announced,
                ..Deal::honest(asked)
            })
        });
    });
    let answer = attack.get("/bytes/1000");
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{}",
        answer.text()
    );
    attack.download(1000).was_reset();
    attack.nobody_was_served();
    attack.beta_warned("announced");
    attack.end();
}
