//! Registration, policy, tickets and pairing.

use std::time::Instant;

use hawser_proto::{
    Place,
    control::{JoinOffer, Target},
    hop::TICKET_LIFE,
};
use hawser_session::{
    carrier::Ways,
    hop::{Side, join_pair},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{LONG, Rig, alive, dead, fault, pair, until, within};

#[tokio::test]
async fn gateways_see_what_policy_lets_them_see() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &["crm"]).await;
    a.sees(&[]).await;
    let mut b1 = rig.gateway(&beta, "b1", &["orders"]).await;
    let routes = a.sees(&["orders.beta"]).await;
    assert_eq!(routes[0].gateways.len(), 1);
    b1.sees(&[]).await;
    // Another gateway with the same service, and one more.
    let b2 = rig.gateway(&beta, "b2", &["ledger", "orders"]).await;
    let routes = a.sees(&["ledger.beta", "orders.beta"]).await;
    assert_eq!((routes[0].gateways.len(), routes[1].gateways.len()), (1, 2));
    drop(b2);
    a.sees(&["orders.beta"]).await;
    let status = rig.hub.status();
    assert_eq!(status.gateways.len(), 2);
    assert_eq!(status.domains.len(), 2);
    assert_eq!(rig.metric("hub_gateways "), 2);
}

#[tokio::test]
async fn a_session_is_paired_and_its_bytes_are_spliced() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &["orders"]).await;
    let (mut left, mut right) = pair(&mut a, &mut b).await;
    alive(&mut left, &mut right).await;
    assert_eq!(rig.hub.status().sessions, 1);

    let block = vec![7; 1 << 20];
    let (sent, got) = tokio::join!(left.write_all(&block), async {
        let mut got = vec![0; 1 << 20];
        within(right.read_exact(&mut got)).await.unwrap();
        got
    });
    sent.unwrap();
    assert!(got == block);
    drop(left);
    dead(&mut right).await;
    drop(right);
    until("the session is over", || rig.hub.status().sessions == 0).await;
    let status = rig.hub.status();
    assert_eq!(
        (status.bytes_spliced, status.bytes_copied),
        ((1 << 20) + 10, 0),
        "every byte, and by the kernel"
    );
    let spliced = |direction| {
        rig.metric(&format!(
            "hub_relayed_bytes_total{{direction=\"{direction}\",how=\"spliced\"}} "
        ))
    };
    assert_eq!((spliced("there"), spliced("back")), ((1 << 20) + 5, 5));
}

#[tokio::test]
async fn the_accepting_side_may_come_first() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let dialling = a.ask_for(&b.id).await.unwrap();
    let (accepting, _) = b.told().await;
    let hop = b.hop.clone();
    let first = tokio::spawn(async move { hop.session(accepting, Side::Accepting).await });
    until("the first side waits", || {
        rig.metric("hub_handshakes_total{result=\"session\"} ") == 1
    })
    .await;
    let mut left = within(a.hop.session(dialling, Side::Dialling)).await.unwrap();
    let mut right = within(first).await.unwrap().unwrap();
    alive(&mut left, &mut right).await;
}

#[tokio::test]
async fn who_may_not_pair_is_refused_and_told_why() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &["crm"]).await;
    let mut b = rig.gateway(&beta, "b1", &["orders"]).await;
    let refused = b.ask_for(&a.id).await.unwrap_err();
    assert_eq!((refused.place, refused.status), (Place::Policy, 403));
    let refused = a.ask_for(&beta.id("b9")).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.status),
        ("gateway-not-connected", 503)
    );
    let refused = a.request(Target::Issuer).await.unwrap_err();
    assert_eq!(refused.code, "no-issuer-connected");
    // Renewal needs no rule.
    let mut b2 = rig.connect(&beta, "b2").await;
    b2.register_as(&[], true, vec![]).await;
    b.request(Target::Issuer).await.unwrap();
    assert_eq!(b2.told().await.1, Some(b.id.clone()));
}

