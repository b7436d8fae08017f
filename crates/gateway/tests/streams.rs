//! Bodies, trailers, events and upgrades through front and exports: frame by frame, and honest about their ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

const GET: &str = "GET http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\n";

#[tokio::test]
async fn chunked_bodies_and_trailers_pass_both_ways() {
    let at = origin(|request| async move {
        let seen = mirror(request)
            .await
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes();
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "7".parse().unwrap())]);
        let frames = [Ok(Frame::data(seen)), Ok(Frame::trailers(trailers))];
        let answer = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder()
            .header("trailer", "x-sum")
            .body(answer.boxed_unsync())
            .unwrap()
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    raw.send(
        "POST http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-in\r\nConnection: close\r\n\r\n3;ext=1\r\nabc\r\n4\r\ndefg\r\n0\r\nx-in: 1\r\n\r\n",
    )
    .await;
    let (answer, _) = raw.rest().await;
    assert!(answer.contains("\ntransfer-encoding: chunked\n"), "{answer}");
    assert!(answer.contains("\nbody=abcdefg\nx-in: 1\n"), "{answer}");
    assert!(answer.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn grpc_trailers_pass_between_http_2_client_and_origin() {
    let at = origin(|request| async move {
        assert_eq!(request.version(), http::Version::HTTP_2);
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
        let all = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(
            body(all)
                .with_trailers(async move { Some(Ok(trailers)) })
                .boxed_unsync(),
        )
    })
    .await;
    let world = World::web(at).await;
    let mut client = h2(world.proxy()).await;
    for _ in 0..3 {
        let request = Request::post("http://web.beta.hawser/p.S/Call")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .body(body("message"))
            .unwrap();
        let all = client
            .send_request(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(all.to_bytes(), "message");
    }
}

/// A body fed by hand.
fn fed() -> (mpsc::Sender<Bytes>, hawser_gateway::seam::Body) {
    let (tx, mut rx) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        rx.poll_recv(cx)
            .map(|next| next.map(|b| Ok::<_, hawser_gateway::seam::BoxError>(Frame::data(b))))
    });
    (tx, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (tx, rx) = mpsc::channel::<mpsc::Sender<Bytes>>(1);
    let at = origin(move |_| {
        let tx = tx.clone();
        async move {
            let (feed, body) = fed();
            tx.send(feed).await.unwrap();
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(body)
                .unwrap()
        }
    })
    .await;
    let world = World::web(at).await;
    let mut rx = rx;
    let mut raw = world.raw().await;
    raw.send(format!("{GET}\r\n")).await;
    let feed = rx.recv().await.unwrap();
    raw.head().await;
    for n in 0..5 {
        // The next event is sent only after this one has arrived.
        feed.send(format!("data: {n}\n\n").into()).await.unwrap();
        raw.until(&format!("data: {n}\n\n\r\n")).await;
    }
    drop(feed);
    raw.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let at =
        origin(
            |request| async move { Response::new(request.into_body().map_err(Into::into).boxed_unsync()) },
        )
        .await;
    let export = web(at).replace("response_timeout", "version=\"2\"\nresponse_timeout");
    let world = World::new("", &export).await;
    let mut client = h2(world.proxy()).await;
    let (feed, body) = fed();
    let request = Request::post("http://web.beta.hawser/").body(body).unwrap();
    let answer = client.send_request(request).await.unwrap();
    let mut answer = answer.into_body();
    for n in 0..5 {
        feed.send(format!("{n}").into()).await.unwrap();
        let frame = tokio::time::timeout(LONG, answer.frame())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("{n}"));
    }
    drop(feed);
    assert!(
        answer
            .frame()
            .await
            .is_none_or(|f| f.unwrap().into_data().unwrap().is_empty())
    );
}

