//! What all connections of a hub share, and how a change of trust reaches them.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hawser_identity::{HubIdentity, IdentityError, Proved, SharedTrust};
use hawser_proto::{HostName, NodeId, UnixTime, control::ToGateway};
use hawser_session::{hop::HopServer, relay::PipePool};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    arbiter::Arbiter,
    config::Limits,
    data::Word,
    door::Door,
    front::Front,
    ledger::{Known, KnownList, Ledger, LedgerError, Subject},
    lives::{Cut, Life, Lives, Parties},
    mailbox::Mailbox,
    metrics::Metrics,
    switch::Switch,
    visit::Visitors,
};

/// A party of a connection, as TLS proved it.
#[derive(Debug)]
pub(crate) struct Party {
    /// Shared with registry and tickets.
    pub(crate) id: Arc<NodeId>,
    pub(crate) proved: Proved,
    /// The name under which it serves a client from outside, where it is that what it is here for.
    pub(crate) publishes: Option<HostName>,
}

impl Party {
    pub(crate) fn new(proved: Proved) -> Arc<Self> {
        Arc::new(Self {
            id: Arc::new(proved.id.clone()),
            proved,
            publishes: None,
        })
    }

    /// The same, as it serves a client from outside under this name.
    pub(crate) fn publishing(&self, name: HostName) -> Arc<Self> {
        Arc::new(Self {
            id: self.id.clone(),
            proved: self.proved.clone(),
            publishes: Some(name),
        })
    }
}

/// How the rest of the hub reaches a control connection.
#[derive(Debug, Clone)]
pub(crate) struct ControlHandle {
    /// Bounded: a gateway that does not read is busy, and gets no sessions.
    pub(crate) queue: mpsc::Sender<ToGateway>,
    pub(crate) life: Life,
    /// Cancelled when a newer connection of the same node has taken the place of this one.
    pub(crate) replaced: CancellationToken,
    pub(crate) software: Arc<str>,
    pub(crate) since: UnixTime,
    pub(crate) not_after: UnixTime,
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) identity: HubIdentity,
    pub(crate) software: String,
    pub(crate) hop: HopServer,
    pub(crate) ledger: Ledger,
    pub(crate) arbiter: Arbiter,
    /// Held while the ledger is changed, or read to make trust: trust never goes back.
    pub(crate) writing: tokio::sync::Mutex<()>,
    pub(crate) trust: SharedTrust,
    /// Revocation lists in force, for all control connections to pass on.
    pub(crate) lists: watch::Sender<Arc<Vec<KnownList>>>,
    barred: Mutex<BTreeSet<Subject>>,
    switch: Mutex<Switch<ControlHandle, Word>>,
    /// Rises whenever control connections should look at what to tell their gateways.
    changed: watch::Sender<u64>,
    pub(crate) lives: Arc<Lives<Party>>,
    pub(crate) door: Door,
    pub(crate) visitors: Visitors,
    pub(crate) limits: ArcSwap<Limits>,
    pub(crate) pipes: PipePool,
    pub(crate) metrics: Metrics,
    /// For the devices of domains that have a broker.
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    /// How they reach it.
    pub(crate) front: ArcSwapOption<Front>,
    /// Ends everything.
    pub(crate) stop: CancellationToken,
    /// Data sessions, from the ticket shown to the last byte.
    pub(crate) sessions: TaskTracker,
    /// For warnings that strangers can cause: connections turned away, and tokens made up.
    pub(crate) crowd: Seldom,
    pub(crate) guesses: Seldom,
}

