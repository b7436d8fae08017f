//! How answers end: an error stays an error, and a slow reader is nobody else's problem.

use std::io::Read;

use hawser_testkit::{
    gate,
    origin::{RawOrigin, raw::Manner},
    wait,
    world::{Service, Spec},
};

use crate::{calls, talk};

#[test]
fn an_origin_that_breaks_off_is_seen_as_an_error() {
    if !gate::networks("broken answers") {
        return;
    }
    let broken = Service::http("broken", 8007).imported(9001);
    let reset = Service::tcp("reset", 8008).imported(9002);
    let world = Spec::new([broken, reset]).start().unwrap();
    let _broken = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8007, Manner::HttpBrokenOff).unwrap());
    let _reset =
        [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8008, Manner::ResetAfter(300_000)).unwrap());
    for way in world.ways() {
        for how in ["length", "chunked", "short", "open"] {
            for len in [1000, 1_000_000] {
                let path = format!("/{how}/{len}");
                let manners = [
                    ("HTTP/1.1 by proxy", way.curl("broken", &path)),
                    ("HTTP/1.1 by import", way.curl_import(9001, &path)),
                    ("HTTP/2", way.curl_import(9001, &path).http2()),
                ];
                for (manner, curl) in manners {
                    let answer = curl.call().unwrap();
                    let said = format!("{} {manner} {path}", way.words());
                    // The head came before the break; HTTP/2 may drop what it has queued when a stream is reset, the
                    // head included. Then the gateway says that the answer is broken, or the client sees the reset.
                    let broken = answer.exit != 0 || answer.status == 502;
                    assert!(
                        broken,
                        "{said}: seen as a whole answer of {} bytes, status {}",
                        answer.body.len(),
                        answer.status
                    );
                }
            }
        }
        for _ in 0..5 {
            talk::tcp_reset_is_seen(way.client(), way.import(9002));
        }
    }
}

#[test]
fn stalled_downloads_leave_other_calls_untouched() {
    if !gate::networks("stalled downloads") {
        return;
    }
    let (world, _origins) = calls::web_world(|s| s);
    for way in world.ways() {
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut stream = way
                .curl_import(calls::WEB_IMPORT, "/bytes/1000000000")
                .stream()
                .unwrap();
            // It has begun; from here on nobody reads.
            stream.out.read_exact(&mut [0; 1000]).unwrap();
            stalled.push(stream);
        }
        // Until nothing moves any more: every window is full.
        let bytes = || world_bytes(&world);
        let mut last = bytes();
        let mut calm = 0;
        wait::for_condition(wait::SOON * 3, "the stalled downloads to stall", || {
            let now = bytes();
            calm = if now == last { calm + 1 } else { 0 };
            last = now;
            calm > 10
        })
        .unwrap();
        for i in 0..50 {
            let answer = way
                .curl_import(calls::WEB_IMPORT, "/echo")
                .limit(std::time::Duration::from_secs(30));
            let answer = answer.post("x").expect(200);
            assert!(answer.is_ok(), "{} call {i}: {answer:?}", way.words());
        }
        let (len, _) = way.curl("web", "/bytes/20000000").download().unwrap();
        assert_eq!(len, 20_000_000);
        drop(stalled);
    }
}

/// Bytes that crossed the hub's interface.
fn world_bytes(world: &hawser_testkit::World) -> u64 {
    let text = world
        .sites
        .hub
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap())
        .unwrap();
    let line = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("wan:").map(str::to_owned))
        .unwrap();
    let fields: Vec<u64> = line.split_whitespace().map(|n| n.parse().unwrap()).collect();
    // Small messages (pings) do not count as movement.
    (fields[0] + fields[8]) / 65536
}
