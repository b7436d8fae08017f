//! Control and delivery work apart, and what was accepted is neither lost nor shown twice.

use hawser_testkit::wait;
use serde_json::Value;

use super::{id, office};

#[test]
fn each_side_works_while_the_other_is_down() {
    let Some(mut office) = office("control and delivery apart") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("mail").unwrap();
    let device = office.device("alice", "phone").unwrap();
    let event = |n: &str| {
        [
            ("id", n),
            ("source", "/mail"),
            ("type", "mail"),
            ("recipient", "user:alice"),
        ]
        .map(|(k, v)| (k, v.to_owned()))
    };
    let publish = |office: &hawser_testkit::office::Office, n: &str| {
        let attributes = event(n);
        let attributes: Vec<_> = attributes.iter().map(|(k, v)| (*k, v.as_str())).collect();
        id(&office
            .publish(&token, &attributes, "text/plain", format!("body {n}").as_bytes())
            .unwrap())
    };

    // The enterprise's side is gone: the device gets what the mailbox has.
    let first = publish(&office, "e-1");
    office.delivered(&token, &first, &["queued"]).unwrap();
    office.gateway = None;
    let mut listening = device.listen(&[]).unwrap();
    assert_eq!(listening.event("e-1").unwrap()["body"], "body e-1");
    office.start_gateway().unwrap();
    office.delivered(&token, &first, &["acked"]).unwrap();

    // The hub is gone: publishing goes on.
    office.hub = None;
    let second = publish(&office, "e-2");
    let told = office.delivery(&token, &second).unwrap();
    assert!(
        matches!(
            told["recipients"][0]["state"].as_str(),
            Some("accepted" | "sealed")
        ),
        "{told}"
    );
    // Both are gone, the gateway without a word (SIGKILL).
    office.gateway().unwrap().process.kill().unwrap();
    office.start_hub().unwrap();
    office.start_gateway().unwrap();
    assert_eq!(listening.event("e-2").unwrap()["body"], "body e-2");
    office.delivered(&token, &second, &["acked"]).unwrap();

    // The hub is killed with a full queue.
    listening.process.kill().unwrap();
    let third = publish(&office, "e-3");
    office.delivered(&token, &third, &["queued"]).unwrap();
    office.hub().unwrap().process.kill().unwrap();
    office.start_hub().unwrap();
    let mut listening = device.listen(&[]).unwrap();
    listening.event("e-3").unwrap();
    office.delivered(&token, &third, &["acked"]).unwrap();
    let all = listening.events();
    let of = |id: &str| all.iter().filter(|e: &&Value| e["id"] == id).count();
    assert_eq!((of("e-1"), of("e-2"), of("e-3")), (0, 0, 1), "{all:?}");
    wait::for_condition(wait::SOON, "the device to be seen connected", || {
        office
            .admin(&["device", "list", "--json"], "")
            .is_ok_and(|listed| listed.contains("\"connected\": true"))
    })
    .unwrap();
}
