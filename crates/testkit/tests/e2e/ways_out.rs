//! The one way out is the corporate proxy; and what the hub moves is what it cannot read.

use std::fs;

use hawser_testkit::{
    gate,
    hawser::try_run,
    origin::{HttpOrigin, RawOrigin, cntlm, raw::Manner, squid},
    pattern,
    world::{SQUID_PASSWORD, SQUID_USER, Service, Spec},
};

use crate::{calls, talk};

#[test]
fn through_a_corporate_proxy_with_a_password() {
    let what = "squid as the only way out";
    if !(gate::networks(what) && gate::programs(what, &["squid", "openssl"])) {
        return;
    }
    let web = Service::http("web", 8080).imported(9001);
    let tcp = Service::tcp("hash", 8081).imported(9002);
    let world = Spec::new([web, tcp]).squid().start().unwrap();
    let web = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let _tcp = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8081, Manner::HashAtEnd).unwrap());
    const LEN: u64 = 50_000_000;
    for way in world.ways() {
        way.curl("web", "/echo").expect(200).unwrap();
        let (len, hash) = way
            .curl_import(9001, &format!("/bytes/{LEN}"))
            .download()
            .unwrap();
        assert_eq!((len, hash), (LEN, pattern::hash(LEN)));
        let answer = way.curl_import(9001, "/upload").upload(LEN).unwrap();
        assert!(answer.contains(&pattern::hash(LEN)), "{answer}");
        let mut stream = way.curl("web", "/events/squid").stream().unwrap();
        talk::events(&web[way.to], "squid", &mut stream.out);
        talk::tcp_half_close(way.client(), way.import(9002), 1_000_000);
    }
    for squid in &world.squids {
        let log = squid.access_log();
        // A tunnel is logged when it ends; joining was one.
        assert!(
            log.contains("CONNECT 203.0.113.2:8443") && log.contains(SQUID_USER),
            "{log}"
        );
    }
    assert!(
        !world.logs().contains(SQUID_PASSWORD),
        "the proxy's password is in a log"
    );
}

/// The gateway speaks no NTLM: it says so, and works with a program between that does.
#[test]
fn through_a_corporate_proxy_that_wants_ntlm() {
    let what = "NTLM on the only way out";
    if !(gate::networks(what) && gate::programs(what, &["squid", "cntlm"])) {
        return;
    }
    let world = Spec::new([Service::http("web", 8080)]).ntlm().start().unwrap();
    let _web = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    for way in world.ways() {
        way.curl("web", "/echo").expect(200).unwrap();
    }
    let gateway = &world.gateways[0][0];
    let between = gateway.host.at(cntlm::PORT).to_string();
    let squid = world.site(0).proxy.at(squid::PORT).to_string();
    let config = fs::read_to_string(&gateway.config).unwrap();
    assert!(config.contains(&between), "{config}");
    let straight = gateway.config.with_extension("straight.toml");
    fs::write(&straight, config.replace(&between, &squid)).unwrap();
    let (rows, _, fine) = try_run(&gateway.host, &straight, &["doctor"], "").unwrap();
    assert!(
        !fine && rows.contains("it takes NTLM only") && rows.contains("cntlm"),
        "{rows}"
    );
}

#[test]
fn the_hub_splices_all_that_it_moves_and_keys_are_hybrid() {
    if !gate::networks("splice and key exchange") {
        return;
    }
    let (world, _origins) = calls::web_world(|s| s);
    const LEN: u64 = 100_000_000;
    for way in world.ways() {
        way.curl_import(calls::WEB_IMPORT, &format!("/bytes/{LEN}"))
            .download()
            .unwrap();
    }
    let hub = world.hub.as_ref().unwrap().metrics().unwrap();
    let moved = hub.sum("hawser_hub_relayed_bytes_total", &[]);
    let spliced = hub.sum("hawser_hub_relayed_bytes_total", &["spliced"]);
    assert!(moved >= 2.0 * LEN as f64, "moved {moved}\n{}", hub.text());
    assert!(
        (moved - spliced).abs() < f64::EPSILON,
        "moved {moved}, spliced {spliced}\n{}",
        hub.text()
    );
    for gateway in world.gateways.iter().flatten() {
        let own = gateway.daemon.as_ref().unwrap().metrics().unwrap();
        let sessions = own.sum("hawser_gateway_key_exchanges_total", &[]);
        let hybrid = own.sum(
            "hawser_gateway_key_exchanges_total",
            &["group=\"X25519MLKEM768\""],
        );
        assert!(
            sessions >= 1.0 && (sessions - hybrid).abs() < f64::EPSILON,
            "{}",
            own.text()
        );
    }
}