#[tokio::test]
async fn a_ticket_is_good_once_and_for_its_holder_only() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let thief = rig.connect(&acme, "a2").await;
    let dialling = a.ask_for(&b.id).await.unwrap();
    let (accepting, _) = b.told().await;

    let code = |result| fault(result).code;
    assert_eq!(
        code(within(thief.hop.session(dialling, Side::Dialling)).await),
        "ticket-foreign"
    );
    assert_eq!(
        code(within(a.hop.session(accepting, Side::Accepting)).await),
        "ticket-foreign",
        "nor for the other side"
    );
    let (left, right) = tokio::join!(
        within(a.hop.session(dialling, Side::Dialling)),
        within(b.hop.session(accepting, Side::Accepting)),
    );
    let (mut left, mut right) = (left.unwrap(), right.unwrap());
    assert_eq!(
        code(within(a.hop.session(dialling, Side::Dialling)).await),
        "ticket-replayed"
    );
    assert_eq!(
        code(within(b.hop.session(accepting, Side::Accepting)).await),
        "ticket-replayed"
    );
    let made_up = hawser_proto::hop::Ticket([3; 32]);
    assert_eq!(
        code(within(a.hop.session(made_up, Side::Dialling)).await),
        "ticket-unknown"
    );
    alive(&mut left, &mut right).await;
}

#[tokio::test]
async fn a_side_that_waits_is_freed_by_death_or_time() {
    let rig = Rig::new(&[("acme", "beta")]).await;
    let (acme, beta) = (rig.domain("acme").await, rig.domain("beta").await);
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    let mut b = rig.gateway(&beta, "b1", &[]).await;
    let begin = Instant::now();

    // The other never comes.
    let lonely = a.ask_for(&b.id).await.unwrap();
    let (late, _) = b.told().await;
    let hop = a.hop.clone();
    let lonely = tokio::spawn(async move { hop.session(lonely, Side::Dialling).await });

    // The other came and went.
    let dialling = a.ask_for(&b.id).await.unwrap();
    let (accepting, _) = b.told().await;
    let hop = a.hop.clone();
    let gone = tokio::spawn(async move { hop.session(dialling, Side::Dialling).await });
    until("both wait", || {
        rig.metric("hub_handshakes_total{result=\"session\"} ") == 2
    })
    .await;
    gone.abort();
    let _ = gone.await;
    until("its partner's ticket is void", || rig.hub.status().granted == 1).await;
    let refused = fault(within(b.hop.session(accepting, Side::Accepting)).await);
    assert_eq!((refused.code.as_str(), refused.status), ("other-side-gone", 502));

    let refused = fault(within(lonely).await.unwrap());
    assert_eq!(
        (refused.code.as_str(), refused.status, refused.place),
        ("other-side-late", 504, Place::ServerGateway)
    );
    assert!(begin.elapsed() >= TICKET_LIFE && begin.elapsed() < LONG);
    let refused = fault(within(b.hop.session(late, Side::Accepting)).await);
    assert!(["ticket-expired", "ticket-unknown", "other-side-gone"].contains(&refused.code.as_str()));
    until("nothing is left", || rig.hub.status().granted == 0).await;
}

#[tokio::test]
async fn a_joiner_is_paired_with_the_issuer_that_made_its_token() {
    let rig = Rig::new(&[]).await;
    let beta = rig.domain("beta").await;
    let mut issuer = rig.connect(&beta, "b1").await;
    let half = [5; 32];
    let offer = JoinOffer {
        hash: hawser_identity::token::hash(&half),
        expires: hawser_proto::UnixTime::now().plus(LONG),
    };
    issuer.register_as(&[], true, vec![offer]).await;
    let (address, pin) = (rig.address(), rig.hub.identity().pin());
    let join = |half| {
        let (address, domain) = (address.clone(), beta.name.clone());
        async move { join_pair(&Ways::default(), &address, pin, &domain, half).await }
    };
    let refused = fault(within(join([6; 32])).await);
    assert_eq!(refused.code, "join-token-unknown");

    let joiner = tokio::spawn(join(half));
    let (ticket, peer) = issuer.told().await;
    assert_eq!(peer, None);
    let mut at_issuer = within(issuer.hop.session(ticket, Side::Accepting)).await.unwrap();
    let mut at_joiner = within(joiner).await.unwrap().unwrap();
    alive(&mut at_joiner, &mut at_issuer).await;
    until("the door is empty", || rig.hub.status().unproved == 0).await;
}
