//! Bytes cut, flipped, dropped, repeated, reordered, and handshakes made weaker.

use std::sync::Arc;

use hawser_hostile::{
    Middle, Record, Step, Way,
    middle::{Ends, edited, silent, with_ends},
};
use hawser_testkit::{pattern, wait};
use tokio::io::AsyncWriteExt;

use crate::world::{Attack, problem, world};

/// A download that is long enough to be cut in its middle.
const LONG: u64 = 4 << 20;
/// Where in the stream the middle is.
const MIDDLE: u64 = 1 << 20;

/// Does something once, to the first record this way that starts at or after this offset.
fn once(way: Way, from: u64, act: impl Fn(Record) -> Vec<Step> + Send + Sync + 'static) -> Middle {
    let act = Arc::new(act);
    edited(move || {
        let (act, mut done) = (act.clone(), false);
        move |record: Record| {
            if done || record.way != way || record.offset < from {
                return vec![Step::Send(record.bytes)];
            }
            done = true;
            act(record)
        }
    })
}

/// Nothing false came, and the client knows that it did not get all.
#[track_caller]
fn downloads_break_off(attack: &Attack<'_>, what: &str) {
    for path in [format!("/bytes/{LONG}"), format!("/chunked/{LONG}")] {
        let answer = attack.get(&path);
        assert_ne!(
            answer.exit, 0,
            "{what}: {path}: a clean end of an answer that was cut"
        );
        assert_eq!(answer.status, 200, "{what}: {path}");
        let len = answer.body.len() as u64;
        assert!(len < LONG, "{what}: {path}: {len}");
        assert_eq!(
            pattern::hash_of(&answer.body),
            pattern::hash(len),
            "{what}: {path}: altered bytes"
        );
    }
    let download = attack.download(LONG);
    assert!((download.bytes.len() as u64) < LONG, "{what}");
    download.was_reset();
}

#[test]
fn an_end_forged_in_the_middle_is_seen_as_an_error() {
    let w = world();
    for (what, step) in [("FIN", Step::End), ("RST", Step::Reset)] {
        let step = step.clone();
        let attack =
            w.attack(|hub| hub.put_in_the_middle(once(Way::Down, MIDDLE, move |_| vec![step.clone()])));
        downloads_break_off(&attack, what);
        if what == "FIN" {
            // A reset is also how a session ends whose caller went away: that is told to the caller, not to the log.
            attack.acme_warned("broke");
        }
        attack.end();
    }
}

#[test]
fn an_upload_cut_in_the_middle_is_no_whole_one_to_the_service() {
    let w = world();
    let attack = w.attack(|hub| hub.put_in_the_middle(once(Way::Up, MIDDLE, |_| vec![Step::End])));
    let before = w.sink.received().len();
    let chunked = w.call_from_acme("http://sink.beta.hawser/").upload(LONG);
    assert!(chunked.is_err(), "{chunked:?}");
    let what = "the service's connection to end";
    wait::for_condition(wait::SOON, what, || w.sink.received().len() > before).unwrap();
    let received = w.sink.received().split_off(before);
    for bytes in received {
        assert!(bytes.len() > 1000, "{} bytes", bytes.len());
        assert!((bytes.len() as u64) < LONG);
        assert!(
            !bytes.ends_with(b"\r\n0\r\n\r\n"),
            "a clean end of a body that was cut"
        );
    }
    attack.nobody_was_served();
    attack.beta_warned("broke");
    attack.end();
}

#[test]
fn bytes_altered_in_the_middle_never_reach_the_client() {
    let w = world();
    let flip = |at: usize| {
        move |mut r: Record| {
            // In the header of the record (5 bytes), its ciphertext, or its tag (the last 16).
            let at = at.min(r.bytes.len() - 1);
            r.bytes[at] ^= 0x01;
            vec![Step::Send(r.bytes)]
        }
    };
    let attacks: Vec<(&str, Middle)> = vec![
        ("a bit of the length", once(Way::Down, MIDDLE, flip(4))),
        ("a bit of the first block", once(Way::Down, MIDDLE, flip(5))),
        ("a bit of the middle", once(Way::Down, MIDDLE, flip(700))),
        ("a bit of the tag", once(Way::Down, MIDDLE, flip(usize::MAX))),
        ("a record dropped", once(Way::Down, MIDDLE, |_| Vec::new())),
        (
            "a record twice",
            once(Way::Down, MIDDLE, |r| {
                vec![Step::Send(r.bytes.clone()), Step::Send(r.bytes)]
            }),
        ),
        ("two records in the wrong order", swapped()),
        (
            "a record of noise put in",
            once(Way::Down, MIDDLE, |r| {
                let mut noise = vec![23, 3, 3, 0, 64];
                noise.resize(5 + 64, 0x5a);
                vec![Step::Send(noise), Step::Send(r.bytes)]
            }),
        ),
        (
            "a plaintext close put in",
            once(Way::Down, MIDDLE, |r| {
                vec![Step::Send(vec![21, 3, 3, 0, 2, 1, 0]), Step::Send(r.bytes)]
            }),
        ),
    ];
    for (what, middle) in attacks {
        eprintln!("{what}");
        let attack = w.attack(|hub| hub.put_in_the_middle(middle));
        downloads_break_off(&attack, what);
        if what == "FIN" {
            // A reset is also how a session ends whose caller went away: that is told to the caller, not to the log.
            attack.acme_warned("broke");
        }
        attack.end();
    }
}

