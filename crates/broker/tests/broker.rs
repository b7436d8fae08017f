//! The whole crate, between a mailbox and devices that the test plays: published, sealed, opened, acknowledged, receipted;
//! refused, revoked, repeated, and killed in between.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use hawser_proto::{
    UnixTime,
    broker::{
        api::{Accepted, Profile, State, Token},
        envelope::Mode,
        mailbox::{Happening, Outcome},
        statement::AckCode,
    },
};
use http_body_util::Full;
use support::*;

fn rich() -> Profile {
    Profile {
        accept: "text/html, text/plain;q=0.5".into(),
        max_bytes: 1 << 20,
        ..Profile::default()
    }
}

async fn accepted(world: &World, request: http::Request<Full<bytes::Bytes>>) -> Accepted {
    let (status, body) = world.publish(request).await;
    assert_eq!(status, 202, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

async fn application(world: &World) -> String {
    application_named(world, "mail").await
}

async fn application_named(world: &World, name: &str) -> String {
    let token = world
        .directory
        .add_application(&name.parse().unwrap(), None)
        .await
        .unwrap()
        .to_string();
    // The broker follows the directory within a moment.
    loop {
        let probe = http::Request::get("/v1/deliveries/x").header("authorization", format!("Bearer {token}"));
        if world.publish(probe.body(Full::default()).unwrap()).await.0 == 404 {
            return token;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn user(world: &World, name: &str) {
    world.directory.add_user(&name.parse().unwrap()).await.unwrap();
}

/// Takes what is in a device's queue, and acknowledges it.
async fn receive(world: &World, device: &mut Device, sequence: u64) -> hawser_seal::Opened {
    let bytes = world.envelope(device.handle, sequence).await;
    let opened = device.open(&bytes);
    world.report_later(device.handle, Happening::Sent { sequence });
    world.report_later(
        device.handle,
        device.ack(sequence, AckCode::Delivered, opened.digest),
    );
    world.report().await;
    opened
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_opened_by_its_device_and_receipted_to_its_publisher() {
    let world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    let mut device = world.enrol("alice", rich()).await;
    let done = accepted(
        &world,
        event(
            &token,
            "1",
            "user:alice",
            "text/html",
            "<p>Hello <b>Alice</b></p>",
        ),
    )
    .await;
    let again = accepted(
        &world,
        event(&token, "1", "user:alice", "text/html", "<p>other</p>"),
    )
    .await;
    assert_eq!((again.delivery, again.duplicate), (done.delivery, true));

    let opened = receive(&world, &mut device, 1).await;
    assert_eq!(opened.content.variant, "html");
    assert!(String::from_utf8_lossy(&opened.content.body).contains(">Alice</"));
    let id = done.delivery.to_string();
    let delivery = world
        .delivered(&token, &id, |d| d.recipients[0].state == State::Acked)
        .await;
    let row = &delivery.recipients[0];
    assert_eq!(
        (row.user.as_str(), row.device, row.name.as_deref()),
        ("alice", Some(device.handle), Some("phone"))
    );
    let receipt = hawser_seal::receipt::verify(row.receipt.as_ref().unwrap(), &device.sender).unwrap();
    assert_eq!(
        (receipt.delivery, receipt.code, receipt.device),
        (done.delivery, AckCode::Delivered, device.handle)
    );

    // Seen by the user, after the event is done here.
    world.report_later(device.handle, device.ack(1, AckCode::Opened, opened.digest));
    world.report().await;
    world
        .delivered(&token, &id, |d| d.recipients[0].state == State::Opened)
        .await;
    // Another application sees nothing of it.
    let other = application_named(&world, "other").await;
    let ask =
        http::Request::get(format!("/v1/deliveries/{id}")).header("authorization", format!("Bearer {other}"));
    assert_eq!(world.publish(ask.body(Full::default()).unwrap()).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_gets_what_it_can_show() {
    let world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    let mut old = world.enrol("alice", Profile::default()).await;
    let mut new = world.enrol("alice", rich()).await;
    let done = accepted(
        &world,
        event(
            &token,
            "1",
            "user:alice",
            "text/html",
            "<h1>Title</h1><p>text</p>",
        ),
    )
    .await;
    let (old_got, new_got) = (
        receive(&world, &mut old, 1).await,
        receive(&world, &mut new, 1).await,
    );
    assert_eq!(
        (old_got.content.variant.as_str(), new_got.content.variant.as_str()),
        ("text", "html")
    );
    assert!(!String::from_utf8_lossy(&old_got.content.body).contains('<'));
    // Neither opens the other's.
    let others = world.envelope(new.handle, 1).await;
    assert!(old.opener.open(&others, UnixTime::now()).is_err());
    let variants = |d: &hawser_proto::broker::api::Delivery| -> Vec<_> {
        d.recipients.iter().filter_map(|r| r.variant.clone()).collect()
    };
    let delivery = world.delivery(&token, &done.delivery.to_string()).await;
    assert_eq!(variants(&delivery).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_content_is_fetched_by_its_device_alone_and_checked_at_that_moment() {
    let mut world = World::new().await;
    user(&world, "alice").await;
    user(&world, "bob").await;
    let token = application(&world).await;
    let mut device = world.enrol("alice", rich()).await;
    let mut stranger = world.enrol("bob", rich()).await;
    let text = "all of it. ".repeat(30_000);
    accepted(
        &world,
        event(&token, "1", "user:alice", "text/plain", text.clone()),
    )
    .await;
    let opened = receive(&world, &mut device, 1).await;
    assert_eq!(opened.content.mode, Mode::Fetch);
    assert!(!String::from_utf8_lossy(&opened.content.body).contains("all of it"));
    let item = opened.content.item.unwrap();

    let request = device.request(item, 1, "text/plain");
    let answer = world.fetch(device.handle, 1, request.clone()).await.unwrap();
    let got = device
        .opener
        .open_answer(&answer, &[1; 16], UnixTime::now())
        .unwrap();
    assert_eq!(got.content.body, text.as_bytes());
    assert!(
        stranger
            .opener
            .open_answer(&answer, &[1; 16], UnixTime::now())
            .is_err()
    );
    assert_eq!(
        world.fetch(device.handle, 2, request).await,
        Err(409),
        "a request is answered once"
    );
    let others = stranger.request(item, 2, "");
    assert_eq!(world.fetch(stranger.handle, 3, others.clone()).await, Err(404));
    assert_eq!(
        world.fetch(device.handle, 4, others).await,
        Err(403),
        "not signed by whom the mailbox names"
    );
    world
        .directory
        .revoke(&device.handle, "administrator", "lost")
        .await
        .unwrap();
    let late = device.request(item, 3, "");
    assert_eq!(world.fetch(device.handle, 5, late).await, Err(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_out_and_its_pending_content_goes_to_the_next() {
    let world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    let lost = world.enrol("alice", Profile::default()).await;
    let done = accepted(&world, event(&token, "1", "user:alice", "text/plain", "hello")).await;
    world.envelope(lost.handle, 1).await;
    let revoked = std::time::Instant::now();
    world
        .directory
        .revoke(&lost.handle, "administrator", "lost")
        .await
        .unwrap();
    world
        .until("a revocation", |kept| {
            kept.revoked.contains(&lost.handle).then_some(())
        })
        .await;
    assert!(
        revoked.elapsed() < Duration::from_secs(15),
        "{:?}",
        revoked.elapsed()
    );
    let id = done.delivery.to_string();
    let delivery = world.delivered(&token, &id, |d| d.recipients.len() == 2).await;
    let states: Vec<State> = delivery.recipients.iter().map(|r| r.state).collect();
    assert_eq!(states, [State::Dropped, State::Held]);
    // Its token is worth nothing, its keys neither.
    let (status, _) = world
        .control(
            &lost.keys,
            "POST",
            "/v1/token",
            Some(lost.handle),
            None,
            Vec::new(),
        )
        .await;
    assert_eq!(status, 403);
    let mut next = world.enrol("alice", Profile::default()).await;
    assert_eq!(receive(&world, &mut next, 1).await.content.body, b"hello");
    world.directory.audit().verify().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_accepted_is_lost_by_a_kill_at_any_point() {
    let mut world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    let mut device = world.enrol("alice", Profile::default()).await;
    // Accepted, and nobody there to take it.
    world.disconnect().await;
    let done = accepted(&world, event(&token, "1", "user:alice", "text/plain", "one")).await;
    world.restart().await;
    let first = world.envelope(device.handle, 1).await;
    // Sealed and deposited; whether the answer came is not known after a kill.
    world.restart().await;
    accepted(&world, event(&token, "2", "user:alice", "text/plain", "two")).await;
    world.envelope(device.handle, 2).await;
    assert_eq!(
        world.envelope(device.handle, 1).await,
        first,
        "the mailbox keeps what it had first"
    );
    // Acknowledged, and killed before the report was taken.
    let opened = device.open(&first);
    world.report_later(device.handle, device.ack(1, AckCode::Delivered, opened.digest));
    world.restart().await;
    let id = done.delivery.to_string();
    world
        .delivered(&token, &id, |d| d.recipients[0].state == State::Acked)
        .await;
    assert_eq!(receive(&world, &mut device, 2).await.content.body, b"two");
    world.restart().await;
    let again = accepted(&world, event(&token, "1", "user:alice", "text/plain", "one")).await;
    assert!(again.duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_busy_or_gone_gets_it_later_in_order() {
    let mut world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    let mut device = world.enrol("alice", Profile::default()).await;
    world.mailbox.lock().unwrap().moods = vec![Outcome::Full, Outcome::Busy];
    accepted(&world, event(&token, "1", "user:alice", "text/plain", "one")).await;
    assert_eq!(receive(&world, &mut device, 1).await.content.body, b"one");
    // A hub that lost its memory of the device.
    world.mailbox.lock().unwrap().admitted.clear();
    accepted(&world, event(&token, "2", "user:alice", "text/plain", "two")).await;
    assert_eq!(receive(&world, &mut device, 2).await.content.body, b"two");
    world.disconnect().await;
    accepted(&world, event(&token, "3", "user:alice", "text/plain", "three")).await;
    world.connect().await;
    assert_eq!(receive(&world, &mut device, 3).await.content.body, b"three");
}

/// A document that takes some hundred times as long to adapt as a line of text.
fn heavy() -> String {
    "<p>A <b>long</b> and <i>winding</i> road leads <a href='https://example.org/'>here</a>.</p>"
        .repeat(11_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_takes_long_holds_up_no_other_device_and_keeps_its_place() {
    let world = World::new().await;
    user(&world, "alice").await;
    user(&world, "bob").await;
    let token = application(&world).await;
    let mut alice = world.enrol("alice", rich()).await;
    let mut bob = world.enrol("bob", rich()).await;
    const HEAVY: u64 = 6;
    let inline = [("delivery", "inline")];
    for n in 1..=HEAVY {
        let request = event_with(
            &token,
            &format!("h{n}"),
            "user:alice",
            "text/html",
            heavy(),
            &inline,
        );
        accepted(&world, request).await;
    }
    accepted(&world, event(&token, "last", "user:alice", "text/plain", "last")).await;
    accepted(&world, event(&token, "light", "user:bob", "text/plain", "light")).await;
    let queued = |kept: &Kept, device| kept.queues.get(&device).map_or(0, |q| q.len() as u64);
    let (of_alice, of_bob) = (alice.handle, bob.handle);
    let before = world
        .until("what is for bob", |kept| {
            (queued(kept, of_bob) == 1).then(|| queued(kept, of_alice))
        })
        .await;
    assert!(before < HEAVY, "bob waited for all that alice gets");
    assert_eq!(receive(&world, &mut bob, 1).await.content.id, "light");
    for n in 1..=HEAVY {
        assert_eq!(receive(&world, &mut alice, n).await.content.id, format!("h{n}"));
    }
    assert_eq!(receive(&world, &mut alice, HEAVY + 1).await.content.id, "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_may_speak_with_the_mailbox_before_that_is_connected_again() {
    let mut world = World::new().await;
    let policy = async |world: &World| {
        let page = http::Request::get("/").body(Full::default()).unwrap();
        let answer = world.visited(page).await;
        answer.headers()["content-security-policy"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let with = format!("connect-src 'self' {MAILBOX};");
    assert!(policy(&world).await.contains(&with));
    world.disconnect().await;
    assert!(policy(&world).await.contains(&with));
    world.restart_alone().await;
    assert!(policy(&world).await.contains(&with), "it is written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_acknowledgements_are_not_believed() {
    let world = World::new().await;
    user(&world, "alice").await;
    user(&world, "bob").await;
    let token = application(&world).await;
    let mut device = world.enrol("alice", Profile::default()).await;
    let other = world.enrol("bob", Profile::default()).await;
    let done = accepted(&world, event(&token, "1", "user:alice", "text/plain", "one")).await;
    let bytes = world.envelope(device.handle, 1).await;
    let opened = device.open(&bytes);
    // Signed by another device; of another envelope; garbage.
    world.report_later(device.handle, other.ack(1, AckCode::Delivered, opened.digest));
    world.report_later(device.handle, device.ack(1, AckCode::Delivered, [0; 32]));
    world.report_later(device.handle, Happening::Acknowledged(b"garbage".to_vec()));
    world.report().await;
    let delivery = world.delivery(&token, &done.delivery.to_string()).await;
    assert!(!delivery.recipients[0].state.is_final());
    assert!(delivery.recipients[0].receipt.is_none());
    assert_eq!(
        world.mailbox.lock().unwrap().taken,
        3,
        "and they do not come again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn control_believes_proofs_only() {
    let world = World::new().await;
    user(&world, "alice").await;
    let device = world.enrol("alice", Profile::default()).await;
    let me = Some(device.handle);
    let (status, body) = world
        .control(&device.keys, "POST", "/v1/token", me, None, Vec::new())
        .await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let token: Token = serde_json::from_slice(&body).unwrap();
    let token = token.access_token.as_str();
    let thief = hawser_seal::DeviceKeys::generate().unwrap();
    let (status, _) = world
        .control(&thief, "POST", "/v1/token", me, None, Vec::new())
        .await;
    assert_eq!(status, 403, "another key");
    let (status, _) = world
        .control(&thief, "GET", "/v1/device", me, Some(token), Vec::new())
        .await;
    assert_eq!(status, 401, "a stolen token");
    let profile = serde_json::to_vec(&rich()).unwrap();
    let put = world
        .control(
            &device.keys,
            "PUT",
            "/v1/device/profile",
            me,
            Some(token),
            profile,
        )
        .await;
    assert_eq!(put.0, 200);
    let bad = br#"{"accept":"","schema":1}"#.to_vec();
    let put = world
        .control(&device.keys, "PUT", "/v1/device/profile", me, Some(token), bad)
        .await;
    assert_eq!(put.0, 400);
    let (_, body) = world
        .control(&device.keys, "GET", "/v1/device", me, Some(token), Vec::new())
        .await;
    let view: hawser_proto::broker::api::DeviceView = serde_json::from_slice(&body).unwrap();
    assert_eq!(view.profile, rich());
    // A proof counts once.
    let url = format!("{CONTROL}/v1/token");
    let proof = hawser_seal::dpop::prove(device.keys.signing(), "POST", &url, None, UnixTime::now()).unwrap();
    let ask = || {
        http::Request::post("/v1/token")
            .header("dpop", &proof)
            .header("hawser-device", device.handle.to_string())
            .body(Full::default())
            .unwrap()
    };
    assert_eq!(world.visit(ask()).await.0, 200);
    assert_eq!(world.visit(ask()).await.0, 401);
    // The page needs none.
    let page = http::Request::get("/enrol").body(Full::default()).unwrap();
    assert_eq!(world.visit(page).await.0, 200);
    let gone = world
        .control(&device.keys, "DELETE", "/v1/device", me, Some(token), Vec::new())
        .await;
    assert_eq!(gone.0, 204);
    let after = world
        .control(&device.keys, "GET", "/v1/device", me, Some(token), Vec::new())
        .await;
    assert_eq!(after.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_told_what_is_wrong() {
    let world = World::new().await;
    user(&world, "alice").await;
    let token = application(&world).await;
    for (request, status, word) in [
        (
            event("guess", "1", "user:alice", "text/plain", "x"),
            401,
            "hawser application add",
        ),
        (
            event(&token, "1", "user:mallory", "text/plain", "x"),
            422,
            "no user mallory",
        ),
        (
            event(&token, "1", "group:nobody", "text/plain", "x"),
            422,
            "no group nobody",
        ),
        (event(&token, "1", "", "text/plain", "x"), 422, "recipient"),
        (
            event_with(
                &token,
                "1",
                "user:alice",
                "text/plain",
                "x",
                &[("ce-expirytime", "2020-01-01T00:00:00Z")],
            ),
            422,
            "over already",
        ),
        (event(&token, "", "user:alice", "text/plain", "x"), 400, "id"),
    ] {
        let (got, body) = world.publish(request).await;
        let text = String::from_utf8_lossy(&body);
        assert_eq!(got, status, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let done = accepted(&world, event(&token, "1", "user:alice", "text/plain", "x")).await;
    let delivery = world.delivery(&token, &done.delivery.to_string()).await;
    assert_eq!(delivery.recipients[0].state, State::Held, "alice has no device");
}
