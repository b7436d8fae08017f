//! The ground itself: networks, firewalls, origins, clients and captures do what the other tests believe. No hawser here.

use std::time::Duration;

use hawser_testkit::{
    Host, Process,
    capture::Capture,
    curl::Curl,
    gate,
    load::Load,
    net::{Plan, Sites},
    origin::{GitServer, HttpOrigin, Postgres, Python, RawOrigin, Squid, raw::Manner, squid},
    pattern, wait,
};

use crate::talk;

fn sites(proxy_only: bool) -> Sites {
    Sites::build(&Plan {
        domains: &["acme", "beta"],
        gateways: 1,
        proxy_only,
    })
    .unwrap()
}

#[test]
fn networks_change_by_no_hand_but_the_tests() {
    if !gate::networks("networks that stay as they are") {
        return;
    }
    let sites = sites(true);
    let inside = sites.domains.iter().map(|domain| &domain.app);
    for host in [&sites.net, &sites.hub].into_iter().chain(inside) {
        // The kernel's own would come seconds later.
        let shown = |what: &[&str]| {
            let out = host.command("ip").args(what).output().unwrap();
            assert!(out.status.success(), "{out:?}");
            String::from_utf8(out.stdout).unwrap()
        };
        assert_eq!(shown(&["-6", "-oneline", "address", "show", "scope", "link"]), "");
        let links = shown(&["-brief", "link", "show", "up"]);
        assert!(links.lines().count() > 1 && !links.contains("DOWN"), "{links}");
    }
}

/// How long a connection is waited for that should not succeed, and for one that should.
const FOR_NOTHING: Duration = Duration::from_millis(500);
const FOR_CERTAIN: Duration = Duration::from_secs(20);

#[test]
fn firewalls_let_nothing_in_and_only_one_way_out() {
    if !gate::networks("firewalls") {
        return;
    }
    let sites = sites(false);
    let [acme, beta] = &sites.domains[..] else {
        panic!()
    };
    let _origin = HttpOrigin::start(&acme.app, 8080).unwrap();
    let _hub = RawOrigin::start(&sites.hub, 8443, Manner::Echo).unwrap();
    let _other = RawOrigin::start(&sites.hub, 8444, Manner::Echo).unwrap();
    let firewall = acme.firewall.as_ref().unwrap();

    assert!(
        acme.app.connects(acme.app.at(8080), FOR_CERTAIN).unwrap(),
        "control: within the domain"
    );
    assert!(
        acme.app.connects(sites.hub.at(8443), FOR_CERTAIN).unwrap(),
        "the way to the hub is open"
    );
    assert!(
        !acme.app.connects(sites.hub.at(8444), FOR_NOTHING).unwrap(),
        "no other way out is"
    );
    assert!(firewall.outbound_dropped().unwrap() > 0);
    assert_eq!(firewall.inbound_dropped().unwrap(), 0);
    for from in [&sites.net, &sites.hub] {
        assert!(!from.connects(acme.app.at(8080), FOR_NOTHING).unwrap());
    }
    assert!(firewall.inbound_dropped().unwrap() >= 2);

    // The control: with the rules off the same connections succeed.
    firewall.off().unwrap();
    beta.firewall.as_ref().unwrap().off().unwrap();
    for from in [&sites.net, &sites.hub, &beta.app] {
        assert!(
            from.connects(acme.app.at(8080), FOR_CERTAIN).unwrap(),
            "{}",
            from.name()
        );
    }
    firewall.on().unwrap();
    assert!(!sites.net.connects(acme.app.at(8080), FOR_NOTHING).unwrap());
}

#[test]
fn the_corporate_proxy_asks_for_a_password() {
    let what = "squid";
    if !(gate::networks(what) && gate::programs(what, &["squid", "openssl"])) {
        return;
    }
    let sites = sites(true);
    let acme = &sites.domains[0];
    let _hub = HttpOrigin::start(&sites.hub, 8443).unwrap();
    let dir = readable_dir();
    let squid = Squid::start(&acme.proxy, "user", "secret", sites.hub.at(8443), dir.path()).unwrap();
    let gateway = &acme.gateways[0];
    let call = |user: &str| {
        Curl::new(gateway, "http://203.0.113.2:8443/")
            .args(["--proxytunnel", "--proxy-user", user])
            .proxy(acme.proxy.at(squid::PORT))
            .call()
            .unwrap()
    };
    assert!(
        !gateway.connects(sites.hub.at(8443), FOR_NOTHING).unwrap(),
        "only the proxy may go out"
    );
    assert_eq!(call("user:secret").status, 200);
    assert_ne!(call("user:wrong").status, 200);
    // It writes a call down once it has ended, which may be after the caller has seen that.
    for line in ["CONNECT 203.0.113.2:8443 user", "TCP_DENIED/407"] {
        wait::for_condition(wait::SOON, line, || squid.access_log().contains(line))
            .unwrap_or_else(|e| panic!("{e:#}\n{}", squid.access_log()));
    }
}

#[test]
fn captures_see_what_crosses_a_link() {
    let what = "captures";
    if !(gate::networks(what) && gate::programs(what, &["tcpdump"])) {
        return;
    }
    let sites = sites(false);
    let acme = &sites.domains[0];
    let _origin = HttpOrigin::start(&acme.app, 8080).unwrap();
    let dir = readable_dir();
    let link = Capture::start(&acme.app, "lan", dir.path()).unwrap();
    let elsewhere = Capture::start(&sites.hub, "any", dir.path()).unwrap();
    let url = format!("http://{}/mirror", acme.app.at(8080));
    Curl::new(&acme.gateways[0], url)
        .post("a marker that is seen")
        .expect(200)
        .unwrap();
    let (link, elsewhere) = (link.stop().unwrap(), elsewhere.stop().unwrap());
    assert!(link.hits(b"a marker that is seen") >= 2, "{} packets", link.count);
    assert!(link.tcp_bytes() > 100);
    assert_eq!(elsewhere.hits(b"a marker that is seen"), 0);
}

