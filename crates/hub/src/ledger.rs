//! What the hub remembers over a restart: admitted roots, tokens, its own revocations, and the revocation lists of domains.
//!
//! The command line changes the same database beside a running hub, which watches it. The functions here that take a
//! [`Store`] are that other side.

use std::{collections::BTreeSet, fmt, str::FromStr, time::Duration};

use data_encoding::HEXLOWER;
use hawser_identity::{
    CertificateDer, Fingerprint, HubAddress, HubIdentity, HubToken, IdentityError, Secret, Trust,
};
use hawser_proto::{DomainName, NameError, NodeId, UnixTime};
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode, bytes::ByteVec};

use crate::arbiter;

/// Longest life of a token.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an expired token is kept, so that its use can still be told from a made-up one.
const KEEP_EXPIRED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Whom the hub's operator bars from the hub: one identity or a whole domain. Written as the identity, or `domain:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A gateway, or an issuer with everything that it signed.
    Node(NodeId),
    /// Everything of a domain.
    Domain(DomainName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Node(id) => write!(f, "{id}"),
            Subject::Domain(domain) => write!(f, "domain:{domain}"),
        }
    }
}

impl FromStr for Subject {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        match s.strip_prefix("domain:") {
            Some(domain) => domain.parse().map(Subject::Domain),
            None => s.parse().map(Subject::Node),
        }
    }
}

/// An admitted domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Its name.
    pub domain: DomainName,
    /// Of its root.
    pub root: Fingerprint,
    /// Since when.
    pub at: UnixTime,
}

/// Why a call from the command line failed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored root, or a token that could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A stored key is no name.
    #[error(
        "the database holds {0:?} where a name is expected: was it written by another version of Hawser?"
    )]
    Name(String),
    /// The gateway in the hub's process has another root than its domain was admitted with.
    #[error(
        "the hub has admitted domain {domain} with the root {known}, and the gateway beside it has {own}: if the domain was \
         made anew, `hawser hub forget {domain}`; if not, give the gateway the state directory that it had"
    )]
    OtherRoot {
        /// Whose.
        domain: DomainName,
        /// That the hub knows.
        known: Fingerprint,
        /// That the gateway has.
        own: Fingerprint,
    },
    /// A token that would live too long, or not at all.
    #[error("a token cannot live for {0:?}: expected more than none and at most 30 days")]
    Life(Duration),
}

/// Makes a one-time token by which `domain` can be admitted at this hub.
pub async fn make_token(
    store: &Store,
    identity: &HubIdentity,
    public: HubAddress,
    domain: DomainName,
    life: Duration,
) -> Result<HubToken, LedgerError> {
    if life.is_zero() || life > MAX_TOKEN_LIFE {
        return Err(LedgerError::Life(life));
    }
    let secret = Secret::random()?;
    let now = UnixTime::now();
    let expires = now.plus(life);
    let record = TokenRecord {
        domain: domain.clone(),
        expires,
        spent: None,
    };
    let tokens = Ledger::new(store).tokens;
    for (key, old, _) in tokens.entries().await? {
        if old.expires.plus(KEEP_EXPIRED) < now {
            tokens.delete(&key).await?;
        }
    }
    tokens.create(&HEXLOWER.encode(&secret.hash()), &record).await?;
    Ok(HubToken {
        hub: public,
        pin: identity.pin(),
        domain,
        secret,
        expires,
    })
}

