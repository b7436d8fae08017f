//! Figures rather than bounds: `cargo test -p hawser-testkit --test e2e -- --ignored --nocapture events_a_second`.

use std::time::Instant;

use hawser_testkit::{
    curl::Curl,
    office::{Office, PUBLISH_PORT},
    wait,
};
use serde_json::{Value, json};

use super::office;

const EVENTS: usize = 5_000;
const BATCH: usize = 250;

/// Publishes numbered events in batches; the last one's delivery.
fn publish(office: &Office, token: &str) -> String {
    let url = format!("http://{}/v1/events", office.site().gateways[0].at(PUBLISH_PORT));
    let mut last = String::new();
    for batch in 0..EVENTS / BATCH {
        let events: Vec<Value> = (batch * BATCH..(batch + 1) * BATCH)
            .map(|n| {
                json!({
                    "specversion": "1.0", "id": format!("n-{n}"), "source": "/measure", "type": "measure",
                    "recipient": "user:alice", "datacontenttype": "text/plain", "data": "x".repeat(500),
                })
            })
            .collect();
        let file = office.path("batch.json");
        std::fs::write(&file, json!(events).to_string()).unwrap();
        let answer = Curl::new(&office.site().app, &url)
            .header(&format!("Authorization: Bearer {token}"))
            .header("Content-Type: application/cloudevents-batch+json")
            .args(["--data-binary".to_owned(), format!("@{}", file.display())])
            .expect(202)
            .unwrap();
        let accepted = answer.json().unwrap();
        let all = accepted.as_array().unwrap_or_else(|| panic!("{accepted}"));
        last = all[BATCH - 1]["delivery"].as_str().unwrap().to_owned();
    }
    last
}

#[test]
#[ignore = "a measurement"]
fn events_a_second() {
    let Some(office) = office("a measurement of the broker") else {
        return;
    };
    office.user("alice").unwrap();
    let token = office.application("measure").unwrap();
    let device = office.device("alice", "phone").unwrap();
    let mut listening = device.listen(&[]).unwrap();
    listening.event("\"connected\"").unwrap();
    let begin = Instant::now();
    let last = publish(&office, &token);
    let accepted = begin.elapsed();
    let many = wait::SOON * 6;
    let messages = |p: &hawser_testkit::Process| p.log().matches("\"event\":\"message\"").count();
    listening
        .process
        .wait_until(many, "all events", |p| messages(p) >= EVENTS)
        .unwrap();
    let opened = begin.elapsed();
    let acked = wait::until(many, "the last one to be acknowledged", || {
        let told = office.delivery(&token, &last)?;
        Ok((told["recipients"][0]["state"] == "acked").then(|| begin.elapsed()))
    });
    let acked = acked.unwrap();
    let order: Vec<String> = listening
        .events()
        .iter()
        .filter(|e| e["event"] == "message")
        .map(|e| e["id"].as_str().unwrap().to_owned())
        .collect();
    let published: Vec<String> = (0..EVENTS).map(|n| format!("n-{n}")).collect();
    assert_eq!(order, published, "each once, in order");
    let rate = |time: std::time::Duration| EVENTS as f64 / time.as_secs_f64();
    println!(
        "{EVENTS} events to one device, a second: {:.0} accepted durably, {:.0} opened, {:.0} acknowledged to the publisher",
        rate(accepted),
        rate(opened),
        rate(acked)
    );
}