/// An origin that breaks off after `sent`, with a reset if told so.
async fn breaking(sent: &'static str, reset: bool) -> World {
    let at = raw_origin(move |mut raw, _| async move {
        raw.head().await;
        raw.send(sent).await;
        // What was sent must be read before a reset, which would overtake it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        // After a standstill this wakes together with the readers, who are on the same thread: they go first.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        if reset {
            raw.0.set_zero_linger().unwrap();
        }
    })
    .await;
    World::web(at).await
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
const LONGER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";

#[tokio::test]
async fn an_answer_that_breaks_off_never_ends_cleanly() {
    for (sent, reset) in [(CHUNKED, true), (CHUNKED, false), (LONGER, true), (LONGER, false)] {
        let world = breaking(sent, reset).await;
        let mut raw = world.raw().await;
        raw.send(format!("{GET}\r\n")).await;
        let (answer, _) = raw.rest().await;
        assert!(answer.contains("hello"), "{answer}");
        assert!(!answer.ends_with("0\r\n\r\n"), "no last chunk: {answer}");
        if sent == LONGER {
            assert!(answer.contains("content-length: 10"), "{answer}");
        }

        let mut client = h2(world.proxy()).await;
        let request = Request::get("http://web.beta.hawser/").body(body("")).unwrap();
        let broken = client
            .send_request(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await;
        assert!(broken.is_err(), "HTTP/2: {sent:?} {reset}");
        assert!(
            world
                .metrics()
                .contains("gateway_calls_broken_total{side=\"Client\"} 2"),
            "{}",
            world.metrics()
        );
    }
}

#[tokio::test]
async fn an_http_1_0_client_sees_a_reset_for_nothing_else_would_tell() {
    let world = breaking(CHUNKED, true).await;
    let mut raw = world.raw().await;
    raw.send("GET http://web.beta.hawser/ HTTP/1.0\r\nHost: web.beta.hawser\r\n\r\n")
        .await;
    let (answer, end) = raw.rest().await;
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset), "{answer}");
}

