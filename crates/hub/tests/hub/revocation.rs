//! Whoever is revoked is cut at once, wherever it is, and stays out.

use std::time::{Duration, Instant};

use hawser_hub::{Subject, forget, revoke};
use hawser_proto::{
    NodeId, Role,
    control::{ToGateway, ToHub},
};
use hawser_session::hop::HopError;

use crate::rig::{Gateway, Rig, alive, dead, pair, until, within};

/// A second, and slack for a busy machine; less than after which a silent connection is given up.
const SOON: Duration = Duration::from_secs(12);

async fn refused(rig: &Rig, gateway: &Gateway) {
    let again = Gateway::connect(gateway.hop.clone(), gateway.id.clone()).await;
    assert!(
        matches!(
            again,
            Err(HopError::Tls { .. } | HopError::Io { .. } | HopError::Identity { .. })
        ),
        "a revoked gateway got in again"
    );
    assert!(rig.hub.status().gateways.iter().all(|g| g.id != gateway.id));
}

#[tokio::test]
async fn a_domains_list_cuts_the_revoked_and_goes_to_whom_it_concerns() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let gamma = rig.domain("gamma").await;
    let mut bad = rig.gateway(&acme, "a1", &[]).await;
    let mut good = rig.gateway(&acme, "a2", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let mut c = rig.gateway(&gamma, "c1", &[]).await;
    let (mut left, mut right) = pair(&mut bad, &mut b).await;
    let (mut other_left, mut other_right) = pair(&mut good, &mut b).await;
    alive(&mut left, &mut right).await;

    let begin = Instant::now();
    let list = acme.signed(1, &["a1"]);
    good.send(ToHub::Revocations(list.clone())).await;
    dead(&mut right).await;
    dead(&mut left).await;
    bad.closed().await;
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    refused(&rig, &bad).await;
    alive(&mut other_left, &mut other_right).await;
    assert_eq!(b.revocations().await, list);
    assert_eq!(rig.metric("hub_relays_ended_total{reason=\"revoked\"} "), 1);

    // Who connects later learns of it, too; who has nothing to do with the domain does not.
    let mut later = rig.connect(&beta, "b2").await;
    assert_eq!(later.revocations().await, list);
    c.register(&[]).await;
    assert_eq!(c.heard(|m| matches!(m, ToGateway::Revocations(_))), 0);
}

#[tokio::test]
async fn a_domain_revokes_only_its_own_and_a_forged_list_is_refused() {
    let rig = Rig::new(&[("acme", "beta"), ("beta", "acme")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    b.send(ToHub::Revocations(acme.signed(1, &["a1"]))).await;
    b.closed().await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let mut forged = beta.signed(1, &["b2"]);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    b.send(ToHub::Revocations(forged)).await;
    b.closed().await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    // An older list than the one known changes nothing, and is no offence.
    for (number, names) in [(5, &["b7"][..]), (4, &["b1"][..])] {
        b.send(ToHub::Revocations(beta.signed(number, names))).await;
    }
    b.register(&[]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    alive(&mut left, &mut right).await;
}

#[tokio::test]
async fn with_an_issuer_everything_that_it_signed_is_cut() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    let issuer = NodeId {
        domain: acme.name.clone(),
        role: Role::Issuer,
        name: "i1".parse().unwrap(),
    };
    let list = acme.list(1, vec![issuer]);
    let list = acme.root.sign_revocations(&list).unwrap().to_bytes().unwrap();
    a.send(ToHub::Revocations(list)).await;
    dead(&mut left).await;
    dead(&mut right).await;
    a.closed().await;
    refused(&rig, &a).await;
}

#[tokio::test]
async fn the_hubs_operator_bars_an_identity_or_a_domain() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a1 = rig.gateway(&acme, "a1", &[]).await;
    let mut a2 = rig.gateway(&acme, "a2", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let (mut left1, mut right1) = pair(&mut a1, &mut b).await;
    let (mut left2, mut right2) = pair(&mut a2, &mut b).await;

    let subject = Subject::Node(a1.id.clone());
    let begin = Instant::now();
    revoke(&rig.store, &subject).await.unwrap();
    dead(&mut left1).await;
    dead(&mut right1).await;
    a1.closed().await;
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    refused(&rig, &a1).await;
    alive(&mut left2, &mut right2).await;

    let domain: Subject = "domain:acme".parse().unwrap();
    let begin = Instant::now();
    revoke(&rig.store, &domain).await.unwrap();
    dead(&mut right2).await;
    a2.closed().await;
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    refused(&rig, &a2).await;

    // Over a restart, too; and lifted for the identity alone, it is still of a barred domain.
    let rig = rig.restart().await;
    let again = |name| Gateway::connect(rig.client(&acme.gateway(name)), acme.id(name));
    assert!(again("a1").await.is_err() && again("a2").await.is_err());
    assert!(forget(&rig.store, &subject).await.unwrap());
    assert!(again("a1").await.is_err());
    // A forgotten domain needs a new token, and then begins anew.
    assert!(forget(&rig.store, &domain).await.unwrap());
    assert!(!forget(&rig.store, &domain).await.unwrap());
    until("the hub has seen it", || rig.hub.status().domains.len() == 1).await;
    assert!(again("a1").await.is_err());
    rig.admit(&acme).await;
    within(again("a1")).await.unwrap();
}
