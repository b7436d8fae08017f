//! The issuer's work: certificates for the nodes of its domain, by proof of an old one or by a one-time token.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use data_encoding::HEXLOWER;
use hawser_identity::{IdentityError, Issuer, RootAuthority, Secret, SharedTrust, file, token};
use hawser_proto::{
    Fault, NodeId, NodeName, Place, Role, UnixTime,
    session::{Issued, join_statement},
};
use hawser_store::{Bucket, Store, StoreError};
use tracing::{error, info, warn};

use super::{
    metrics::{Metrics, Outcome},
    records::{self, IssuedRecord, TokenRecord, issued_key},
};
use crate::callbacks::keys::Keys;

/// When an issuer that cannot be renewed here begins to be a matter of concern.
pub(crate) const CONCERN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Issues certificates, where this gateway is an issuer.
pub(crate) struct Issuing {
    dir: PathBuf,
    issuer: ArcSwapOption<Issuer>,
    trust: SharedTrust,
    tokens: Bucket<TokenRecord>,
    issued: Bucket<IssuedRecord>,
    keys: Keys,
    /// Seconds that a new certificate is good for.
    life: AtomicU64,
    metrics: Metrics,
}

/// A request for a node's first certificate.
pub(crate) struct JoinRequest<'a> {
    /// The name it wants.
    pub(crate) name: &'a NodeName,
    /// Certification request (DER).
    pub(crate) request: &'a [u8],
    /// SHA-256 of the hub half of its token.
    pub(crate) token: [u8; 32],
    /// Its proof that it holds the other half.
    pub(crate) mac: [u8; 32],
    /// The exporter value of the session that all this came by.
    pub(crate) exporter: &'a [u8; 32],
}

impl Issuing {
    /// Reads the issuer from the state directory, if there is one.
    pub(crate) fn load(
        dir: PathBuf,
        store: &Store,
        trust: SharedTrust,
        life: Duration,
        metrics: Metrics,
    ) -> Result<Self, IdentityError> {
        let issuer = match dir.join(file::ISSUER_KEY).exists() {
            true => Some(Arc::new(Issuer::load(&dir)?)),
            false => None,
        };
        if let Some(issuer) = &issuer {
            metrics.issuer_expiry.set(issuer.not_after().0 as i64);
        }
        Ok(Self {
            dir,
            issuer: ArcSwapOption::from(issuer),
            trust,
            tokens: store.bucket(records::TOKENS),
            issued: store.bucket(records::ISSUED),
            keys: Keys::new(store),
            life: AtomicU64::new(life.as_secs()),
            metrics,
        })
    }

    /// The issuer, if this gateway is one.
    pub(crate) fn issuer(&self) -> Option<Arc<Issuer>> {
        self.issuer.load_full()
    }

    /// The domain's root, if its key is here.
    pub(crate) fn root(&self) -> Option<RootAuthority> {
        let key = self.dir.join(file::ROOT_KEY);
        if !key.exists() {
            return None;
        }
        match RootAuthority::load(&self.dir.join(file::ROOT_CERTIFICATE), &key) {
            Ok(root) => Some(root),
            Err(error) => {
                error!(%error, "the root's key is here but cannot be used");
                None
            }
        }
    }

    /// Another life for certificates from now on.
    pub(crate) fn set_life(&self, life: Duration) {
        self.life.store(life.as_secs(), Ordering::Relaxed);
    }

    /// A fresh certificate for `id`, by this gateway's own issuer.
    pub(crate) fn issue(&self, id: &NodeId, request: &[u8]) -> Result<Issued, Fault> {
        let issuer = self.issuer.load_full().ok_or_else(no_issuer)?;
        if self.trust.load().is_revoked(id) {
            return Err(refused(
                "revoked",
                format!("{id} is revoked"),
                "join again under a new name",
            ));
        }
        let life = Duration::from_secs(self.life.load(Ordering::Relaxed));
        let chain = issuer.issue(id, request, life).map_err(|e| {
            warn!(node = %id, error = %e, "cannot issue a certificate");
            refused("not-issued", e.to_string(), "see the issuing gateway's log")
        })?;
        Ok(Issued::Chain(
            chain.into_iter().map(|der| der.to_vec().into()).collect(),
            None,
        ))
    }

    /// Answers a node that has proved its old certificate.
    pub(crate) async fn renew(&self, peer: &NodeId, request: &[u8]) -> Issued {
        let own = self
            .issuer
            .load()
            .as_ref()
            .is_some_and(|i| i.id().domain == peer.domain);
        let result = match own {
            true => self.issue(peer, request),
            false => Err(no_issuer()),
        };
        self.done(&result);
        match result {
            Ok(issued) => {
                info!(node = %peer, "renewed a certificate");
                self.sharing(issued, peer.role).await
            }
            Err(fault) => {
                warn!(node = %peer, %fault, "refused to renew a certificate");
                Issued::Refused(fault)
            }
        }
    }

    /// With what the gateways of the domain share.
    async fn sharing(&self, issued: Issued, role: Role) -> Issued {
        match (issued, role) {
            (Issued::Chain(chain, _), Role::Gateway) => match self.keys.share().await {
                Ok(shared) => Issued::Chain(chain, Some(shared)),
                Err(error) => {
                    warn!(%error, "cannot read the keys for calls back");
                    Issued::Chain(chain, None)
                }
            },
            (issued, _) => issued,
        }
    }

