//! The hub sees no plaintext: not on its interfaces, not in its memory. The same searches find it where it must be.

use std::io::{Read, Write};

use hawser_testkit::{
    capture::Capture,
    gate, memory,
    origin::{HttpOrigin, RawOrigin, raw::Manner},
    world::{Service, Spec},
};

use crate::talk;

#[test]
fn the_hub_sees_no_plaintext() {
    let what = "capture and memory search";
    if !(gate::networks(what) && gate::programs(what, &["tcpdump"])) {
        return;
    }
    let web = Service::http("web", 8080).imported(9001);
    let echo = Service::tcp("echo", 8081).imported(9002);
    let mut world = Spec::new([web, echo]).start().unwrap();
    let _web = [0, 1].map(|d| HttpOrigin::start(&world.site(d).app, 8080).unwrap());
    let _echo = [0, 1].map(|d| RawOrigin::start(&world.site(d).app, 8081, Manner::Echo).unwrap());

    let hub_link = Capture::start(&world.sites.hub, "any", world.dir()).unwrap();
    let client_links = [0, 1].map(|d| Capture::start(&world.site(d).app, "any", world.dir()).unwrap());
    let mut markers = Vec::new();
    // Kept open, so that what the parties hold of them is still there when their memory is searched.
    let mut open_streams = Vec::new();
    let mut open_connections = Vec::new();
    for way in world.ways() {
        let mark = |what: &str| format!("{what}-{}-{}-zx81", way.from, std::process::id());
        let (path, header, body, answer, tcp) = (
            mark("path"),
            mark("header"),
            mark("body"),
            mark("answer"),
            mark("tcp"),
        );
        for curl in [
            way.curl("web", "/mirror"),
            way.curl_import(9001, "/mirror").http2(),
        ] {
            let url_mark = [format!("X-Mark: {header}"), format!("X-Path: {path}")];
            let curl = curl.header(&url_mark[0]).header(&url_mark[1]);
            assert_eq!(curl.post(&body).expect(200).unwrap().text(), body);
        }
        let mut stream = way
            .curl_import(9001, &format!("/say/{answer}/1000000"))
            .stream()
            .unwrap();
        stream.out.read_exact(&mut [0; 100_000]).unwrap();
        open_streams.push(stream);
        let connection = way.client().enter(|| {
            let mut connection = talk::connect(way.import(9002));
            let said = format!("{tcp}\n").repeat(1000);
            connection.write_all(said.as_bytes()).unwrap();
            connection.read_exact(&mut vec![0; said.len()]).unwrap();
            connection
        });
        open_connections.push(connection.unwrap());
        markers.push([path, header, body, answer, tcp]);
    }

    let [acme, beta] = world
        .gateways
        .each_mut()
        .map(|g| g[0].running().unwrap().process.id());
    let hub = world.hub().unwrap().process.id();
    for (from, markers) in markers.iter().enumerate() {
        let answer = &markers[3];
        for (name, id) in [("acme's gateway", acme), ("beta's gateway", beta)] {
            let seen = memory::search(id, answer.as_bytes()).unwrap();
            assert!(
                seen.hits > 0,
                "control: {answer} is in the memory of {name}, which handles it ({seen:?})"
            );
        }
        for marker in markers {
            let seen = memory::search(hub, marker.as_bytes()).unwrap();
            assert_eq!(seen.hits, 0, "{marker} is in the hub's memory");
            assert!(
                seen.read > 1024 * 1024,
                "the hub's memory could not be read: {seen:?}"
            );
        }
        assert!(from < 2);
    }

    let hub_packets = hub_link.stop().unwrap();
    let client_packets = client_links.map(|c| c.stop().unwrap());
    assert!(
        hub_packets.tcp_bytes() > 200_000,
        "control: the calls went through the hub"
    );
    for (from, markers) in markers.iter().enumerate() {
        for marker in markers {
            assert!(
                client_packets[from].hits(marker.as_bytes()) > 0,
                "control: {marker} is on the client's link"
            );
            assert_eq!(
                hub_packets.hits(marker.as_bytes()),
                0,
                "{marker} crosses the hub in the clear"
            );
        }
    }
}
