//! The hub withholds revocations. It can delay one while nobody but the revoked gateway speaks to the peer, at most until
//! the revoked certificate ends (24 h as set up); it cannot keep two honest gateways from telling each other.

use std::io::Read;

use hawser_hostile::Event;
use hawser_testkit::wait;

use crate::{
    origin::HOLD,
    world::{Download, ORDERS, problem, world},
};

#[test]
fn a_withheld_revocation_still_arrives_and_cuts() {
    let mut w = world();
    w.beta2.start().unwrap();
    w.hub.await_connected(wait::SOON * 3, &[&w.beta2.id]).unwrap();
    let w = w;
    let mark = w.hub.mark();
    w.hub.withhold_revocations(true);
    // beta's services are shown at gw2 only: that is where acme's calls and this connection go.
    let only = |name: &'static str| {
        move |_: &hawser_proto::NodeId, mut routes: Vec<hawser_proto::control::Route>| {
            for route in routes.iter_mut().filter(|r| r.service.domain.as_str() == "beta") {
                route.gateways.retain(|g| g.name.as_str() == name);
            }
            routes
        }
    };
    w.hub.announce(only("gw2"));
    w.hub.cut_sessions().unwrap();
    w.works().unwrap();
    let mut held = w.begin(HOLD).unwrap();
    held.read_exact(&mut [0; 8]).unwrap();
    let asked_gw1 = |since: usize| {
        w.hub
            .events()
            .iter()
            .skip(since)
            .any(|e| matches!(e, Event::Asked(a) if a.target == w.beta.id && a.from == w.acme.id))
    };
    assert!(!asked_gw1(mark), "acme speaks with gw2 only");

    w.beta.command(&["domain", "revoke", "gw2"], "").unwrap();
    let withheld = |e: &Event| matches!(e, Event::Revocations { passed: false, .. });
    w.hub
        .await_event(mark, "beta to hand in its list", withheld)
        .unwrap();

    // beta's first gateway and acme come to speak: acme calls it, or it calls acme. Then acme knows.
    w.hub.announce(only("gw1"));
    let since = w.acme.mark();
    w.works().unwrap();
    let cut = Download::read(held);
    assert_eq!(
        cut.end.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset,
        "its session with gw2 was cut"
    );

    // From now on gw2 is refused, though the hub still brings it.
    w.hub.announce(only("gw2"));
    w.hub.cut_sessions().unwrap();
    let served = w.web[1].served();
    let refused = wait::until(wait::SOON, "gw2 to be refused", || {
        let answer = w.call_from_acme(&format!("{ORDERS}/echo")).call()?;
        Ok((answer.status != 200 && answer.text().to_lowercase().contains("revoked")).then_some(answer))
    });
    problem(&refused.unwrap(), "client-gateway", 502);
    assert_eq!(w.web[1].served(), served);
    w.acme.warned(since, "was revoked").unwrap();
    let passed = |e: &&Event| matches!(e, Event::Revocations { passed: true, .. });
    assert_eq!(
        w.hub.events().iter().skip(mark).find(passed),
        None,
        "the hub passed nothing on"
    );

    w.hub.behave();
    w.works().unwrap();
}
