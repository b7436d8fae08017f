//! Deaths, restarts, drains and reloads.

use std::{
    io::{Read, Write},
    time::Duration,
};

use hawser_testkit::{
    gate, hawser,
    load::Load,
    wait::{self, SOON},
    world::DOMAINS,
};
use rustix::process::Signal;

use crate::{calls, calls::WEB_IMPORT, talk};

#[test]
fn a_killed_hub_comes_back_with_what_it_knew() {
    if !gate::networks("kill -9 of the hub") {
        return;
    }
    let (mut world, _origins) = calls::web_world(|s| s);
    // A token that is spent, and one that is not.
    let token = world
        .hub()
        .unwrap()
        .command(&["token", "hub", "acme"], "")
        .unwrap();
    let unspent = world
        .hub()
        .unwrap()
        .command(&["token", "hub", "acme"], "")
        .unwrap();
    world.gateways[0][0].command(&["join"], &token).unwrap();
    let admitted =
        |w: &hawser_testkit::World| w.hub.as_ref().unwrap().command(&["hub", "admitted"], "").unwrap();
    let before = admitted(&world);

    for _ in 0..3 {
        world.hub().unwrap().process.kill().unwrap();
        let way = world.ways()[0];
        let answer = way.curl("web", "/echo").call().unwrap();
        assert!(
            [502, 503, 504].contains(&answer.status),
            "without a hub: {answer:?}"
        );
        world.start_hub().unwrap();
        world.wait_connected(Duration::from_secs(60)).unwrap();
        for way in world.ways() {
            way.curl("web", "/echo").expect(200).unwrap();
        }
    }
    assert_eq!(admitted(&world), before);
    assert!(DOMAINS.iter().all(|d| before.contains(d)), "{before}");
    let gateway = &world.gateways[0][0];
    let again = |t: &str| hawser::try_run(&gateway.host, &gateway.config, &["join"], t).unwrap();
    let (_, why, taken) = again(&token);
    assert!(!taken, "a spent token was taken again");
    assert!(!why.contains(token.trim()), "the error quotes the token");
    assert!(
        again(&unspent).2,
        "the unspent one is still good: {}",
        again(&unspent).1
    );
}

#[test]
fn a_gateway_that_is_told_to_end_loses_no_call() {
    if !gate::networks("drain of a gateway") {
        return;
    }
    let (mut world, origins) = calls::web_world(|s| s.gateways(2));
    let way = world.ways()[0];
    // Under way when the drain begins, through both gateways of beta.
    let mut held = Vec::new();
    for i in 0..8 {
        held.push((i, way.curl("web", &format!("/hold/{i}")).stream().unwrap()));
    }
    let mut stream = way.curl("web", "/events/drain").stream().unwrap();
    talk::events(&origins[1], "drain", &mut stream.out);
    wait::for_condition(SOON, "the held calls to arrive", || origins[1].served() >= 9).unwrap();
    let load = Load::start(way.client(), way.import(WEB_IMPORT), "/echo", "web", 4);
    load.wait_for(100).unwrap();

    world.gateways[1][1]
        .running()
        .unwrap()
        .process
        .signal(Signal::TERM)
        .unwrap();
    load.wait_for(200).unwrap();
    for (i, mut stream) in held {
        origins[1].release(&i.to_string());
        let mut text = String::new();
        stream.out.read_to_string(&mut text).unwrap();
        assert_eq!(text, "released\n", "call {i} was lost");
        assert_eq!(stream.end().unwrap().0, 0);
    }
    origins[1].end_events("drain");
    assert_eq!(stream.end().unwrap().0, 0);
    let status = world.gateways[1][1]
        .running()
        .unwrap()
        .process
        .wait_end(Duration::from_secs(60))
        .unwrap();
    assert!(status.success(), "{status}");
    load.wait_for(100).unwrap();
    let tally = load.stop();
    assert!(
        tally.lost.is_empty(),
        "{} good, lost {:?}",
        tally.good,
        tally.lost
    );
}

