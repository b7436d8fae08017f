//! What time and distrust do to live sessions: renewal without a lost request, revocation and the end of a peering at once.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::*;
use hawser_gateway::{Gateway, admin};
use hawser_proto::Role;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Short-lived certificates of both domains.
const LIFE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_twelve_seconds_renew_under_load_without_a_lost_request() {
    let world = World::new(&[("acme", "beta"), ("beta", "beta")]).await;
    let a = world.domain("acme", "gw1", LIFE).await;
    let b1 = world.domain("beta", "gw1", LIFE).await;
    peer(&a, &b1).await;
    let stock = Origin::slow("stock", Duration::from_millis(5)).await;
    let import = "[[import]]\nservice = \"echo.beta\"\nlisten = \"127.0.0.1:0\"\n";
    let a = Arc::new(gateway(&a, import, LIFE).await);
    // The exporting gateway is no issuer: it renews through the hub.
    let issuer = gateway(&b1, "", LIFE).await;
    let b2 = within(world.join(&b1, "gw2")).await;
    admin::accept_peer(&b2, &admin::peer_token(&world.state("acme-gw1")).unwrap())
        .await
        .unwrap();
    let exports = export_http("stock", stock.address, "acme") + &export_tcp("echo", echo().await, "acme");
    let b = gateway(&b2, &exports, LIFE).await;
    sees(&a, "stock.beta", 1).await;
    sees(&a, "echo.beta", 1).await;
    let import = a.front().import_addrs(&"echo.beta".parse().unwrap())[0];
    let ends = |g: &Gateway| g.status().links.certificate.ends.0;
    let (first_a, first_b) = (ends(&a), ends(&b));

    let until = Instant::now() + Duration::from_secs(20);
    let mut load = tokio::task::JoinSet::new();
    for n in 0..4 {
        let a = a.clone();
        load.spawn(async move {
            let mut done = 0;
            while Instant::now() < until {
                let said = text(call(&a, "stock.beta", Some("!")).await.unwrap())
                    .await
                    .unwrap();
                assert_eq!(said, "stock!");
                if n == 0 {
                    assert_eq!(echoed(import, "tcp").await.unwrap(), "tcp");
                }
                done += 1;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done
        });
    }
    let mut requests = 0;
    while let Some(done) = load.join_next().await {
        requests += done.unwrap();
    }
    assert!(requests > 100, "{requests} requests");
    assert!(
        ends(&a) >= first_a + 12 && ends(&b) >= first_b + 12,
        "each was renewed several times"
    );
    drop(issuer);
}

struct Pair {
    world: World,
    a: Gateway,
    b1: Gateway,
    b2: Gateway,
    import: std::net::SocketAddr,
    _stock: Origin,
}

/// acme calls beta's second gateway, which the first, the issuer, can revoke.
async fn pair() -> Pair {
    let world = World::new(&[("acme", "beta"), ("beta", "beta")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b1 = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b1).await;
    let import = "[[import]]\nservice = \"echo.beta\"\nlisten = \"127.0.0.1:0\"\n";
    let a = gateway(&a, import, DAY).await;
    let issuer = gateway(&b1, "", DAY).await;
    let b2 = within(world.join(&b1, "gw2")).await;
    admin::accept_peer(&b2, &admin::peer_token(&world.state("acme-gw1")).unwrap())
        .await
        .unwrap();
    let stock = Origin::new("stock").await;
    let exports = export_http("stock", stock.address, "acme") + &export_tcp("echo", echo().await, "acme");
    let b2 = gateway(&b2, &exports, DAY).await;
    sees(&a, "stock.beta", 1).await;
    sees(&a, "echo.beta", 1).await;
    let import = a.front().import_addrs(&"echo.beta".parse().unwrap())[0];
    Pair {
        world,
        a,
        b1: issuer,
        b2,
        import,
        _stock: stock,
    }
}

/// A connection that has carried something and stays open.
async fn held(import: std::net::SocketAddr) -> TcpStream {
    let mut held = TcpStream::connect(import).await.unwrap();
    held.write_all(b"x").await.unwrap();
    assert_eq!(held.read_u8().await.unwrap(), b'x');
    held
}

/// How long until the connection is reset (a clean end would hide that something was cut).
async fn cut_after(held: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let ended = within(held.read_u8()).await.unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_gateway_is_cut_off_within_seconds_and_stays_out() {
    let pair = pair().await;
    assert_eq!(get(&pair.a, "stock.beta").await.unwrap(), "stock");
    let mut held = held(pair.import).await;
    let name = "gw2".parse().unwrap();
    admin::revoke(&pair.world.state("beta-gw1"), Role::Gateway, &name)
        .await
        .unwrap();
    let cut = cut_after(&mut held).await;
    // 250 ms until the issuer sees it, and the way to acme; the rest is slack for a busy machine.
    assert!(cut < Duration::from_secs(12), "{cut:?}");
    within(async {
        while get(&pair.a, "stock.beta").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    eventually(|| !pair.b2.is_ready()).await;
    assert!(get(&pair.a, "stock.beta").await.is_err());
    drop(pair.b1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_peering_cuts_what_lives() {
    let pair = pair().await;
    assert_eq!(get(&pair.a, "stock.beta").await.unwrap(), "stock");
    let mut held = held(pair.import).await;
    admin::remove_peer(&pair.world.state("acme-gw1"), &"beta".parse().unwrap())
        .await
        .unwrap();
    let cut = cut_after(&mut held).await;
    assert!(cut < Duration::from_secs(12), "{cut:?}");
    let refused = get(&pair.a, "stock.beta").await.unwrap_err();
    assert!(
        refused.contains("not accepted") || refused.contains("did not prove"),
        "{refused}"
    );
}
