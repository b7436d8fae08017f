//! Revocation takes effect within seconds, on what is open and on what would be opened.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use hawser_testkit::{
    curl::Stream,
    gate,
    origin::{HttpOrigin, RawOrigin, raw::Manner},
    wait,
    world::{DOMAINS, Service, Spec, World},
};

use crate::talk;

/// "Within seconds", with slack for a busy machine.
const SECONDS: Duration = Duration::from_secs(30);

struct Live {
    world: World,
    web: [HttpOrigin; 2],
    _tcp: [RawOrigin; 2],
    stream: Stream,
    connection: TcpStream,
}

/// Two domains with a stream and a TCP connection open from acme to beta.
fn live() -> Live {
    let web = Service::http("web", 8080).imported(9001);
    let tcp = Service::tcp("echo", 8081).imported(9002);
    let world = Spec::new([web, tcp]).start().unwrap();
    let web = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let tcp = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8081, Manner::Echo).unwrap());
    let way = world.ways()[0];
    let mut stream = way.curl("web", "/events/live").stream().unwrap();
    talk::events(&web[1], "live", &mut stream.out);
    let connection = way.client().enter(|| {
        let mut connection = talk::connect(way.import(9002));
        connection.write_all(b"hello").unwrap();
        connection.read_exact(&mut [0; 5]).unwrap();
        connection
    });
    Live {
        connection: connection.unwrap(),
        stream,
        web,
        _tcp: tcp,
        world,
    }
}

impl Live {
    /// Both end with an error in seconds, and no call gets through any more.
    fn expect_cut(mut self, since: Instant) -> World {
        let end = self.connection.read(&mut [0; 16]);
        assert!(end.as_ref().is_ok_and(|n| *n == 0) || end.is_err(), "{end:?}");
        let (exit, _) = self.stream.end().unwrap();
        assert_ne!(exit, 0, "the stream ended as if it were complete");
        let took = since.elapsed();
        eprintln!("cut after {took:?}");
        assert!(took < SECONDS, "cut only after {took:?}");
        let way = self.world.ways()[0];
        let answer = way
            .curl("web", "/echo")
            .limit(Duration::from_secs(20))
            .call()
            .unwrap();
        assert!(
            answer.exit != 0 || answer.status >= 400,
            "a call got through: {answer:?}"
        );
        drop(self.web);
        self.world
    }
}

/// Starts acme's gateway again: the hub must not let it in.
fn stays_out(world: &mut World) {
    world.gateways[0][0].start().unwrap();
    let gateway = world.gateways[0][0].running().unwrap();
    let outcome = gateway.wait_ready(Duration::from_secs(3));
    assert!(outcome.is_err(), "a revoked gateway became ready");
    assert!(
        world.gateways[0][0].sees().is_empty(),
        "a revoked gateway is shown services"
    );
}

#[test]
fn the_hub_revokes_an_identity() {
    if !gate::networks("revocation by the hub") {
        return;
    }
    let live = live();
    let since = Instant::now();
    let who = format!("spiffe://{}/gateway/gw1", DOMAINS[0]);
    live.world
        .hub
        .as_ref()
        .unwrap()
        .command(&["hub", "revoke", &who], "")
        .unwrap();
    let mut world = live.expect_cut(since);
    stays_out(&mut world);
    // Also after the hub was killed.
    world.hub().unwrap().process.kill().unwrap();
    world.start_hub().unwrap();
    stays_out(&mut world);
}

#[test]
fn the_hub_revokes_a_domain() {
    if !gate::networks("revocation of a domain") {
        return;
    }
    let live = live();
    let since = Instant::now();
    live.world
        .hub
        .as_ref()
        .unwrap()
        .command(&["hub", "revoke", DOMAINS[0]], "")
        .unwrap();
    stays_out(&mut live.expect_cut(since));
}

/// beta revokes its second gateway, while acme has a stream to it.
#[test]
fn a_domain_revokes_one_of_its_gateways() {
    if !gate::networks("revocation by the domain") {
        return;
    }
    let service = Service::http("web", 8080).imported(9001);
    let mut world = Spec::new([service]).gateways(2).start().unwrap();
    let origins = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    // Streams from acme until one goes through beta's gw2: it is the one that breaks.
    let way = world.ways()[0];
    let mut streams = Vec::new();
    for i in 0..8 {
        let key = format!("s{i}");
        let mut stream = way
            .curl("web", &format!("/events/{key}"))
            .limit(Duration::from_secs(120))
            .stream()
            .unwrap();
        talk::events(&origins[1], &key, &mut stream.out);
        streams.push((key, stream));
    }
    let since = Instant::now();
    world.gateways[1][0]
        .command(&["domain", "revoke", "gw2"], "")
        .unwrap();
    wait::for_condition(SECONDS, "the hub to have cut gw2", || {
        let status = world.hub.as_ref().unwrap().ask("/status").unwrap().to_string();
        !status.contains("spiffe://beta/gateway/gw2")
    })
    .unwrap();
    eprintln!("gone from the hub after {:?}", since.elapsed());
    // Every stream either goes on, through gw1, or has ended with an error.
    let mut cut = 0;
    for (key, mut stream) in streams {
        origins[1].event(&key, "more");
        let mut got = vec![0; "data: more\n\n".len()];
        match stream.out.read_exact(&mut got) {
            Ok(()) => {}
            Err(_) => {
                cut += 1;
                assert_ne!(stream.end().unwrap().0, 0);
            }
        }
    }
    assert!(cut > 0, "no stream had gone through gw2: nothing was proved");
    // Calls go on through gw1, and gw2 stays out.
    for _ in 0..20 {
        world.ways()[0].curl("web", "/echo").expect(200).unwrap();
    }
    world.gateways[1][1].start().unwrap();
    assert!(
        world.gateways[1][1]
            .running()
            .unwrap()
            .wait_ready(Duration::from_secs(3))
            .is_err()
    );
}