#[test]
fn a_hub_that_is_told_to_end_lets_open_calls_end() {
    if !gate::networks("drain of the hub") {
        return;
    }
    let (mut world, origins) = calls::web_world(|s| s);
    let way = world.ways()[0];
    let mut held = way.curl("web", "/hold/a").stream().unwrap();
    wait::for_condition(SOON, "the held call to arrive", || origins[1].served() >= 1).unwrap();
    world.hub.as_ref().unwrap().process.signal(Signal::TERM).unwrap();
    // The drain has begun when the door is closed.
    let hub_at = world.sites.hub_at();
    let outside = world.site(0).app.clone();
    wait::for_condition(SOON, "the hub's port to be closed", || {
        outside
            .enter(|| std::net::TcpStream::connect_timeout(&hub_at, Duration::from_secs(1)).is_err())
            .unwrap()
    })
    .unwrap();
    origins[1].release("a");
    let mut text = String::new();
    held.out.read_to_string(&mut text).unwrap();
    assert_eq!(text, "released\n");
    assert_eq!(held.end().unwrap().0, 0);
    let status = world
        .hub()
        .unwrap()
        .process
        .wait_end(Duration::from_secs(60))
        .unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_reload_takes_a_good_file_and_leaves_a_bad_one() {
    if !gate::networks("reload") {
        return;
    }
    let (mut world, origins) = calls::web_world(|s| s);
    let way = world.ways()[0];
    let mut stream = way.curl("web", "/events/reload").stream().unwrap();
    talk::events(&origins[1], "reload", &mut stream.out);
    let gateway = world.gateways[1][0].daemon.as_ref().unwrap();
    let good = std::fs::read_to_string(gateway.config()).unwrap();

    // A bad file changes nothing and says why.
    gateway
        .reload(&good.replace("[gateway]\n", "[gateway]\nsufix = \"x\"\n"))
        .unwrap();
    wait::for_condition(SOON, "the log to say why", || {
        let log = gateway.process.log();
        log.contains("sufix") && log.contains("suffix")
    })
    .unwrap();
    way.curl("web", "/echo").expect(200).unwrap();

    // A good one adds a service, and takes the old one away again; what is open goes on.
    let origin = world.site(1).app.at(8080);
    let more = format!(
        "\n[[gateway.export]]\nname = \"more\"\nhttp = \"http://{origin}\"\nallow = [{{ domains = [\"*\"] }}]\n"
    );
    gateway.reload(&(good.clone() + &more)).unwrap();
    let status = |service: &str, wanted: fn(u16) -> bool| {
        wait::for_condition(
            SOON,
            &format!("the new file to be in force for {service}"),
            || wanted(way.curl(service, "/echo").call().unwrap().status),
        )
        .unwrap();
    };
    status("more", |s| s == 200);
    gateway.reload(&good).unwrap();
    status("more", |s| s == 404 || s == 403);
    way.curl("web", "/echo").expect(200).unwrap();
    talk::events(&origins[1], "reload", &mut stream.out);
    world.hub().unwrap();
}

#[test]
fn several_gateways_share_the_calls_and_one_may_die() {
    if !gate::networks("several gateways") {
        return;
    }
    let (mut world, _origins) = calls::web_world(|s| s.gateways(2));
    for way in world.ways() {
        let load = Load::start(way.client(), way.import(WEB_IMPORT), "/echo", "web", 4);
        load.wait_for(200).unwrap();
        // The last to come may have been made known only now.
        for gateway in &world.gateways[way.to] {
            let what = format!("{} to have its share of the calls", gateway.host.name());
            wait::for_condition(SOON, &what, || served(gateway.daemon.as_ref().unwrap()) > 20.0).unwrap();
        }
        let tally = load.stop();
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    }
    // One of beta's dies: calls that it had are lost, later ones are not.
    world.gateways[1][1].running().unwrap().process.kill().unwrap();
    let way = world.ways()[0];
    wait::for_condition(SOON, "calls to go on", || {
        (0..10).all(|_| {
            way.curl("web", "/echo")
                .limit(Duration::from_secs(10))
                .call()
                .unwrap()
                .status
                == 200
        })
    })
    .unwrap();
    let load = Load::start(way.client(), way.import(WEB_IMPORT), "/echo", "web", 4);
    load.wait_for(200).unwrap();
    let tally = load.stop();
    assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    // It comes back.
    world.gateways[1][1].start().unwrap();
    world.wait_connected(Duration::from_secs(60)).unwrap();
    let way = world.ways()[0];
    let load = Load::start(way.client(), way.import(WEB_IMPORT), "/echo", "web", 4);
    let back = world.gateways[1][1].daemon.as_ref().unwrap();
    wait::for_condition(
        Duration::from_secs(60),
        "the one that came back to be used",
        || served(back) > 5.0,
    )
    .unwrap();
    assert!(load.stop().lost.is_empty());
}

/// Calls that a gateway handled, for whomever.
fn served(daemon: &hawser_testkit::Daemon) -> f64 {
    daemon
        .metrics()
        .unwrap()
        .sum("hawser_gateway_calls_total", &["side=\"Export\""])
}

#[test]
fn a_frozen_gateway_is_noticed() {
    if !gate::networks("a frozen gateway") {
        return;
    }
    let (mut world, _origins) = calls::web_world(|s| s.gateways(2));
    world.gateways[1][1].running().unwrap().process.freeze().unwrap();
    // Its connections stay open and silent: only liveness checks can tell.
    let way = world.ways()[0];
    wait::for_condition(
        Duration::from_secs(90),
        "calls to go to the other gateway alone",
        || {
            (0..10).all(|_| {
                way.curl("web", "/echo")
                    .limit(Duration::from_secs(2))
                    .call()
                    .unwrap()
                    .status
                    == 200
            })
        },
    )
    .unwrap();
    world.gateways[1][1].running().unwrap().process.thaw().unwrap();
    world.wait_connected(Duration::from_secs(60)).unwrap();
    for way in world.ways() {
        way.curl("web", "/echo").expect(200).unwrap();
    }
}

#[test]
fn silent_peers_of_the_hub_disturb_nobody() {
    if !gate::networks("silent peers") {
        return;
    }
    const PEERS: usize = 200;
    let (mut world, _origins) = calls::web_world(|s| s);
    let hub_at = world.sites.hub_at();
    let silent: Vec<_> = world
        .sites
        .net
        .enter(|| {
            let open = |i: usize| {
                let mut stream = talk::connect(hub_at);
                // Some say nothing; some begin a record and stop; some talk rubbish.
                match i % 4 {
                    1 => stream.write_all(&[22, 3, 1]).unwrap(),
                    2 => stream.write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).unwrap(),
                    3 => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap(),
                    _ => {}
                }
                stream
            };
            (0..PEERS).map(open).collect()
        })
        .unwrap();
    // New sessions are needed, too: the gateway starts again.
    world.gateways[0][0].start().unwrap();
    world.wait_connected(Duration::from_secs(60)).unwrap();
    for way in world.ways() {
        let load = Load::start(way.client(), way.import(WEB_IMPORT), "/echo", "web", 2);
        load.wait_for(100).unwrap();
        let tally = load.stop();
        eprintln!(
            "beside {PEERS} silent peers: {} calls, the slowest {:?}",
            tally.good, tally.slowest
        );
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
        assert!(tally.slowest < Duration::from_secs(20), "{:?}", tally.slowest);
    }
    // They are turned out in time.
    for mut stream in silent {
        let end = stream.read_to_end(&mut Vec::new());
        assert!(
            !end.as_ref()
                .is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock),
            "a silent peer is kept for ever"
        );
    }
}
