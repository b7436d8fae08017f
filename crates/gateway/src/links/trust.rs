//! Whom this gateway trusts, kept in step with the store and with the revocation lists that come in; and the cutting of
//! sessions with those whom it trusts no more.
//!
//! One task ([`Keeper::run`]) makes all changes, so that none is lost between two that read the same snapshot.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hawser_identity::{
    CertificateDer, IdentityError, RevocationList, SharedCredentials, SharedTrust, SignedRevocations, Signer,
    Trust,
};
use hawser_proto::{DomainName, NodeId, Role, UnixTime};
use hawser_store::{Bucket, Store, StoreError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, error, info, warn};

use super::{
    issuing::Issuing,
    live::Live,
    metrics::Metrics,
    records::{self, PeerRecord, RevokedRecord, SignedRecord},
};

/// Lists that wait to be looked at.
const QUEUE: usize = 64;
/// Longest wait for a place among them.
const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// When the next list comes at the latest.
const NEXT_UPDATE: Duration = Duration::from_secs(24 * 3600);
/// How often time alone is looked at: overdue lists, sessions beyond their certificates, the issuer's age.
const TEND_EVERY: Duration = Duration::from_secs(1);

/// The way to the keeper's task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    lists: mpsc::Sender<Arrived>,
    own_lists: Arc<Mutex<Vec<Vec<u8>>>>,
    changed: watch::Receiver<u64>,
    trusted: watch::Receiver<u64>,
}

struct Arrived {
    bytes: Vec<u8>,
    verdict: Option<oneshot::Sender<Result<(), IdentityError>>>,
}

/// What the keeper's task works with.
pub(crate) struct Work {
    store: Store,
    trust: SharedTrust,
    own: SharedCredentials,
    issuing: Arc<Issuing>,
    live: Live,
    metrics: Metrics,
    peers: Bucket<PeerRecord>,
    revoked: Bucket<RevokedRecord>,
    lists: Bucket<SignedRecord>,
    arrived: mpsc::Receiver<Arrived>,
    own_lists: Arc<Mutex<Vec<Vec<u8>>>>,
    changed: watch::Sender<u64>,
    trusted: watch::Sender<u64>,
    /// Revocations that could not be signed have been complained of.
    complained: bool,
}

impl Keeper {
    /// The keeper and its work, which [`Work::run`] does.
    pub(crate) fn new(
        store: &Store,
        trust: SharedTrust,
        own: SharedCredentials,
        issuing: Arc<Issuing>,
        live: Live,
        metrics: Metrics,
    ) -> (Self, Work) {
        let (lists, arrived) = mpsc::channel(QUEUE);
        let (changed, watcher) = watch::channel(0);
        let (trusted, trust_watcher) = watch::channel(0);
        let own_lists = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let work = Work {
            store: store.clone(),
            trust,
            own,
            issuing,
            live,
            metrics,
            peers: store.bucket(records::PEERS),
            revoked: store.bucket(records::REVOKED),
            lists: store.bucket(records::REVOCATIONS),
            arrived,
            own_lists: own_lists.clone(),
            changed,
            trusted,
            complained: false,
        };
        (
            Self {
                lists,
                own_lists,
                changed: watcher,
                trusted: trust_watcher,
            },
            work,
        )
    }

    /// Takes in a list that came from a gateway; says whether it is a good one (one that is known already is).
    pub(crate) async fn accept(&self, bytes: Vec<u8>) -> Result<(), IdentityError> {
        let busy =
            || IdentityError::Revocations("too many lists are waiting to be looked at; try again".into());
        let (verdict, answer) = oneshot::channel();
        let arrived = Arrived {
            bytes,
            verdict: Some(verdict),
        };
        self.lists
            .send_timeout(arrived, QUEUE_WAIT)
            .await
            .map_err(|_| busy())?;
        match timeout(QUEUE_WAIT, answer).await {
            Ok(Ok(verdict)) => verdict,
            _ => Err(busy()),
        }
    }

    /// Takes in a list that came from a hub. When too many wait it is dropped: hubs send all lists again on connection.
    pub(crate) fn offer(&self, bytes: Vec<u8>) {
        let _ = self.lists.try_send(Arrived { bytes, verdict: None });
    }

    /// The newest lists of the own domain.
    pub(crate) fn own_lists(&self) -> Vec<Vec<u8>> {
        self.own_lists
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes with the lists of the own domain.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Changes whenever the trust was replaced.
    pub(crate) fn trust_changes(&self) -> watch::Receiver<u64> {
        self.trusted.clone()
    }
}

impl Work {
    /// Brings the trust in step with the store, once; to be called before anything rests on it.
    pub(crate) async fn settle(&mut self) -> Result<(), StoreError> {
        self.follow().await?;
        self.sign().await
    }

