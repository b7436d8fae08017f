//! The gateway's connection with a hub's mailbox, against one that does what a test tells it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use common::*;
use futures_util::future::join_all;
use hawser_gateway::links::mailbox::{LinkError, MailboxEvent, MailboxLink, Reply, Request, What};
use hawser_identity::{HubIdentity, Trust, read_certificates, tls};
use hawser_proto::{
    VERSION,
    broker::{
        DeviceHandle,
        mailbox::{FetchAnswer, FromMailbox, Outcome, ToMailbox},
    },
};
use hawser_session::hop::{Arrival, ControlReceiver, ControlSender, HopServer};
use tokio::{net::TcpListener, sync::mpsc};

const DEVICE: DeviceHandle = DeviceHandle([7; 16]);

/// One connection, as the mailbox sees it.
struct Mailbox {
    sender: ControlSender<FromMailbox>,
    receiver: ControlReceiver<ToMailbox>,
}

impl Mailbox {
    async fn say(&mut self, message: FromMailbox) {
        within(self.sender.send(&message)).await.unwrap();
    }

    /// The next message that is no ping.
    async fn hear(&mut self) -> ToMailbox {
        loop {
            match within(self.receiver.recv()).await.unwrap() {
                ToMailbox::Ping(n) => self.say(FromMailbox::Pong(n)).await,
                other => return other,
            }
        }
    }

    async fn done(&mut self, id: u64) {
        let outcome = Outcome::Kept;
        self.say(FromMailbox::Done { id, outcome }).await;
    }
}

/// Connections of gateways with the mailbox, one after the other. Everything else is turned away.
async fn mailboxes(listener: TcpListener, server: HopServer, out: mpsc::Sender<Mailbox>) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (server, out) = (server.clone(), out.clone());
        tokio::spawn(async move {
            if let Ok(Arrival::Mailbox {
                version,
                sender,
                receiver,
                ..
            }) = server.accept(tcp, &()).await
            {
                assert_eq!(version, VERSION);
                let mut mailbox = Mailbox { sender, receiver };
                mailbox
                    .say(FromMailbox::Welcome {
                        version: VERSION,
                        url: "https://mail.example".into(),
                    })
                    .await;
                out.send(mailbox).await.unwrap();
            }
        });
    }
}

async fn next(events: &mut mpsc::Receiver<MailboxEvent>) -> (Arc<dyn MailboxLink>, What) {
    let MailboxEvent { link, what } = within(events.recv()).await.unwrap();
    (link, what)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_events_and_another_connection_after_a_lost_one() {
    let World {
        dir: world_dir,
        hub,
        address,
        ..
    } = {
        let world = World::new(&[]).await;
        world.domain("acme", "gw1", DAY).await;
        world
    };
    drop(hub);
    let identity = HubIdentity::load_or_create(&world_dir.path().join("hub")).unwrap();
    let state = world_dir.path().join("acme-gw1");
    let chain = read_certificates(&state.join("node.crt"), "the gateway's chain").unwrap();
    let mut trust = Trust::new();
    trust
        .add_root(&"acme".parse().unwrap(), chain[2].clone())
        .unwrap();
    let trust = Arc::new(ArcSwap::from_pointee(trust));
    let listener = loop {
        match TcpListener::bind(address.to_string()).await {
            Ok(listener) => break listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let server = HopServer::new(
        tls::hub_hop(&identity, trust.clone()).unwrap(),
        tls::hub_join(&identity).unwrap(),
        trust,
    );
    let (out, mut connections) = mpsc::channel(4);
    tokio::spawn(mailboxes(listener, server, out));

    let gateway = gateway(&state, "", DAY).await;
    let mut events = gateway.mailboxes();
    let mut mailbox = within(connections.recv()).await.unwrap();
    let (link, what) = next(&mut events).await;
    assert_eq!(what, What::Up);
    assert_eq!((link.url(), link.pin()), ("https://mail.example", identity.pin()));
    assert_eq!(link.hub(), address.to_string());

    // Many at once go out in the order in which they were asked; answers come in any.
    const MANY: u8 = 200;
    let asked = join_all((0..MANY).map(|n| {
        let envelope = vec![n; 100_000];
        link.request(Request::Deposit { envelope })
    }));
    let (outcomes, ()) = tokio::join!(asked, async {
        let mut ids = Vec::new();
        for n in 0..MANY {
            match mailbox.hear().await {
                ToMailbox::Deposit { id, envelope } => {
                    assert_eq!(envelope[0], n);
                    ids.push(id);
                }
                other => panic!("{other:?}"),
            }
        }
        for id in ids.into_iter().rev() {
            mailbox.done(id).await;
        }
    });
    assert!(outcomes.iter().all(|o| *o == Ok(Outcome::Kept)));
    let envelope = vec![0; 300 * 1024];
    assert!(matches!(
        link.request(Request::Deposit { envelope }).await,
        Err(LinkError::TooLong(_))
    ));

    // A device asks, and is answered on the same connection.
    mailbox
        .say(FromMailbox::Fetch {
            id: 4,
            device: DEVICE,
            request: vec![1, 2],
        })
        .await;
    let (asked_on, what) = next(&mut events).await;
    assert_eq!(
        what,
        What::Fetch {
            id: 4,
            device: DEVICE,
            request: vec![1, 2]
        }
    );
    let answer = FetchAnswer::Granted {
        grant: [3; 16],
        size: 5,
    };
    let reply = Reply::Fetched {
        id: 4,
        answer: answer.clone(),
    };
    asked_on.reply(reply).await.unwrap();
    assert_eq!(mailbox.hear().await, ToMailbox::Fetched { id: 4, answer });

    // The connection is lost with a request under way.
    let (lost, ()) = tokio::join!(link.request(Request::Revoke { device: DEVICE }), async {
        assert!(matches!(mailbox.hear().await, ToMailbox::Revoke { .. }));
        drop(mailbox);
    });
    assert!(matches!(lost, Err(LinkError::Ended(_))));
    assert!(matches!(next(&mut events).await.1, What::Down(_)) && !link.is_up());
    let again = link.request(Request::Revoke { device: DEVICE }).await;
    assert!(matches!(again, Err(LinkError::Ended(_))));

    let mut mailbox = within(connections.recv()).await.unwrap();
    let (link, what) = next(&mut events).await;
    assert_eq!(what, What::Up);
    let (outcome, ()) = tokio::join!(link.request(Request::Revoke { device: DEVICE }), async {
        match mailbox.hear().await {
            ToMailbox::Revoke { id, .. } => mailbox.done(id).await,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(outcome, Ok(Outcome::Kept));
    // Nobody listens any more.
    drop(events);
    while within(mailbox.receiver.recv()).await.is_ok() {}
}
