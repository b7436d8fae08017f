//! Requests made to be read in two ways: each is refused, or reaches the origin as one message that can be read in one way.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::*;
use tokio::{io::AsyncReadExt, sync::mpsc};

/// A target that no well-read request of the corpus asks for.
const HIDDEN: &str = "smuggled";

/// What reached the origin on each connection, after its first message has been answered.
async fn recorder() -> (World, mpsc::UnboundedReceiver<String>) {
    let (tx, seen) = mpsc::unbounded_channel();
    let at = raw_origin(move |mut raw, _| {
        let tx = tx.clone();
        async move {
            let mut all = raw.head().await;
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(
                std::time::Duration::from_millis(100),
                raw.0.read_to_end(&mut rest),
            )
            .await;
            all += &String::from_utf8_lossy(&rest);
            let _ = tx.send(all);
        }
    })
    .await;
    (World::web(at).await, seen)
}

/// The request lines that a strict origin would find in what it got.
fn requests(got: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = got;
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let mut fields = head.split("\r\n");
        lines.push(fields.next().unwrap().to_owned());
        let (mut length, mut chunked) = (None, false);
        for field in fields {
            let (name, value) = field.split_once(": ").expect("a field on one line");
            assert!(
                !head.contains(['\0']) && !value.contains(['\r', '\n']),
                "{field:?}"
            );
            match name {
                "content-length" => assert!(
                    length.replace(value.parse::<usize>().unwrap()).is_none(),
                    "one length"
                ),
                "transfer-encoding" => {
                    assert_eq!(value, "chunked");
                    assert!(!std::mem::replace(&mut chunked, true), "one coding");
                }
                _ => {}
            }
        }
        assert!(!(chunked && length.is_some()), "both a length and chunks: {head}");
        rest = if chunked {
            after.split_once("0\r\n\r\n").map_or("", |(_, rest)| rest)
        } else {
            after.get(length.unwrap_or(0)..).unwrap_or("")
        };
    }
    lines
}

