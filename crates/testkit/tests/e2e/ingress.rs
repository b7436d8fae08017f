//! A published name: clients outside reach the gateway's own page through the hub, which sees ciphertext and nothing else.

use std::{io::Write, net::TcpStream, process::Stdio};

use hawser_testkit::{
    capture::Capture,
    curl::Curl,
    gate, memory,
    office::{CONTROL, DOMAIN, Office},
    wait,
};

/// curl, from where devices are.
fn curl(office: &Office, name: &str, path: &str, more: &[&str]) -> Curl {
    let hub = office.sites.hub_at();
    Curl::new(office.outside(), format!("https://{name}:{}{path}", hub.port()))
        .trusting(&office.authority.certificate())
        .resolve(name, hub)
        .args(more)
}

#[test]
fn a_published_page_is_reached_from_outside_and_the_hub_sees_ciphertext() {
    let what = "public ingress";
    if !(gate::networks(what) && gate::programs(what, &["tcpdump", "openssl"])) {
        return;
    }
    let mut office = Office::start().unwrap();
    let link = Capture::start(&office.sites.hub, "any", office.dir()).unwrap();

    let marker = format!("marker-{}-ingress-zx81", std::process::id());
    let page = curl(&office, CONTROL, "/", &[]).expect(200).unwrap();
    assert!(page.text().contains("<html"), "{}", page.text());
    let secret = format!("X-Mark: {marker}");
    let missing = curl(&office, CONTROL, &format!("/{marker}"), &["-H", &secret]);
    assert_eq!(missing.call().unwrap().status, 404);
    // openssl verifies chain and name, and reads the same page.
    let hub = office.sites.hub_at();
    let mut client = office
        .outside()
        .command("openssl")
        .args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-servername",
            CONTROL,
        ])
        .args([
            "-verify_hostname",
            CONTROL,
            "-connect",
            &hub.to_string(),
            "-CAfile",
        ])
        .arg(office.authority.certificate())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request =
        format!("GET / HTTP/1.1\r\nHost: {CONTROL}\r\nX-Mark: {marker}\r\nConnection: close\r\n\r\n");
    let mut input = client.stdin.take().unwrap();
    input.write_all(request.as_bytes()).unwrap();
    let out = client.wait_with_output().unwrap();
    drop(input);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        said.starts_with("HTTP/1.1 200") && said.contains("<html"),
        "{said}"
    );

    // Control: what is said in the clear is seen where it was searched for.
    let clear = format!("clear-{}-zx81", std::process::id());
    office
        .outside()
        .enter(|| TcpStream::connect(hub)?.write_all(clear.as_bytes()))
        .unwrap()
        .unwrap();
    let id = office.hub().unwrap().process.id();
    let seen = memory::search(id, marker.as_bytes()).unwrap();
    let packets = link.stop().unwrap();
    assert!(packets.hits(clear.as_bytes()) > 0);
    assert!(packets.hits(CONTROL.as_bytes()) > 0, "the name is in the clear");
    assert_eq!(packets.hits(marker.as_bytes()), 0, "what was said under TLS");
    assert_eq!(packets.hits(b"<html"), 0, "what was answered");
    assert!(seen.hits == 0 && seen.read > 1024 * 1024, "{seen:?}");
}

#[test]
fn names_that_are_not_published_are_refused_and_a_revoked_gateways_name_stops() {
    if !gate::networks("public ingress") {
        return;
    }
    let mut office = Office::start().unwrap();
    curl(&office, CONTROL, "/", &[]).expect(200).unwrap();
    for name in ["other.acme.example", "devices.beta.example"] {
        let refused = curl(&office, name, "/", &[]).call().unwrap();
        assert_ne!(refused.exit, 0);
        assert!(refused.error.contains("unrecognized name"), "{}", refused.error);
    }
    office
        .hub()
        .unwrap()
        .command(&["hub", "revoke", &format!("spiffe://{DOMAIN}/gateway/gw1")], "")
        .unwrap();
    wait::for_condition(wait::SOON, "the revoked gateway's name to stop", || {
        curl(&office, CONTROL, "/", &[])
            .call()
            .is_ok_and(|a| a.error.contains("unrecognized name"))
    })
    .unwrap();
}
