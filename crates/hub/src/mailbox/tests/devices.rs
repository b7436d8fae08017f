//! What devices get: streams, polls, acknowledgements, skips, collapse, expiry, revocation.

use std::time::{Duration, Instant};

use hawser_proto::broker::{
    mailbox::{Happening, Outcome, ToMailbox},
    statement::SkipReason,
};
use http::StatusCode;
use serde_json::Value;

use super::rig::*;
use crate::mailbox::{MailboxLimits, feed};

#[tokio::test]
async fn a_stream_replays_and_goes_on_and_resumes() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    let envelope = a.envelope(1, b"one");
    assert_eq!(gateway.deposit(envelope.clone()).await, Outcome::Kept);
    assert_eq!(
        gateway.deposit(envelope.clone()).await,
        Outcome::Kept,
        "once more"
    );
    let mut stream = rig.stream(&a, None).await;
    let first = stream.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.id.as_str()), ("envelope", "1"));
    assert_eq!(first.data, envelope, "bit by bit");
    gateway.deposit(b.envelope(1, b"another device's")).await;
    for n in 2..=4 {
        gateway.deposit(a.envelope(n, b"more")).await;
    }
    assert_eq!(stream.numbers(3).await, [2, 3, 4], "live");
    drop(stream);
    let mut stream = rig.stream(&a, Some(2)).await;
    assert_eq!(stream.numbers(2).await, [3, 4], "above what it has");
    let (status, _) = rig.ask(a.ack(&[1, 3])).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(stream.numbers(2).await, [2, 4], "what it has not acknowledged");
    let mut other = rig.stream(&b, None).await;
    assert_eq!(other.numbers(1).await, [1]);
}

#[tokio::test]
async fn what_was_acknowledged_and_sent_is_reported_until_it_is_taken() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    gateway.deposit(a.envelope(1, b"one")).await;
    let mut stream = rig.stream(&a, None).await;
    stream.next().await.unwrap();
    assert_eq!(gateway.reports().await, [Happening::Sent { sequence: 1 }]);
    rig.ask(a.ack(&[1])).await;
    // It is told of, and the connection ends before that is taken.
    let told = |message: &hawser_proto::broker::mailbox::FromMailbox| match message {
        hawser_proto::broker::mailbox::FromMailbox::Reports(reports) => Some(reports.clone()),
        _ => None,
    };
    let first = gateway.wait(told).await;
    drop(gateway);
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let again = gateway.wait(told).await;
    assert_eq!(first, again);
    assert!(matches!(again[0].what, Happening::Acknowledged(_)), "{again:?}");
    gateway.say(ToMailbox::Taken(again[0].number)).await;
    until("it is forgotten", || rig.mailbox.status().reports == 0).await;
}

#[tokio::test]
async fn a_long_poll_waits_for_what_comes() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let (status, nothing) = rig.ask(a.get("/v1/envelopes?after=0&wait=0")).await;
    assert_eq!(
        (status, &nothing["items"]),
        (StatusCode::OK, &Value::Array(vec![]))
    );
    let poll = rig.ask(a.get("/v1/envelopes?after=0&wait=30"));
    let deposit = async {
        until("it waits", || rig.mailbox.status().streams == 1).await;
        gateway.deposit(a.envelope(1, b"one")).await
    };
    let ((status, batch), _) = tokio::join!(poll, deposit);
    assert_eq!(
        (status, batch["items"].as_array().unwrap().len()),
        (StatusCode::OK, 1)
    );
    assert!(batch["items"][0]["envelope"].is_string(), "{batch}");
    let (_, batch) = rig.ask(a.get("/v1/envelopes?after=1")).await;
    assert_eq!(batch["items"].as_array().unwrap().len(), 0);
    until("nobody waits", || rig.mailbox.status().streams == 0).await;
}

#[tokio::test]
async fn collapse_withdrawal_and_expiry_leave_signed_explanations() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let hour = Duration::from_secs(3600);
    for n in 1..=3 {
        gateway
            .deposit(a.sealed(n, b"weather", hour, Some([7; 32])))
            .await;
    }
    let collapsed = |sequence| Happening::GivenUp {
        sequence,
        reason: SkipReason::Collapsed,
    };
    let mut told = gateway.reports().await;
    while told.len() < 2 {
        told.extend(gateway.reports().await);
    }
    assert_eq!(told, [collapsed(1), collapsed(2)]);
    assert_eq!(gateway.skip(a.handle, 1, 2).await, Outcome::Kept);
    let mut stream = rig.stream(&a, None).await;
    let events: Vec<_> = [stream.next().await.unwrap(), stream.next().await.unwrap()]
        .map(|e| (e.event, e.id))
        .into();
    assert_eq!(
        events,
        [
            ("envelope".to_owned(), "3".to_owned()),
            ("skip".into(), "2".into())
        ],
        "the explanation comes later, and has its own number"
    );
    // What the device says that it has, with its explanations, is not told again; envelopes are, until acknowledged.
    let mut stream = rig.stream(&a, Some(2)).await;
    assert_eq!(stream.numbers(1).await, [3]);
    gateway.deposit(a.sealed(4, b"over", Duration::ZERO, None)).await;
    let expired = Happening::GivenUp {
        sequence: 4,
        reason: SkipReason::Expired,
    };
    let mut told = Vec::new();
    while !told.contains(&expired) {
        told = gateway.reports().await;
    }
    gateway.skip(a.handle, 4, 4).await;
    let next = stream.next().await.unwrap();
    assert_eq!((next.event.as_str(), next.id.as_str()), ("skip", "4"));
}

