//! Control connections that end or are replaced, reload, and drain.

use std::time::{Duration, Instant};

use hawser_hub::HubError;
use hawser_proto::control::{DEAD_AFTER, PING_EVERY, RETIRE_AFTER, ToGateway};
use hawser_session::hop::HopError;
use tokio::net::TcpStream;

use crate::rig::{Gateway, Rig, alive, allow, dead, pair, until, within};

#[tokio::test]
async fn a_second_control_connection_replaces_the_first() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut first = rig.gateway(&beta, "b1", &["orders"]).await;
    a.sees(&["orders.beta"]).await;
    let begin = Instant::now();
    let mut second = rig.gateway(&beta, "b1", &["orders", "ledger"]).await;
    a.sees(&["ledger.beta", "orders.beta"]).await;
    assert_eq!(rig.hub.status().gateways.len(), 2);
    let (mut left, mut right) = pair(&mut a, &mut second).await;
    alive(&mut left, &mut right).await;
    // The first is still answered, and what it registers counts no more.
    first.register(&["stale"]).await;
    // One outlives the newest, not more.
    let third = rig.gateway(&beta, "b1", &["last"]).await;
    within(first.closed()).await;
    a.sees(&["last.beta"]).await;
    // The end of the first took nothing from the others.
    alive(&mut left, &mut right).await;
    // Whoever has replaced one takes it along.
    drop(third);
    within(second.closed()).await;
    a.sees(&[]).await;
    assert!(
        begin.elapsed() < RETIRE_AFTER,
        "their own time ended none of them"
    );
}

#[tokio::test]
async fn a_gateway_that_registers_all_the_time_costs_others_little() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &["orders"]).await;
    a.sees(&["orders.beta"]).await;
    let (begin, before) = (Instant::now(), a.routes);
    for _ in 0..100 {
        b.register(&[]).await;
        b.register(&["orders"]).await;
    }
    b.register(&["last"]).await;
    a.sees(&["last.beta"]).await;
    let most = begin.elapsed().as_millis() as u64 / 100 + 2;
    let told = a.routes - before;
    assert!(told <= most, "told {told} times, at most {most} was expected");
}

#[tokio::test]
async fn a_gateway_that_falls_silent_is_taken_for_dead() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let begin = Instant::now();
    // Its connection stays open, and it answers no ping; the other answers its own while it waits.
    let silent = rig.gateway(&beta, "b1", &["orders"]).await;
    a.sees(&["orders.beta"]).await;
    a.sees(&[]).await;
    let after = begin.elapsed();
    assert!(
        DEAD_AFTER <= after && after < DEAD_AFTER + 2 * PING_EVERY,
        "{after:?}"
    );
    a.register(&[]).await;
    drop(silent);
}

#[tokio::test]
async fn a_control_connection_ends_with_its_certificate() {
    let rig = Rig::new(&[]).await;
    let acme = rig.domain("acme").await;
    let own = acme.gateway_for("a1", Duration::from_secs(8));
    let mut a = Gateway::connect(rig.client(&own), acme.id("a1")).await.unwrap();
    a.register(&[]).await;
    let begin = Instant::now();
    a.closed().await;
    assert!(begin.elapsed() < Duration::from_secs(25));
    until("it is gone", || rig.hub.status().gateways.is_empty()).await;
    assert!(Gateway::connect(a.hop.clone(), a.id.clone()).await.is_err());
}

#[tokio::test]
async fn a_reload_changes_policy_and_listeners_and_a_bad_one_nothing() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &["crm"]).await;
    let mut b = rig.gateway(&beta, "b1", &["orders"]).await;
    a.sees(&["orders.beta"]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    let before = rig.hub.local_addrs();

    // Bad ones: a rule that means nothing, an address in use, another state directory.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut bad = rig.config.clone();
    bad.allow.clear();
    bad.listen.push(taken.local_addr().unwrap().to_string());
    assert!(matches!(
        rig.hub.reload(bad.clone()).await,
        Err(HubError::Listen { .. })
    ));
    bad.listen.pop();
    bad.allow = allow(&[("acme", "*")]);
    assert!(matches!(
        rig.hub.reload(bad.clone()).await,
        Err(HubError::Config(_))
    ));
    bad.allow.clear();
    bad.state = "/elsewhere".into();
    assert!(matches!(
        rig.hub.reload(bad).await,
        Err(HubError::NeedsRestart("state"))
    ));
    alive(&mut left, &mut right).await;
    assert_eq!(rig.hub.local_addrs(), before);

    // The rule is turned round, and there is one more address.
    let mut good = rig.config.clone();
    good.allow = allow(&[("beta", "acme")]);
    good.listen.push("127.0.0.2:0".into());
    rig.hub.reload(good.clone()).await.unwrap();
    dead(&mut left).await;
    dead(&mut right).await;
    a.sees(&[]).await;
    b.sees(&["crm.acme"]).await;
    assert_eq!(rig.metric("hub_relays_ended_total{reason=\"policy\"} "), 1);
    let (mut left, mut right) = pair(&mut b, &mut a).await;
    let now = rig.hub.local_addrs();
    assert_eq!((now.len(), now[0]), (2, before[0]));
    TcpStream::connect(now[1]).await.unwrap();

    // Without the first address: its listener closes, what runs stays.
    good.listen.remove(0);
    rig.hub.reload(good).await.unwrap();
    assert_eq!(rig.hub.local_addrs(), now[1..]);
    until("the old address is closed", || {
        std::net::TcpStream::connect(before[0]).is_err()
    })
    .await;
    alive(&mut left, &mut right).await;
}

#[tokio::test]
async fn a_drain_waits_for_sessions_and_then_cuts_them() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &["orders"]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    // Long enough for all that is looked at during the drain.
    let life = Duration::from_secs(8);
    let begin = Instant::now();
    let hub = &rig.hub;
    let ((), ()) = tokio::join!(hub.drain(life), async {
        a.find(|m| matches!(m, ToGateway::Draining).then_some(())).await;
        let refused = a.ask_for(&b.id).await.unwrap_err();
        assert_eq!(refused.code, "hub-draining");
        alive(&mut left, &mut right).await;
        until("it accepts no more", || hub.local_addrs().is_empty()).await;
        assert!(matches!(
            Gateway::connect(b.hop.clone(), b.id.clone()).await,
            Err(HopError::Dial(_) | HopError::Io { .. } | HopError::Tls { .. })
        ));
        dead(&mut left).await;
        dead(&mut right).await;
    });
    assert!(begin.elapsed() >= life);
    a.closed().await;
    assert!(matches!(
        hub.reload(rig.config.clone()).await,
        Err(HubError::Draining)
    ));
}

#[tokio::test]
async fn a_drain_ends_with_the_last_session() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let (left, right) = pair(&mut a, &mut b).await;
    // Granted before the drain, and taken up during it.
    let dialling = a.ask_for(&b.id).await.unwrap();
    let (accepting, _) = b.told().await;
    let begin = Instant::now();
    tokio::join!(rig.hub.drain(Duration::from_secs(60)), async {
        a.find(|m| matches!(m, ToGateway::Draining).then_some(())).await;
        let (mut c, mut d) = tokio::try_join!(
            a.hop.session(dialling, hawser_session::hop::Side::Dialling),
            b.hop.session(accepting, hawser_session::hop::Side::Accepting),
        )
        .unwrap();
        alive(&mut c, &mut d).await;
        drop((left, right, c, d));
    });
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
}
