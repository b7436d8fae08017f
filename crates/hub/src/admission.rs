//! Admits a domain: somebody shows a one-time token of this hub and proves, by an issuer's signature, to speak for a root.
//!
//! The token is spent by compare-and-swap before the root is written, so that no token admits twice; a crash in between
//! costs a new token.

use data_encoding::HEXLOWER;
use hawser_identity::{CertificateDer, Fingerprint, IdentityError, token, verify_issuer_signature};
use hawser_proto::{DomainName, Fault, Place, UnixTime, hop};
use hawser_store::StoreError;
use minicbor::bytes::ByteVec;

use crate::ledger::{AdmittedRecord, Ledger, Subject};

/// What a domain shows to be admitted.
pub(crate) struct Application {
    pub(crate) domain: DomainName,
    pub(crate) secret: [u8; 32],
    pub(crate) root: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
}

/// Why a domain was not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmissionError {
    #[error("the token is not known here")]
    Unknown,
    #[error("the token was made for another domain")]
    OtherDomain,
    #[error("the token has expired")]
    Expired,
    #[error("the token has been used")]
    Spent,
    #[error("domain {0} is admitted already, with the root that was shown")]
    Already(DomainName),
    #[error("domain {domain} is admitted already with another root, {known}; shown was {shown}")]
    OtherRoot {
        domain: DomainName,
        known: Fingerprint,
        shown: Fingerprint,
    },
    #[error("domain {0} is barred from this hub")]
    Barred(DomainName),
    #[error("the domain did not prove itself: {0}")]
    Proof(#[from] IdentityError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Admits the applicant, or says why not. Gives its root's fingerprint. Calls must not run at the same time.
pub(crate) async fn admit(
    ledger: &Ledger,
    pin: &Fingerprint,
    now: UnixTime,
    application: &Application,
) -> Result<Fingerprint, AdmissionError> {
    let Application { domain, secret, .. } = application;
    let key = HEXLOWER.encode(&token::hash(secret));
    let (mut record, revision) = ledger.tokens.get(&key).await?.ok_or(AdmissionError::Unknown)?;
    if record.domain != *domain {
        return Err(AdmissionError::OtherDomain);
    }
    let root = CertificateDer::from(application.root.clone());
    let issuer = CertificateDer::from(application.issuer.clone());
    let statement = hop::admit_statement(domain, &pin.0, secret);
    verify_issuer_signature(domain, &root, &issuer, &statement, &application.signature, now)?;
    let shown = Fingerprint::of_certificate(&root)?;
    let known = match ledger.admitted.get(domain.as_str()).await? {
        Some((record, _)) => Some(Fingerprint::of_certificate(&CertificateDer::from(
            record.root.to_vec(),
        ))?),
        None => None,
    };
    let barred = Subject::Domain(domain.clone()).to_string();
    if ledger.revoked.get(&barred).await?.is_some() {
        return Err(AdmissionError::Barred(domain.clone()));
    }
    match known {
        Some(known) if known != shown => {
            return Err(AdmissionError::OtherRoot {
                domain: domain.clone(),
                known,
                shown,
            });
        }
        Some(_) if record.spent.is_some() => return Err(AdmissionError::Already(domain.clone())),
        _ => {}
    }
    if record.spent.is_some() {
        return Err(AdmissionError::Spent);
    }
    if record.expires <= now {
        return Err(AdmissionError::Expired);
    }
    record.spent = Some(now);
    match ledger.tokens.update(&key, &record, revision).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => return Err(AdmissionError::Spent),
        Err(e) => return Err(e.into()),
    }
    if known.is_none() {
        let admitted = AdmittedRecord {
            root: ByteVec::from(application.root.clone()),
            at: now,
        };
        ledger.admitted.create(domain.as_str(), &admitted).await?;
    }
    Ok(shown)
}

impl AdmissionError {
    /// The word in metrics and faults: one of few.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            AdmissionError::Unknown => "token-unknown",
            AdmissionError::OtherDomain => "token-of-other-domain",
            AdmissionError::Expired => "token-expired",
            AdmissionError::Spent => "token-spent",
            AdmissionError::Already(_) => "already-admitted",
            AdmissionError::OtherRoot { .. } => "admitted-with-other-root",
            AdmissionError::Barred(_) => "domain-barred",
            AdmissionError::Proof(_) => "proof-refused",
            AdmissionError::Store(_) => "hub-failure",
        }
    }

    /// What the applicant is told.
    pub(crate) fn fault(&self) -> Fault {
        let (status, advice) = match self {
            AdmissionError::Unknown
            | AdmissionError::OtherDomain
            | AdmissionError::Expired
            | AdmissionError::Spent => (
                403,
                "ask the hub's operator for a new token (hawser token hub) for this domain",
            ),
            AdmissionError::Already(_) => (403, "nothing is left to do: start the gateway"),
            AdmissionError::OtherRoot { .. } => (
                403,
                "compare the fingerprints with the hub's operator; if the domain was made anew, the operator must forget the old one first (hawser hub forget)",
            ),
            AdmissionError::Barred(_) => (403, "ask the hub's operator why"),
            AdmissionError::Proof(_) => (
                403,
                "run this at the gateway that holds the domain's issuer key, with the clock set right",
            ),
            AdmissionError::Store(_) => (503, "try again; the hub's operator finds the cause in its log"),
        };
        // What failed inside the hub is for its operator's eyes.
        let detail = match self {
            AdmissionError::Store(_) => "the hub could not write its database".into(),
            other => other.to_string(),
        };
        Fault::new(Place::Hub, status, self.reason(), detail, advice)
    }
}
