//! A browser as a device, with everything real around it: enrolled by a link, its keys under a passkey, what is published inside
//! the firewall shown as it should be, and nothing to anybody else.

use std::path::Path;

use hawser_testkit::{
    Browser,
    browser::{self, Spec},
    gate,
    office::{CONTROL, MAILBOX, Office},
};
use serde_json::{Value, json};

const PAGE: &str =
    "<h1>Figures</h1><p>Up by <em>seven</em> per cent.</p><script>parent.document.title = 'no'</script>";

pub(super) fn possible() -> bool {
    let what = "a browser as a device";
    gate::networks(what) && browser::possible(what)
}

fn start(office: &Office, name: &str, prf: bool) -> Browser {
    let hub = office.sites.hub.address();
    let authority = office.authority.certificate();
    let spec = Spec {
        authorities: &[&authority],
        names: &[(CONTROL, hub), (MAILBOX, hub)],
        prf,
    };
    Browser::start(office.outside(), &office.path(name), &spec).unwrap()
}

/// A user's browser, enrolled and live.
pub(super) fn enrolled(office: &Office, user: &str, passkey: bool) -> Browser {
    let mut browser = start(office, &format!("browser-{user}"), passkey);
    assert_eq!(browser.open(&office.link(user).unwrap()).unwrap(), "enrol");
    if !passkey {
        let refused = browser.tell("enrol-refused", json!({})).unwrap();
        assert!(refused["says"].as_str().unwrap().contains("PRF"), "{refused}");
    }
    let check = browser.enrol(&format!("{user}'s browser"), passkey).unwrap();
    assert_eq!(check.len(), 6, "{check}");
    let listed = office.admin(&["device", "list", "--user", user], "").unwrap();
    assert!(
        listed.contains(&check),
        "the administrator sees another one: {listed}"
    );
    live(office, &mut browser);
    browser
}

pub(super) fn live(office: &Office, browser: &mut Browser) {
    if let Err(e) = browser.wait_state("live") {
        panic!("{e:#}\n{}", office.logs());
    }
}

/// Publishes, and gives the delivery's id.
fn publish(
    office: &Office,
    token: &str,
    subject: &str,
    more: &[(&str, &str)],
    media: &str,
    data: &[u8],
) -> String {
    let id = subject.replace(' ', "-");
    let own = [
        ("id", id.as_str()),
        ("source", "/figures"),
        ("type", "example.figures"),
        ("subject", subject),
        ("recipient", "user:alice"),
    ];
    let answer = office
        .publish(token, &[&own, more].concat(), media, data)
        .unwrap();
    assert_eq!(answer.status, 202, "{}\n{}", answer.text(), office.logs());
    let accepted: Value = serde_json::from_str(&answer.text()).unwrap();
    accepted["delivery"].as_str().unwrap().to_owned()
}

/// A picture for people, where they ask for it.
fn picture(browser: &mut Browser, name: &str) {
    if let Some(dir) = std::env::var_os("HAWSER_SCREENSHOTS") {
        browser
            .screenshot(&Path::new(&dir).join(format!("{name}.png")))
            .unwrap();
    }
}

fn is_locked(browser: &mut Browser) {
    assert_eq!(browser.reload().unwrap(), "locked");
    let subjects = browser.tell("subjects", json!({})).unwrap();
    assert_eq!(subjects["subjects"], json!([]));
}

#[test]
fn a_browser_with_a_passkey() {
    if !possible() {
        return;
    }
    let office = Office::start().unwrap();
    office.user("alice").unwrap();
    office.user("bob").unwrap();
    let token = office.application("figures").unwrap();
    let mut alice = enrolled(&office, "alice", true);
    let mut bob = enrolled(&office, "bob", true);

    shows_what_is_published(&office, &token, &mut alice);
    gets_the_whole_when_asked(&office, &token, &mut alice);
    assert_eq!(bob.tell("subjects", json!({})).unwrap()["subjects"], json!([]));
    keeps_its_keys_locked(&office, &mut alice);
    reads_without_a_network(&mut alice);
    ends_with_its_revocation(&office, &token, &mut alice);
    opens_nothing_for_an_unverified_user(&mut alice);
}

