//! Hosts: they join through a gateway, keep their identity fresh, and ask the hub's register who may run a machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use hawser_gateway::{AskError, Gateway, Node, NodeSettings, admin};
use hawser_identity::Joins;
use hawser_proto::{
    Role,
    arbiter::{Answer, Ask, Award, Denial, Record, SessionId, VmId},
};
use hawser_session::carrier::Ways;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const VM: VmId = VmId([0x42; 16]);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn start(dir: &Path) -> Node {
    let settings = NodeSettings {
        dir: dir.to_owned(),
        ways: Ways::default(),
        software: "test host".into(),
        register: None,
    };
    let node = Node::start(settings, &mut Registry::default()).await.unwrap();
    eventually(|| node.is_ready()).await;
    node
}

fn alone(name: &str) -> Award {
    Award::Alone {
        host: name.parse().unwrap(),
    }
}

fn protected(active: &str, standby: &str) -> Award {
    Award::Protected {
        active: active.parse().unwrap(),
        standby: standby.parse().unwrap(),
        session: SessionId([9; 16]),
    }
}

async fn read(node: &Node) -> Option<Record> {
    match node.register().ask(Ask::Read { vm: VM }).await.unwrap() {
        Answer::Is(record) => record,
        other => panic!("{other:?}"),
    }
}

async fn change(node: &Node, from_term: u64, to: Award) -> Result<Answer, AskError> {
    node.register()
        .ask(Ask::Change {
            vm: VM,
            from_term,
            to,
        })
        .await
}