#[tokio::test]
async fn the_corpus() {
    let post = "POST http://web.beta.hawser/x HTTP/1.1\r\nHost: web.beta.hawser\r\n";
    let tail = format!("GET /{HIDDEN} HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n");
    let tail_chunk = format!("{:x}\r\n{tail}\r\n0\r\n\r\n", tail.len());
    // A request, and whether it must be refused (else it may be read in the one way that RFC 9112 allows).
    let corpus: Vec<(String, bool)> = vec![
        (format!("{post}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{tail_chunk}"), false),
        (format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{tail_chunk}"), false),
        (format!("{post}Content-Length: 0\r\nContent-Length: {}\r\n\r\n{tail}", tail.len()), true),
        (format!("{post}Content-Length: {}\r\nContent-Length: 0\r\n\r\n{tail}", tail.len()), true),
        (format!("{post}Content-Length: +5\r\n\r\nabcde"), true),
        (format!("{post}Content-Length: 5, 6\r\n\r\nabcde"), true),
        (format!("{post}Content-Length: 0x5\r\n\r\nabcde"), true),
        (format!("{post}Content-Length: -1\r\n\r\nabcde"), true),
        (format!("{post}Content-Length:\r\n\r\nabcde"), true),
        (format!("{post}Content-Length: 99999999999999999999999\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: xchunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding: chunked, identity\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding: \x0bchunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding : chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}Transfer-Encoding\r\n: chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}X: a\r\n Transfer-Encoding: chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}X: a\rTransfer-Encoding: chunked\r\n\r\n{tail_chunk}"), true),
        (format!("{post}X: a\0b\r\n\r\n"), true),
        (format!("{post}X\0: b\r\n\r\n"), true),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n{tail}"), false),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n0x5\r\nabcde\r\n0\r\n\r\n"), false),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\nabc\r\n0\r\n\r\n"), false),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n5\nabcde\n0\n\n{tail}"), false),
        (format!("{post}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n0\r\n\r\n"), false),
        ("POST http://web.beta.hawser/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), true),
        (format!("GET http://web.beta.hawser/x HTTP/1.1\nHost: web.beta.hawser\nX: y\n\n{tail}").replace(&tail, ""), false),
        ("GET http://web.beta.hawser/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), true),
        ("GET /x HTTP/1.1\r\nHost: web.beta.hawser, other\r\n\r\n".into(), true),
        ("GET /x HTTP/1.1\r\nHost: web.beta.hawser@evil\r\n\r\n".into(), true),
        ("GET /x HTTP/1.1\r\nHost: evil@web.beta.hawser\r\n\r\n".into(), true),
        ("GET /x HTTP/1.1\r\nHost:\r\n\r\n".into(), true),
        ("GET /x HTTP/1.1\r\n\r\n".into(), true),
        ("GET http:///x HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        ("GET http://web.beta.hawser\\@evil/ HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        ("GET http://evil#@web.beta.hawser/ HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        (format!("GET http://web.beta.hawser/x HTTP/1.1 \r\nHost: web.beta.hawser\r\nX: GET /{HIDDEN}\r\n\r\n"), true),
        ("GET http://web.beta.hawser/a b HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        ("GET\thttp://web.beta.hawser/x HTTP/1.1\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        ("GET http://web.beta.hawser/x\r\n\r\n".into(), true),
        ("GET http://web.beta.hawser/x HTTP/9.9\r\nHost: web.beta.hawser\r\n\r\n".into(), true),
        (format!("{post}Connection: Content-Length, close\r\nContent-Length: 5\r\n\r\nabcde"), false),
        (format!("{post}Content-Length: 5\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde"), false),
    ];
    for (request, refused) in corpus {
        let (world, mut seen) = recorder().await;
        let mut raw = world.raw().await;
        raw.send(&request).await;
        // No more comes: a gateway that waits for more has read it in its own way.
        tokio::io::AsyncWriteExt::shutdown(&mut raw.0).await.unwrap();
        let (answer, _) = raw.rest().await;
        drop(world);
        let mut arrived = Vec::new();
        while let Ok(Some(got)) = tokio::time::timeout(
            std::time::Duration::from_millis(if refused { 20 } else { 300 }),
            seen.recv(),
        )
        .await
        {
            arrived.extend(requests(&got));
        }
        assert!(arrived.len() <= 1, "{request:?} became {arrived:?}");
        assert!(
            arrived.iter().all(|line| !line.contains(HIDDEN)),
            "{request:?} became {arrived:?}"
        );
        if refused {
            let status = answer.get(9..10).unwrap_or("closed");
            assert!(
                status == "4" || status == "closed",
                "{request:?} was answered {answer:?}"
            );
            assert_eq!(arrived, Vec::<String>::new(), "{request:?}");
        }
    }
}

#[tokio::test]
async fn an_absolute_target_wins_over_host() {
    let (world, mut seen) = recorder().await;
    let mut raw = world.raw().await;
    raw.send("GET http://web.beta.hawser/x HTTP/1.1\r\nHost: other.beta.hawser\r\nConnection: close\r\n\r\n")
        .await;
    assert!(raw.rest().await.0.starts_with("HTTP/1.1 200"));
    let got = seen.recv().await.unwrap();
    assert!(
        got.starts_with("GET /x HTTP/1.1\r\n") && got.contains("\r\nhost: web.beta.hawser\r\n"),
        "{got}"
    );
}

#[tokio::test]
async fn http_2_requests_with_two_hosts_are_refused() {
    let (world, _seen) = recorder().await;
    let mut client = h2(world.proxy()).await;
    let request = http::Request::get("http://web.beta.hawser/x")
        .header("host", "other")
        .body(body(""))
        .unwrap();
    assert_eq!(client.send_request(request).await.unwrap().status(), 400);
}