/// Two bytes of a record's header say nothing in TLS 1.3: altered, they change nothing that anybody sees.
#[test]
fn what_is_ignored_in_a_header_alters_nothing() {
    let w = world();
    for at in [0, 2] {
        let attack = w.attack(|hub| {
            hub.put_in_the_middle(once(Way::Down, MIDDLE, move |mut r| {
                r.bytes[at] ^= 0x01;
                vec![Step::Send(r.bytes)]
            }));
        });
        let answer = attack.get(&format!("/bytes/{LONG}"));
        let len = answer.body.len() as u64;
        assert_eq!(
            pattern::hash_of(&answer.body),
            pattern::hash(len),
            "altered bytes"
        );
        assert_eq!(answer.exit == 0, len == LONG, "{len} bytes, exit {}", answer.exit);
        assert!(attack.download(LONG).is_true());
        attack.end();
    }
}

fn swapped() -> Middle {
    edited(|| {
        let (mut held, mut done) = (None::<Vec<u8>>, false);
        move |r: Record| {
            if done || r.way != Way::Down || r.offset < MIDDLE {
                return vec![Step::Send(r.bytes)];
            }
            match held.take() {
                None => {
                    held = Some(r.bytes);
                    Vec::new()
                }
                Some(first) => {
                    done = true;
                    vec![Step::Send(r.bytes), Step::Send(first)]
                }
            }
        }
    })
}

#[test]
fn requests_altered_on_their_way_never_reach_the_service() {
    let w = world();
    // The first record after acme's half of the handshake holds the opening of the session and the request.
    for (what, nth) in [("the first", 0), ("the second", 1)] {
        eprintln!("{what}");
        let attack = w.attack(|hub| hub.put_in_the_middle(flip_after_handshake(nth)));
        let answer = attack.get("/bytes/1000");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{}",
            answer.text()
        );
        attack.download(1000).was_reset();
        attack.nobody_was_served();
        attack.beta_warned("session");
        attack.end();
    }
}

/// Flips a bit in acme's n-th record after its Finished: the one that brings it beyond the size of any handshake.
fn flip_after_handshake(nth: usize) -> Middle {
    edited(move || {
        let (mut encrypted, mut last) = (0, false);
        move |mut r: Record| {
            if r.way == Way::Up && r.bytes[0] == 23 && !last {
                encrypted += 1;
                // Its certificates, signature and Finished are the first.
                if encrypted == HANDSHAKE_RECORDS + 1 + nth {
                    last = true;
                    r.bytes[7] ^= 0x10;
                }
            }
            vec![Step::Send(r.bytes)]
        }
    })
}

/// Encrypted records of a TLS 1.3 client's handshake: rustls packs its flight into as few as it can.
const HANDSHAKE_RECORDS: usize = 1;

#[test]
fn handshakes_altered_in_any_flight_come_to_nothing() {
    let w = world();
    let flights = [
        ("ClientHello, random", Way::Up, 0, 20),
        ("ClientHello, end", Way::Up, 0, usize::MAX),
        ("ServerHello, random", Way::Down, 0, 20),
        ("ServerHello, end", Way::Down, 0, usize::MAX),
        ("server's certificate", Way::Down, 2, 60),
        ("client's certificate", Way::Up, 2, 60),
    ];
    for (what, way, index, at) in flights {
        eprintln!("{what}");
        let flip = move |mut r: Record| {
            if r.way == way && r.index == index {
                let at = at.min(r.bytes.len() - 1);
                r.bytes[at] ^= 0x01;
            }
            vec![Step::Send(r.bytes)]
        };
        let attack = w.attack(|hub| hub.put_in_the_middle(edited(move || flip)));
        let answer = attack.get("/bytes/1000");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{}",
            answer.text()
        );
        assert!([502, 504].contains(&answer.status), "{}", answer.text());
        attack.download(1000).was_reset();
        attack.nobody_was_served();
        attack.end();
    }
}

/// Edits acme's ClientHello, which is the only thing in the clear that says what the session is to be.
fn hello(edit: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Middle {
    once(Way::Up, 0, move |mut r| {
        edit(&mut r.bytes);
        vec![Step::Send(r.bytes)]
    })
}

/// Replaces the only place where this stands.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    let places: Vec<_> = bytes
        .windows(old.len())
        .enumerate()
        .filter(|(_, w)| *w == old)
        .map(|(i, _)| i)
        .collect();
    assert_eq!(places.len(), 1, "{old:?} stands at {places:?} in the ClientHello");
    bytes[places[0]..][..new.len()].copy_from_slice(new);
}

