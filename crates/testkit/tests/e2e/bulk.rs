//! Gigabytes: every byte arrives, and nobody keeps them.

use std::{
    io::{Read, Write},
    time::Instant,
};

use hawser_testkit::{
    gate,
    origin::{HttpOrigin, RawOrigin, raw::Manner},
    pattern,
    world::{Service, Spec, Way, World},
};

use crate::talk;

const MIB: u64 = 1024 * 1024;
const LEN: u64 = 2048 * MIB;
/// Most that the memory of any party may grow by.
const GROWTH: u64 = 32 * MIB;

#[test]
fn two_gibibytes_up_and_down_in_flat_memory() {
    if !gate::networks("2 GiB up and down") {
        return;
    }
    let web = Service::http("web", 8080).imported(9001);
    let tcp = Service::tcp("source", 8081).imported(9002);
    let mut world = Spec::new([web, tcp]).start().unwrap();
    let _web = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let _tcp = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8081, Manner::Source).unwrap());
    let expected = pattern::hash(LEN);

    // Warm: what is allocated once is allocated.
    for way in world.ways() {
        way.curl_import(9001, &format!("/bytes/{}", 64 * MIB))
            .download()
            .unwrap();
        way.curl_import(9001, "/upload").upload(64 * MIB).unwrap();
    }
    let base = flatten(&mut world);
    for way in world.ways() {
        let (len, hash) = timed(&way, "down, HTTP/1.1", || {
            way.curl_import(9001, &format!("/bytes/{LEN}"))
                .limit(LIMIT)
                .download()
                .unwrap()
        });
        assert_eq!((len, &hash), (LEN, &expected));
        let answer = timed(&way, "up, HTTP/1.1", || {
            way.curl("web", "/upload").limit(LIMIT).upload(LEN).unwrap()
        });
        assert!(
            answer.contains(&expected) && answer.contains(&LEN.to_string()),
            "{answer}"
        );
    }
    let way = world.ways()[0];
    let (len, hash) = timed(&way, "down, HTTP/2", || {
        way.curl_import(9001, &format!("/chunked/{LEN}"))
            .http2()
            .limit(LIMIT)
            .download()
            .unwrap()
    });
    assert_eq!((len, &hash), (LEN, &expected));
    let hash = timed(&way, "down, TCP", || tcp_download(&way));
    assert_eq!(hash, expected);
    check_growth(&mut world, &base);
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

fn timed<T>(way: &Way, what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = work();
    let seconds = begun.elapsed().as_secs_f64();
    eprintln!(
        "{} {what}: {:.1} s, {:.0} MiB/s",
        way.words(),
        seconds,
        (LEN / MIB) as f64 / seconds
    );
    outcome
}

fn tcp_download(way: &Way) -> String {
    let at = way.import(9002);
    way.client()
        .enter(|| {
            let mut stream = talk::connect(at);
            stream.write_all(&LEN.to_be_bytes()).unwrap();
            let (mut hash, mut buf) = (pattern::Hash::new(), vec![0; 1 << 20]);
            loop {
                match stream.read(&mut buf).unwrap() {
                    0 => break hash.finish(),
                    n => hash.update(&buf[..n]),
                }
            }
        })
        .unwrap()
}

/// Resets every party's high-water mark; what each has now.
pub(crate) fn flatten(world: &mut World) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    for daemon in daemons(world) {
        daemon.process.reset_peak().unwrap();
        all.push((daemon.host().name().to_owned(), daemon.process.memory().unwrap()));
    }
    all
}

/// Asserts that no party's high-water mark rose much above that.
pub(crate) fn check_growth(world: &mut World, base: &[(String, u64)]) {
    for (daemon, (name, before)) in daemons(world).into_iter().zip(base) {
        let peak = daemon.process.peak_memory().unwrap();
        eprintln!(
            "{name}: {} KiB before, {} KiB at most",
            before / 1024,
            peak / 1024
        );
        assert!(
            peak <= before + GROWTH,
            "{name} grew from {before} to {peak} bytes"
        );
    }
}

fn daemons(world: &World) -> Vec<&hawser_testkit::Daemon> {
    let gateways = world.gateways.iter().flatten().filter_map(|g| g.daemon.as_ref());
    world.hub.iter().chain(gateways).collect()
}
