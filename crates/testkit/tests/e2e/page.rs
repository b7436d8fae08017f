//! The device page in a real browser, before there is a device: what it says, by keyboard, without a network, and that the
//! browser believes no certificate that it should not.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use hawser_testkit::{
    Browser, Host,
    browser::{self, Spec},
    gate,
    origin::{Python, python::workspace},
};
use serde_json::json;

const NAME: &str = "devices.acme.example";
const PORT: u16 = 18_443;
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

fn openssl(dir: &Path, args: &str) {
    let out = Command::new("openssl")
        .args(args.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "openssl {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(
        at,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=Test"),
    );
    openssl(
        at,
        &format!("req {key} -keyout page.key -out page.csr -subj /CN={NAME}"),
    );
    std::fs::write(at.join("names"), format!("subjectAltName=DNS:{NAME}\n")).unwrap();
    openssl(
        at,
        "x509 -req -in page.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out page.pem -days 2 -extfile names",
    );
    let host = Host::on_loopback("page", Ipv4Addr::LOCALHOST);
    let file = |name: &str| at.join(name).to_string_lossy().into_owned();
    let page = workspace().join("crates/broker/page");
    let args = [
        "127.0.0.1",
        &PORT.to_string(),
        &page.to_string_lossy(),
        &file("page.pem"),
        &file("page.key"),
    ];
    let server = Python::start(&host, "page_server.py", &args, at).unwrap();
    Served {
        authority: at.join("ca.pem"),
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

fn url(path: &str) -> String {
    format!("https://{NAME}:{PORT}{path}")
}

#[test]
fn the_page_before_there_is_a_device() {
    let what = "the device page in Chromium";
    if !browser::possible(what) || !gate::programs(what, &["openssl"]) {
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
    plain.open(&url(&format!("/enrol#{LINK}"))).unwrap();
    let says = plain.tell("enrol-refused", json!({})).unwrap();
    assert!(
        says["says"].as_str().unwrap().contains("lack the PRF extension"),
        "{says}"
    );
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
    browser.tell("network", json!({ "on": false })).unwrap();
    let answer = browser.tell("reload", json!({})).unwrap();
    assert_eq!(answer["view"], "welcome");
    browser.tell("network", json!({ "on": true })).unwrap();
}
