//! The hub misbehaves on the control connection: silence, garbage, oversized frames, answers to nobody's question.

use std::time::{Duration, Instant};

use hawser_hostile::{Event, deal::Answer};
use hawser_proto::{Fault, Place, control::ToGateway, hop::Ticket};
use hawser_testkit::wait;

use crate::world::{problem, world};

/// Twice the longest pause between a gateway's tries, and slack.
const BACKOFF: Duration = Duration::from_secs(120);

#[test]
fn silence_to_a_request_is_a_clear_timeout() {
    let w = world();
    let attack = w.attack(|hub| hub.answer(|_| Answer::Silence));
    std::thread::scope(|s| {
        let download = s.spawn(|| attack.download(1000));
        problem(&attack.get("/bytes/1000"), "hub", 504);
        download.join().unwrap().was_reset();
    });
    attack.nobody_was_served();
    attack.acme_warned("did not answer");
    attack.end();
}

#[test]
fn a_refusal_is_passed_on_as_the_hubs() {
    let w = world();
    let refusal = || Fault::new(Place::Hub, 503, "closed", "the hub is closed", "come again");
    let attack = w.attack(|hub| hub.answer(move |_| Answer::Refuse(refusal())));
    attack.calls_fail("hub", 503);
    attack.end();
    // It may say that somebody else refused, but not that all went well.
    let lie = || {
        Fault::new(
            Place::Origin,
            200,
            "fine",
            "HTTP/1.1 200 OK\r\n\r\nforged",
            "none\r\nx-forged: 1",
        )
    };
    let attack = w.attack(|hub| hub.answer(move |_| Answer::Refuse(lie())));
    let answer = attack.get("/bytes/1000");
    assert!(answer.status >= 400, "{} {}", answer.head, answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("x-forged"), None);
    attack.nobody_was_served();
    attack.end();
}

#[test]
fn nonsense_on_the_control_connection_ends_it_and_nothing_else() {
    let w = world();
    let nonsense: [(&str, Vec<u8>); 5] = [
        ("no message", b"\x00\x00\x00\x05hello".to_vec()),
        ("an oversized frame", vec![0xff; 64]),
        ("a frame just over the limit", {
            let mut b = (hawser_proto::frame::MAX_FRAME as u32 + 1).to_be_bytes().to_vec();
            b.resize(4096, 0);
            b
        }),
        ("deeply nested", {
            let mut b = 60_000_u32.to_be_bytes().to_vec();
            b.resize(60_004, 0x81);
            b
        }),
        (
            "an array of four billion",
            b"\x00\x00\x00\x0c\x82\x01\x83\x9a\xff\xff\xff\xff\x80\x80\x80\x80".to_vec(),
        ),
    ];
    let attack = w.attack(|_| ());
    let began = Instant::now();
    let came = || {
        let events = w.hub.events();
        events
            .iter()
            .skip(attack.hub)
            .filter(|e| **e == Event::Spoilt(w.acme.id.clone()))
            .count()
    };
    w.hub.cut_controls();
    for (what, bytes) in nonsense {
        eprintln!("{what}");
        w.hub.spoil_controls(Some(bytes));
        let before = came();
        // It may have come for the last one's sake still; and it waits longer each time.
        wait::for_condition(BACKOFF, "acme to come again", || came() >= before + 2).unwrap();
        problem(&w.get("/bytes/1000").unwrap(), "hub", 503);
    }
    let most = 4 * (began.elapsed().as_secs() as usize + 1);
    assert!(
        came() <= most,
        "acme came {} times in {:?}: no backoff",
        came(),
        began.elapsed()
    );
    attack.acme_warned("cannot connect to the hub");
    attack.nobody_was_served();
    w.hub.spoil_controls(None);
    // The same processes are back.
    w.hub
        .await_connected(BACKOFF, &[&w.acme.id, &w.beta.id, &w.gamma.id])
        .unwrap();
    attack.end();
}

#[test]
fn messages_that_nobody_asked_for_change_nothing() {
    let mut w = world();
    let ticket = Ticket([9; 32]);
    let peer = w.beta.id.clone();
    let noise = [
        ToGateway::Granted {
            id: 0,
            ticket,
            peer: peer.clone(),
        },
        ToGateway::Granted {
            id: u64::MAX,
            ticket,
            peer: peer.clone(),
        },
        ToGateway::Refused {
            id: 77,
            fault: Fault::new(Place::Origin, 0, "", "", ""),
        },
        ToGateway::Dial {
            ticket,
            peer: None,
            join: None,
        },
        ToGateway::Dial {
            ticket,
            peer: None,
            join: Some([1; 32]),
        },
        ToGateway::Dial {
            ticket,
            peer: Some(w.acme.id.clone()),
            join: None,
        },
        ToGateway::Revocations(vec![0xff; 100]),
        ToGateway::Revocations(Vec::new()),
        ToGateway::Routes {
            routes: Vec::new(),
            domains: Vec::new(),
            number: 0,
        },
        ToGateway::Pong(1),
        ToGateway::Welcome {
            version: u16::MAX,
            software: "\u{1b}[2J\nWARN forged line".into(),
        },
    ];
    {
        let attack = w.attack(|_| ());
        for message in noise {
            w.hub.tell(&w.acme.id, message).unwrap();
        }
        attack.acme_warned("revocation");
        attack.nobody_was_served();
        let forged = w
            .acme
            .warnings(attack.acme)
            .into_iter()
            .find(|l| l.starts_with("WARN forged"));
        assert_eq!(forged, None, "the hub wrote a line of acme's log");
        attack.end();
    }
    assert!(w.acme.is_running());
}

#[test]
fn a_flood_of_invitations_leaves_calls_alone() {
    let mut w = world();
    {
        let attack = w.attack(|_| ());
        for i in 0..500_u32 {
            let mut ticket = [0; 32];
            ticket[..4].copy_from_slice(&i.to_be_bytes());
            let ticket = Ticket(ticket);
            w.hub
                .tell(
                    &w.beta.id,
                    ToGateway::Dial {
                        ticket,
                        peer: Some(w.acme.id.clone()),
                        join: None,
                    },
                )
                .unwrap();
        }
        attack.beta_warned("no session");
        attack.nobody_was_served();
        attack.end();
    }
    assert!(w.beta.is_running());
}