fn term(answer: Result<Answer, AskError>) -> u64 {
    match answer.unwrap() {
        Answer::Changed(record) => record.term,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_hand_a_machine_over_and_a_restarted_hub_knows_it() {
    let mut world = World::new(&[]).await;
    let dir = world.domain("acme", "gw1", DAY).await;
    let _gateway = gateway(&dir, "", DAY).await;
    let (d1, d2) = (
        world.join_as(&dir, "h1", Joins::Host).await,
        world.join_as(&dir, "h2", Joins::Host).await,
    );
    let (h1, h2) = (start(&d1).await, start(&d2).await);
    assert_eq!(h1.id().to_string(), "spiffe://acme/host/h1");
    assert_eq!(h1.register().hub().unwrap(), h2.register().hub().unwrap());
    assert_eq!(read(&h1).await, None);
    assert_eq!(term(change(&h1, 0, alone("h1")).await), 1);
    assert_eq!(term(change(&h1, 1, protected("h1", "h2")).await), 2);
    assert_eq!(term(change(&h2, 2, alone("h2")).await), 3);
    // The isolated active comes back, and has lost.
    let now = read(&h2).await.unwrap();
    assert_eq!(
        change(&h1, 2, alone("h1")).await,
        Ok(Answer::Lost(Some(now.clone())))
    );
    assert_eq!(
        change(&h1, 3, alone("h1")).await,
        Ok(Answer::Denied(Denial::Stranger))
    );
    // The winner asks again, as after a lost answer.
    assert_eq!(term(change(&h2, 2, alone("h2")).await), 3);

    world.restart_hub().await;
    let known = within(async {
        loop {
            if let Ok(Answer::Is(record)) = h1.register().ask(Ask::Read { vm: VM }).await {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(known, Some(now));
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_takes_one_round_trip() {
    let world = World::new(&[]).await;
    let dir = world.domain("acme", "gw1", DAY).await;
    let _gateway = gateway(&dir, "", DAY).await;
    let h1 = start(&world.join_as(&dir, "h1", Joins::Host).await).await;
    let (mut reads, mut changes) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let begin = Instant::now();
        read(&h1).await;
        reads.push(begin.elapsed());
        let to = match n % 2 {
            0 => alone("h1"),
            _ => protected("h1", "h2"),
        };
        let begin = Instant::now();
        assert_eq!(term(change(&h1, n, to).await), n + 1);
        changes.push(begin.elapsed());
    }
    for (what, times) in [("read", &mut reads), ("change, on disk", &mut changes)] {
        times.sort();
        eprintln!("{what}: p50 {:?}, p99 {:?}", times[50], times[98]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_renews_and_learns_of_revocations_and_a_revoked_one_is_out() {
    let life = Duration::from_secs(12);
    let world = World::new(&[]).await;
    let dir = world.domain("acme", "gw1", life).await;
    let _gateway = gateway(&dir, "", life).await;
    let d1 = world.join_as(&dir, "h1", Joins::Host).await;
    let d2 = world.join_as(&dir, "h2", Joins::Host).await;
    let (h1, h2) = (start(&d1).await, start(&d2).await);
    let first = h1.credentials().load().not_after();
    eventually(|| h1.credentials().load().not_after() > first).await;
    assert_eq!(term(change(&h2, 0, alone("h2")).await), 1);

    let mut trust = h1.trust_changes();
    trust.mark_unchanged();
    let revoked = admin::revoke(&dir, Role::Host, &"h2".parse().unwrap())
        .await
        .unwrap();
    within(async {
        while !h1.trust().load().is_revoked(&revoked) {
            trust.changed().await.unwrap();
        }
    })
    .await;
    eventually(|| !h2.is_ready()).await;
    assert!(matches!(
        change(&h2, 1, protected("h2", "h1")).await,
        Err(AskError::Unsent(_))
    ));
    eventually(|| h1.is_ready()).await;
    assert_eq!(read(&h1).await.map(|r| r.term), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_no_gateway_and_a_gateway_no_host() {
    let world = World::new(&[("acme", "acme")]).await;
    let dir = world.domain("acme", "gw1", DAY).await;
    let running = gateway(&dir, "", DAY).await;
    let host = world.join_as(&dir, "h1", Joins::Host).await;
    let settings = NodeSettings {
        dir: dir.clone(),
        ways: Ways::default(),
        software: "test host".into(),
        register: None,
    };
    let refused = Node::start(settings, &mut Registry::default())
        .await
        .err()
        .unwrap();
    assert!(refused.to_string().contains("hawser token host"), "{refused}");
    let config = toml::from_str(&format!("state = {:?}", host)).unwrap();
    let refused = Gateway::start(&config, "test", &mut Registry::default()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("hawser token gateway"), "{refused}");
    // A name is given out once for each of the two.
    let summary = admin::summary(&dir).await.unwrap();
    assert!(
        summary
            .issued
            .iter()
            .any(|(name, by)| name == "host/h1" && by == "gw1")
    );
    drop(running);
}

/// What a [`Wire`] does with the bytes that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    All,
    /// Nothing towards the host.
    Up,
    /// Nothing towards the hub.
    Down,
    /// Every connection is dead, and none is made.
    Nothing,
}

/// A wire between hosts and hub that loses what the test says.
struct Wire {
    at: SocketAddr,
    passes: watch::Sender<Passes>,
}

impl Wire {
    async fn to(hub: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (passes, seen) = watch::channel(Passes::All);
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *seen.borrow() == Passes::Nothing {
                    continue;
                }
                let Ok(far) = TcpStream::connect(hub).await else {
                    continue;
                };
                let seen = seen.clone();
                tokio::spawn(async move {
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    let mut dead = seen.clone();
                    tokio::select! {
                        () = carry(near_in, far_out, seen.clone(), Passes::Down) => {}
                        () = carry(far_in, near_out, seen, Passes::Up) => {}
                        _ = dead.wait_for(|p| *p == Passes::Nothing) => {}
                    }
                });
            }
        });
        Self { at, passes }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    seen: watch::Receiver<Passes>,
    loses: Passes,
) {
    let mut buffer = vec![0; 16384];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let lost = *seen.borrow() == loses;
        if !lost && to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_answer_was_lost_is_unknown_and_made_once() {
    let world = World::new(&[]).await;
    let hub = world.address.to_string().parse().unwrap();
    let wire = Wire::to(hub).await;
    let dir = world.state("acme-gw1");
    let new = admin::NewDomain {
        domain: "acme".parse().unwrap(),
        gateway: "gw1".parse().unwrap(),
        given: admin::Given::Nothing,
        life: DAY,
    };
    admin::init_domain(&dir, &new).await.unwrap();
    let address = wire.at.to_string().parse().unwrap();
    join_hub(&world.state("hub"), &address, &dir, "acme").await;
    let _gateway = gateway(&dir, "", DAY).await;
    let h1 = Arc::new(start(&world.join_as(&dir, "h1", Joins::Host).await).await);
    assert_eq!(read(&h1).await, None);

    // (What is lost, the term before, what is asked, whether it was made at once)
    let cases = [
        (Passes::Up, 0, alone("h1"), true),
        (Passes::Down, 1, protected("h1", "h2"), false),
    ];
    for (passes, from, to, made) in cases {
        wire.passes.send_replace(passes);
        let asking = {
            let (h1, to) = (h1.clone(), to.clone());
            tokio::spawn(async move { change(&h1, from, to).await })
        };
        let lost = within(asking).await.unwrap();
        assert!(matches!(lost, Err(AskError::Unknown(_))), "{lost:?}");
        let machines = hawser_hub::registered(&hawser_store::Store::open(&world.state("hub")).unwrap())
            .await
            .unwrap();
        let held = machines.first().map_or(0, |m| m.record.term);
        assert_eq!(held, if made { from + 1 } else { from });
        wire.passes.send_replace(Passes::Nothing);
        eventually(|| !h1.is_ready()).await;
        let unsent = change(&h1, from, to.clone()).await;
        assert!(matches!(unsent, Err(AskError::Unsent(_))), "{unsent:?}");
        wire.passes.send_replace(Passes::All);
        eventually(|| h1.is_ready()).await;
        assert_eq!(term(change(&h1, from, to).await), from + 1);
        assert_eq!(read(&h1).await.unwrap().term, from + 1);
    }
}
