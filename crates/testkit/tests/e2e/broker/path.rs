//! The whole path, as users and publishers see it.

use serde_json::Value;

use super::{id, office};

const HTML: &str = "<h1>Minutes</h1><p>The <b>budget</b> is settled.</p><script>alert('no')</script>";

#[test]
fn an_event_reaches_each_device_as_it_can_show_it() {
    let Some(office) = office("the broker's whole path") else {
        return;
    };
    office.user("alice").unwrap();
    office.user("bob").unwrap();
    let token = office.application("minutes").unwrap();
    let rich = office.new_device("rich");
    let link = office.link("alice").unwrap();
    rich.enrol(&link, &["--accept", "text/html, text/plain;q=0.5"])
        .unwrap();
    let again = office.new_device("again").enrol(&link, &[]).unwrap_err();
    assert!(format!("{again:#}").contains("link"), "{again:#}");
    let old = office.device("alice", "old").unwrap();
    let bobs = office.device("bob", "bobs").unwrap();
    let mut listening = [&rich, &old, &bobs].map(|d| d.listen(&[]).unwrap());
    for one in &mut listening {
        one.event("\"connected\"").unwrap();
    }

    let attributes = [
        ("id", "m-1"),
        ("source", "/minutes"),
        ("type", "example.minutes"),
        ("subject", "Minutes of Monday"),
        ("recipient", "user:alice"),
    ];
    let answer = office
        .publish(&token, &attributes, "text/html", HTML.as_bytes())
        .unwrap();
    let delivery = id(&answer);
    let [rich_on, old_on, bobs_on] = &mut listening;
    let shown = rich_on.event("m-1").unwrap();
    assert_eq!(shown["variant"], "html", "{shown}");
    let body = shown["body"].as_str().unwrap();
    assert!(
        body.contains("<strong>budget</strong>") && !body.contains("script"),
        "{body}"
    );
    assert_eq!(shown["subject"], "Minutes of Monday");
    let shown = old_on.event("m-1").unwrap();
    assert_eq!(
        shown["content_type"].as_str().unwrap().split(';').next(),
        Some("text/plain"),
        "{shown}"
    );
    let body = shown["body"].as_str().unwrap();
    assert!(
        body.contains("budget is settled") && !body.contains('<'),
        "{body}"
    );

    let told = office.delivered(&token, &delivery, &["acked"]).unwrap();
    let rows = told["recipients"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{told}");
    for row in rows {
        assert_eq!(row["user"], "alice");
        assert_eq!(
            row["receipt"].as_str().map(|r| r.split('.').count()),
            Some(3),
            "a signed receipt: {row}"
        );
    }
    // Seen by the user, on one of the two.
    let sequence = shown["sequence"].to_string();
    old_on.process.kill().unwrap();
    old.run(&["ack", &sequence], "").unwrap();
    let opened = |told: &Value| {
        let rows = told["recipients"].as_array().unwrap();
        rows.iter().filter(|r| r["state"] == "opened").count()
    };
    hawser_testkit::wait::for_condition(
        hawser_testkit::wait::SOON,
        "the publisher to see it opened",
        || {
            office
                .delivery(&token, &delivery)
                .is_ok_and(|told| opened(&told) == 1)
        },
    )
    .unwrap();

    // The same again is the same.
    let again = office
        .publish(&token, &attributes, "text/html", HTML.as_bytes())
        .unwrap();
    assert_eq!(id(&again), delivery);
    assert_eq!(again.json().unwrap()["duplicate"], true);
    // A later event ends the wait for one that must not come.
    let later = [
        ("id", "m-2"),
        ("source", "/minutes"),
        ("type", "example.minutes"),
        ("recipient", "user:alice,user:bob"),
    ];
    office.publish(&token, &later, "text/plain", b"later").unwrap();
    rich_on.event("m-2").unwrap();
    bobs_on.event("m-2").unwrap();
    let of = |events: Vec<Value>, id: &str| events.iter().filter(|e| e["id"] == id).count();
    assert_eq!(of(rich_on.events(), "m-1"), 1);
    assert_eq!(of(bobs_on.events(), "m-1"), 0, "bob is no recipient");
}

#[test]
fn large_and_confidential_content_is_fetched() {
    let Some(office) = office("content that devices fetch") else {
        return;
    };
    office.user("alice").unwrap();
    office.user("bob").unwrap();
    let token = office.application("reports").unwrap();
    let device = office.device("alice", "phone").unwrap();
    let bobs = office.device("bob", "bobs").unwrap();
    let mut listening = device.listen(&[]).unwrap();

    let large = "All of it is worth reading. ".repeat(1500);
    let attributes = [
        ("id", "r-1"),
        ("source", "/reports"),
        ("type", "report"),
        ("recipient", "user:alice"),
    ];
    office
        .publish(&token, &attributes, "text/plain", large.as_bytes())
        .unwrap();
    let notice = listening.event("r-1").unwrap();
    assert_eq!(notice["mode"], "fetch", "{notice}");
    let item = notice["item"].as_str().unwrap();
    assert_eq!(
        device.run(&["fetch", item], "").unwrap().trim_end(),
        large.trim_end()
    );

    let secret = [
        ("id", "r-2"),
        ("source", "/reports"),
        ("type", "report"),
        ("subject", "For you alone"),
        ("recipient", "user:alice"),
        ("delivery", "fetch"),
    ];
    office
        .publish(&token, &secret, "text/plain", b"the offer is 7 million")
        .unwrap();
    let notice = listening.event("r-2").unwrap();
    assert!(!notice.to_string().contains("million"), "only a notice: {notice}");
    let item = notice["item"].as_str().unwrap();
    let (out, error, ok) = bobs.try_run(&["fetch", item], "").unwrap();
    assert!(!ok && !out.contains("million"), "bob is refused: {error}{out}");
    assert_eq!(
        device.run(&["fetch", item], "").unwrap().trim_end(),
        "the offer is 7 million"
    );
    // Once more is another request, decided anew.
    let handle = handle(&office, "alice");
    office.admin(&["device", "revoke", &handle], "").unwrap();
    let (out, error, ok) = device.try_run(&["fetch", item], "").unwrap();
    assert!(!ok && !out.contains("million"), "revoked: {error}{out}");
}

#[test]
fn a_command_runs_for_each_event() {
    let Some(office) = office("commands for events") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("alarms").unwrap();
    let device = office.device("alice", "pager").unwrap();
    let seen = office.path("seen");
    let publish = |n: &str, subject: &str, body: &str| {
        let event = [
            ("id", n),
            ("source", "/alarms"),
            ("type", "alarm"),
            ("subject", subject),
            ("recipient", "user:alice"),
        ];
        id(&office
            .publish(&token, &event, "text/plain", body.as_bytes())
            .unwrap())
    };
    let good = publish("a-1", "$(reboot); `x`", "the pump is hot");
    let bad = publish("a-2", "fails", "the pump is off");
    // What comes is data to the command: it stands in variables and on standard input.
    let command = format!(
        "printf '%s|%s|%s\\n' \"$HAWSER_ID\" \"$HAWSER_SUBJECT\" \"$(cat)\" >> {}; test \"$HAWSER_ID\" = a-1",
        seen.display()
    );
    let mut listening = device.listen(&["--exec", &command]).unwrap();
    office.delivered(&token, &good, &["acked"]).unwrap();
    // One for which the command fails is told to the publisher as such.
    let told = office.delivered(&token, &bad, &["failed"]).unwrap();
    let reason = told["recipients"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("hand it on"), "{told}");
    listening.process.kill().unwrap();
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert_eq!(
        seen,
        "a-1|$(reboot); `x`|the pump is hot\na-2|fails|the pump is off\n"
    );
}

fn handle(office: &hawser_testkit::office::Office, user: &str) -> String {
    let listed = office
        .admin(&["device", "list", "--user", user, "--json"], "")
        .unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    listed[0]["device"].as_str().unwrap().to_owned()
}
