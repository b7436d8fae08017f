//! TCP services: imports and CONNECT through a real end-to-end session (without a hub between) to a TCP export.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use hawser_gateway::{
    callbacks::Callbacks,
    calls::CallMetrics,
    export::Exporter,
    front::Front,
    links::routes::{Routes, Service},
    seam::{Calls, EndToEnd, Exports, HttpLease, Links},
};
use hawser_identity::{Credentials, Issuer, NodeKey, RootAuthority, SharedCredentials, SharedTrust, Trust};
use hawser_proto::{Fault, NodeId, ServiceId, session::RequestId};
use hawser_session::{end_to_end, tcp};
use http::Request;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use support::{LONG, Raw, body, config, h2, node, raw_origin};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

fn credentials(id: &NodeId, trust: &mut Trust) -> SharedCredentials {
    let root = RootAuthority::create(&id.domain).unwrap();
    let issuer = Issuer::create(&root, &id.domain, &"i1".parse().unwrap()).unwrap();
    let key = NodeKey::create().unwrap();
    let chain = issuer
        .issue(id, &key.csr().unwrap(), Duration::from_secs(3600))
        .unwrap();
    trust.add_root(&id.domain, root.certificate().clone()).unwrap();
    Arc::new(ArcSwap::from_pointee(Credentials::new(chain, &key).unwrap()))
}

struct Direct {
    a: SharedCredentials,
    b: SharedCredentials,
    trust: SharedTrust,
    exporter: Exporter,
    routes: Arc<Routes>,
}

impl Calls for Direct {
    fn http<'a>(&'a self, _: &'a ServiceId) -> BoxFuture<'a, Result<HttpLease, Fault>> {
        unreachable!("only TCP here")
    }

    fn tcp<'a>(&'a self, service: &'a ServiceId, id: RequestId) -> BoxFuture<'a, Result<EndToEnd, Fault>> {
        Box::pin(async move {
            let origin = self
                .exporter
                .tcp(&node("spiffe://acme/gateway/gw1"), &service.name, id)
                .await?;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let expect = node("spiffe://beta/gateway/gw2");
            let (a, b) = tokio::join!(
                end_to_end::connect(Box::new(dialled), self.a.clone(), self.trust.clone(), &expect,),
                end_to_end::accept(Box::new(accepted), self.b.clone(), self.trust.clone()),
            );
            tokio::spawn(tcp::bridge(origin, b.unwrap(), CancellationToken::new()));
            Ok(a.unwrap())
        })
    }

    fn routes(&self) -> Arc<Routes> {
        self.routes.clone()
    }
}

/// A proxy and an import of `db.beta`, whose origin is at `origin`.
async fn world(origin: SocketAddr) -> Front {
    let export = format!("[[export]]\nname=\"db\"\ntcp=\"{origin}\"\nallow=[{{domains=[\"acme\"]}}]\n");
    let front = "[[import]]\nservice=\"db.beta\"\nlisten=\"127.0.0.1:0\"\n";
    let plan = config(front, &export).check().unwrap();
    let metrics = CallMetrics::register(&mut Registry::default());
    let exporter = Exporter::start(
        node("spiffe://beta/gateway/gw2"),
        &plan.exports,
        Callbacks::off(node("spiffe://beta/gateway/gw2")),
        metrics.clone(),
    )
    .unwrap();
    let mut trust = Trust::default();
    let a = credentials(&node("spiffe://acme/gateway/gw1"), &mut trust);
    let b = credentials(&node("spiffe://beta/gateway/gw2"), &mut trust);
    let mut routes = Routes::default();
    let protocol = hawser_proto::control::Protocol::Tcp;
    let service = Service {
        protocol,
        description: String::new(),
        gateways: Vec::new(),
    };
    routes.services.insert("db.beta".parse().unwrap(), service);
    let trust = Arc::new(ArcSwap::from_pointee(trust));
    let calls = Direct {
        a,
        b,
        trust,
        exporter,
        routes: Arc::new(routes),
    };
    let links = Links::new(Arc::new(calls));
    Front::start(
        &node("spiffe://acme/gateway/gw1"),
        &plan.front,
        links,
        Callbacks::off(node("spiffe://acme/gateway/gw1")),
        metrics,
    )
    .unwrap()
}

/// Sends back what comes, and `!` after the end of it.
async fn echo() -> SocketAddr {
    raw_origin(|mut raw, _| async move {
        let (mut read, mut write) = raw.0.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        write.write_all(b"!").await.unwrap();
    })
    .await
}

const CONNECT: &str = "CONNECT db.beta.hawser:5432 HTTP/1.1\r\nHost: db.beta.hawser:5432\r\n\r\n";

#[tokio::test]
async fn an_import_keeps_half_closes() {
    let front = world(echo().await).await;
    let mut raw = Raw::connect(front.import_addrs(&"db.beta".parse().unwrap())[0]).await;
    raw.send("hello").await;
    raw.until("hello").await;
    raw.send("more").await;
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, ("more!".into(), None));
}

#[tokio::test]
async fn connect_carries_bytes_even_those_that_came_early() {
    let front = world(echo().await).await;
    let proxy = front.proxy_addrs()[0];
    let mut raw = Raw::connect(proxy).await;
    raw.send(format!("{CONNECT}early;")).await;
    let head = raw.head().await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.contains("hawser-request-id: "),
        "{head}"
    );
    raw.until("early;").await;
    raw.send("late;").await;
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, ("late;!".into(), None));

    let mut client = h2(proxy).await;
    let request = Request::connect("db.beta.hawser:5432").body(body("")).unwrap();
    let mut answer = client.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    stream.write_all(b"two").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = String::new();
    tokio::time::timeout(LONG, stream.read_to_string(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, "two!");
}

#[tokio::test]
async fn an_origins_reset_is_a_reset_at_the_client() {
    let at = raw_origin(|mut raw, _| async move {
        raw.0.read_u8().await.unwrap();
        raw.0.set_zero_linger().unwrap();
    })
    .await;
    let front = world(at).await;
    for (to, hello) in [
        (front.import_addrs(&"db.beta".parse().unwrap())[0], false),
        (front.proxy_addrs()[0], true),
    ] {
        let mut raw = Raw::connect(to).await;
        if hello {
            raw.send(CONNECT).await;
            raw.head().await;
        }
        raw.send("x").await;
        let (got, end) = raw.rest().await;
        assert_eq!(
            (got.as_str(), end),
            ("", Some(std::io::ErrorKind::ConnectionReset))
        );
    }
}

#[tokio::test]
async fn an_origin_that_is_down_is_told_by_connect_and_a_reset_at_an_import() {
    let front = world("127.0.0.1:1".parse().unwrap()).await;
    let mut raw = Raw::connect(front.proxy_addrs()[0]).await;
    raw.send(CONNECT).await;
    let head = raw.head().await;
    assert!(
        head.starts_with("HTTP/1.1 503") && head.contains("problem+json"),
        "{head}"
    );
    let mut raw = Raw::connect(front.import_addrs(&"db.beta".parse().unwrap())[0]).await;
    assert_eq!(raw.rest().await.1, Some(std::io::ErrorKind::ConnectionReset));
}
