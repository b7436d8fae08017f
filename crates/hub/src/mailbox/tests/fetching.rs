//! Content that devices ask for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{
    UnixTime,
    broker::{
        ItemId,
        mailbox::{FetchAnswer, FromMailbox, MAX_PIECE, ToMailbox},
        statement::FetchRequest,
    },
};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use super::rig::*;

fn ask(device: &Device) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    let said = FetchRequest {
        device: device.handle,
        item: ItemId([9; 16]),
        nonce: [1; 16],
        at: UnixTime::now(),
        accept: String::new(),
        accept_language: String::new(),
        save_data: false,
    };
    let request = URL_SAFE_NO_PAD.encode(device.key.sign(&said).unwrap().to_bytes());
    let body = serde_json::json!({ "request": request }).to_string();
    device.request(Method::POST, "/v1/items", body)
}

fn fetch(message: &FromMailbox) -> Option<u64> {
    match message {
        FromMailbox::Fetch { id, .. } => Some(*id),
        _ => None,
    }
}

fn pull(message: &FromMailbox) -> Option<(u64, u64)> {
    match message {
        FromMailbox::Pull { id, offset } => Some((*id, *offset)),
        _ => None,
    }
}

fn over(message: &FromMailbox) -> Option<u64> {
    match message {
        FromMailbox::Over(id) => Some(*id),
        _ => None,
    }
}

async fn grant(rig: &Rig, gateway: &mut Gateway, device: &Device, size: u64) -> (u64, String) {
    let answer = async {
        let id = gateway.wait(fetch).await;
        let answer = FetchAnswer::Granted {
            grant: [id as u8; 16],
            size,
        };
        gateway.say(ToMailbox::Fetched { id, answer }).await;
        id
    };
    let ((status, granted), id) = tokio::join!(rig.ask(ask(device)), answer);
    assert_eq!(status, StatusCode::OK, "{granted}");
    assert_eq!(
        (granted["size"].as_u64(), granted["expires_in"].as_u64()),
        (Some(size), Some(300))
    );
    (id, format!("/v1/grants/{}", granted["grant"].as_str().unwrap()))
}

#[tokio::test]
async fn an_answer_is_read_once_by_the_device_that_asked() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let (a, b) = (Device::new(1), Device::new(2));
    gateway.admit(&a).await;
    gateway.admit(&b).await;
    let content: Vec<u8> = (0..MAX_PIECE + 1000).map(|n| n as u8).collect();
    let (id, path) = grant(&rig, &mut gateway, &a, content.len() as u64).await;
    let (status, problem) = rig.ask(b.get(&path)).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::NOT_FOUND, &"grant-unknown".into())
    );
    let bring = async {
        for from in [0, MAX_PIECE] {
            assert_eq!(gateway.wait(pull).await, (id, from as u64));
            let bytes = content[from..content.len().min(from + MAX_PIECE)].to_vec();
            gateway.say(ToMailbox::Piece { id, bytes }).await;
        }
        assert_eq!(gateway.wait(over).await, id, "it can be forgotten");
    };
    let read = async {
        let response = rig.send(a.get(&path)).await;
        assert_eq!(
            response.headers()["content-length"],
            content.len().to_string().as_str()
        );
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let (read, ()) = tokio::join!(read, bring);
    assert_eq!(read, content);
    let (status, _) = rig.ask(a.get(&path)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "once");
}

#[tokio::test]
async fn the_domain_says_no_or_is_away_or_gives_up() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let answer = async {
        let id = gateway.wait(fetch).await;
        let answer = FetchAnswer::Refused {
            status: 410,
            reason: "it was withdrawn".into(),
        };
        gateway.say(ToMailbox::Fetched { id, answer }).await;
    };
    let ((status, problem), ()) = tokio::join!(rig.ask(ask(&a)), answer);
    assert_eq!(
        (status, &problem["detail"]),
        (StatusCode::GONE, &"it was withdrawn".into())
    );
    let (id, path) = grant(&rig, &mut gateway, &a, 100).await;
    let give_up = async {
        gateway.wait(pull).await;
        gateway
            .say(ToMailbox::Piece {
                id,
                bytes: Vec::new(),
            })
            .await;
    };
    let read = async { rig.send(a.get(&path)).await.into_body().collect().await };
    let (read, ()) = tokio::join!(read, give_up);
    assert!(read.is_err(), "an answer that ends early is no answer");
    // Revoked between grant and reading.
    let (id, path) = grant(&rig, &mut gateway, &a, 100).await;
    gateway.revoke(a.handle).await;
    assert_eq!(
        gateway.wait(|message| over(message).filter(|n| *n == id)).await,
        id
    );
    let (status, _) = rig.ask(a.get(&path)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let b = Device::new(2);
    gateway.admit(&b).await;
    drop(gateway);
    until("it is away", || rig.mailbox.status().domains.is_empty()).await;
    let (status, problem) = rig.ask(ask(&b)).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &"gateway-away".into())
    );
}
