//! The positive control: in the hub's place and behaving well, the attacker carries calls, and reads nothing.

use hawser_hostile::{Event, Mask, Way, forge::FORGED};
use hawser_testkit::pattern;

use crate::world::{ORDERS, world};

const MARKER: &str = "marker-5d41402abc4b2a76b9719d911017c592";

#[test]
fn behaving_well_it_carries_calls_and_holds_no_plaintext() {
    let w = world();
    let attack = w.attack(|_| ());
    let first = w.hub.transcripts().len();
    let echo = w
        .call_from_acme(&format!("{ORDERS}/echo?q={MARKER}"))
        .header(&format!("x-marker: {MARKER}"))
        .expect(200)
        .unwrap();
    assert!(
        echo.text().contains(MARKER),
        "the same search finds it at the client: {}",
        echo.text()
    );
    let mirror = w
        .call_from_acme(&format!("{ORDERS}/mirror"))
        .post(MARKER)
        .expect(200)
        .unwrap();
    assert_eq!(mirror.text(), MARKER);
    assert!(w.download(1 << 20).is_whole(1 << 20));
    let seen = w.hub.transcripts();
    let seen = &seen[first..];
    assert!(seen.len() >= 2, "an HTTP and a TCP session passed");
    let needles = [
        MARKER.as_bytes(),
        &pattern::chunk(0)[..64],
        b"x-marker",
        b"orders",
    ];
    let mut total = 0;
    for bytes in seen.iter().flat_map(|t| [t.bytes(Way::Up), t.bytes(Way::Down)]) {
        total += bytes.len();
        for needle in needles {
            assert!(
                !bytes.windows(needle.len()).any(|w| w == needle),
                "plaintext passed the hub"
            );
        }
    }
    assert!(total > 1 << 20, "all of it passed the hub: {total} bytes");
    attack.end();
}

/// What the forger does in the other tests works, when it has the victim's own key: only that key is what it lacks.
#[test]
fn with_a_gateways_stolen_key_it_is_believed() {
    let w = world();
    let mask = Mask::stolen(&w.beta.state).unwrap();
    let attack = w.attack(|hub| hub.take_the_place(mask.in_its_place(hub.forger_notes())));
    let answer = attack.get("/echo");
    assert_eq!((answer.status, answer.text().as_str()), (200, FORGED));
    attack.nobody_was_served();
    let download = attack.download(1000);
    assert_eq!(download.bytes, FORGED.as_bytes());
    w.hub
        .await_event(attack.hub, "a forged session", |e| {
            matches!(e, Event::Forger(Ok(_)))
        })
        .unwrap();
    // As a client: acme's own key opens beta's service, and the counting service counts it.
    let before = w.web[1].served();
    let mask = Mask::stolen(&w.acme.state).unwrap();
    let (_, stream) = w.hub.lure(&w.beta.id, &w.acme.id).unwrap();
    let service = "orders".parse().unwrap();
    let (status, _) = w.hub.block_on(mask.call(stream, &service, &w.beta.id)).unwrap();
    assert_eq!(status, 200, "the service answers");
    assert_eq!(w.web[1].served(), before + 1);
    w.hub.behave();
    w.hub.cut_sessions().unwrap();
    attack.end();
}
