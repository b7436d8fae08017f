//! Clients from outside that ask for a published name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hawser_hub::{Limits, MailboxConfig, MailboxLimits, Publish};
use hawser_identity::{SharedCredentials, tls};
use hawser_proto::{
    ALPN_DEVICE, HostName,
    control::{ToGateway, ToHub},
};
use hawser_session::{BoxedCarrier, hello::Opening, hop::Side};
use rustls::{AlertDescription, ClientConfig, ClientConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::rig::{Domain, Gateway, Rig, until, within};

const NAME: &str = "devices.acme.example";

fn publish(domain: &str, names: &[&str]) -> Publish {
    Publish {
        domain: domain.into(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

async fn rig(limits: Limits) -> Rig {
    let rules = vec![publish("acme", &[NAME, "other.acme.example"])];
    Rig::publishing(rules, limits).await
}

impl Gateway {
    /// Publishes these names; what the hub says of them.
    async fn publishes(&mut self, names: &[&str]) -> Vec<(String, bool)> {
        let publishes: Vec<HostName> = names.iter().map(|n| n.parse().unwrap()).collect();
        self.send(ToHub::Register {
            services: Vec::new(),
            issuer: false,
            draining: false,
            joins: Vec::new(),
            publishes,
        })
        .await;
        self.find(|m| match m {
            ToGateway::Publishing(p) => Some(p.iter().map(|p| (p.name.to_string(), p.allowed)).collect()),
            _ => None,
        })
        .await
    }

    /// Dials in for the next visitor: raw, as the hub hands it over.
    async fn visited(&mut self) -> (HostName, BoxedCarrier) {
        let (ticket, name) = self
            .find(|m| match m {
                ToGateway::Visit { ticket, name } => Some((*ticket, name.clone())),
                _ => None,
            })
            .await;
        let carrier = within(self.hop.session(ticket, Side::Accepting)).await.unwrap();
        (name, carrier)
    }
}

fn device(domain: &Domain) -> Arc<ClientConfig> {
    tls::device_control(domain.name.clone(), domain.root.fingerprint()).unwrap()
}

async fn knock(rig: &Rig, config: Arc<ClientConfig>, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(rig.hub.local_addrs()[0]).await?;
    let name = name.to_owned().try_into().unwrap();
    within(TlsConnector::from(config).connect(name, tcp)).await
}

async fn refused(rig: &Rig, domain: &Domain, name: &str) -> AlertDescription {
    let error = knock(rig, device(domain), name).await.unwrap_err();
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        _ => panic!("{name}: expected an alert, got {error}"),
    }
}

/// The gateway ends the visitor's TLS with its own certificate, and answers `hello` by `world`.
async fn serve(carrier: BoxedCarrier, own: SharedCredentials) {
    let opening = Opening::read(carrier).await.unwrap();
    assert_eq!(opening.name().unwrap().as_str(), NAME);
    assert!(opening.offers(ALPN_DEVICE));
    let mut stream = opening.accept(tls::gateway_device(own).unwrap()).await.unwrap();
    let mut five = [0; 5];
    while stream.read_exact(&mut five).await.is_ok() {
        assert_eq!(&five, b"hello");
        stream.write_all(b"world").await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn talk(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(b"hello").await.unwrap();
    let mut five = [0; 5];
    within(stream.read_exact(&mut five)).await.unwrap();
    assert_eq!(&five, b"world");
}

async fn ended(stream: &mut TlsStream<TcpStream>) {
    let mut rest = [0; 16];
    while !matches!(within(stream.read(&mut rest)).await, Ok(0) | Err(_)) {}
}

#[tokio::test]
async fn a_visitor_reaches_the_gateway_that_publishes_the_name_and_the_hub_reads_nothing() {
    let rig = rig(Limits::default()).await;
    let acme = rig.domain("acme").await;
    let own = acme.gateway("a1");
    let mut a = Gateway::connect(rig.client(&own), acme.id("a1")).await.unwrap();
    assert_eq!(a.publishes(&[NAME]).await, [(NAME.to_owned(), true)]);
    let config = device(&acme);
    let visit = knock(&rig, config, "Devices.ACME.example");
    let (visitor, ()) = tokio::join!(visit, async {
        let (name, carrier) = a.visited().await;
        assert_eq!(name.as_str(), NAME);
        tokio::spawn(serve(carrier, own.clone()));
    });
    let mut visitor = visitor.unwrap();
    talk(&mut visitor).await;
    let status = rig.hub.status();
    assert_eq!((status.visitors, status.sessions, status.unproved), (1, 1, 0));
    assert_eq!(status.gateways[0].publishes[0].as_str(), NAME);
    assert!(
        status.bytes_copied > 100 && status.bytes_copied < 16 * 1024,
        "the ClientHello"
    );
    assert!(status.bytes_spliced > 1000, "all the rest");
    drop(visitor);
    until("the visitor is gone", || rig.hub.status().visitors == 0).await;
}

/// A ClientHello for a name, as bytes.
fn hello(domain: &Domain, name: &str) -> Vec<u8> {
    let name = name.to_owned().try_into().unwrap();
    let mut client = ClientConnection::new(device(domain), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[tokio::test]
async fn every_byte_is_passed_on_however_it_comes() {
    let rig = rig(Limits::default()).await;
    let acme = rig.domain("acme").await;
    let mut a = rig.connect(&acme, "a1").await;
    a.publishes(&[NAME]).await;
    let whole = hello(&acme, NAME);
    // One record of the hello becomes three, and after it comes something already.
    let body = &whole[5..];
    let mut sent = Vec::new();
    for piece in [&body[..1], &body[1..200], &body[200..]] {
        sent.extend_from_slice(&[22, 3, 1]);
        sent.extend_from_slice(&(piece.len() as u16).to_be_bytes());
        sent.extend_from_slice(piece);
    }
    sent.extend_from_slice(b"and more");
    let mut visitor = TcpStream::connect(rig.hub.local_addrs()[0]).await.unwrap();
    visitor.set_nodelay(true).unwrap();
    for piece in sent.chunks(97) {
        visitor.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let (_, mut carrier) = a.visited().await;
    let mut got = vec![0; sent.len()];
    within(carrier.read_exact(&mut got)).await.unwrap();
    assert!(got == sent, "what the client said came as it was");
    carrier.write_all(b"answer").await.unwrap();
    let mut answer = [0; 6];
    within(visitor.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn names_that_nobody_publishes_or_may_are_refused_alike() {
    let rig = rig(Limits::default()).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut b = rig.connect(&beta, "b1").await;
    let said = b.publishes(&[NAME, "b.beta.example"]).await;
    assert!(said.iter().all(|(_, allowed)| !allowed), "{said:?}");
    for name in [NAME, "b.beta.example", "other.acme.example", "nobody.example"] {
        assert_eq!(
            refused(&rig, &acme, name).await,
            AlertDescription::UnrecognisedName,
            "{name}"
        );
    }
    assert_eq!(b.heard(|m| matches!(m, ToGateway::Visit { .. })), 0);
    assert_eq!(rig.metric("hub_handshakes_total{result=\"unknown-name\"} "), 4);
    // A name in no ClientHello at all, and no protocol of ours.
    let mut config = (*device(&acme)).clone();
    config.enable_sni = false;
    let error = knock(&rig, Arc::new(config), NAME).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    // The owner comes, and goes to drain.
    let mut a = rig.connect(&acme, "a1").await;
    assert_eq!(a.publishes(&[NAME]).await, [(NAME.to_owned(), true)]);
    a.send(ToHub::Register {
        services: Vec::new(),
        issuer: false,
        draining: true,
        joins: Vec::new(),
        publishes: vec![NAME.parse().unwrap()],
    })
    .await;
    until("the gateway is draining", || {
        rig.hub.status().gateways.iter().any(|g| g.draining)
    })
    .await;
    assert_eq!(
        refused(&rig, &acme, NAME).await,
        AlertDescription::UnrecognisedName
    );
}

#[tokio::test]
async fn slow_long_and_broken_hellos_are_bounded() {
    let limits = Limits {
        handshake: Duration::from_secs(2),
        ..Limits::default()
    };
    let rig = rig(limits).await;
    let acme = rig.domain("acme").await;
    let mut a = rig.connect(&acme, "a1").await;
    a.publishes(&[NAME]).await;
    let knocked = || TcpStream::connect(rig.hub.local_addrs()[0]);
    let begin = Instant::now();
    // Byte by byte, so that something comes all the time.
    let whole = hello(&acme, NAME);
    let mut slow = knocked().await.unwrap();
    let mut sent = 0;
    for byte in whole.chunks(1) {
        if slow.write_all(byte).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(sent < whole.len() && begin.elapsed() < Duration::from_secs(20));
    // A hello that never ends: handshake messages of 16 MiB.
    let mut long = knocked().await.unwrap();
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    let mut one = [0; 64];
    let written = async {
        for _ in 0..64 {
            long.write_all(&record).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = within(written).await;
    assert!(matches!(within(long.read(&mut one)).await, Ok(_) | Err(_)));
    // No TLS at all.
    let mut broken = knocked().await.unwrap();
    broken
        .write_all(b"GET / HTTP/1.1\r\nHost: devices.acme.example\r\n\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = within(broken.read_to_end(&mut rest)).await;
    until("the door is empty", || rig.hub.status().unproved == 0).await;
    assert_eq!(a.heard(|m| matches!(m, ToGateway::Visit { .. })), 0);
    assert!(rig.metric("hub_handshakes_total{result=\"timeout\"} ") >= 1);
}

#[tokio::test]
async fn one_source_does_not_take_all_the_room_and_a_gone_gateway_frees_its_visitors() {
    let limits = Limits {
        visitors_per_source: 2,
        ..Limits::default()
    };
    let rig = rig(limits).await;
    let acme = rig.domain("acme").await;
    let own = acme.gateway("a1");
    let mut a = Gateway::connect(rig.client(&own), acme.id("a1")).await.unwrap();
    a.publishes(&[NAME]).await;
    let mut there = Vec::new();
    for _ in 0..2 {
        let (visitor, ()) = tokio::join!(knock(&rig, device(&acme), NAME), async {
            let (_, carrier) = a.visited().await;
            tokio::spawn(serve(carrier, own.clone()));
        });
        there.push(visitor.unwrap());
    }
    assert_eq!(refused(&rig, &acme, NAME).await, AlertDescription::InternalError);
    assert_eq!(
        rig.metric("hub_sessions_refused_total{reason=\"too-many-visitors\"} "),
        1
    );
    drop(there.pop());
    until("there is room again", || rig.hub.status().visitors == 1).await;
    // This one's gateway takes the ticket, and goes before it says GO.
    let (error, ()) = tokio::join!(knock(&rig, device(&acme), NAME), async {
        let (_, carrier) = a.visited().await;
        drop(carrier);
    });
    error.unwrap_err();
    until("it is gone", || rig.hub.status().visitors == 1).await;
}

#[tokio::test]
async fn revocation_and_another_policy_cut_visitors_and_stop_the_name() {
    let rig = rig(Limits::default()).await;
    let acme = rig.domain("acme").await;
    let own = acme.gateway("a1");
    let mut a = Gateway::connect(rig.client(&own), acme.id("a1")).await.unwrap();
    a.publishes(&[NAME]).await;
    let mut visit = async || {
        let (visitor, ()) = tokio::join!(knock(&rig, device(&acme), NAME), async {
            let (_, carrier) = a.visited().await;
            tokio::spawn(serve(carrier, own.clone()));
        });
        visitor.unwrap()
    };
    let mut first = visit().await;
    talk(&mut first).await;
    let mut config = rig.config.clone();
    config.publish = vec![publish("acme", &["other.acme.example"])];
    rig.hub.reload(config).await.unwrap();
    ended(&mut first).await;
    assert_eq!(
        refused(&rig, &acme, NAME).await,
        AlertDescription::UnrecognisedName
    );
    rig.hub.reload(rig.config.clone()).await.unwrap();
    let mut second = visit().await;
    talk(&mut second).await;

    let mut other = rig.connect(&acme, "a2").await;
    other.send(ToHub::Revocations(acme.signed(1, &["a1"]))).await;
    ended(&mut second).await;
    a.closed().await;
    assert_eq!(
        refused(&rig, &acme, NAME).await,
        AlertDescription::UnrecognisedName
    );
    // Another gateway of the domain takes the name on.
    assert_eq!(other.publishes(&[NAME]).await, [(NAME.to_owned(), true)]);
    let own = acme.gateway("a2");
    let (visitor, ()) = tokio::join!(knock(&rig, device(&acme), NAME), async {
        let (_, carrier) = other.visited().await;
        tokio::spawn(serve(carrier, own));
    });
    talk(&mut visitor.unwrap()).await;
}

#[tokio::test]
async fn the_mailbox_is_reached_by_its_name_with_the_hubs_own_key_and_by_no_other() {
    let rig = Rig::changed(|config| {
        config.mailbox = Some(MailboxConfig {
            name: "mail.example.org".into(),
            certificate: None,
            key: None,
            port: None,
            limits: MailboxLimits::default(),
        });
    })
    .await;
    let pinned = tls::device_mailbox(rig.hub.identity().pin()).unwrap();
    let mut stream = knock(&rig, pinned.clone(), "mail.example.org").await.unwrap();
    let ask = b"GET /v1/envelopes HTTP/1.1\r\nHost: mail.example.org\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = String::new();
    let _ = within(stream.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let other = knock(&rig, pinned, "other.example.org").await;
    assert!(other.unwrap_err().to_string().contains("UnrecognisedName"));
    // Without a given certificate nobody else gets in.
    let mut config = (*tls::device_mailbox(rig.hub.identity().pin()).unwrap()).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let browser = knock(&rig, Arc::new(config), "mail.example.org").await;
    assert!(browser.unwrap_err().to_string().contains("NoApplicationProtocol"));
    // One name, one place.
    let mut config = rig.config.clone();
    config.publish = vec![publish("acme", &["mail.example.org"])];
    let refused = rig.hub.reload(config).await.unwrap_err().to_string();
    assert!(refused.contains("published by a domain, too"), "{refused}");
}
