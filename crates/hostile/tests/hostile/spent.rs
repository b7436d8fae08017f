//! The real hub, and gateways that would use a ticket twice, in another role, or another's.

use std::sync::Arc;

use hawser_hostile::hub::SOON;
use hawser_identity::{Credentials, HubIdentity};
use hawser_proto::{
    NodeId,
    control::{Target, ToGateway, ToHub},
    hop::Ticket,
};
use hawser_session::{
    carrier::Ways,
    hop::{ControlReceiver, ControlSender, HopClient, HopError, Side},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::world::{Gateway, RealHub, base, found, scratch};

/// A gateway's identity in the attacker's hands.
struct Thief {
    id: NodeId,
    client: HopClient,
    out: ControlSender<ToHub>,
    from: ControlReceiver<ToGateway>,
}

impl Thief {
    async fn connect(gateway: &Gateway, hub: &RealHub) -> Self {
        let pin = HubIdentity::load_or_create(&hub.state).unwrap().pin();
        let at = hub.address().to_string().parse().unwrap();
        let own = Credentials::load(&gateway.state).unwrap().shared();
        let client = HopClient::new(Arc::new(Ways::default()), at, pin, own).unwrap();
        let (mut out, from) = client.control("thief").await.unwrap();
        let nothing = ToHub::Register {
            services: Vec::new(),
            issuer: false,
            draining: false,
            joins: Vec::new(),
            publishes: Vec::new(),
        };
        out.send(&nothing).await.unwrap();
        let mut thief = Self {
            id: gateway.id.clone(),
            client,
            out,
            from,
        };
        thief
            .hear(|m| matches!(m, ToGateway::Routes { .. }).then_some(()))
            .await;
        thief
    }

    async fn hear<T>(&mut self, mut is_it: impl FnMut(ToGateway) -> Option<T>) -> T {
        let listen = async {
            loop {
                if let Some(found) = is_it(self.from.recv().await.unwrap()) {
                    return found;
                }
            }
        };
        timeout(SOON, listen).await.unwrap()
    }

    /// Both tickets of a session with another.
    async fn ask(&mut self, other: &mut Thief) -> (Ticket, Ticket) {
        let target = Target::Gateway(other.id.clone());
        self.out.send(&ToHub::Request { id: 1, target }).await.unwrap();
        let granted = self.hear(|m| match m {
            ToGateway::Granted { ticket, .. } => Some(ticket),
            ToGateway::Refused { fault, .. } => panic!("{fault}"),
            _ => None,
        });
        let dial = other.hear(|m| match m {
            ToGateway::Dial { ticket, .. } => Some(ticket),
            _ => None,
        });
        tokio::join!(granted, dial)
    }

    /// Shows a ticket; the hub must say no, and why.
    async fn is_refused(&self, ticket: Ticket, side: Side) -> String {
        match timeout(SOON, self.client.session(ticket, side)).await.unwrap() {
            Err(HopError::Refused(fault)) => fault.to_string(),
            Err(e) => panic!("{} was not refused but cut off: {e}", self.id),
            Ok(_) => panic!(
                "{} was let in with a ticket that is not its own, or spent",
                self.id
            ),
        }
    }
}

#[test]
fn the_real_hub_takes_each_ticket_once_from_its_owner_in_its_role() {
    let (dir, base) = (scratch().unwrap(), base());
    let real = RealHub::lay(&dir, base, 3).unwrap();
    let hub = real.start().unwrap();
    let gateways = [("acme", 21), ("beta", 22), ("gamma", 23)].map(|(domain, n)| {
        let gateway = Gateway::lay(&dir, base, n, domain, "thief").unwrap();
        found(&hub, &gateway).unwrap();
        gateway
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let [mut acme, mut beta, gamma] = {
            let [a, b, c] = &gateways;
            [
                Thief::connect(a, &real).await,
                Thief::connect(b, &real).await,
                Thief::connect(c, &real).await,
            ]
        };
        // The positive control: each ticket, by its owner in its role, once.
        let (dial, accept) = acme.ask(&mut beta).await;
        let (a, b) = tokio::join!(
            timeout(SOON, acme.client.session(dial, Side::Dialling)),
            timeout(SOON, beta.client.session(accept, Side::Accepting))
        );
        let (mut a, mut b) = (a.unwrap().unwrap(), b.unwrap().unwrap());
        a.write_all(b"through").await.unwrap();
        let mut got = [0; 7];
        timeout(SOON, b.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(&got, b"through");
        // Again, while the session lives and after it.
        for _ in 0..2 {
            acme.is_refused(dial, Side::Dialling).await;
            beta.is_refused(accept, Side::Accepting).await;
        }
        drop((a, b));
        acme.is_refused(dial, Side::Dialling).await;
        beta.is_refused(accept, Side::Accepting).await;
        // Another's: of a stranger, of the peer, and one that was never given out. It spoils nothing for the owners.
        let (dial, accept) = acme.ask(&mut beta).await;
        gamma.is_refused(dial, Side::Dialling).await;
        gamma.is_refused(accept, Side::Accepting).await;
        beta.is_refused(dial, Side::Accepting).await;
        acme.is_refused(accept, Side::Dialling).await;
        gamma.is_refused(Ticket([5; 32]), Side::Dialling).await;
        let (a, b) = tokio::join!(
            timeout(SOON, acme.client.session(dial, Side::Dialling)),
            timeout(SOON, beta.client.session(accept, Side::Accepting))
        );
        a.unwrap().map(drop).unwrap();
        b.unwrap().map(drop).unwrap();
    });
}