    /// Answers a joiner. A token is spent at most once, also when two come at the same time.
    pub(crate) async fn join(&self, join: JoinRequest<'_>) -> Issued {
        let result = self.try_join(&join).await;
        self.done(&result);
        match result {
            Ok(issued) => {
                info!(name = %join.name, "a new node has joined the domain");
                issued
            }
            Err(fault) => {
                warn!(name = %join.name, %fault, "refused a joiner");
                Issued::Refused(fault)
            }
        }
    }

    /// Join tokens that may still be used, by hash and end.
    pub(crate) async fn offers(&self) -> Result<Vec<([u8; 32], UnixTime)>, StoreError> {
        if self.issuer.load().is_none() {
            return Ok(Vec::new());
        }
        let now = UnixTime::now();
        let tokens = self.tokens.entries().await?;
        let good = tokens.into_iter().filter(|(_, record, _)| record.good(now));
        Ok(good
            .filter_map(|(key, record, _)| {
                let hash = HEXLOWER.decode(key.as_bytes()).ok()?;
                Some((hash.try_into().ok()?, record.expires))
            })
            .collect())
    }

    /// Renews the issuer's own certificate when half of its life is over and the root is here; else says how urgent it is.
    pub(crate) fn tend(&self) -> Result<(), IdentityError> {
        let Some(issuer) = self.issuer.load_full() else {
            return Ok(());
        };
        let now = UnixTime::now();
        let left = now.until(issuer.not_after());
        let life = issuer.not_before().until(issuer.not_after());
        if left * 2 > life {
            return Ok(());
        }
        match self.root() {
            Some(root) => {
                let fresh = Issuer::create(&root, &issuer.id().domain, &issuer.id().name)?;
                fresh.save(&self.dir)?;
                info!(until = fresh.not_after().0, "renewed the issuer's certificate");
                self.metrics.issuer_expiry.set(fresh.not_after().0 as i64);
                self.issuer.store(Some(Arc::new(fresh)));
            }
            None if left < CONCERN => warn!(
                days = left.as_secs() / 86400,
                "the issuer's certificate ends soon: put root.key into the state directory for a moment, or make a new issuer"
            ),
            None => {}
        }
        Ok(())
    }

    async fn try_join(&self, join: &JoinRequest<'_>) -> Result<Issued, Fault> {
        let issuer = self.issuer.load_full().ok_or_else(no_issuer)?;
        let key = HEXLOWER.encode(&join.token);
        let found = self.tokens.get(&key).await.map_err(|e| store_failed(&e))?;
        let Some((mut record, revision)) = found.filter(|(record, _)| record.good(UnixTime::now())) else {
            return Err(refused(
                "token-refused",
                "the token is unknown here, used already, or has ended".into(),
                "make a new one with `hawser token`",
            ));
        };
        let statement = join_statement(join.name, join.request, join.exporter);
        if !token::verify_mac(&record.domain_half, &statement, &join.mac) {
            return Err(refused(
                "token-refused",
                "the proof of the token is wrong: it is another token's, or somebody stands in between"
                    .into(),
                "make a new token with `hawser token`",
            ));
        }
        // Its token, not the joiner, says what it becomes.
        let id = NodeId {
            domain: issuer.id().domain.clone(),
            role: record.role.unwrap_or(Role::Gateway),
            name: join.name.clone(),
        };
        let name = issued_key(&id);
        if self
            .issued
            .get(&name)
            .await
            .map_err(|e| store_failed(&e))?
            .is_some()
        {
            return Err(taken(join.name));
        }
        let issued = self.issue(&id, join.request)?;
        let now = UnixTime::now();
        record.spent = Some(now);
        record.domain_half = Secret::from([0; 32]);
        match self.tokens.update(&key, &record, revision).await {
            Ok(_) => {}
            Err(StoreError::Conflict { .. }) => {
                return Err(refused(
                    "token-refused",
                    "the token was used by somebody else at the same time".into(),
                    "make a new one with `hawser token`",
                ));
            }
            Err(e) => return Err(store_failed(&e)),
        }
        let by = issuer.id().name.to_string();
        match self.issued.create(&name, &IssuedRecord { at: now, by }).await {
            Ok(_) => Ok(self.sharing(issued, id.role).await),
            Err(StoreError::Exists { .. }) => Err(taken(join.name)),
            Err(e) => Err(store_failed(&e)),
        }
    }

    fn done(&self, result: &Result<Issued, Fault>) {
        self.metrics.issued.get_or_create(&Outcome::of(result)).inc();
    }
}

fn refused(code: &str, detail: String, advice: &str) -> Fault {
    Fault::new(Place::ServerGateway, 403, code, detail, advice)
}

fn no_issuer() -> Fault {
    refused(
        "no-issuer",
        "this gateway does not issue certificates for that domain".into(),
        "ask a gateway on which `hawser domain init` ran",
    )
}

fn taken(name: &NodeName) -> Fault {
    refused(
        "name-taken",
        format!("the name {name} was given out before"),
        "join under another name; one that was revoked or lost is never given again",
    )
}

fn store_failed(error: &StoreError) -> Fault {
    error!(%error, "the store failed");
    Fault::new(
        Place::ServerGateway,
        503,
        "store-failed",
        "the issuing gateway cannot use its database",
        "see its log",
    )
}
