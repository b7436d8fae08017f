//! Two gateways and a hub on loopback, with real identities: the hop, pairing, the blind relay, and what rides on it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    convert::Infallible,
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use hawser_identity::{
    Credentials, HubAddress, HubIdentity, Issuer, NodeKey, RootAuthority, SharedCredentials, SharedTrust,
    Trust, tls,
};
use hawser_proto::{
    Fault, NodeId, Place,
    frame::MAX_FRAME,
    hop::Ticket,
    session::{Open, Opened, RequestId},
};
use hawser_session::{
    BoxedCarrier, EndToEnd, SessionError,
    carrier::Ways,
    empty, end_to_end, full,
    hop::{Arrival, Half, HopClient, HopError, HopServer, Side},
    http::{Class, HttpSession, ServeControl, serve},
    relay::{PipePool, RelayCounters, RelayEnd, relay},
    socket,
    tcp::{BridgeEnd, bridge},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

struct Node {
    own: SharedCredentials,
    trust: SharedTrust,
    hop: HopClient,
}

struct World {
    server: HopServer,
    listener: TcpListener,
    counters: Arc<RelayCounters>,
    pipes: PipePool,
    a: Node,
    b: Node,
    _dir: tempfile::TempDir,
}

fn node_of(domain: &str) -> (RootAuthority, Credentials) {
    let name = domain.parse().unwrap();
    let root = RootAuthority::create(&name).unwrap();
    let issuer = Issuer::create(&root, &name, &"i1".parse().unwrap()).unwrap();
    let key = NodeKey::create().unwrap();
    let id = NodeId::gateway(name, "gw1".parse().unwrap());
    let chain = issuer
        .issue(&id, &key.csr().unwrap(), Duration::from_secs(3600))
        .unwrap();
    (root, Credentials::new(chain, &key).unwrap())
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: HubAddress = listener.local_addr().unwrap().to_string().parse().unwrap();
    let hub = HubIdentity::load_or_create(dir.path()).unwrap();
    let ((root_a, a), (root_b, b)) = (node_of("acme"), node_of("beta"));
    let mut trust = Trust::default();
    trust
        .add_root(&"acme".parse().unwrap(), root_a.certificate().clone())
        .unwrap();
    trust
        .add_root(&"beta".parse().unwrap(), root_b.certificate().clone())
        .unwrap();
    let trust: SharedTrust = Arc::new(ArcSwap::from_pointee(trust));
    let node = |credentials| {
        let own: SharedCredentials = Arc::new(ArcSwap::from_pointee(credentials));
        let ways = Arc::new(Ways::default());
        Node {
            hop: HopClient::new(ways, address.clone(), hub.pin(), own.clone()).unwrap(),
            own,
            trust: trust.clone(),
        }
    };
    World {
        server: HopServer::new(
            tls::hub_hop(&hub, trust.clone()).unwrap(),
            tls::hub_join(&hub).unwrap(),
            trust.clone(),
        ),
        counters: Arc::default(),
        pipes: PipePool::new(8),
        a: node(a),
        b: node(b),
        listener,
        _dir: dir,
    }
}

impl World {
    async fn half(&self) -> (Ticket, Half) {
        let (tcp, _) = self.listener.accept().await.unwrap();
        match self.server.accept(tcp, &()).await.unwrap() {
            Arrival::Session { ticket, half, .. } => (ticket, half),
            other => panic!("not a session: {other:?}"),
        }
    }

    /// The hub's part for one pair: whichever side comes first.
    async fn pair(&self) -> (TcpStream, TcpStream) {
        let (first, second) = (self.half().await, self.half().await);
        let (dialling, accepting) = if first.0 == Ticket([1; 32]) {
            (first.1, second.1)
        } else {
            (second.1, first.1)
        };
        let accepting = accepting.ready_go().await.unwrap();
        (dialling.ready().await.unwrap(), accepting)
    }

    fn carriers(&self) -> (JoinHandle<BoxedCarrier>, JoinHandle<BoxedCarrier>) {
        let (a, b) = (self.a.hop.clone(), self.b.hop.clone());
        let a = tokio::spawn(async move { a.session(Ticket([1; 32]), Side::Dialling).await.unwrap() });
        let b = tokio::spawn(async move { b.session(Ticket([2; 32]), Side::Accepting).await.unwrap() });
        (a, b)
    }

    /// Two gateways in an end-to-end session through the relay.
    async fn session(&self) -> (EndToEnd, EndToEnd, JoinHandle<RelayEnd>) {
        let (a, b) = self.carriers();
        let (left, right) = self.pair().await;
        let (pipes, counters) = (self.pipes.clone(), self.counters.clone());
        let end =
            tokio::spawn(
                async move { relay(left, right, &pipes, &counters, CancellationToken::new()).await },
            );
        let expect = self.b.own.load().id().clone();
        let (a, b) = tokio::join!(
            end_to_end::connect(
                a.await.unwrap(),
                self.a.own.clone(),
                self.a.trust.clone(),
                &expect
            ),
            end_to_end::accept(b.await.unwrap(), self.b.own.clone(), self.b.trust.clone()),
        );
        (a.unwrap(), b.unwrap(), end)
    }

    async fn http<S, F>(&self, class: Class, control: ServeControl, service: S) -> HttpSession
    where
        S: Fn(Request<Incoming>) -> F + Send + Sync + Clone + 'static,
        F: Future<Output = Result<Response<hawser_session::Body>, Infallible>> + Send + 'static,
    {
        let (a, mut b, _) = self.session().await;
        tokio::spawn(async move {
            let open: Open = b.read_frame(MAX_FRAME).await.unwrap();
            assert_eq!(
                open,
                Open::Http {
                    bulk: class == Class::Bulk
                }
            );
            let _ = serve(b, class, service_fn(service), control).await;
        });
        HttpSession::connect(a, class).await.unwrap()
    }
}

#[tokio::test]
async fn the_hub_splices_a_session_that_only_the_two_gateways_can_read() {
    let w = world().await;
    let (mut a, mut b, _) = w.session().await;
    assert_eq!(a.peer, *w.b.own.load().id());
    assert_eq!(b.peer, *w.a.own.load().id());
    for end in [&a, &b] {
        assert_eq!(end.group, Some(rustls::NamedGroup::X25519MLKEM768));
    }
    a.write_frame(&Open::Http { bulk: false }).await.unwrap();
    assert_eq!(
        b.read_frame::<Open>(MAX_FRAME).await.unwrap(),
        Open::Http { bulk: false }
    );
    assert!(w.counters.spliced.load(Ordering::Relaxed) > 2000);
    assert_eq!(w.counters.copied.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_peer_other_than_expected_is_refused_by_name() {
    let w = world().await;
    let (a, b) = w.carriers();
    let (left, right) = w.pair().await;
    let (pipes, counters) = (w.pipes.clone(), w.counters.clone());
    tokio::spawn(async move { relay(left, right, &pipes, &counters, CancellationToken::new()).await });
    let expect = "spiffe://beta/gateway/gw2".parse().unwrap();
    let (a, _b) = tokio::join!(
        end_to_end::connect(a.await.unwrap(), w.a.own.clone(), w.a.trust.clone(), &expect),
        end_to_end::accept(b.await.unwrap(), w.b.own.clone(), w.b.trust.clone()),
    );
    let refused = a.unwrap_err();
    assert!(matches!(refused, SessionError::Tls { .. }));
    assert!(
        refused.to_string().contains("spiffe://beta/gateway/gw2"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_refusal_reaches_the_gateway_with_its_reason() {
    let w = world().await;
    let hop = w.a.hop.clone();
    let asked = tokio::spawn(async move { hop.session(Ticket([1; 32]), Side::Dialling).await.map(|_| ()) });
    let (_, half) = w.half().await;
    let fault = Fault::new(
        Place::Hub,
        403,
        "ticket-spent",
        "this ticket was used before",
        "ask for another",
    );
    half.refuse(fault.clone()).await.unwrap();
    match asked.await.unwrap().unwrap_err() {
        HopError::Refused(f) => assert_eq!(f, fault),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_half_knows_when_it_is_gone() {
    let w = world().await;
    let hop = w.a.hop.clone();
    let asked = tokio::spawn(async move { hop.session(Ticket([1; 32]), Side::Dialling).await.map(|_| ()) });
    let (_, mut half) = w.half().await;
    asked.abort();
    tokio::time::timeout(SOON, half.closed()).await.unwrap();
}

#[tokio::test]
async fn control_messages_go_both_ways() {
    use hawser_proto::control::{ToGateway, ToHub};
    let w = world().await;
    let hop = w.a.hop.clone();
    let gateway = tokio::spawn(async move { hop.control("test").await.unwrap() });
    let (tcp, _) = w.listener.accept().await.unwrap();
    let Arrival::Control {
        proved,
        mut sender,
        mut receiver,
        ..
    } = w.server.accept(tcp, &()).await.unwrap()
    else {
        panic!("not a control connection")
    };
    assert_eq!(proved.id, *w.a.own.load().id());
    let (mut to_hub, mut from_hub) = gateway.await.unwrap();
    to_hub.send(&ToHub::Ping(7)).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap(), ToHub::Ping(7));
    sender.send(&ToGateway::Pong(7)).await.unwrap();
    assert_eq!(from_hub.recv().await.unwrap(), ToGateway::Pong(7));
}

async fn echo(request: Request<Incoming>) -> Result<Response<hawser_session::Body>, Infallible> {
    Ok(Response::new(
        request.into_body().map_err(Into::into).boxed_unsync(),
    ))
}

#[tokio::test]
async fn http_carries_bodies_and_keeps_slots_until_they_end() {
    let w = world().await;
    for class in [Class::Ordinary, Class::Bulk] {
        let session = w.http(class, ServeControl::default(), echo).await;
        assert!(session.ping(SOON).await);
        let big = Bytes::from((0..2_000_000u32).map(|i| (i % 251) as u8).collect::<Vec<_>>());
        let request = Request::post("http://x.beta/").body(full(big.clone())).unwrap();
        let response = session.reserve().unwrap().send(request).await.unwrap();
        assert_eq!(session.in_flight(), 1);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), big);
        tokio::time::timeout(SOON, async {
            while session.in_flight() != 0 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        let held: Vec<_> = std::iter::from_fn(|| session.reserve()).collect();
        assert_eq!(held.len(), class.streams() as usize);
    }
}

/// An endless body.
async fn flood(request: Request<Incoming>) -> Result<Response<hawser_session::Body>, Infallible> {
    if request.uri().path() != "/flood" {
        return Ok(Response::new(full("here")));
    }
    let frames = futures_util::stream::repeat_with(|| {
        Ok::<_, hawser_session::BoxError>(http_body::Frame::data(Bytes::from_static(&[0; 16384])))
    });
    Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
}

#[tokio::test]
async fn stalled_downloads_leave_the_other_requests_of_the_session_alone() {
    let w = world().await;
    let session = w.http(Class::Ordinary, ServeControl::default(), flood).await;
    let get = |path: &str| {
        let request = Request::get(format!("http://x.beta{path}"))
            .body(empty())
            .unwrap();
        session.reserve().unwrap().send(request)
    };
    // All but one slot hold a download that nobody reads.
    let stalled = join_all((1..Class::Ordinary.streams()).map(|_| get("/flood"))).await;
    assert!(stalled.iter().all(Result::is_ok));
    for _ in 0..100 {
        let body = tokio::time::timeout(SOON, async {
            get("/").await.unwrap().into_body().collect().await.unwrap()
        });
        assert_eq!(body.await.unwrap().to_bytes(), "here");
    }
}

#[tokio::test]
async fn a_drained_session_ends_after_its_last_stream_and_a_cut_one_at_once() {
    let w = world().await;
    let control = ServeControl::default();
    let session = w.http(Class::Ordinary, control.clone(), flood).await;
    let request = |path: &str| {
        Request::get(format!("http://x.beta{path}"))
            .body(empty())
            .unwrap()
    };
    let running = session.reserve().unwrap().send(request("/flood")).await.unwrap();
    assert_eq!(running.status(), StatusCode::OK);
    control.drain.cancel();
    // The goodbye takes a moment to arrive. Then a request is given back whole, to go elsewhere.
    let given_back = async {
        loop {
            let Some(slot) = session.reserve() else { break };
            match slot.send(request("/")).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(e) => break assert!(e.request.is_some(), "{}", e.error),
            }
        }
    };
    tokio::time::timeout(SOON, given_back).await.unwrap();
    let mut body = running.into_body();
    assert!(body.frame().await.unwrap().is_ok(), "what runs goes on");
    control.cut.cancel();
    let broken = async { while let Some(Ok(_)) = body.frame().await {} };
    tokio::time::timeout(SOON, broken).await.unwrap();
    tokio::time::timeout(SOON, session.ended()).await.unwrap();
}

/// A TCP service behind B: `origin` gets the far end, the test gets the client's.
async fn tcp_through(w: &World) -> (TcpStream, TcpStream, JoinHandle<BridgeEnd>, JoinHandle<BridgeEnd>) {
    let (mut a, mut b, _) = w.session().await;
    let (client, local_a) = loopback().await;
    let (local_b, origin) = loopback().await;
    let open = Open::Tcp {
        service: "db".parse().unwrap(),
        request: RequestId([7; 16]),
    };
    a.write_frame(&open).await.unwrap();
    assert_eq!(b.read_frame::<Open>(MAX_FRAME).await.unwrap(), open);
    b.write_frame(&Opened::Accepted).await.unwrap();
    assert_eq!(a.read_frame::<Opened>(MAX_FRAME).await.unwrap(), Opened::Accepted);
    let a = tokio::spawn(async move { bridge(local_a, a, CancellationToken::new()).await.0 });
    let b = tokio::spawn(async move { bridge(local_b, b, CancellationToken::new()).await.0 });
    (client, origin, a, b)
}

async fn loopback() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn tcp_keeps_half_closes_and_every_byte() {
    let w = world().await;
    let (mut client, mut origin, a, b) = tcp_through(&w).await;
    let sent: Vec<u8> = (0..5_000_000u32).map(|i| (i * 31) as u8).collect();
    let expected = sent.clone();
    let reading = tokio::spawn(async move {
        let mut got = Vec::new();
        origin.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        // Answered only after the other direction has ended.
        origin.write_all(b"thanks").await.unwrap();
        origin.shutdown().await.unwrap();
    });
    client.write_all(&sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "thanks");
    reading.await.unwrap();
    assert_eq!(
        (a.await.unwrap(), b.await.unwrap()),
        (BridgeEnd::Closed, BridgeEnd::Closed)
    );
}

#[tokio::test]
async fn an_origins_reset_is_a_reset_to_the_client() {
    let w = world().await;
    let (mut client, mut origin, a, b) = tcp_through(&w).await;
    origin.write_all(b"half an ans").await.unwrap();
    let mut got = [0; 11];
    client.read_exact(&mut got).await.unwrap();
    socket::reset_on_close(&origin);
    drop(origin);
    let end = tokio::time::timeout(SOON, client.read(&mut got)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(
        (a.await.unwrap(), b.await.unwrap()),
        (BridgeEnd::TunnelReset, BridgeEnd::LocalReset)
    );
}

#[tokio::test]
async fn a_clients_reset_reaches_the_origin_even_after_the_client_had_finished_sending() {
    let w = world().await;
    let (mut client, mut origin, a, _b) = tcp_through(&w).await;
    client.write_all(b"q").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    origin.read_to_end(&mut got).await.unwrap();
    origin.write_all(b"answer").await.unwrap();
    let mut six = [0; 6];
    client.read_exact(&mut six).await.unwrap();
    socket::reset_on_close(&client);
    drop(client);
    assert_eq!(
        tokio::time::timeout(SOON, a).await.unwrap().unwrap(),
        BridgeEnd::LocalReset
    );
    let mut one = [0; 1];
    let end = tokio::time::timeout(SOON, async {
        // The reset may show on a write before a read.
        loop {
            if origin.write_all(b"x").await.is_err()
                || matches!(origin.try_read(&mut one), Err(e) if e.kind() != io::ErrorKind::WouldBlock)
            {
                break;
            }
            tokio::task::yield_now().await;
        }
    });
    end.await.unwrap();
}
