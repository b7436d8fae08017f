//! Silent, slow and talkative strangers have no effect on others.

use std::time::{Duration, Instant};

use hawser_hub::Limits;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::rig::{Rig, alive, pair, until, within};

async fn stranger(rig: &Rig) -> TcpStream {
    TcpStream::connect(rig.hub.local_addrs()[0]).await.unwrap()
}

#[tokio::test]
async fn silent_connections_do_not_stop_others() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut silent = Vec::new();
    for i in 0..200 {
        let mut s = stranger(&rig).await;
        // Some say nothing, some a little of a ClientHello, some nonsense that is cut off.
        match i % 3 {
            0 => {}
            1 => s.write_all(&[22, 3, 1, 2, 0, 1, 0]).await.unwrap(),
            _ => s.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
        }
        silent.push(s);
    }
    let begin = Instant::now();
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    alive(&mut left, &mut right).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    assert!(rig.hub.status().unproved >= 130, "the silent are still there");
}

#[tokio::test]
async fn strangers_are_capped_and_places_come_back() {
    let limits = Limits {
        unproved_per_source: 8,
        // All of them are to come before the first has to go.
        handshake: Duration::from_secs(8),
        ..Limits::default()
    };
    let rig = Rig::with(Vec::new(), limits).await;
    let acme = rig.domain("acme").await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(stranger(&rig).await);
    }
    until("the door is full", || rig.hub.status().unproved == 8).await;
    let mut one = [0; 1];
    let mut more = stranger(&rig).await;
    let turned_away = within(more.read(&mut one)).await;
    assert!(matches!(turned_away, Ok(0) | Err(_)));
    assert!(rig.metric("hub_unproved_turned_away_total{bound=\"source\"} ") >= 1);
    // The silent are let go by time, and their places are free again.
    for mut s in silent {
        assert!(matches!(within(s.read(&mut one)).await, Ok(0) | Err(_)));
    }
    until("the door is empty", || rig.hub.status().unproved == 0).await;
    rig.gateway(&acme, "a1", &[]).await;
    assert_eq!(rig.metric("hub_handshakes_total{result=\"timeout\"} "), 8);
}

#[tokio::test]
async fn who_has_proved_itself_does_not_stand_in_the_door() {
    let limits = Limits {
        unproved_per_source: 1,
        ..Limits::default()
    };
    let rig = Rig::with(Vec::new(), limits).await;
    let acme = rig.domain("acme").await;
    let mut gateways = Vec::new();
    for name in ["a1", "a2", "a3"] {
        until("the door is empty", || rig.hub.status().unproved == 0).await;
        gateways.push(rig.gateway(&acme, name, &[]).await);
    }
    assert_eq!(rig.hub.status().gateways.len(), 3);
}