/// What a hub starts from.
pub(crate) struct Parts {
    pub(crate) identity: HubIdentity,
    pub(crate) software: String,
    pub(crate) hop: HopServer,
    pub(crate) ledger: Ledger,
    pub(crate) arbiter: Arbiter,
    pub(crate) trust: SharedTrust,
    pub(crate) switch: Switch<ControlHandle, Word>,
    pub(crate) door: Door,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) mailbox: Option<Arc<Mailbox>>,
    pub(crate) front: Option<Arc<Front>>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            identity: parts.identity,
            software: parts.software,
            hop: parts.hop,
            ledger: parts.ledger,
            arbiter: parts.arbiter,
            writing: tokio::sync::Mutex::default(),
            trust: parts.trust,
            lists: watch::Sender::new(Arc::default()),
            barred: Mutex::default(),
            switch: Mutex::new(parts.switch),
            changed: watch::Sender::new(0),
            lives: Arc::default(),
            door: parts.door,
            visitors: Visitors::new(parts.limits.visitors()),
            pipes: PipePool::new(parts.limits.pipes),
            limits: ArcSwap::from_pointee(parts.limits),
            metrics: parts.metrics,
            mailbox: parts.mailbox,
            front: ArcSwapOption::new(parts.front),
            stop: parts.stop,
            sessions: TaskTracker::new(),
            crowd: Seldom::default(),
            guesses: Seldom::default(),
        }
    }

    /// The hub's decisions. Never held across an await.
    pub(crate) fn switch(&self) -> MutexGuard<'_, Switch<ControlHandle, Word>> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something in the switch that control connections may have to tell of.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Switch<ControlHandle, Word>) -> T) -> T {
        let mut switch = self.switch();
        let before = (switch.registry.generation(), switch.draining);
        let result = change(&mut switch);
        let new = before != (switch.registry.generation(), switch.draining);
        self.metrics.gateways.set(switch.registry.len() as i64);
        drop(switch);
        if new {
            self.changed.send_modify(|n| *n += 1);
        }
        result
    }

    /// Wakes on every [`Self::change`] that somebody may see.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Why what these parties have together may not go on, by the trust and policy in force.
    pub(crate) fn judge(&self, parties: &Parties<Party>) -> Option<Cut> {
        let trust = self.trust.load();
        if parties.iter().flatten().any(|p| !trust.stands(&p.proved)) {
            return Some(Cut::Revoked);
        }
        if let [None, Some(accepting)] = parties
            && let Some(name) = &accepting.publishes
        {
            let allowed = self.switch().publishing.allows(&accepting.id.domain, name);
            return (!allowed).then_some(Cut::Policy);
        }
        let [Some(dialling), Some(accepting)] = parties else {
            return None;
        };
        // Within a domain it may be a renewal, which needs no rule.
        let own = dialling.id.domain == accepting.id.domain;
        (!self.switch().may_pair(&dialling.id, &accepting.id, own)).then_some(Cut::Policy)
    }

    /// Cuts what may not go on. To be called after every change of trust or policy.
    pub(crate) fn cut(&self) -> usize {
        let cut = self.lives.cut(|parties| self.judge(parties));
        if cut > 0 {
            tracing::info!(
                connections = cut,
                "cut what revocations or policy no longer allow"
            );
        }
        cut
    }

    /// Reads the ledger again and puts what it says into force.
    pub(crate) async fn refresh(&self) -> Result<(), LedgerError> {
        let _writing = self.writing.lock().await;
        self.refresh_while_writing().await
    }

    /// The same, by who holds [`Self::writing`].
    pub(crate) async fn refresh_while_writing(&self) -> Result<(), LedgerError> {
        let Known { trust, lists, barred } = self.ledger.known().await?;
        if let Some(mailbox) = &self.mailbox {
            let out = barred.iter().filter_map(|subject| match subject {
                Subject::Domain(domain) => Some(domain),
                Subject::Node(_) => None,
            });
            let admitted = trust.domains().map(|(name, _)| name);
            // What cannot be forgotten now is when the ledger changes next, or at the next start; nobody comes for it meanwhile.
            if let Err(error) = mailbox.domains(admitted, out).await {
                tracing::error!(%error, "cannot forget the mailbox of a domain that was forgotten: restart the hub");
            }
        }
        self.trust.store(Arc::new(trust));
        let before = std::mem::replace(
            &mut *self.barred.lock().unwrap_or_else(PoisonError::into_inner),
            barred.clone(),
        );
        for subject in barred.difference(&before) {
            tracing::info!(%subject, "barred from this hub");
            self.metrics.revoked("hub");
        }
        for subject in before.difference(&barred) {
            tracing::info!(%subject, "no longer barred from this hub");
        }
        self.lists.send_if_modified(|known| {
            let new = **known != lists;
            if new {
                *known = Arc::new(lists);
            }
            new
        });
        self.cut();
        Ok(())
    }

    /// Takes in a revocation list that a gateway brought. It must be of the gateway's own domain.
    pub(crate) async fn take_list(&self, from: &NodeId, bytes: Vec<u8>) -> Result<(), ListError> {
        let _writing = self.writing.lock().await;
        let mut trust = (**self.trust.load()).clone();
        let accepted = match trust.accept_revocations(&bytes, UnixTime::now()) {
            Ok(accepted) => accepted,
            Err(IdentityError::NotNewer { .. }) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        if accepted.domain != from.domain {
            return Err(ListError::OtherDomain);
        }
        let key = accepted.key();
        let signers = self
            .lists
            .borrow()
            .iter()
            .filter(|l| l.domain == accepted.domain && l.key != key)
            .count();
        if signers >= MAX_SIGNERS {
            return Err(ListError::Signers);
        }
        let number = accepted.number;
        self.ledger
            .revocations
            .put(&key, &bytes.into())
            .await
            .map_err(LedgerError::from)?;
        tracing::info!(list = %key, number, names = accepted.list.revoked.len(), "took in a revocation list");
        self.metrics.revoked("domain");
        Ok(self.refresh_while_writing().await?)
    }
}

/// Most signers of lists of one domain that are kept.
const MAX_SIGNERS: usize = 16;

/// Why a revocation list was not taken in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("it is of another domain")]
    OtherDomain,
    #[error("lists of {MAX_SIGNERS} signers of the domain are kept, and no more can be")]
    Signers,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Lets a warning through once in a while, so that strangers cannot fill the log.
#[derive(Debug)]
pub(crate) struct Seldom {
    begin: Instant,
    /// Milliseconds after `begin` from which on the next may pass.
    next: AtomicU64,
}

const SELDOM: Duration = Duration::from_secs(10);

impl Default for Seldom {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            next: AtomicU64::new(0),
        }
    }
}

impl Seldom {
    /// Whether it is time again.
    pub(crate) fn now(&self) -> bool {
        let now = self.begin.elapsed().as_millis() as u64;
        let next = self.next.load(Ordering::Relaxed);
        now >= next
            && self
                .next
                .compare_exchange(
                    next,
                    now + SELDOM.as_millis() as u64,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
    }
}
