//! The hub sees no plaintext of events: not on its interfaces, in its memory, or in its files. The same searches find it where
//! it must be.

use std::fs;

use hawser_testkit::{capture::Capture, gate, memory};

use super::{id, office};

#[test]
fn the_hub_sees_no_plaintext_of_events() {
    if !gate::programs("captures", &["tcpdump"]) {
        return;
    }
    let Some(mut office) = office("a search for plaintext of events") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let device = office.device("alice", "phone").unwrap();
    let mut listening = device.listen(&[]).unwrap();
    let hub_link = Capture::start(&office.sites.hub, "any", office.dir()).unwrap();
    let app_link = Capture::start(&office.site().app, "any", office.dir()).unwrap();

    let mark = |what: &str| format!("{what}-{}-qx93", std::process::id());
    let (subject, body, large) = (mark("subject"), mark("body"), mark("large"));
    let small = [
        ("id", "b-1"),
        ("source", "/mail"),
        ("type", "mail"),
        ("subject", subject.as_str()),
        ("recipient", "user:alice"),
    ];
    let first = id(&office
        .publish(&token, &small, "text/plain", body.as_bytes())
        .unwrap());
    let fetched = [
        ("id", "b-2"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:alice"),
        ("delivery", "fetch"),
    ];
    let long = format!("{large} ").repeat(2000);
    let second = id(&office
        .publish(&token, &fetched, "text/plain", long.as_bytes())
        .unwrap());
    assert!(
        listening.event("b-1").unwrap()["body"]
            .as_str()
            .unwrap()
            .contains(&body)
    );
    let item = listening.event("b-2").unwrap()["item"]
        .as_str()
        .unwrap()
        .to_owned();
    for delivery in [&first, &second] {
        office.delivered(&token, delivery, &["acked"]).unwrap();
    }
    listening.process.kill().unwrap();
    assert!(device.run(&["fetch", &item], "").unwrap().contains(&large));
    // One more lies in the mailbox and the outbox while they are searched.
    let waiting = mark("waiting");
    let third = [
        ("id", "b-3"),
        ("source", "/mail"),
        ("type", "mail"),
        ("recipient", "user:alice"),
    ];
    let third = id(&office
        .publish(&token, &third, "text/plain", waiting.as_bytes())
        .unwrap());
    office.delivered(&token, &third, &["queued"]).unwrap();

    let hub = office.hub().unwrap().process.id();
    for marker in [&subject, &body, &large, &waiting] {
        let seen = memory::search(hub, marker.as_bytes()).unwrap();
        assert_eq!(seen.hits, 0, "{marker} is in the hub's memory");
        assert!(
            seen.read > 1024 * 1024,
            "the hub's memory could not be read: {seen:?}"
        );
        for state in ["hub", "gw1"] {
            assert_eq!(
                in_files(&office.path(state), marker),
                0,
                "{marker} is in the files of {state}"
            );
        }
    }
    let (hub_packets, app_packets) = (hub_link.stop().unwrap(), app_link.stop().unwrap());
    assert!(
        hub_packets.tcp_bytes() > 50_000,
        "control: it went through the hub"
    );
    for marker in [&subject, &body, &large] {
        assert!(
            app_packets.hits(marker.as_bytes()) > 0,
            "control: {marker} is on the application's link"
        );
        assert_eq!(
            hub_packets.hits(marker.as_bytes()),
            0,
            "{marker} crosses the hub in the clear"
        );
    }
    // Control: the search of files finds what is there.
    fs::write(office.path("hub").join("planted"), &body).unwrap();
    assert_eq!(in_files(&office.path("hub"), &body), 1);
    // Control: the search of memory finds it in the process that handles plaintext.
    let gateway = office.gateway().unwrap().process.id();
    let seen = memory::search(gateway, large.as_bytes()).unwrap();
    eprintln!("the gateway's memory: {seen:?}");
    assert!(seen.hits > 0, "control: {large} is in the gateway's memory");
}

fn in_files(state: &std::path::Path, marker: &str) -> usize {
    let files = fs::read_dir(state)
        .unwrap()
        .flatten()
        .filter(|f| f.path().is_file());
    files
        .map(|f| memory::count(&fs::read(f.path()).unwrap_or_default(), marker.as_bytes()))
        .sum()
}
