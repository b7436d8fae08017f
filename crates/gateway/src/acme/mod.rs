//! Certificates of published names by ACME (RFC 8555), DNS-01 alone: the hub owns the addresses behind the names, and could answer
//! every other challenge itself. One order at a time; a new certificate is put into a file, from which [`crate::ingress`] takes it.

pub mod caa;
mod dns;
mod due;
mod http;
mod keep;
mod order;
mod solve;
mod survey;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hawser_identity::{CertificateDer, read_certificates, validity};
use hawser_proto::{HostName, UnixTime};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tracing::{info, warn};

pub use dns::DnsError;
pub(crate) use keep::Keep;
pub use survey::{Survey, SurveyError, issuer};

use crate::{
    config::{AcmePlan, CertificatePlan, GatewayPlan},
    links::chance::Chance,
};

/// Longest time for one order, the wait for the DNS apart.
const ORDER: Duration = Duration::from_secs(600);
/// How often it is looked whether something is due, at the least: clocks may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Gets and renews certificates.
pub(crate) struct Acme {
    keep: Keep,
    wanted: watch::Sender<Wanted>,
    /// Wakes who waits for what is due.
    again: Notify,
    attempts: Mutex<BTreeMap<HostName, Attempt>>,
    chance: Chance,
    orders: Family<Outcome, Counter>,
}

/// What the configuration asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wanted {
    plan: Option<AcmePlan>,
    names: Vec<HostName>,
}

/// How it stands with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Why the last attempt failed, if it did.
    pub(crate) error: Option<String>,
    /// When the next is made.
    pub(crate) next: UnixTime,
    failures: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `ok` or `failed`.
    outcome: &'static str,
}

impl Acme {
    /// For a gateway with this state directory.
    pub(crate) fn new(state: &Path, plan: &GatewayPlan, registry: &mut Registry) -> Self {
        let orders = Family::default();
        registry.sub_registry_with_prefix("gateway").register(
            "acme_orders",
            "Orders of certificates for published names",
            orders.clone(),
        );
        Self {
            keep: Keep::new(state),
            wanted: watch::Sender::new(wanted(plan)),
            again: Notify::new(),
            attempts: Mutex::default(),
            chance: Chance::new(),
            orders,
        }
    }

    /// Takes a new configuration. What failed is tried again at once: somebody may have put right what was wrong, in a file perhaps.
    pub(crate) fn reload(&self, plan: &GatewayPlan) {
        let new = wanted(plan);
        let directory = |w: &Wanted| w.plan.as_ref().map(|p| p.directory.clone());
        let same = directory(&self.wanted.borrow()) == directory(&new);
        self.attempts().retain(|_, a| same && a.error.is_none());
        // An order that is under way for the same goes on.
        self.wanted.send_if_modified(|now| {
            let changed = *now != new;
            *now = new;
            changed
        });
        self.again.notify_one();
    }

    /// How it stands with the names.
    pub(crate) fn status(&self) -> BTreeMap<HostName, Attempt> {
        self.attempts().clone()
    }

    /// Gets and renews what is due, until it is dropped.
    pub(crate) async fn run(&self) {
        let mut changes = self.wanted.subscribe();
        loop {
            let wanted = changes.borrow_and_update().clone();
            let pass = async {
                let soonest = self.pass(&wanted).await;
                let wait = UnixTime::now().until(soonest).max(Duration::from_millis(100));
                tokio::select! {
                    () = self.again.notified() => {}
                    () = sleep(wait) => {}
                }
            };
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = pass => {}
            }
        }
    }

    /// Sees to every name, and says when to look again. Cancel safe: what is set in the DNS by then is removed by the next order.
    async fn pass(&self, wanted: &Wanted) -> UnixTime {
        let mut soonest = UnixTime::now().plus(LOOK_EVERY);
        let Some(plan) = &wanted.plan else {
            return soonest;
        };
        for name in &wanted.names {
            if self.next(plan, name) <= UnixTime::now() {
                self.attempt(plan, name).await;
            }
            soonest = soonest.min(self.next(plan, name));
        }
        soonest
    }

    /// When a name is due; told of a certificate that was there at the start, too, if it is from the same authority.
    fn next(&self, plan: &AcmePlan, name: &HostName) -> UnixTime {
        if let Some(attempt) = self.attempts().get(name) {
            return attempt.next;
        }
        let next = match self.life(name) {
            Some(life) if self.keep.is_from(name, &plan.directory) => due::renewal(life, &self.chance),
            _ => UnixTime(0),
        };
        self.note(name, None, next, 0);
        next
    }

    async fn attempt(&self, plan: &AcmePlan, name: &HostName) {
        info!(%name, directory = plan.directory, "ordering a certificate");
        let within = ORDER + plan.propagation;
        let done = timeout(within, order::obtain(plan, &self.keep, name)).await;
        let failed = match done {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some((error.to_string(), error.is_refusal())),
            Err(_) => Some((format!("the order was not done within {within:?}"), false)),
        };
        let outcome = if failed.is_none() { "ok" } else { "failed" };
        self.orders.get_or_create(&Outcome { outcome }).inc();
        let now = UnixTime::now();
        let life = self.life(name);
        match failed {
            None => {
                let next = life.map_or(now.plus(LOOK_EVERY), |life| due::renewal(life, &self.chance));
                info!(%name, "has a new certificate");
                self.note(name, None, next, 0);
            }
            Some((error, refused)) => {
                let failures = self.attempts().get(name).map_or(0, |a| a.failures) + 1;
                let left = life.map(|(_, to)| now.until(to));
                let wait = due::retry(failures, refused, left, &self.chance);
                let state = if left.is_some() {
                    "the old one stays"
                } else {
                    "there is none"
                };
                warn!(%name, %error, next = ?wait, "no new certificate; {state}");
                self.note(name, Some(error), now.plus(wait), failures);
            }
        }
    }

    fn note(&self, name: &HostName, error: Option<String>, next: UnixTime, failures: u32) {
        self.attempts().insert(
            name.clone(),
            Attempt {
                error,
                next,
                failures,
            },
        );
    }

    /// Beginning and end of the certificate that is kept.
    fn life(&self, name: &HostName) -> Option<(UnixTime, UnixTime)> {
        let chain: Vec<CertificateDer<'_>> = read_certificates(
            &self.keep.certificate(name),
            "the certificate of a published name",
        )
        .ok()?;
        validity(chain.first()?).ok()
    }

    fn attempts(&self) -> MutexGuard<'_, BTreeMap<HostName, Attempt>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wanted(plan: &GatewayPlan) -> Wanted {
    let names = plan.published().into_iter();
    Wanted {
        plan: plan.acme.clone(),
        names: names
            .filter(|wanted| wanted.certificate == CertificatePlan::Acme)
            .map(|wanted| wanted.name)
            .collect(),
    }
}
