//! Renewal of the gateway's own certificate at half of its life, by its own issuer or by another gateway that is one, without
//! a lost request: sessions that live stay, new ones show the new certificate.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hawser_identity::{CertificateDer, Credentials, IdentityError, SharedCredentials, SharedTrust};
use hawser_proto::{
    Fault, UnixTime,
    frame::MAX_FRAME_UNPROVED,
    session::{Issued, Open},
};
use hawser_store::StoreError;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    backoff::Backoff,
    chance::Chance,
    issuing::Issuing,
    metrics::{Metrics, Outcome},
    sessions::Dialler,
};
use crate::callbacks::keys::Keys;

/// Certificates begin this long before they are issued, for clocks that are slow.
const BACKDATE: Duration = Duration::from_secs(60);
/// Longest wait for the issuer's answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest sleep, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// First and longest wait between tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// Keeps the certificate fresh.
pub(crate) struct Renewal {
    pub(crate) dir: PathBuf,
    pub(crate) own: SharedCredentials,
    pub(crate) trust: SharedTrust,
    pub(crate) issuing: Arc<Issuing>,
    pub(crate) dialler: Arc<Dialler>,
    pub(crate) keys: Keys,
    /// Told of each new certificate.
    pub(crate) renewed: watch::Sender<u64>,
    pub(crate) metrics: Metrics,
}

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    /// The issuer, or the way to it.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// The session with the issuer.
    #[error(transparent)]
    Session(#[from] hawser_session::SessionError),
    /// Keys or certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// What came with it cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The issuer gave a certificate that is of no use.
    #[error("the issuer gave {0}")]
    Useless(String),
    /// The issuer was silent.
    #[error("the issuer did not answer within {} s", ANSWER.as_secs())]
    Timeout,
}

impl Renewal {
    /// Renews again and again. Ends only with the gateway.
    pub(crate) async fn run(self) {
        let chance = Chance::new();
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1, Duration::ZERO);
        loop {
            let (begin, end) = {
                let own = self.own.load();
                (own.not_before(), own.not_after())
            };
            self.metrics.certificate_expiry.set(end.0 as i64);
            let wait = due(begin, end)
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            if !wait.is_zero() {
                sleep(wait.min(LONGEST_SLEEP)).await;
                continue;
            }
            let result = self.renew().await;
            self.metrics.renewals.get_or_create(&Outcome::of(&result)).inc();
            match result {
                Ok(until) => {
                    info!(until = until.0, "renewed the certificate");
                    backoff.held(Duration::ZERO);
                }
                Err(error) => {
                    let left = UnixTime::now().until(end);
                    if left.is_zero() {
                        error!(%error, "the certificate has ended and cannot be renewed; join again if this lasts");
                    } else {
                        warn!(%error, left = ?left, "cannot renew the certificate; will try again");
                    }
                    // Short-lived certificates leave no time for long waits.
                    let longest = if left.is_zero() {
                        BACKOFF.1
                    } else {
                        (left / 8).max(BACKOFF.0)
                    };
                    sleep(backoff.failed(&chance).min(longest)).await;
                }
            }
        }
    }

    async fn renew(&self) -> Result<UnixTime, RenewalError> {
        let old = self.own.load_full();
        let request = old.key().csr()?;
        let issued = match self.issuing.issuer() {
            Some(_) => self.issuing.issue(old.id(), &request)?,
            None => self.ask(request).await?,
        };
        let chain = match issued {
            Issued::Chain(chain, shared) => {
                self.keys.merge(shared.unwrap_or_default()).await?;
                chain
            }
            Issued::Refused(fault) => return Err(fault.into()),
        };
        let chain: Vec<_> = chain
            .into_iter()
            .map(|der| CertificateDer::from(Vec::from(der)))
            .collect();
        let proved = self.trust.load().verify(&chain, UnixTime::now())?;
        if proved.id != *old.id() {
            return Err(RenewalError::Useless(format!("a certificate for {}", proved.id)));
        }
        if proved.not_after <= old.not_after() && old.not_after() > UnixTime::now() {
            return Err(RenewalError::Useless(
                "a certificate that ends no later than the old one".into(),
            ));
        }
        let fresh = Credentials::new(chain, old.key())?;
        fresh.save(&self.dir)?;
        self.own.store(Arc::new(fresh));
        self.renewed.send_modify(|n| *n += 1);
        Ok(proved.not_after)
    }

    async fn ask(&self, request: Vec<u8>) -> Result<Issued, RenewalError> {
        let mut made = self.dialler.to_issuer().await?;
        let exchange = async {
            made.session.write_frame(&Open::Renew { request }).await?;
            made.session.read_frame(MAX_FRAME_UNPROVED).await
        };
        let issued = timeout(ANSWER, exchange)
            .await
            .map_err(|_| RenewalError::Timeout)??;
        made.session.close().await;
        Ok(issued)
    }
}

/// When a certificate is to be renewed: in the middle of the time that it is really good for.
fn due(begin: UnixTime, end: UnixTime) -> SystemTime {
    let issued = begin.plus(BACKDATE);
    let begin = if issued < end { issued } else { begin };
    SystemTime::UNIX_EPOCH + Duration::from_secs(begin.0) + begin.until(end) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_in_the_middle_of_its_life_however_short() {
        let at = |s: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(s);
        assert_eq!(due(UnixTime(940), UnixTime(1006)), at(1003.0));
        assert_eq!(due(UnixTime(940), UnixTime(1000 + 86400)), at(1000.0 + 43200.0));
        assert_eq!(due(UnixTime(1000), UnixTime(1010)), at(1005.0));
    }
}
