//! One-time tokens, admitted roots, and what survives the hub's death.

use std::time::Duration;

use hawser_hub::{admitted, revoked};
use hawser_proto::{control::ToHub, hop::JoinHello};
use hawser_session::hop::HopError;

use crate::rig::{Domain, Gateway, LONG, Rig, within};

fn code(result: Result<(), HopError>) -> String {
    match result {
        Ok(()) => "admitted".into(),
        Err(HopError::Refused(fault)) => fault.code,
        Err(other) => panic!("expected an answer, got {other}"),
    }
}

#[tokio::test]
async fn a_token_admits_one_domain_once() {
    let rig = Rig::new(&[]).await;
    let acme = Domain::new("acme");
    let client = rig.client(&acme.gateway("a1"));
    assert!(
        Gateway::connect(client.clone(), acme.id("a1")).await.is_err(),
        "nobody gets in unadmitted"
    );
    let token = rig.token("acme", LONG).await;
    assert_eq!(
        code(Domain::new("beta").ask(&token).await),
        "token-of-other-domain"
    );
    assert_eq!(code(acme.ask(&token).await), "admitted");
    // In force as soon as it is answered.
    within(Gateway::connect(client, acme.id("a1"))).await.unwrap();
    assert_eq!(code(acme.ask(&token).await), "already-admitted");
    let list = admitted(&rig.store).await.unwrap();
    assert_eq!((list.len(), list[0].root), (1, acme.root.fingerprint()));
    // A further token for the same root is spent without harm.
    assert_eq!(code(acme.ask(&rig.token("acme", LONG).await).await), "admitted");
}

#[tokio::test]
async fn another_root_for_an_admitted_domain_is_refused_with_advice() {
    let rig = Rig::new(&[]).await;
    rig.domain("acme").await;
    let usurper = Domain::new("acme");
    let token = rig.token("acme", LONG).await;
    let Err(HopError::Refused(fault)) = usurper.ask(&token).await else {
        panic!("expected a refusal");
    };
    assert_eq!(fault.code, "admitted-with-other-root");
    assert!(fault.advice.contains("hawser hub forget"), "{fault}");
    assert!(
        fault.detail.contains(&usurper.root.fingerprint().to_string()),
        "{fault}"
    );
    assert!(
        rig.hub
            .status()
            .domains
            .iter()
            .all(|d| d.root != usurper.root.fingerprint().to_string())
    );
}

#[tokio::test]
async fn proofs_that_do_not_hold_are_refused_and_cost_no_token() {
    let rig = Rig::new(&[]).await;
    let (acme, other) = (Domain::new("acme"), Domain::new("acme"));
    let token = rig.token("acme", LONG).await;
    let ask = |hello| {
        let token = &token;
        async move { code(hawser_session::hop::join_admit(&Default::default(), token, &hello).await) }
    };
    let change = |f: fn(&mut Vec<u8>, &mut Vec<u8>, &mut Vec<u8>, &Domain)| {
        let JoinHello::Admit {
            domain,
            secret,
            mut root,
            mut signature,
            mut issuer,
        } = acme.hello(&token)
        else {
            unreachable!()
        };
        f(&mut root, &mut signature, &mut issuer, &other);
        JoinHello::Admit {
            domain,
            secret,
            root,
            signature,
            issuer,
        }
    };
    for hello in [
        change(|root, _, _, other| *root = other.root.certificate().to_vec()),
        change(|_, _, issuer, other| *issuer = other.issuer.certificate().to_vec()),
        change(|_, signature, _, other| *signature = other.issuer.sign(b"something").unwrap()),
        change(|root, _, _, _| root.truncate(20)),
    ] {
        assert_eq!(ask(hello).await, "proof-refused");
    }
    // A signature for another hub's token is not good here.
    let mut elsewhere = rig.token("acme", LONG).await;
    elsewhere.pin.0[0] ^= 1;
    let mut hello = acme.hello(&elsewhere);
    if let JoinHello::Admit { secret, .. } = &mut hello {
        *secret = *token.secret.expose();
    }
    assert_eq!(ask(hello).await, "proof-refused");
    assert_eq!(ask(acme.hello(&token)).await, "admitted");
}

#[tokio::test]
async fn tokens_end() {
    let rig = Rig::new(&[]).await;
    let acme = Domain::new("acme");
    let token = rig.token("acme", Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(code(acme.ask(&token).await), "token-expired");
    let mut unknown = rig.token("acme", LONG).await;
    unknown.secret = hawser_identity::Secret::random().unwrap();
    assert_eq!(code(acme.ask(&unknown).await), "token-unknown");
}

#[tokio::test]
async fn what_was_decided_survives_the_hubs_death() {
    let rig = Rig::new(&[]).await;
    let acme = Domain::new("acme");
    let (spent, fresh) = (rig.token("acme", LONG).await, rig.token("acme", LONG).await);
    acme.ask(&spent).await.unwrap();
    let mut a = rig.gateway(&acme, "a1", &[]).await;
    a.send(ToHub::Revocations(acme.signed(3, &["a2"]))).await;
    a.register(&[]).await;
    let pin = rig.hub.identity().pin();

    let rig = rig.restart().await;
    assert_eq!(rig.hub.identity().pin(), pin);
    assert_eq!(admitted(&rig.store).await.unwrap().len(), 1);
    assert!(revoked(&rig.store).await.unwrap().is_empty());
    let moved = |mut token: hawser_identity::HubToken| {
        token.hub = rig.address();
        token
    };
    assert_eq!(code(acme.ask(&moved(spent)).await), "already-admitted");
    assert_eq!(code(acme.ask(&moved(fresh)).await), "admitted");
    let connect = |name| Gateway::connect(rig.client(&acme.gateway(name)), acme.id(name));
    let mut a = within(connect("a1")).await.unwrap();
    assert!(connect("a2").await.is_err(), "its revocation was forgotten");
    assert_eq!(a.revocations().await, acme_list(&rig).await);
}

/// The list that the hub kept.
async fn acme_list(rig: &Rig) -> Vec<u8> {
    let bucket = rig.store.bucket::<minicbor::bytes::ByteVec>("revocations");
    bucket.get("acme/issuer/i1").await.unwrap().unwrap().0.to_vec()
}