/// Servers in acme, clients in beta, no rules: what is asked of the tunnel later works without it.
#[test]
fn clients_and_servers_get_on_without_a_tunnel() {
    let what = "clients and servers";
    if !(gate::networks(what) && gate::programs(what, &["lighttpd", "psql", "git", "curl"])) {
        return;
    }
    let sites = sites(false);
    for site in &sites.domains {
        site.firewall.as_ref().unwrap().off().unwrap();
    }
    let (server, client) = (&sites.domains[0].app, &sites.domains[1].app);
    let dir = readable_dir();
    let start = |script: &str, port: u16| {
        let ip = server.address().to_string();
        Python::start(server, script, &[&ip, &port.to_string()], dir.path()).unwrap()
    };
    let url = |port: u16, path: &str| format!("http://{}{path}", server.at(port));

    let _soap = start("soap_server.py", 8001);
    talk::soap(client, &url(8001, "/?wsdl"), None);
    let _grpc = start("grpc_server.py", 8002);
    talk::grpc(client, &server.at(8002).to_string(), None);
    let _websocket = start("websocket_server.py", 8003);
    talk::websocket(client, &format!("ws://{}/", server.at(8003)), None);
    let _git = GitServer::start(server, 8004, dir.path()).unwrap();
    talk::git_clone_and_push(client, &url(8004, "/repo.git"), None, dir.path());
    let _postgres = Postgres::start(server, 5432, dir.path()).unwrap();
    talk::psql(client, server.at(5432));
    let _hash = RawOrigin::start(server, 8005, Manner::HashAtEnd).unwrap();
    talk::tcp_half_close(client, server.at(8005), 1_000_000);
    let _reset = RawOrigin::start(server, 8006, Manner::ResetAfter(100_000)).unwrap();
    talk::tcp_reset_is_seen(client, server.at(8006));

    let _broken = RawOrigin::start(server, 8007, Manner::HttpBrokenOff).unwrap();
    for how in ["length", "chunked", "short", "open"] {
        let answer = Curl::new(client, url(8007, &format!("/{how}/100000")))
            .call()
            .unwrap();
        assert_ne!(answer.exit, 0, "{how}: a clean end");
    }

    let origin = HttpOrigin::start(server, 8080).unwrap();
    const LEN: u64 = 50_000_000;
    let (len, hash) = Curl::new(client, url(8080, &format!("/bytes/{LEN}")))
        .download()
        .unwrap();
    assert_eq!((len, hash), (LEN, pattern::hash(LEN)));
    let answer = Curl::new(client, url(8080, "/upload")).upload(LEN).unwrap();
    assert!(answer.contains(&pattern::hash(LEN)), "{answer}");
    for curl in [
        Curl::new(client, url(8080, "/echo")),
        Curl::new(client, url(8080, "/echo")).http2(),
    ] {
        let seen = curl
            .header("X-Test: 1")
            .post("body")
            .expect(200)
            .unwrap()
            .json()
            .unwrap();
        assert_eq!(seen["body"], "body");
        assert_eq!(seen["method"], "POST");
    }
    let mut stream = Curl::new(client, url(8080, "/events/a")).stream().unwrap();
    talk::events(&origin, "a", &mut stream.out);
}

fn readable_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_load_counts_what_is_lost() {
    if !gate::networks("load") {
        return;
    }
    let sites = sites(false);
    let acme = &sites.domains[0];
    let mut origin = HttpOrigin::start(&acme.app, 8080).unwrap();
    let load = Load::start(&acme.gateways[0], acme.app.at(8080), "/echo", "x", 2);
    load.wait_for(50).unwrap();
    assert!(load.so_far().lost.is_empty(), "{:?}", load.so_far().lost);
    origin.stop();
    wait::for_condition(wait::SOON, "calls to be lost", || !load.so_far().lost.is_empty()).unwrap();
    let tally = load.stop();
    assert!(tally.good >= 50 && tally.slowest > Duration::ZERO);
}

#[test]
fn processes_are_frozen_ended_and_reaped() {
    let dir = readable_dir();
    let host = sites_on_loopback();
    let log = dir.path().join("log");
    let mut process = Process::start(&host, "sh", &["-c", "echo begun; exec sleep 1000"], &log).unwrap();
    process.wait_for_log(wait::SOON, "begun").unwrap();
    // Until the one program has become the other, either may be what is asked.
    wait::for_condition(wait::SOON, "its most to cover what it has", || {
        let now = process.memory().unwrap();
        process.peak_memory().unwrap() >= now
    })
    .unwrap();
    process.freeze().unwrap();
    let state = |id: u32| std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    wait::for_condition(wait::SOON, "it to stop", || state(process.id()).contains(") T ")).unwrap();
    process.thaw().unwrap();
    assert!(process.is_running());
    let id = process.id();
    drop(process);
    assert!(
        !std::path::Path::new(&format!("/proc/{id}")).exists(),
        "it is neither alive nor a zombie"
    );

    let mut short = Process::start(&host, "sh", &["-c", "echo no; exit 3"], &log).unwrap();
    let why = format!("{:#}", short.wait_for_log(wait::SOON, "yes").unwrap_err());
    assert!(why.contains("exit status: 3") && why.contains("no"), "{why}");
}

/// A host without a namespace of its own, also for root.
fn sites_on_loopback() -> Host {
    Sites::on_loopback(&Plan {
        domains: &["acme"],
        gateways: 1,
        proxy_only: false,
    })
    .hub
}