#[tokio::test]
async fn a_revoked_device_is_cut_within_a_second_and_its_queue_is_gone() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    let marker = b"a-marker-that-is-nowhere-else";
    let mut stream = rig.stream(&a, None).await;
    for n in 1..=20 {
        gateway.deposit(a.envelope(n, &marker.repeat(100))).await;
    }
    assert_eq!(stream.numbers(20).await.len(), 20);
    assert!(rig.holds(marker), "the search finds it while it is there");
    let mut other = rig.stream(&b, None).await;
    let begin = Instant::now();
    let (outcome, event) = tokio::join!(gateway.revoke(a.handle), stream.next());
    assert_eq!(outcome, Outcome::Kept);
    assert_eq!(event.map(|e| e.event).as_deref(), Some("revoked"));
    assert!(stream.next().await.is_none(), "and it ends");
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    println!("revoked and wiped in {:?}", begin.elapsed());
    assert!(!rig.holds(marker), "neither in the database nor in its log");
    for request in [a.get("/v1/stream"), a.ack(&[1]), a.get("/v1/envelopes")] {
        let (status, problem) = rig.ask(request).await;
        assert_eq!(
            (status, &problem["reason"]),
            (StatusCode::FORBIDDEN, &"revoked".into())
        );
    }
    assert_eq!(gateway.deposit(a.envelope(30, b"x")).await, Outcome::Revoked);
    gateway.deposit(b.envelope(1, b"x")).await;
    assert_eq!(other.numbers(1).await, [1], "others go on");
}

#[tokio::test]
async fn a_full_queue_refuses_the_newcomer_until_there_is_room() {
    let limits = MailboxLimits {
        envelopes_per_device: 2,
        ..MailboxLimits::default()
    };
    let rig = Rig::with(limits).await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    gateway.deposit(a.envelope(1, b"one")).await;
    gateway.deposit(a.envelope(2, b"two")).await;
    assert_eq!(gateway.deposit(a.envelope(3, b"three")).await, Outcome::Full);
    rig.ask(a.ack(&[1])).await;
    assert_eq!(gateway.deposit(a.envelope(3, b"three")).await, Outcome::Kept);
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(stream.numbers(2).await, [2, 3]);
}

/// A device that does not read holds a few envelopes in memory, and gets the rest when it does.
#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    const COUNT: u64 = 3 * feed::MAX_ITEMS as u64;
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let mut stream = rig.stream(&a, None).await;
    for n in 1..=COUNT {
        let envelope = a.envelope(n, &vec![n as u8; 20_000]);
        assert_eq!(gateway.deposit(envelope).await, Outcome::Kept);
    }
    let expected: Vec<u64> = (1..=COUNT).collect();
    assert_eq!(stream.numbers(COUNT as usize).await, expected);
    gateway.deposit(a.envelope(COUNT + 1, b"live again")).await;
    assert_eq!(stream.numbers(1).await, [COUNT + 1]);
}

#[tokio::test]
async fn streams_are_bounded() {
    let limits = MailboxLimits {
        streams_per_device: 2,
        streams: 3,
        ..MailboxLimits::default()
    };
    let rig = Rig::with(limits).await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    let first = rig.stream(&a, None).await;
    let _second = rig.stream(&a, None).await;
    let (status, problem) = rig.ask(a.get("/v1/stream")).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::TOO_MANY_REQUESTS, &"too-many-streams".into())
    );
    let _third = rig.stream(&b, None).await;
    let (status, _) = rig.ask(b.get("/v1/stream")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    drop(first);
    until("its place is free", || rig.mailbox.status().streams == 2).await;
    let _again = rig.stream(&a, None).await;
    assert_eq!(
        rig.door.len(),
        0,
        "who has proved who he is stands in the door no more"
    );
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    gateway.deposit(a.envelope(1, b"one")).await;
    gateway.revoke(b.handle).await;
    let dir = rig.dir.clone();
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(stream.numbers(1).await, [1]);
    drop((rig, gateway));
    assert!(stream.next().await.is_none(), "a hub that stops ends its streams");
    // Proofs from before the start may have been seen: those of the next second are new.
    let rig = Rig::within(MailboxLimits::default(), dir).await;
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(stream.numbers(1).await, [1]);
    let (status, _) = rig.ask(b.get("/v1/stream")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}