    /// Keeps it so. Ends only with the gateway.
    pub(crate) async fn run(mut self) {
        let mut store = self.store.watch();
        let mut tend = interval(TEND_EVERY);
        tend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut second = 0u32;
        loop {
            let result = tokio::select! {
                changed = store.changed() => match changed {
                    Ok(()) => self.settle().await,
                    Err(_) => return,
                },
                arrived = self.arrived.recv() => match arrived {
                    Some(arrived) => self.take(arrived).await,
                    None => return,
                },
                _ = tend.tick() => {
                    self.cut_expired();
                    second += 1;
                    if second.is_multiple_of(60) { self.each_minute(second).await } else { Ok(()) }
                }
            };
            if let Err(error) = result {
                error!(%error, "the store failed; trust stays as it is");
            }
        }
    }

    fn own_domain(&self) -> DomainName {
        self.own.load().id().domain.clone()
    }

    /// Roots, local revocations and kept lists as the store has them.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let own = self.own.load_full();
        let mut trust = Trust::clone(&self.trust.load());
        let mut wanted = vec![(own.id().domain.clone(), own.chain().last().cloned())];
        for (domain, record, _) in self.peers.entries().await? {
            if let Ok(domain) = domain.parse::<DomainName>()
                && domain != own.id().domain
            {
                wanted.push((domain, Some(CertificateDer::from(record.root))));
            }
        }
        let gone: Vec<_> = trust
            .domains()
            .map(|(domain, _)| domain.clone())
            .filter(|domain| wanted.iter().all(|(w, _)| w != domain))
            .collect();
        for domain in gone {
            info!(%domain, "no longer a peer");
            trust.remove_root(&domain);
        }
        for (domain, root) in wanted {
            let Some(root) = root else { continue };
            if trust.root(&domain) != Some(&root)
                && let Err(error) = trust.add_root(&domain, root)
            {
                error!(%domain, %error, "this domain's root cannot be used");
                trust.remove_root(&domain);
            }
        }
        for (id, _, _) in self.revoked.entries().await? {
            match id.parse::<NodeId>() {
                Ok(id) if id.domain == own.id().domain => trust.revoke(id),
                _ => warn!(%id, "a revocation of something that is no name of this domain"),
            }
        }
        for (key, record, _) in self.lists.entries().await? {
            match trust.restore_revocations(&record.bytes) {
                Ok(_) | Err(IdentityError::NotNewer { .. } | IdentityError::UnknownDomain(_)) => {}
                Err(error) => warn!(%key, %error, "a kept revocation list is of no use"),
            }
        }
        self.replace(trust);
        self.refresh_own_lists().await
    }

    /// A list that came by hub or gateway.
    async fn take(&mut self, arrived: Arrived) -> Result<(), StoreError> {
        let mut trust = Trust::clone(&self.trust.load());
        let accepted = trust.accept_revocations(&arrived.bytes, UnixTime::now());
        let (verdict, result) = match accepted {
            Ok(accepted) => {
                info!(
                    domain = %accepted.domain, signer = %accepted.signer, number = accepted.number,
                    names = accepted.list.revoked.len(), "new revocation list"
                );
                // In force first, then kept.
                self.replace(trust);
                let kept = self.keep(&accepted.key(), arrived.bytes).await;
                (Ok(()), kept)
            }
            Err(IdentityError::NotNewer { .. }) => (Ok(()), Ok(())),
            Err(error @ IdentityError::UnknownDomain(_)) => {
                debug!(%error, "a revocation list of a domain that is no peer");
                (Err(error), Ok(()))
            }
            Err(error) => {
                warn!(%error, "refused a revocation list");
                (Err(error), Ok(()))
            }
        };
        if let Some(tell) = arrived.verdict {
            let _ = tell.send(verdict);
        }
        result
    }

    /// Signs a new list where this gateway is an issuer and the last one lacks a name or is due.
    async fn sign(&mut self) -> Result<(), StoreError> {
        let Some(issuer) = self.issuing.issuer() else {
            return Ok(());
        };
        let domain = issuer.id().domain.clone();
        let (issuers, gateways): (Vec<_>, Vec<_>) = self
            .trust
            .load()
            .revoked(&domain)
            .into_iter()
            .partition(|id| id.role == Role::Issuer);
        let by_issuer = Signer::Issuer(issuer.id().name.clone());
        self.sign_as(&domain, by_issuer, gateways, |list| issuer.sign_revocations(list))
            .await?;
        if issuers.is_empty() {
            return Ok(());
        }
        match self.issuing.root() {
            Some(root) => {
                self.sign_as(&domain, Signer::Root, issuers, |list| root.sign_revocations(list))
                    .await
            }
            None if self.complained => Ok(()),
            None => {
                self.complained = true;
                warn!(
                    "an issuer is revoked, which only the root can tell others: put root.key into the state directory"
                );
                Ok(())
            }
        }
    }

