//! Certificates renew themselves under load, and nobody notices: neither short calls nor sessions that last.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, SystemTime},
};

use hawser_testkit::{
    gate,
    load::Load,
    origin::{Postgres, Python},
    wait,
    world::{Service, Spec, World},
};

use crate::calls;

/// Life of the certificates in this test. They renew at half of it.
const LIFE: &str = "20s";
const RENEWALS: usize = 3;

#[test]
fn certificates_renew_without_a_lost_call() {
    if !gate::networks("renewal under load") {
        return;
    }
    let lines = format!("certificate_life = \"{LIFE}\"");
    let (world, _origins) = calls::web_world(|s| s.gateway_lines(&lines).gateways(2));
    let loads = world
        .ways()
        .map(|way| Load::start(way.client(), way.import(calls::WEB_IMPORT), "/echo", "web", 2));
    let mut seen = ends(&world);
    for round in 1..=RENEWALS {
        wait::for_condition(Duration::from_secs(40), "every gateway to renew", || {
            ends(&world).iter().zip(&seen).all(|(now, before)| now > before)
        })
        .unwrap_or_else(|e| panic!("round {round}: {e:#}; {:?}", loads.each_ref().map(Load::so_far)));
        seen = ends(&world);
    }
    for load in &loads {
        load.wait_for(50).unwrap();
    }
    for load in loads {
        let tally = load.stop();
        eprintln!("{} calls, the slowest {:?}", tally.good, tally.slowest);
        assert!(tally.lost.is_empty(), "{:?}", tally.lost);
    }
}

/// Short enough for a test, and how long gateways let a session go on that does not renew.
const SHORT: &str = "10s";
const GRACE: f64 = 60.0;

#[test]
fn a_websocket_and_a_psql_session_outlive_their_certificates() {
    let what = "sessions that outlive their certificates";
    if !(gate::networks(what) && gate::programs(what, &["psql"])) {
        return;
    }
    let services = [
        Service::http("ws", 8003).imported(9001),
        Service::tcp("db", 5432).imported(9002),
    ];
    let lines = format!("certificate_life = \"{SHORT}\"");
    let world = Spec::new(services).gateway_lines(&lines).start().unwrap();
    let way = world.ways()[0];
    let server = way.server();
    let ip = server.address().to_string();
    let _websockets = Python::start(server, "websocket_server.py", &[&ip, "8003"], world.dir()).unwrap();
    let _postgres = Postgres::start(server, 5432, world.dir()).unwrap();
    let url = format!("ws://{}/", way.import(9001));
    let websocket = || Dialogue::start(Python::command(way.client(), "websocket_lines.py", &[&url]).unwrap());
    let psql = || {
        let at = way.import(9002);
        let mut psql = way.client().command("psql");
        psql.args(["-X", "-q", "-At", "-U", "postgres", "-h", &at.ip().to_string()]);
        Dialogue::start({
            psql.args(["-p", &at.port().to_string()]);
            psql
        })
    };
    // One of each that talks all the time, and one that is silent.
    let (mut websockets, mut psqls) = ([websocket(), websocket()], [psql(), psql()]);
    for socket in &mut websockets {
        assert_eq!(socket.ask("first"), "first");
    }
    for psql in &mut psqls {
        assert_eq!(
            psql.ask("create temporary table kept as select 42 as n; select n from kept;"),
            "42"
        );
    }
    let end = ends(&world).into_iter().fold(0.0, f64::max) + GRACE + 5.0;
    let now = || {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    assert!(
        end < now() + 90.0,
        "the certificates last longer than they should"
    );
    let mut asked = 0;
    wait::for_condition(
        Duration::from_secs(120),
        "the first certificates to be long over",
        || {
            asked += 1;
            let text = format!("message {asked}");
            assert_eq!(websockets[0].ask(&text), text);
            assert_eq!(psqls[0].ask("select n from kept;"), "42");
            now() > end
        },
    )
    .unwrap();
    assert!(ends(&world).into_iter().all(|e| e > end), "they were renewed");
    assert_eq!(websockets[1].ask("after a long silence"), "after a long silence");
    // What belongs to one database session is there still: it is the same.
    assert_eq!(psqls[1].ask("select n from kept;"), "42");
    println!("{asked} answers of each, all on the first connections");
}

/// A program that answers each line with a line.
struct Dialogue {
    child: Child,
    input: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Dialogue {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            input,
            answers: BufReader::new(output).lines(),
        }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        self.answers.next().expect("it ended").unwrap()
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When the certificate of each gateway ends.
fn ends(world: &World) -> Vec<f64> {
    let gateways = world.gateways.iter().flatten().filter_map(|g| g.daemon.as_ref());
    gateways
        .map(|d| {
            d.metrics()
                .unwrap()
                .sum("hawser_gateway_certificate_expiry_seconds", &[])
        })
        .collect()
}