#[test]
fn no_handshake_is_made_weaker_or_something_else() {
    let w = world();
    // supported_versions with TLS 1.3 only; ALPN with one protocol; key_share with X25519MLKEM768 (0x11ec) of 1216 bytes.
    let attacks: Vec<(&str, Middle)> = vec![
        (
            "another protocol",
            hello(|b| replace(b, b"\x08hawser/1", b"\x08hawser/2")),
        ),
        (
            "HTTP/2 as the protocol",
            hello(|b| replace(b, b"\x09\x08hawser/1", b"\x09\x02h2\x05other")),
        ),
        (
            "TLS 1.2",
            hello(|b| replace(b, &[0, 43, 0, 3, 2, 3, 4], &[0, 43, 0, 3, 2, 3, 3])),
        ),
        (
            "no versions extension",
            hello(|b| replace(b, &[0, 43, 0, 3, 2, 3, 4], &[0xfa, 0xfa, 0, 3, 2, 3, 4])),
        ),
        (
            "a share of a classic group",
            hello(|b| replace(b, &[0x11, 0xec, 0x04, 0xc0], &[0x00, 0x1d, 0x04, 0xc0])),
        ),
        (
            "no key share",
            hello(|b| replace(b, &[0, 51, 4, 198, 4, 196], &[0xfa, 0xfa, 4, 198, 4, 196])),
        ),
        (
            "classic groups only",
            hello(|b| replace(b, &[0, 10, 0, 4, 0, 2, 0x11, 0xec], &[0, 10, 0, 4, 0, 2, 0, 0x1d])),
        ),
    ];
    for (what, middle) in attacks {
        eprintln!("{what}");
        let attack = w.attack(|hub| hub.put_in_the_middle(middle));
        attack.calls_fail("client-gateway", 502);
        attack.acme_warned("did not prove");
        attack.beta_warned("no session");
        attack.end();
    }
}

#[test]
fn bytes_before_the_peer_speaks_come_to_nothing() {
    let w = world();
    let extras: [(&str, &[u8]); 3] = [
        (
            "an answer in the clear",
            b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        ),
        ("a fatal TLS alert", &[21, 3, 3, 0, 2, 2, 40]),
        (
            "a record of the hop",
            &[
                23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
            ],
        ),
    ];
    for (what, extra) in extras {
        for to_caller in [true, false] {
            eprintln!("{what}, to the caller: {to_caller}");
            let honest = hawser_hostile::middle::honest();
            let middle = with_ends(move |mut ends: Ends| {
                let honest = honest.clone();
                async move {
                    let side = match (to_caller, &mut ends.accepting) {
                        (false, Some(accepting)) => accepting,
                        _ => &mut ends.dialling,
                    };
                    side.write_all(extra).await.expect("both sides have just come");
                    honest(ends).await;
                }
            });
            let attack = w.attack(|hub| hub.put_in_the_middle(middle));
            let answer = attack.get("/bytes/1000");
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{}",
                answer.text()
            );
            assert_eq!(answer.status, 502, "{}", answer.text());
            attack.download(1000).was_reset();
            attack.nobody_was_served();
            if to_caller {
                attack.acme_warned("did not prove");
            } else {
                attack.beta_warned("no session");
            }
            attack.end();
        }
    }
}

/// A close_notify in the clear, before there are keys, is nobody's word: it must not make a later end a clean one.
#[test]
fn an_end_announced_in_the_clear_is_not_believed() {
    let w = world();
    let attack = w.attack(|hub| {
        hub.put_in_the_middle(edited(|| {
            let mut begun = false;
            move |r: Record| match r.way {
                Way::Down if !std::mem::replace(&mut begun, true) => {
                    vec![Step::Send(vec![21, 3, 3, 0, 2, 1, 0]), Step::Send(r.bytes)]
                }
                Way::Down if r.offset > MIDDLE => vec![Step::End],
                _ => vec![Step::Send(r.bytes)],
            }
        }));
    });
    downloads_break_off(&attack, "close_notify in the clear");
    attack.end();
}

#[test]
fn silence_after_pairing_is_a_clear_timeout() {
    let w = world();
    let attack = w.attack(|hub| hub.put_in_the_middle(silent()));
    std::thread::scope(|s| {
        let download = s.spawn(|| attack.download(1000));
        problem(&attack.get("/bytes/1000"), "hub", 504);
        let download = download.join().unwrap();
        assert!(download.bytes.is_empty());
        download.was_reset();
    });
    attack.nobody_was_served();
    attack.acme_warned("did not complete");
    attack.beta_warned("did not complete");
    attack.end();
}
