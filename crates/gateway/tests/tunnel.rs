//! Calls through a real hub, both ways, by HTTP and TCP; several gateways; faults told apart.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::*;
use hawser_gateway::admin;

#[tokio::test(flavor = "multi_thread")]
async fn requests_go_both_ways_and_faults_are_told_apart() {
    let world = World::new(&[("acme", "beta"), ("beta", "acme")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let (orders, stock) = (Origin::new("orders").await, Origin::new("stock").await);
    let a = gateway(&a, &export_http("orders", orders.address, "beta"), DAY).await;
    let b = gateway(&b, &export_http("stock", stock.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 1).await;
    sees(&b, "orders.acme", 1).await;
    assert_eq!(get(&a, "stock.beta").await.unwrap(), "stock");
    assert_eq!(get(&b, "orders.acme").await.unwrap(), "orders");
    assert_eq!(
        text(call(&a, "stock.beta", Some("!")).await.unwrap())
            .await
            .unwrap(),
        "stock!"
    );
    let big = "x".repeat(3 << 20);
    assert_eq!(
        text(call(&a, "stock.beta", Some(&big)).await.unwrap())
            .await
            .unwrap()
            .len(),
        big.len() + 5
    );

    assert!(
        get(&a, "none.beta")
            .await
            .unwrap_err()
            .contains("no service none.beta")
    );
    assert!(get(&a, "none.gamma").await.unwrap_err().contains("domain gamma"));
    let status = a.status();
    assert_eq!(status.links.hubs.len(), 1);
    assert!(status.links.hubs[0].state.connected && a.is_ready());
    assert!(
        status
            .links
            .peers
            .iter()
            .any(|p| p.gateway.to_string() == "spiffe://beta/gateway/gw1")
    );
    assert!(serde_json::to_string(&status).unwrap().contains("certificate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_share_few_sessions() {
    let world = World::new(&[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let stock = Origin::slow("stock", Duration::from_millis(20)).await;
    let a = std::sync::Arc::new(gateway(&a, "", DAY).await);
    let _b = gateway(&b, &export_http("stock", stock.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let a = a.clone();
        calls.spawn(async move { get(&a, "stock.beta").await });
    }
    while let Some(done) = calls.join_next().await {
        assert_eq!(done.unwrap().unwrap(), "stock");
    }
    let sessions = a.status().links.peers[0].sessions;
    assert!((1..=8).contains(&sessions), "{sessions} sessions");
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_connections_come_whole_and_half_closed() {
    let world = World::new(&[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let import = "[[import]]\nservice = \"echo.beta\"\nlisten = \"127.0.0.1:0\"\n";
    let a = gateway(&a, import, DAY).await;
    let _b = gateway(&b, &export_tcp("echo", echo().await, "acme"), DAY).await;
    sees(&a, "echo.beta", 1).await;
    let import = a.front().import_addrs(&"echo.beta".parse().unwrap())[0];
    let long = "long ".repeat(100_000);
    for said in ["first", "second", long.as_str()] {
        assert_eq!(within(echoed(import, said)).await.unwrap(), said);
    }
    eventually(|| a.status().links.peers.iter().any(|p| p.warm > 0)).await;
    let warm = within(echoed(import, "warm")).await.unwrap();
    assert_eq!(warm, "warm");
    eventually(|| a.status().links.peers.iter().all(|p| p.in_flight == 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_joins_and_takes_its_share_and_all_when_the_first_dies() {
    let world = World::new(&[("acme", "beta"), ("beta", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b1 = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b1).await;
    let (one, two) = (Origin::new("one").await, Origin::new("two").await);
    let a = gateway(&a, "", DAY).await;
    let first = gateway(&b1, &export_http("stock", one.address, "acme"), DAY).await;
    let b2 = within(world.join(&b1, "gw2")).await;
    admin::accept_peer(&b2, &admin::peer_token(&world.state("acme-gw1")).unwrap())
        .await
        .unwrap();
    let _second = gateway(&b2, &export_http("stock", two.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 2).await;
    for _ in 0..100 {
        get(&a, "stock.beta").await.unwrap();
    }
    assert!(
        one.count() >= 20 && two.count() >= 20,
        "{} and {}",
        one.count(),
        two.count()
    );

    // Without a goodbye.
    drop(first);
    let before = two.count();
    for _ in 0..50 {
        get(&a, "stock.beta").await.unwrap();
    }
    assert_eq!(two.count() - before, 50);
    sees(&a, "stock.beta", 1).await;

    let summary = admin::summary(&b1).await.unwrap();
    assert_eq!(summary.issued.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_gateway_and_a_name_for_one() {
    let world = World::new(&[("beta", "beta")]).await;
    let b = world.domain("beta", "gw1", DAY).await;
    let _gateway = gateway(&b, "", DAY).await;
    within(world.join(&b, "gw2")).await;
    let ways = hawser_session::carrier::Ways::default();
    let token = admin::make_join_token(&b, hawser_identity::Joins::Gateway, Duration::from_secs(60))
        .await
        .unwrap();
    let fresh = world.state("fresh");
    let gw2 = "gw2".parse().unwrap();
    let taken = within(async {
        loop {
            match admin::join_with_token(&fresh, &gw2, &token, &ways)
                .await
                .unwrap_err()
            {
                admin::AdminError::Refused(fault) => return fault,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    assert_eq!(taken.code, "name-taken");
    admin::join_with_token(&fresh, &"gw3".parse().unwrap(), &token, &ways)
        .await
        .unwrap();
    let (again, gw4) = (world.state("again"), "gw4".parse().unwrap());
    let again = admin::join_with_token(&again, &gw4, &token, &ways).await;
    assert!(again.is_err(), "the token is spent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_comes_back_finds_its_gateways_again() {
    let mut world = World::new(&[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let stock = Origin::new("stock").await;
    let a = gateway(&a, "", DAY).await;
    let b = gateway(&b, &export_http("stock", stock.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 1).await;
    assert_eq!(get(&a, "stock.beta").await.unwrap(), "stock");
    world.restart_hub().await;
    eventually(|| a.is_ready() && b.is_ready()).await;
    within(async {
        while get(&a, "stock.beta").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_gateway_ends_what_is_under_way_and_loses_nothing() {
    let world = World::new(&[("acme", "beta"), ("beta", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b1 = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b1).await;
    let origin = Origin::slow("stock", Duration::from_millis(30)).await;
    let a = std::sync::Arc::new(gateway(&a, "", DAY).await);
    let first = gateway(&b1, &export_http("stock", origin.address, "acme"), DAY).await;
    let b2 = within(world.join(&b1, "gw2")).await;
    admin::accept_peer(&b2, &admin::peer_token(&world.state("acme-gw1")).unwrap())
        .await
        .unwrap();
    let _second = gateway(&b2, &export_http("stock", origin.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 2).await;
    let load = tokio::spawn({
        let a = a.clone();
        async move {
            let until = std::time::Instant::now() + Duration::from_secs(3);
            let mut done = 0;
            // A machine that stood still makes it longer.
            while std::time::Instant::now() < until || done <= 50 {
                let calls = (0..8).map(|_| call(&a, "stock.beta", Some("!")));
                for answer in futures_util::future::join_all(calls).await {
                    assert_eq!(text(answer.unwrap()).await.unwrap(), "stock!");
                    done += 1;
                }
            }
            done
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    within(first.drain(Duration::from_secs(10))).await;
    drop(first);
    assert!(load.await.unwrap() > 50);
    sees(&a, "stock.beta", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hub_carries_on_when_the_first_dies() {
    let world = World::new(&[("acme", "beta")]).await;
    let (other, config) = hub(&world.dir.path().join("other"), &[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let stock = Origin::new("stock").await;
    let ga = gateway(&a, "", DAY).await;
    let _gb = gateway(&b, &export_http("stock", stock.address, "acme"), DAY).await;
    sees(&ga, "stock.beta", 1).await;
    assert_eq!(get(&ga, "stock.beta").await.unwrap(), "stock");
    // Joined while the gateways run: the store tells them.
    let address = config.public.parse().unwrap();
    for (dir, domain) in [(&a, "acme"), (&b, "beta")] {
        join_hub(&world.dir.path().join("other"), &address, dir, domain).await;
    }
    eventually(|| {
        ga.services()
            .iter()
            .any(|s| s.gateways.iter().any(|g| g.hubs.len() == 2))
    })
    .await;
    let World { hub, dir, .. } = world;
    drop(hub);
    for _ in 0..20 {
        assert_eq!(get(&ga, "stock.beta").await.unwrap(), "stock");
    }
    drop((other, dir));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_a_good_one_takes_effect() {
    let world = World::new(&[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let stock = Origin::new("stock").await;
    let a = gateway(&a, "", DAY).await;
    let gb = gateway(&b, &export_http("stock", stock.address, "acme"), DAY).await;
    sees(&a, "stock.beta", 1).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = format!("[proxy]\nlisten = [\"{}\"]\n", taken.local_addr().unwrap());
    let mut config: hawser_gateway::config::GatewayConfig = toml::from_str(&busy).unwrap();
    config.state = b.clone();
    let error = gb.reload(&config).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen"), "{error}");
    assert_eq!(get(&a, "stock.beta").await.unwrap(), "stock");
    let renamed = export_http("goods", stock.address, "acme");
    let mut config: hawser_gateway::config::GatewayConfig = toml::from_str(&renamed).unwrap();
    config.state = b.clone();
    gb.reload(&config).await.unwrap();
    sees(&a, "goods.beta", 1).await;
    assert_eq!(get(&a, "goods.beta").await.unwrap(), "stock");
    assert!(get(&a, "stock.beta").await.unwrap_err().contains("no service"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_of_an_unknown_service_is_closed_not_hung() {
    let world = World::new(&[("acme", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let import = "[[import]]\nservice = \"db.beta\"\nlisten = \"127.0.0.1:0\"\nprotocol = \"tcp\"\n";
    let a = gateway(&a, import, DAY).await;
    eventually(|| a.is_ready()).await;
    let import = a.front().import_addrs(&"db.beta".parse().unwrap())[0];
    let refused = within(echoed(import, "anybody?")).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionReset);
}