fn shows_what_is_published(office: &Office, token: &str, browser: &mut Browser) {
    let id = publish(
        office,
        token,
        "Quarterly figures",
        &[],
        "text/html",
        PAGE.as_bytes(),
    );
    let shown = browser.read("Quarterly figures").unwrap();
    assert_eq!(shown["kind"], "html", "{shown}");
    assert!(
        shown["text"].as_str().unwrap().contains("Up by seven per cent."),
        "{shown}"
    );
    assert!(!shown["html"].as_str().unwrap().contains("script"), "{shown}");
    office.delivered(token, &id, &["opened"]).unwrap();
    for (dark, width, name) in [
        (false, 1100, "light"),
        (true, 1100, "dark"),
        (false, 390, "phone"),
    ] {
        browser
            .tell("look", json!({ "dark": dark, "width": width, "height": 760 }))
            .unwrap();
        picture(browser, name);
    }
    // On a phone the list makes room for the message.
    browser
        .tell("look", json!({ "dark": false, "width": 1100, "height": 760 }))
        .unwrap();
}

fn gets_the_whole_when_asked(office: &Office, token: &str, browser: &mut Browser) {
    let whole = format!("The contract. {}The end.", "Clause after clause. ".repeat(1000));
    let more = [("delivery", "fetch")];
    publish(
        office,
        token,
        "The contract",
        &more,
        "text/plain",
        whole.as_bytes(),
    );
    let summary = browser.read("The contract").unwrap();
    assert!(
        !summary["text"].as_str().unwrap().contains("The end."),
        "{summary}"
    );
    let fetched = browser.tell("fetch", json!({})).unwrap();
    assert!(
        fetched["text"].as_str().is_some_and(|t| t.contains("The end.")),
        "{fetched}\n{}",
        office.logs()
    );
}

fn keeps_its_keys_locked(office: &Office, browser: &mut Browser) {
    let keys = browser.tell("keys", json!({})).unwrap();
    assert_eq!(keys["exportable"], false);
    assert_eq!(
        keys["sealed"],
        json!(["publicBytes", "wrappedSealing", "wrappedKeeping"])
    );
    is_locked(browser);
    browser.unlock("live").unwrap();
    live(office, browser);
}

fn reads_without_a_network(browser: &mut Browser) {
    browser.tell("worker", json!({})).unwrap();
    browser.network(false).unwrap();
    is_locked(browser);
    browser.unlock("offline").unwrap();
    let shown = browser.read("Quarterly figures").unwrap();
    assert!(shown["text"].as_str().unwrap().contains("seven"), "{shown}");
    browser.network(true).unwrap();
    browser.wait_state("live").unwrap();
}

fn ends_with_its_revocation(office: &Office, token: &str, browser: &mut Browser) {
    let id = publish(office, token, "Last one", &[], "text/plain", b"words");
    browser.read("Last one").unwrap();
    let delivery = office.delivered(token, &id, &["opened"]).unwrap();
    let device = delivery["recipients"][0]["device"].as_str().unwrap();
    office.admin(&["device", "revoke", device], "").unwrap();
    browser.wait_state("revoked").unwrap();
    let says = browser.tell("says", json!({ "id": "detail-text" })).unwrap();
    assert!(
        says["says"]
            .as_str()
            .unwrap()
            .contains("Your organisation has revoked this device"),
        "{says}"
    );
    picture(browser, "revoked");
}

fn opens_nothing_for_an_unverified_user(browser: &mut Browser) {
    browser.verify_user(false).unwrap();
    is_locked(browser);
    let refused = browser.tell("unlock-refused", json!({})).unwrap();
    assert_eq!(
        (&refused["view"], &refused["items"]),
        (&json!("locked"), &json!(0))
    );
    assert!(
        refused["says"].as_str().unwrap().contains("not verified"),
        "{refused}"
    );
    picture(browser, "unverified");
}

#[test]
fn a_browser_without_prf() {
    if !possible() {
        return;
    }
    let office = Office::start().unwrap();
    office.user("alice").unwrap();
    let token = office.application("figures").unwrap();
    let mut browser = enrolled(&office, "alice", false);
    publish(&office, &token, "Plain words", &[], "text/plain", b"They came.");
    let shown = browser.read("Plain words").unwrap();
    assert!(shown["text"].as_str().unwrap().contains("They came."), "{shown}");
    let keys = browser.tell("keys", json!({})).unwrap();
    assert_eq!(keys["exportable"], false);
    assert_eq!(browser.reload().unwrap(), "messages");
    live(&office, &mut browser);
}
