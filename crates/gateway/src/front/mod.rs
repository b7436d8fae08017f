//! Where clients come in: the web proxy and the listeners of imported services. Knows the tunnel only as [`Links`].

mod admit;
mod call;
mod connect;
mod forward;
mod linger;
mod listen;
mod opening;
mod pac;
mod serve;
mod socks;
pub mod target;
mod upgrade;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hawser_proto::NodeId;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::listen::{Bound, Job, Listening, Purpose};
pub(crate) use self::{admit::form, linger::Linger};
use crate::{callbacks::Callbacks, calls::CallMetrics, config::FrontPlan, headers::Pseudonym, seam::Links};

/// The addresses that clients use. Cheap to clone; lives until drained.
#[derive(Clone)]
pub struct Front(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    /// By the address as it is written in the plan; several may be written with port 0.
    listening: Mutex<BTreeMap<Key, Listening>>,
}

/// What every connection needs.
struct Shared {
    links: Links,
    callbacks: Callbacks,
    pseudonym: Pseudonym,
    metrics: CallMetrics,
    plan: ArcSwap<FrontPlan>,
    tasks: TaskTracker,
    /// No new connections, no new requests.
    drain: CancellationToken,
    /// An end to those under way.
    cut: CancellationToken,
}

/// An address as written; the number tells those with port 0 apart.
type Key = (SocketAddr, usize);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{key}: cannot listen on {address}: {source}; is another program using it?")]
pub struct FrontError {
    /// Where it stands in the configuration.
    pub key: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl Front {
    /// Listens as planned, for the gateway `own`. Must be called within a Tokio runtime.
    pub fn start(
        own: &NodeId,
        plan: &FrontPlan,
        links: Links,
        callbacks: Callbacks,
        metrics: CallMetrics,
    ) -> Result<Self, FrontError> {
        let front = Self(Arc::new(Inner {
            shared: Arc::new(Shared {
                links,
                callbacks,
                pseudonym: Pseudonym::new(format!("{}.{}", own.name, own.domain)),
                metrics,
                plan: ArcSwap::from_pointee(plan.clone()),
                tasks: TaskTracker::new(),
                drain: CancellationToken::new(),
                cut: CancellationToken::new(),
            }),
            listening: Mutex::default(),
        }));
        front.reload(plan)?;
        Ok(front)
    }

    /// Listens as planned from now on. Addresses in both plans are not touched; connections of those that go live on. On an
    /// error nothing changes. A changed limit of connections holds for new listeners only.
    pub fn reload(&self, plan: &FrontPlan) -> Result<(), FrontError> {
        let mut listening = self.0.listening();
        let jobs = jobs(plan);
        let mut bound = Vec::new();
        for (key, (place, job)) in &jobs {
            if !listening.contains_key(key) {
                let one = Bound::new(key.0).map_err(|source| FrontError {
                    key: place,
                    address: key.0,
                    source,
                })?;
                bound.push((*key, one, job.clone()));
            }
        }
        self.0.shared.plan.store(Arc::new(plan.clone()));
        listening.retain(|key, _| jobs.contains_key(key));
        for (key, one) in listening.iter() {
            if let Some((_, job)) = jobs.get(key) {
                one.job.store(Arc::new(job.clone()));
            }
        }
        for (key, one, job) in bound {
            tracing::info!(address = %key.0, purpose = ?job.purpose, "listening");
            listening.insert(key, one.start(&self.0.shared, job));
        }
        Ok(())
    }

    /// Where the web proxy listens.
    pub fn proxy_addrs(&self) -> Vec<SocketAddr> {
        self.addrs(|p| *p == Purpose::Proxy)
    }

    /// Where clients of `service` are listened for.
    pub fn import_addrs(&self, service: &hawser_proto::ServiceId) -> Vec<SocketAddr> {
        self.addrs(|p| matches!(p, Purpose::Import(s, _) if s == service))
    }

    fn addrs(&self, wanted: impl Fn(&Purpose) -> bool) -> Vec<SocketAddr> {
        self.0
            .listening()
            .values()
            .filter(|l| wanted(&l.job.load().purpose))
            .map(|l| l.local)
            .collect()
    }

    /// Closes the listeners, lets calls under way end for at most `wait`, then cuts them. Not cancel safe: the rest stays
    /// uncut.
    pub async fn drain(&self, wait: Duration) {
        let shared = &self.0.shared;
        shared.drain.cancel();
        self.0.listening().clear();
        shared.tasks.close();
        if tokio::time::timeout(wait, shared.tasks.wait()).await.is_err() {
            tracing::warn!(
                calls = shared.tasks.len(),
                "calls are cut: they did not end in time"
            );
            shared.cut.cancel();
        }
    }
}

impl Inner {
    fn listening(&self) -> MutexGuard<'_, BTreeMap<Key, Listening>> {
        // A panic while it was held can have left no half-made state: entries go in and out whole.
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be listened for, by address.
fn jobs(plan: &FrontPlan) -> BTreeMap<Key, (&'static str, Job)> {
    let proxy = plan.proxy.iter().map(|a| {
        let job = Job {
            purpose: Purpose::Proxy,
            clients: plan.proxy_clients.clone(),
        };
        (*a, ("gateway.proxy.listen", job))
    });
    let callbacks = plan.callbacks.iter().map(|a| {
        let job = Job {
            purpose: Purpose::Callbacks,
            clients: plan.callback_clients.clone(),
        };
        (*a, ("gateway.callbacks.listen", job))
    });
    let imports = plan.imports.iter().map(|i| {
        let purpose = Purpose::Import(i.service.clone(), i.protocol);
        (
            i.listen,
            (
                "gateway.import.listen",
                Job {
                    purpose,
                    clients: i.clients.clone(),
                },
            ),
        )
    });
    let mut jobs = BTreeMap::new();
    for (address, job) in proxy.chain(callbacks).chain(imports) {
        let number = jobs.range((address, 0)..=(address, usize::MAX)).count();
        jobs.insert((address, number), job);
    }
    jobs
}