    async fn sign_as(
        &mut self,
        domain: &DomainName,
        signer: Signer,
        names: Vec<NodeId>,
        sign: impl FnOnce(&RevocationList) -> Result<SignedRevocations, IdentityError>,
    ) -> Result<(), StoreError> {
        let now = UnixTime::now();
        let last = self.trust.load().list_number(domain, &signer);
        let due = |number: u64| now.0 >= number.saturating_add(NEXT_UPDATE.as_secs() / 2);
        let told = self.told(domain, &signer).await?;
        let lacking = names.iter().any(|name| !told.contains(name));
        if !lacking && last.is_some_and(|number| !due(number)) {
            return Ok(());
        }
        let list = RevocationList {
            domain: domain.clone(),
            // The time, so that a state directory restored from a copy does not repeat a number.
            number: now.0.max(last.unwrap_or_default() + 1),
            this_update: now,
            next_update: now.plus(NEXT_UPDATE),
            revoked: names,
        };
        let signed = sign(&list).and_then(|signed| signed.to_bytes());
        let mut trust = Trust::clone(&self.trust.load());
        let accepted = signed.and_then(|bytes| Ok((trust.accept_revocations(&bytes, now)?, bytes)));
        match accepted {
            Ok((accepted, bytes)) => {
                info!(%signer, number = list.number, names = list.revoked.len(), "signed a revocation list");
                self.replace(trust);
                self.keep(&accepted.key(), bytes).await
            }
            Err(error) => {
                error!(%error, "cannot sign a revocation list");
                Ok(())
            }
        }
    }

    /// The names in the newest kept list of a signer.
    async fn told(&self, domain: &DomainName, signer: &Signer) -> Result<BTreeSet<NodeId>, StoreError> {
        let Some((record, _)) = self.lists.get(&format!("{domain}/{signer}")).await? else {
            return Ok(BTreeSet::new());
        };
        let own = self.own.load_full();
        let mut alone = Trust::new();
        let restored = own.chain().last().cloned().map(|root| {
            alone.add_root(domain, root)?;
            alone.restore_revocations(&record.bytes)
        });
        match restored {
            Some(Ok(accepted)) => Ok(accepted.list.revoked.into_iter().collect()),
            _ => Ok(BTreeSet::new()),
        }
    }

    async fn keep(&mut self, key: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        self.lists.put(key, &SignedRecord { bytes }).await?;
        self.refresh_own_lists().await
    }

    async fn refresh_own_lists(&self) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.own_domain());
        let lists = self.lists.entries().await?;
        let own: Vec<_> = lists
            .into_iter()
            .filter(|(key, _, _)| key.starts_with(&prefix))
            .map(|(_, record, _)| record.bytes)
            .collect();
        let mut kept = self.own_lists.lock().unwrap_or_else(PoisonError::into_inner);
        if *kept != own {
            *kept = own;
            drop(kept);
            self.changed.send_modify(|n| *n += 1);
        }
        Ok(())
    }

    /// Puts a new trust in force, and cuts sessions with whoever is not trusted any more.
    fn replace(&self, trust: Trust) {
        let now = Arc::new(trust);
        self.trust.store(now.clone());
        self.trusted.send_modify(|n| *n += 1);
        let cut = self.live.cut(|peer| !now.stands(&peer.proved));
        if cut > 0 {
            self.metrics.cuts.inc_by(cut as u64);
            warn!(
                sessions = cut,
                "cut sessions with gateways that are not trusted any more"
            );
        }
    }

    fn cut_expired(&self) {
        let cut = self.live.cut_expired(UnixTime::now());
        if cut > 0 {
            self.metrics.cuts.inc_by(cut as u64);
            warn!(
                sessions = cut,
                "cut sessions that have outlived their certificates"
            );
        }
        self.metrics.sessions_live.set(self.live.len() as i64);
    }

    async fn each_minute(&mut self, second: u32) -> Result<(), StoreError> {
        if second.is_multiple_of(3600) {
            for (domain, signer, since) in self.trust.load().overdue(UnixTime::now()) {
                warn!(%domain, %signer, since = since.0, "a revocation list is overdue: somebody may be withholding it");
            }
            if let Err(error) = self.issuing.tend() {
                error!(%error, "cannot renew the issuer's certificate");
            }
        }
        self.sign().await
    }
}
