//! The other gateways of the domain: each is told what is known here of addresses for calls back, as it changes, so that any of them
//! may be called by such an address, or by a client that ends one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hawser_proto::{NodeId, ServiceId, ServiceName, control::Protocol};
use hawser_session::http::Class;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::debug;

use super::{internal, routes::Candidate, tunnel::Tunnel};
use crate::callbacks::shared::Shared;

/// How often it is looked for gateways that have come or gone.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one is left alone that did not take what it was told.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// What is needed to tell one of them.
#[derive(Clone)]
pub(super) struct Siblings {
    tunnel: Arc<Tunnel>,
    shared: Shared,
    own: NodeId,
}

impl Siblings {
    pub(super) fn new(tunnel: Arc<Tunnel>, shared: Shared, own: NodeId) -> Self {
        Self { tunnel, shared, own }
    }

    /// Ends only with the gateway.
    pub(super) async fn run(self) {
        // One for each, so that nobody waits for one that is slow.
        let mut tellers = JoinSet::new();
        let mut told: HashMap<NodeId, AbortHandle> = HashMap::new();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            while tellers.try_join_next().is_some() {}
            let others = self.others();
            told.retain(|node, teller| {
                let stays = others.iter().any(|other| other.node == *node);
                if !stays {
                    teller.abort();
                }
                stays
            });
            for other in others {
                told.entry(other.node.clone())
                    .or_insert_with(|| tellers.spawn(self.clone().follow(other.node)));
            }
        }
    }

    /// Tells one whatever is new. What it took while this gateway ran before, it is told again.
    async fn follow(self, node: NodeId) {
        let mut changed = self.shared.watch();
        let mut told = 0;
        loop {
            changed.borrow_and_update();
            let (upto, all) = self.tell(&node, told).await;
            told = upto;
            if !all {
                sleep(TRY_AGAIN).await;
            } else if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells one all that came after number `told`. Up to which number it has taken it, and whether that is all.
    async fn tell(&self, node: &NodeId, mut told: u64) -> (u64, bool) {
        let Some(other) = self.others().into_iter().find(|other| other.node == *node) else {
            return (told, false);
        };
        let peer = self.tunnel.peer(node);
        loop {
            let Some((message, upto)) = self.shared.message(told).await else {
                return (told, false);
            };
            let slot = match peer.http(Class::Ordinary).slot(&other.hubs).await {
                Ok(slot) => slot,
                Err(fault) => {
                    debug!(peer = %node, %fault, "cannot tell it of addresses for calls back; will try again");
                    return (told, false);
                }
            };
            if !internal::share(slot, message).await {
                debug!(peer = %node, "it did not take what is known of addresses for calls back; will try again");
                return (told, false);
            }
            told = upto;
            if told >= self.shared.last() {
                return (told, true);
            }
        }
    }

    fn others(&self) -> Vec<Candidate> {
        let routes = self.tunnel.hubs.routes();
        let callbacks = ServiceId {
            name: ServiceName::callbacks(),
            domain: self.own.domain.clone(),
        };
        let found = routes.candidates(&callbacks, Protocol::Http).unwrap_or_default();
        found
            .into_iter()
            .filter(|other| other.node != self.own && other.node.domain == self.own.domain)
            .cloned()
            .collect()
    }
}
