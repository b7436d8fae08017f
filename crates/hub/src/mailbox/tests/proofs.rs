//! Who is let in, and what the others are told.

use hawser_proto::{
    UnixTime,
    broker::{
        DeviceHandle,
        mailbox::{Outcome, ToMailbox},
    },
};
use http::{Method, StatusCode};

use super::rig::*;

#[tokio::test]
async fn only_a_fresh_proof_by_the_registered_key_for_this_request_does() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    let path = "/v1/envelopes";
    let get = |proof: &str| a.with(proof, Method::GET, path, "");
    let now = UnixTime::now();
    let good = a.proof("GET", path, now);
    let (status, _) = rig.ask(get(&good)).await;
    assert_eq!(status, StatusCode::OK);
    let impostor = Device {
        handle: a.handle,
        key: hawser_seal::SigningKey::generate().unwrap(),
    };
    let stranger = Device::new(99);
    let old = UnixTime(now.0 - 1000);
    let cases = [
        (get(&good), "proof-replayed"),
        (get(&a.proof("POST", path, now)), "proof-invalid"),
        (get(&a.proof("GET", "/v1/stream", now)), "proof-invalid"),
        (get(&a.proof("GET", path, old)), "clock"),
        (get("nonsense"), "proof-invalid"),
        (get(&b.proof("GET", path, now)), "device-unknown"),
        (impostor.get(path), "device-unknown"),
        (stranger.get(path), "device-unknown"),
    ];
    for (request, reason) in cases {
        let response = rig.send(request).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{reason}");
        let headers = response.headers().clone();
        let told = headers["www-authenticate"].to_str().unwrap();
        assert!(told.starts_with("DPoP error=\"invalid_"), "{told}");
        assert!(headers.contains_key("date"), "so that a device can set its clock");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers["access-control-allow-origin"], "*");
        let body = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body.to_bytes()).unwrap();
        assert_eq!(problem["reason"], reason, "{problem}");
        assert_eq!(problem["type"], format!("about:blank#{reason}"));
    }
    let mut twice = a.get(path);
    let second = a.proof("GET", path, now);
    twice.headers_mut().append("dpop", second.parse().unwrap());
    let (status, problem) = rig.ask(twice).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::UNAUTHORIZED, &"proof-missing".into())
    );
}

#[tokio::test]
async fn a_new_key_ends_the_old_one_and_its_streams() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let renewed = Device::new(1);
    let mut stream = rig.stream(&a, None).await;
    let admit = |epoch| {
        let thumbprint = renewed.key.public().thumbprint();
        move |id| ToMailbox::Admit {
            id,
            device: DeviceHandle([1; 16]),
            thumbprint,
            epoch,
        }
    };
    assert!(matches!(gateway.request(admit(1)).await, Outcome::Refused(_)));
    assert_eq!(gateway.request(admit(2)).await, Outcome::Kept);
    assert!(stream.next().await.is_none());
    let (status, _) = rig.ask(a.get("/v1/envelopes")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = rig.ask(renewed.get("/v1/envelopes")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_barred_domain_has_no_devices_and_a_forgotten_one_no_mailbox() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let marker = b"a-marker-that-is-nowhere-else";
    gateway.deposit(a.envelope(1, marker)).await;
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(stream.numbers(1).await, [1]);
    rig.domains(&["beta"], &["acme"]).await;
    assert!(stream.next().await.is_none());
    let (status, problem) = rig.ask(a.get("/v1/stream")).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::FORBIDDEN, &"domain-barred".into())
    );
    rig.domains(&["acme", "beta"], &[]).await;
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(
        stream.numbers(1).await,
        [1],
        "nothing is lost by being barred for a while"
    );
    rig.domains(&["beta"], &[]).await;
    assert!(!rig.holds(marker));
    rig.domains(&["acme", "beta"], &[]).await;
    let (status, _) = rig.ask(a.get("/v1/stream")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pages_of_any_origin_may_ask_and_nothing_else_is_there() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let preflight = rig.send(a.with("", Method::OPTIONS, "/v1/stream", "")).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    let allowed = preflight.headers()["access-control-allow-headers"]
        .to_str()
        .unwrap();
    for name in ["dpop", "hawser-device", "last-event-id", "content-type"] {
        assert!(allowed.contains(name), "{name}");
    }
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    for (request, status) in [
        (a.get("/"), StatusCode::NOT_FOUND),
        (a.get("/v1/acks"), StatusCode::METHOD_NOT_ALLOWED),
        (a.get("/v1/grants/xyz"), StatusCode::NOT_FOUND),
        (a.get("/v1/envelopes?after=x"), StatusCode::BAD_REQUEST),
        (a.request(Method::POST, "/v1/acks", "{}"), StatusCode::BAD_REQUEST),
        (
            a.request(Method::POST, "/v1/acks", r#"{"acks":["AAAA"]}"#),
            StatusCode::BAD_REQUEST,
        ),
        (
            a.request(Method::POST, "/v1/acks", vec![b' '; 200_000]),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        let path = request.uri().clone();
        let (found, problem) = rig.ask(request).await;
        assert_eq!(found, status, "{path}: {problem}");
    }
    // Another device's acknowledgement, by the own proof.
    let mut foreign = Device::new(2);
    foreign.key = hawser_seal::SigningKey::generate().unwrap();
    let body = http_body_util::BodyExt::collect(foreign.ack(&[1]).into_body())
        .await
        .unwrap();
    let request = a.request(Method::POST, "/v1/acks", body.to_bytes());
    let (status, problem) = rig.ask(request).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::BAD_REQUEST, &"other-device".into())
    );
}

#[tokio::test]
async fn who_proves_nothing_is_let_go() {
    let rig = Rig::new().await;
    let (ours, mut theirs) = tokio::io::duplex(1024);
    rig.accept(ours);
    assert_eq!(rig.door.len(), 1);
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut theirs, &mut byte);
    let read = tokio::time::timeout(LONG, read).await.unwrap();
    assert_eq!(read.unwrap(), 0);
    until("the door is empty", || rig.door.len() == 0).await;
}
