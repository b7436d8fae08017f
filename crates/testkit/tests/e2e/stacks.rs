//! Clients and servers of other makers, through the tunnel, in both directions.

use hawser_testkit::{
    gate,
    origin::{GitServer, Postgres, Python, RawOrigin, raw::Manner},
    world::{Service, Spec, Way, World},
};

use crate::talk;

const IMPORT: u16 = 9001;

/// A world with one service, and its server in each domain.
fn with_servers<T>(service: Service, start: impl Fn(&World, usize) -> T) -> (World, [T; 2]) {
    let world = Spec::new([service.imported(IMPORT)]).start().unwrap();
    let servers = [0, 1].map(|domain| start(&world, domain));
    (world, servers)
}

fn python(world: &World, domain: usize, script: &str, port: u16) -> Python {
    let host = &world.site(domain).app;
    let (ip, port) = (host.address().to_string(), port.to_string());
    Python::start(host, script, &[&ip, &port], world.dir()).unwrap()
}

fn proxy_url(way: &Way) -> String {
    format!("http://{}", way.proxy())
}

#[test]
fn soap() {
    if !gate::networks("SOAP (zeep and spyne)") {
        return;
    }
    let (world, _servers) = with_servers(Service::http("soap", 8001), |w, d| {
        python(w, d, "soap_server.py", 8001)
    });
    for way in world.ways() {
        talk::soap(way.client(), &way.url("soap", "/?wsdl"), Some(&proxy_url(&way)));
        talk::soap(
            way.client(),
            &format!("http://{}/?wsdl", way.import(IMPORT)),
            None,
        );
    }
}

#[test]
fn grpc() {
    if !gate::networks("gRPC (grpcio)") {
        return;
    }
    let (world, _servers) = with_servers(Service::http("grpc", 8002).more("inspect = {}"), |w, d| {
        python(w, d, "grpc_server.py", 8002)
    });
    for way in world.ways() {
        talk::grpc(way.client(), &way.import(IMPORT).to_string(), None);
        talk::grpc(
            way.client(),
            &format!("{}:80", way.host("grpc")),
            Some(&proxy_url(&way)),
        );
    }
}

#[test]
fn websocket() {
    if !gate::networks("WebSocket (websockets)") {
        return;
    }
    let (world, _servers) = with_servers(Service::http("ws", 8003).more("inspect = {}"), |w, d| {
        python(w, d, "websocket_server.py", 8003)
    });
    for way in world.ways() {
        talk::websocket(way.client(), &format!("ws://{}/", way.import(IMPORT)), None);
        talk::websocket(
            way.client(),
            &format!("ws://{}/", way.host("ws")),
            Some(&proxy_url(&way)),
        );
    }
}

#[test]
fn git() {
    if !(gate::networks("git") && gate::programs("git", &["git", "lighttpd"])) {
        return;
    }
    let (world, _servers) = with_servers(Service::http("git", 8004), |w, d| {
        GitServer::start(&w.site(d).app, 8004, w.dir()).unwrap()
    });
    for way in world.ways() {
        let dir = tempfile::tempdir_in(world.dir()).unwrap();
        let url = way.url("git", "/repo.git");
        talk::git_clone_and_push(way.client(), &url, Some(&proxy_url(&way)), dir.path());
    }
}

#[test]
fn psql() {
    if !(gate::networks("PostgreSQL") && gate::programs("PostgreSQL", &["psql"])) {
        return;
    }
    let (world, _servers) = with_servers(Service::tcp("db", 5432), |w, d| {
        Postgres::start(&w.site(d).app, 5432, w.dir()).unwrap()
    });
    for way in world.ways() {
        talk::psql(way.client(), way.import(IMPORT));
    }
}

#[test]
fn tcp_ends_each_direction_by_itself() {
    if !gate::networks("TCP half-close") {
        return;
    }
    let (world, _servers) = with_servers(Service::tcp("hash", 8005), |w, d| {
        RawOrigin::start(&w.site(d).app, 8005, Manner::HashAtEnd).unwrap()
    });
    for way in world.ways() {
        for len in [0, 1, 100_000, 30_000_000] {
            talk::tcp_half_close(way.client(), way.import(IMPORT), len);
        }
    }
}
