//! The device page in a real browser, before there is a device: what it says, by keyboard, without a network, and that the
//! browser believes no certificate that it should not.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use hawser_testkit::{
    Browser, Host,
    authority::Authority,
    browser::{self, Spec},
    origin::{Python, python::workspace},
};
use serde_json::json;

const NAME: &str = "devices.acme.example";
/// A whole link, of an enrolment that nobody knows.
const LINK: &str =
    "v1.hFDh4eHh4eHh4eHh4eHh4eHhUF5eXl5eXl5eXl5eXl5eXl5kYWNtZVggREREREREREREREREREREREREREREREREREREREREREQ";

/// The page served on the loopback under a certificate of a test authority.
struct Served {
    dir: tempfile::TempDir,
    host: Host,
    authority: PathBuf,
    _server: Python,
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let authority = Authority::new(at).unwrap();
    let (certificate, key) = authority.issue(NAME).unwrap();
    let host = Host::on_loopback("page", Ipv4Addr::LOCALHOST);
    let page = workspace().join("crates/broker/page");
    let args = [
        "127.0.0.1",
        &port().to_string(),
        &page.to_string_lossy(),
        &certificate.to_string_lossy(),
        &key.to_string_lossy(),
    ];
    let server = Python::start(&host, "page_server.py", &args, at).unwrap();
    Served {
        authority: authority.certificate(),
        dir,
        host,
        _server: server,
    }
}

impl Served {
    fn browser(&self, name: &str, authorities: &[&Path], prf: bool) -> Browser {
        let spec = Spec {
            authorities,
            names: &[(NAME, self.host.address())],
            prf,
        };
        Browser::start(&self.host, &self.dir.path().join(name), &spec).unwrap()
    }
}

/// Another one for each run, and below those that the system gives out by itself.
fn port() -> u16 {
    11_000 + (std::process::id() % 8_000) as u16
}

fn url(path: &str) -> String {
    format!("https://{NAME}:{}{path}", port())
}

#[test]
fn the_page_before_there_is_a_device() {
    if !browser::possible("the device page in Chromium") {
        return;
    }
    let served = serve();
    let mut stranger = served.browser("stranger", &[], true);
    let refused = stranger.open(&url("/")).unwrap_err();
    assert!(
        format!("{refused:#}").contains("ERR_CERT_AUTHORITY_INVALID"),
        "{refused:#}"
    );
    drop(stranger);

    let mut browser = served.browser("browser", &[&served.authority], true);
    assert_eq!(browser.open(&url("/")).unwrap(), "welcome");
    a_bad_link_is_refused_by_keyboard(&mut browser);
    a_link_that_nobody_knows_is_refused(&mut browser);
    it_is_there_without_a_network(&mut browser);
    let log = browser.log();
    assert!(
        !log.contains("Content Security Policy") && !log.contains("pageerror"),
        "{log}"
    );

    let mut plain = served.browser("plain", &[&served.authority], false);
    a_file_that_does_not_arrive_is_told_of_and_loaded_again(&mut plain);
    let says = plain.tell("enrol-refused", json!({})).unwrap();
    assert!(
        says["says"].as_str().unwrap().contains("lack the PRF extension"),
        "{says}"
    );
}

fn a_file_that_does_not_arrive_is_told_of_and_loaded_again(browser: &mut Browser) {
    let link = url(&format!("/enrol#{LINK}"));
    let partly = json!({ "url": link, "file": "/hpke.js" });
    let says = browser.tell("open-partly", partly).unwrap();
    let says = says["says"].as_str().unwrap();
    assert!(says.contains("did not arrive"), "{says}");
    // The link in the address is still there then.
    assert_eq!(browser.tell("arrived", json!({})).unwrap()["view"], "enrol");
}

fn a_bad_link_is_refused_by_keyboard(browser: &mut Browser) {
    let mut press = |keys: &[&str]| browser.tell("press", json!({ "keys": keys })).unwrap()["focus"].clone();
    assert_eq!(press(&["Tab"]), "link");
    assert_eq!(press(&["n", "o", "n", "e", "Enter"]), "link");
    let says = browser.tell("says", json!({ "id": "alert" })).unwrap();
    let says = says["says"].as_str().unwrap();
    assert!(says.contains("not a whole enrolment link"), "{says}");
}

fn a_link_that_nobody_knows_is_refused(browser: &mut Browser) {
    let answer = browser
        .tell("open", json!({ "url": url(&format!("/enrol#{LINK}")) }))
        .unwrap();
    assert_eq!(answer["view"], "enrol");
    // The one-time secret is in no history.
    assert_eq!(answer["address"], url("/"));
    let refused = browser.enrol("a browser", true).unwrap_err();
    assert!(
        format!("{refused:#}").contains("answered with status 501"),
        "{refused:#}"
    );
}

fn it_is_there_without_a_network(browser: &mut Browser) {
    browser.tell("worker", json!({})).unwrap();
    browser.network(false).unwrap();
    assert_eq!(browser.reload().unwrap(), "welcome");
    browser.network(true).unwrap();
}