/// Admits the domain whose gateway runs in the hub's own process: who starts that process speaks for both. It says no
/// more than a token would: a domain that is barred stays so, and a domain has one root.
pub async fn admit_own(
    store: &Store,
    domain: &DomainName,
    root: &CertificateDer<'static>,
) -> Result<(), LedgerError> {
    let admitted = Ledger::new(store).admitted;
    let record = AdmittedRecord {
        root: ByteVec::from(root.to_vec()),
        at: UnixTime::now(),
    };
    match admitted.create(domain.as_str(), &record).await {
        Ok(_) => return Ok(()),
        Err(StoreError::Exists { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    match admitted.get(domain.as_str()).await? {
        Some((known, _)) if known.root != record.root => Err(LedgerError::OtherRoot {
            domain: domain.clone(),
            known: Fingerprint::of_certificate(&CertificateDer::from(known.root.to_vec()))?,
            own: Fingerprint::of_certificate(root)?,
        }),
        _ => Ok(()),
    }
}

/// The domains that are admitted, by name.
pub async fn admitted(store: &Store) -> Result<Vec<Admitted>, LedgerError> {
    let entries = Ledger::new(store).admitted.entries().await?;
    entries
        .into_iter()
        .map(|(key, record, _)| {
            Ok(Admitted {
                domain: key.parse().map_err(|_| LedgerError::Name(key))?,
                root: Fingerprint::of_certificate(&CertificateDer::from(record.root.to_vec()))?,
                at: record.at,
            })
        })
        .collect()
}

/// Whom the hub's operator has barred, and since when.
pub async fn revoked(store: &Store) -> Result<Vec<(Subject, UnixTime)>, LedgerError> {
    let entries = Ledger::new(store).revoked.entries().await?;
    entries
        .into_iter()
        .map(|(key, record, _)| Ok((key.parse().map_err(|_| LedgerError::Name(key))?, record.at)))
        .collect()
}

/// Bars an identity or a domain from this hub: a running hub cuts it within a second and admits it no more.
pub async fn revoke(store: &Store, subject: &Subject) -> Result<(), LedgerError> {
    let record = RevokedRecord { at: UnixTime::now() };
    match Ledger::new(store)
        .revoked
        .create(&subject.to_string(), &record)
        .await
    {
        Ok(_) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Forgets a domain: its admission, tokens, lists and machines, and that it was barred; it needs a new token to come back. Or forgets
/// that an identity was barred. False if there was nothing to forget.
pub async fn forget(store: &Store, subject: &Subject) -> Result<bool, LedgerError> {
    let ledger = Ledger::new(store);
    let mut any = ledger.revoked.delete(&subject.to_string()).await?;
    if let Subject::Domain(domain) = subject {
        any |= ledger.admitted.delete(domain.as_str()).await?;
        for (key, record, _) in ledger.tokens.entries().await? {
            if record.domain == *domain {
                any |= ledger.tokens.delete(&key).await?;
            }
        }
        let prefix = format!("{domain}/");
        for (key, _, _) in ledger.revocations.entries().await? {
            if key.starts_with(&prefix) {
                ledger.revocations.delete(&key).await?;
            }
        }
        any |= arbiter::forget_domain(store, domain).await?;
    }
    Ok(any)
}

/// A domain's root.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct AdmittedRecord {
    /// Certificate (DER).
    #[n(0)]
    pub(crate) root: ByteVec,
    #[n(1)]
    pub(crate) at: UnixTime,
}

/// A token, under the SHA-256 of its secret.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct TokenRecord {
    #[n(0)]
    pub(crate) domain: DomainName,
    #[n(1)]
    pub(crate) expires: UnixTime,
    #[n(2)]
    pub(crate) spent: Option<UnixTime>,
}

/// That somebody is barred.
#[derive(Debug, Clone, Encode, Decode)]
pub(crate) struct RevokedRecord {
    #[n(0)]
    pub(crate) at: UnixTime,
}

/// The hub's buckets.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    /// By domain.
    pub(crate) admitted: Bucket<AdmittedRecord>,
    /// By hash of the secret, in hex.
    pub(crate) tokens: Bucket<TokenRecord>,
    /// By [`Subject`].
    pub(crate) revoked: Bucket<RevokedRecord>,
    /// Signed lists, by domain/signer.
    pub(crate) revocations: Bucket<ByteVec>,
}

/// A signed revocation list that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownList {
    /// Whose it is.
    pub(crate) domain: DomainName,
    /// Under which key it is kept.
    pub(crate) key: String,
    /// Rises with each list under the key.
    pub(crate) number: u64,
    /// As it was signed.
    pub(crate) bytes: Vec<u8>,
}

/// What the ledger says about whom to believe.
pub(crate) struct Known {
    pub(crate) trust: Trust,
    pub(crate) lists: Vec<KnownList>,
    /// Barred by the hub's operator.
    pub(crate) barred: BTreeSet<Subject>,
}

impl Ledger {
    pub(crate) fn new(store: &Store) -> Self {
        Self {
            admitted: store.bucket("admitted"),
            tokens: store.bucket("tokens"),
            revoked: store.bucket("revoked"),
            revocations: store.bucket("revocations"),
        }
    }

    /// Reads everything that trust rests on. What no longer fits (a list of a root that is gone) is left out and logged.
    pub(crate) async fn known(&self) -> Result<Known, LedgerError> {
        let mut barred = BTreeSet::new();
        for (key, _, _) in self.revoked.entries().await? {
            barred.insert(key.parse().map_err(|_| LedgerError::Name(key))?);
        }
        let mut trust = Trust::new();
        for (key, record, _) in self.admitted.entries().await? {
            let domain: DomainName = key.parse().map_err(|_| LedgerError::Name(key))?;
            if !barred.contains(&Subject::Domain(domain.clone())) {
                trust.add_root(&domain, CertificateDer::from(record.root.to_vec()))?;
            }
        }
        for subject in &barred {
            if let Subject::Node(id) = subject {
                trust.revoke(id.clone());
            }
        }
        let mut lists = Vec::new();
        for (key, bytes, _) in self.revocations.entries().await? {
            match trust.restore_revocations(&bytes) {
                Ok(accepted) => lists.push(KnownList {
                    domain: accepted.domain.clone(),
                    key,
                    number: accepted.number,
                    bytes: bytes.to_vec(),
                }),
                Err(error) => tracing::debug!(%key, %error, "a kept revocation list is left out"),
            }
        }
        Ok(Known { trust, lists, barred })
    }
}
