//! Calls back: a service in one domain reaches the addresses that its clients in another named in their messages.
//!
//! On the way out ([`leaving`]) an address in a message becomes one at the gateway of the service's domain, which holds the
//! original sealed under a secret that the clients' gateways share ([`keys`]). A service that calls it reaches its own gateway
//! ([`path`] is how that knows), whose call comes to the clients' domain under a reserved name and is delivered there ([`deliver`]). Answers
//! are treated alike ([`answers`]). What an address may lead to is for [`targets`]; what is found in messages, and how, for the
//! crate `hawser-callback`.
//!
//! A capability says all there is to know of an address, until a subscription is renewed or ended ([`subscriptions`]), an operator ends
//! it ([`end`](mod@end)), or it must be short ([`short`]): that the gateways of the domain know together ([`shared`], [`replica`]).

pub(crate) mod answers;
mod deliver;
mod edit;
mod end;
pub(crate) mod keys;
pub(crate) mod leaving;
pub(crate) mod path;
pub mod preview;
mod replica;
mod seal;
pub(crate) mod shared;
mod short;
pub(crate) mod subscriptions;
pub mod targets;
mod to;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use arc_swap::ArcSwap;
use hawser_callback::Secrets;
use hawser_proto::{NodeId, ServiceId};
use hawser_store::{Store, StoreError};
use http::HeaderValue;
use tracing::warn;

pub use end::{EndError, end};
pub use keys::rotate;

use self::{deliver::Origins, end::Orders, keys::Keys, shared::Shared};
use crate::config::{CallbackMode, CallbackRule, CallbacksPlan, GatewayPlan, QueuePlan};

/// Calls back through one gateway. Cheap to clone.
#[derive(Clone)]
pub struct Callbacks(Arc<Inner>);

struct Inner {
    own: NodeId,
    plan: ArcSwap<CallbacksPlan>,
    /// [`Callbacks::base`] as peers are told of it.
    base: ArcSwap<Option<HeaderValue>>,
    secrets: ArcSwap<Secrets>,
    /// `None`: nothing is kept.
    shared: Option<Shared>,
    origins: Mutex<Origins>,
    /// Where this gateway takes clients' calls.
    listening: ArcSwap<Vec<SocketAddr>>,
}

impl Callbacks {
    /// As planned, with the keys in `store`. Must be called within a Tokio runtime.
    pub(crate) async fn start(own: NodeId, plan: &GatewayPlan, store: &Store) -> Result<Self, StoreError> {
        let keys = Keys::new(store);
        let shared = Shared::open(&plan.state, store).await?;
        let orders = Orders::new(store);
        orders.obey(&shared).await?;
        let callbacks = Self(Arc::new(Inner {
            own,
            plan: ArcSwap::from_pointee(plan.callbacks.clone()),
            base: ArcSwap::from_pointee(base_header(&plan.callbacks)),
            secrets: ArcSwap::from_pointee(keys.load().await?),
            shared: Some(shared),
            origins: Mutex::default(),
            listening: ArcSwap::from_pointee(plan.listening()),
        }));
        tokio::spawn(follow(Arc::downgrade(&callbacks.0), keys, orders, store.clone()));
        Ok(callbacks)
    }

    /// None: messages pass as they are, and nobody is called back.
    pub fn off(own: NodeId) -> Self {
        let plan = CallbacksPlan {
            enabled: false,
            ..CallbacksPlan::default()
        };
        Self(Arc::new(Inner {
            own,
            plan: ArcSwap::from_pointee(plan),
            base: ArcSwap::default(),
            secrets: ArcSwap::from_pointee(Secrets::new(Vec::new())),
            shared: None,
            origins: Mutex::default(),
            listening: ArcSwap::default(),
        }))
    }

    /// As planned from now on.
    pub(crate) fn reload(&self, plan: &GatewayPlan) {
        self.0.listening.store(Arc::new(plan.listening()));
        let mut origins = self.0.origins.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.plan.swap(Arc::new(plan.callbacks.clone()));
        if *before != plan.callbacks {
            self.0.base.store(Arc::new(base_header(&plan.callbacks)));
            *origins = Origins::default();
        }
    }

    /// Whether calls back to clients here are taken.
    pub(crate) fn is_on(&self) -> bool {
        self.0.plan.load().enabled
    }

    /// Calls back that are delivered later, if any.
    pub(crate) fn queue(&self) -> Option<QueuePlan> {
        let plan = self.0.plan.load();
        plan.queue.clone().filter(|_| plan.enabled)
    }

    /// What the gateways of the domain know together.
    pub(crate) fn shared(&self) -> Option<Shared> {
        self.0.shared.clone()
    }

    /// Where services of this domain call back, if they can.
    pub(crate) fn base(&self) -> Option<String> {
        base(&self.0.plan.load())
    }

    fn base_header(&self) -> Option<HeaderValue> {
        self.0.base.load().as_ref().clone()
    }

    /// What is done with messages to `service`, if anything.
    fn rule(&self, service: &ServiceId) -> Option<Arc<CallbackRule>> {
        let plan = self.0.plan.load();
        Some(plan.rule(service)).filter(|rule| plan.enabled && rule.mode != CallbackMode::Off)
    }
}

fn base(plan: &CallbacksPlan) -> Option<String> {
    let base = plan.base.as_ref().filter(|_| plan.enabled);
    base.map(ToString::to_string)
}

fn base_header(plan: &CallbacksPlan) -> Option<HeaderValue> {
    HeaderValue::try_from(base(plan)?).ok()
}

/// Takes in what comes by the store: keys, with certificates, from other gateways and from `hawser callbacks rotate`; and what an
/// operator ends.
async fn follow(callbacks: Weak<Inner>, keys: Keys, orders: Orders, store: Store) {
    let mut changed = store.watch();
    while changed.changed().await.is_ok() {
        let Some(inner) = callbacks.upgrade() else { return };
        match keys.load().await {
            Ok(secrets) => {
                let other = !secrets.ids().eq(inner.secrets.load().ids());
                inner.secrets.store(Arc::new(secrets));
                if let Some(shared) = inner.shared.as_ref().filter(|_| other) {
                    shared.tell();
                }
            }
            Err(error) => warn!(%error, "cannot read the keys for calls back; those known stay in use"),
        }
        if let Some(shared) = &inner.shared
            && let Err(error) = orders.obey(shared).await
        {
            warn!(%error, "cannot read which addresses for calls back are to end; will try again");
        }
    }
}

impl std::fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Callbacks")
    }
}
