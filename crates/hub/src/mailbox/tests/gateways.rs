//! What gateways may: one of a domain, within its domain.

use hawser_proto::broker::mailbox::{FromMailbox, Outcome, ToMailbox};
use http::StatusCode;

use super::rig::*;

#[tokio::test]
async fn a_domain_reaches_its_own_devices_alone() {
    let rig = Rig::new().await;
    let mut acme = rig.gateway("acme/gateway/g1").await;
    let mut beta = rig.gateway("beta/gateway/g1").await;
    let a = Device::new(1);
    acme.admit(&a).await;
    let mut stream = rig.stream(&a, None).await;
    assert_eq!(beta.deposit(a.envelope(1, b"x")).await, Outcome::UnknownDevice);
    assert_eq!(beta.skip(a.handle, 1, 1).await, Outcome::UnknownDevice);
    assert_eq!(beta.revoke(a.handle).await, Outcome::UnknownDevice);
    let (device, thumbprint) = (a.handle, a.key.public().thumbprint());
    let admit = |id| ToMailbox::Admit {
        id,
        device,
        thumbprint,
        epoch: 9,
    };
    assert!(matches!(beta.request(admit).await, Outcome::Refused(_)));
    assert_eq!(acme.deposit(a.envelope(1, b"x")).await, Outcome::Kept);
    assert_eq!(stream.numbers(1).await, [1]);
}

#[tokio::test]
async fn one_gateway_of_a_domain_holds_the_mailbox_and_its_newest_connection_counts() {
    let rig = Rig::new().await;
    let mut old = rig.gateway("acme/gateway/g1").await;
    match rig.stranger("acme/gateway/g2").hear().await {
        FromMailbox::Refused(fault) => assert_eq!(fault.code, "mailbox-taken"),
        other => panic!("{other:?}"),
    }
    match rig.stranger("acme/host/h1").hear().await {
        FromMailbox::Refused(fault) => assert_eq!(fault.code, "host-has-no-mailbox"),
        other => panic!("{other:?}"),
    }
    let mut new = rig.gateway("acme/gateway/g1").await;
    assert!(old.receiver.recv().await.is_err(), "the older connection is over");
    let a = Device::new(1);
    new.admit(&a).await;
    new.living.life().cut(crate::lives::Cut::Revoked);
    assert!(new.receiver.recv().await.is_err(), "a revoked gateway is cut");
    until("its place is free", || rig.mailbox.status().domains.is_empty()).await;
    rig.gateway("acme/gateway/g2").await;
}

#[tokio::test]
async fn the_gateway_hears_who_is_there() {
    let rig = Rig::new().await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let contact = |message: &FromMailbox| match message {
        FromMailbox::Contact {
            device, connected, ..
        } => Some((*device, *connected)),
        _ => None,
    };
    let stream = rig.stream(&a, None).await;
    assert_eq!(gateway.wait(contact).await, (a.handle, true));
    drop(gateway);
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    assert_eq!(
        gateway.wait(contact).await,
        (a.handle, true),
        "also who was there before"
    );
    drop(stream);
    assert_eq!(gateway.wait(contact).await, (a.handle, false));
}

#[tokio::test]
async fn many_requests_are_on_their_way_at_once_and_all_are_answered() {
    const COUNT: u64 = 3000;
    let rig = Rig::with(crate::mailbox::MailboxLimits {
        envelopes_per_device: 10_000,
        ..Default::default()
    })
    .await;
    let mut gateway = rig.gateway("acme/gateway/g1").await;
    let a = Device::new(1);
    gateway.admit(&a).await;
    let Gateway {
        mut sender,
        mut receiver,
        ..
    } = gateway;
    let send = async {
        for n in 1..=COUNT {
            let envelope = a.envelope(n, b"x");
            let id = 1000 + n;
            sender.send(&ToMailbox::Deposit { id, envelope }).await.unwrap();
        }
    };
    let receive = async {
        let mut kept = 0;
        while kept < COUNT {
            match receiver.recv().await.unwrap() {
                FromMailbox::Done { outcome, .. } => {
                    assert_eq!(outcome, Outcome::Kept);
                    kept += 1;
                }
                FromMailbox::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::join!(send, receive);
    let (status, batch) = rig.ask(a.get("/v1/envelopes")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        batch["items"].as_array().unwrap().len(),
        crate::mailbox::stream::PAGE_ITEMS
    );
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &rig.metrics).unwrap();
    assert!(
        text.contains(&format!("hub_mailbox_deposits_total{{outcome=\"kept\"}} {COUNT}")),
        "{text}"
    );
}