#[tokio::test]
async fn no_whole_head_is_a_bad_gateway_and_silence_a_timeout() {
    for sent in ["", "HTTP/1.1 200 OK\r\nContent-Le", "SSH-2.0-OpenSSH_9.2\r\n\r\n"] {
        let world = breaking(sent, false).await;
        let mut raw = world.raw().await;
        raw.send(format!("{GET}Connection: close\r\n\r\n")).await;
        let (answer, _) = raw.rest().await;
        assert!(
            answer.starts_with("HTTP/1.1 502") && answer.contains("origin-broken"),
            "{sent:?}: {answer}"
        );
    }
    let at = raw_origin(|mut raw, _| async move {
        raw.head().await;
        let _ = raw.0.read_u8().await;
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    raw.send(format!("{GET}Connection: close\r\n\r\n")).await;
    let (answer, _) = raw.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("origin-timeout"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_that_the_origin_closes_between_requests_is_no_error() {
    let at = raw_origin(|mut raw, number| async move {
        raw.head().await;
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"))
            .await;
        // Closes without having said so, when the next request is there.
        let _ = raw.0.read_u8().await;
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    for n in 0..3 {
        raw.send(format!("{GET}\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "request {n}: {head}");
        raw.until(&n.to_string()).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_call_at_the_origin() {
    let (tx, mut gone) = mpsc::channel(1);
    let at = raw_origin(move |mut raw, _| {
        let tx = tx.clone();
        async move {
            raw.head().await;
            raw.send(CHUNKED).await;
            let _ = raw.0.read_u8().await;
            tx.send(()).await.unwrap();
        }
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    raw.send(format!("{GET}\r\n")).await;
    raw.until("hello\r\n").await;
    drop(raw);
    tokio::time::timeout(LONG, gone.recv())
        .await
        .expect("the origin was not told");
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_seen_by_the_origin() {
    let (tx, mut seen) = mpsc::channel(2);
    let at = origin(move |request| {
        let tx = tx.clone();
        async move {
            // Whether it broke off: not yet.
            tx.send(false).await.unwrap();
            tx.send(request.into_body().collect().await.is_err())
                .await
                .unwrap();
            Response::new(body(""))
        }
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    raw.send(
        "POST http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await;
    assert_eq!(
        tokio::time::timeout(LONG, seen.recv()).await.unwrap(),
        Some(false)
    );
    drop(raw);
    assert_eq!(tokio::time::timeout(LONG, seen.recv()).await.unwrap(), Some(true));
}

#[tokio::test]
async fn continue_comes_before_the_body_is_sent() {
    let world = World::web(origin(mirror).await).await;
    let mut raw = world.raw().await;
    raw.send("PUT http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n").await;
    assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    raw.send("hello").await;
    let (answer, _) = raw.rest().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("body=hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_refused_upload_is_told_without_the_body() {
    let world = World::web(origin(mirror).await).await;
    let mut raw = world.raw().await;
    raw.send(
        "PUT http://no.beta.hawser/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn answers_without_a_body_stay_so() {
    let at = origin(|request| async move {
        let builder = Response::builder();
        match request.uri().path() {
            "/204" => builder.status(204).body(body("")).unwrap(),
            "/304" => builder
                .status(304)
                .header("etag", "\"x\"")
                .body(body(""))
                .unwrap(),
            _ => builder
                .header("content-length", "5")
                .body(body(if request.method() == "HEAD" { "" } else { "hello" }))
                .unwrap(),
        }
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    raw.send("HEAD http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert!(raw.head().await.contains("\r\ncontent-length: 5\r\n"));
    for (path, status) in [("204", "HTTP/1.1 204"), ("304", "HTTP/1.1 304")] {
        raw.send(format!(
            "GET http://web.beta.hawser/{path} HTTP/1.1\r\nHost: x\r\n\r\n"
        ))
        .await;
        let head = raw.head().await;
        assert!(
            head.starts_with(status) && !head.contains("content-length") && !head.contains("transfer-"),
            "{head}"
        );
    }
    raw.send("GET http://web.beta.hawser/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        raw.rest().await.0.ends_with("\r\n\r\nhello"),
        "the connection is still in step"
    );
}

/// An origin that accepts every WebSocket and sends back what comes, raw.
async fn echo_socket() -> World {
    let at = raw_origin(|mut raw, _| async move {
        let whole = raw.head().await;
        let head = whole.to_lowercase();
        assert!(
            head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
            "{head}"
        );
        assert!(
            head.contains("sec-websocket-protocol: chat\r\n")
                && head.contains("sec-websocket-version: 13\r\n"),
            "{head}"
        );
        if head.contains("get /no ") {
            return raw
                .send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                .await;
        }
        let accept = hawser_gateway::websocket::accept(&key(&whole).parse().unwrap());
        raw.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
            accept.to_str().unwrap()
        ))
        .await;
        let (mut read, mut write) = raw.0.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    World::web(at).await
}

fn key(head: &str) -> String {
    let line = head
        .lines()
        .find(|l| l.to_lowercase().starts_with("sec-websocket-key: "))
        .unwrap();
    line[19..].trim().to_owned()
}

const HANDSHAKE: &str = "Host: web.beta.hawser\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

async fn socket_talk(raw: &mut Raw) {
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let lower = head.to_lowercase();
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(
        lower.contains("\r\nupgrade: websocket\r\n") && lower.contains("sec-websocket-protocol: chat\r\n"),
        "{head}"
    );
    for n in 0..3 {
        raw.send(format!("frame {n};")).await;
        raw.until(&format!("frame {n};")).await;
    }
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, (String::new(), None), "the end comes back");
}

#[tokio::test]
async fn websockets_pass_in_all_their_forms() {
    let world = echo_socket().await;
    let mut raw = world.raw().await;
    raw.send(format!("GET http://web.beta.hawser/chat HTTP/1.1\r\n{HANDSHAKE}"))
        .await;
    socket_talk(&mut raw).await;

    let mut raw = world.raw().await;
    raw.send("CONNECT web.beta.hawser:80 HTTP/1.1\r\nHost: web.beta.hawser:80\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    raw.send(format!("GET /chat HTTP/1.1\r\n{HANDSHAKE}")).await;
    socket_talk(&mut raw).await;

    let mut client = h2(world.proxy()).await;
    // The peer's leave to use extended CONNECT comes with its settings.
    client.ready().await.unwrap();
    let ask = |path: &str| {
        let mut request = Request::connect(format!("http://web.beta.hawser{path}"))
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", "chat")
            .body(body(""))
            .unwrap();
        request
            .extensions_mut()
            .insert(Protocol::from_static("websocket"));
        request
    };
    let plain = Request::get("http://web.beta.hawser/no").body(body("")).unwrap();
    drop(client.send_request(plain).await);
    let mut answer = client.send_request(ask("/chat")).await.unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            &answer.headers()["sec-websocket-protocol"]
        ),
        (200, &"chat".parse().unwrap())
    );
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"hello").await.unwrap();
    let mut got = [0; 5];
    tokio::time::timeout(LONG, stream.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&got, b"hello");
}

#[tokio::test]
async fn a_refused_websocket_is_an_ordinary_answer_and_other_upgrades_are_refused() {
    let world = echo_socket().await;
    let mut raw = world.raw().await;
    raw.send(format!("GET http://web.beta.hawser/no HTTP/1.1\r\n{HANDSHAKE}"))
        .await;
    let head = raw.head().await;
    assert!(
        head.starts_with("HTTP/1.1 403") && !head.to_lowercase().contains("sec-websocket-accept"),
        "{head}"
    );
    raw.until("no").await;
    let mut raw = world.raw().await;
    raw.send(format!("{GET}Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"))
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 501"));
    let world = World::web(origin(mirror).await).await;
    let mut raw = world.raw().await;
    raw.send(format!("{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n")).await;
    assert!(
        raw.head().await.starts_with("HTTP/1.1 200"),
        "an offer of h2c is passed over"
    );
}

#[tokio::test]
async fn connect_to_an_http_service_is_served_as_http() {
    let world = World::web(origin(mirror).await).await;
    let mut raw = world.raw().await;
    raw.send("CONNECT web.beta.hawser:80 HTTP/1.1\r\nHost: web.beta.hawser:80\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    raw.send("GET /in HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n")
        .await;
    raw.until("body=\n").await;
    raw.send("GET /in HTTP/1.1\r\nHost: other.beta.hawser\r\nConnection: close\r\n\r\n")
        .await;
    assert!(raw.rest().await.0.starts_with("HTTP/1.1 421"));

    let mut raw = world.raw().await;
    raw.send("CONNECT web.beta.hawser:443 HTTP/1.1\r\nHost: web.beta.hawser:443\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    raw.send(b"\x16\x03\x01\x02\x00\x01\x00").await;
    assert_eq!(raw.rest().await.0, "", "TLS where HTTP is expected is closed");

    let mut raw = world.raw().await;
    raw.send("CONNECT no.beta.hawser:80 HTTP/1.1\r\nHost: no.beta.hawser:80\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 404"));
    let mut raw = world.raw().await;
    raw.send("CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n")
        .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 403"));
}

#[tokio::test]
async fn ntlm_and_negotiate_do_not_share_connections() {
    let at = raw_origin(|mut raw, number| async move {
        loop {
            let head = raw.head().await;
            if head.is_empty() {
                return;
            }
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"))
                .await;
        }
    })
    .await;
    let world = World::web(at).await;
    let mut raw = world.raw().await;
    for (auth, connection) in [
        ("Basic x", "0"),
        ("Basic x", "0"),
        ("Negotiate YII", "1"),
        ("NTLM TlR", "2"),
        ("Basic x", "0"),
    ] {
        raw.send(format!("{GET}Authorization: {auth}\r\n\r\n")).await;
        raw.head().await;
        raw.until(connection).await;
    }
}
