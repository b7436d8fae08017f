//! One order, from the account to the certificate in its file.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hawser_identity::{IdentityError, read_private};
use hawser_proto::HostName;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount, NewOrder,
    Order, OrderStatus, RetryPolicy,
};
use tracing::{debug, info, warn};

use super::{
    dns::{DnsError, Place, Resolver, absolute, wait_for},
    keep::{Keep, Record},
    solve::{Change, SolveError, change},
};
use crate::{
    config::AcmePlan,
    https::{Https, HttpsError},
};

/// Longest wait for an answer: some authorities sign while one waits.
const ANSWER: Duration = Duration::from_secs(60);
/// How the authority is asked whether it has looked, or has issued.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// The error of an account that was there once (RFC 8555, 6.7).
const NO_ACCOUNT: &str = "accountDoesNotExist";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The connection to the directory cannot be made ready.
    #[error("gateway.acme: {0}")]
    Https(#[from] HttpsError),
    /// The external account's key.
    #[error("gateway.acme.external_account.key_file: expected a key in base64url")]
    ExternalKey,
    /// The authority, or the way to it.
    #[error("the certificate authority: {0}")]
    Authority(#[from] Error),
    /// The authority offers something else than DNS-01.
    #[error("the certificate authority offers no dns-01 challenge for {0}")]
    NoChallenge(HostName),
    /// It has looked, and said no.
    #[error("the certificate authority refuses {name}: {why}")]
    Refused {
        /// The name.
        name: HostName,
        /// What it says.
        why: String,
    },
    /// The record.
    #[error(transparent)]
    Solve(#[from] SolveError),
    /// The DNS.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// Files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl OrderError {
    /// Whether the authority said no, which it counts, and not for something that passes or that the next attempt does otherwise.
    pub(super) fn is_refusal(&self) -> bool {
        const PASSING: [&str; 4] = ["badNonce", "serverInternal", "orderNotReady", NO_ACCOUNT];
        match self {
            Self::Refused { .. } => true,
            Self::Authority(Error::Api(problem)) => {
                let kind = problem.r#type.as_deref();
                !PASSING.iter().any(|passing| is(kind, passing))
            }
            _ => false,
        }
    }
}

/// Gets a certificate for this name and puts it in place. When dropped under way, what was set in the DNS is removed by the next.
pub(super) async fn obtain(plan: &AcmePlan, keep: &Keep, name: &HostName) -> Result<(), OrderError> {
    let resolver = Resolver::new(&plan.resolvers)?;
    if let Err(error) = tidy(plan, keep, &resolver).await {
        // It may be gone, or in a zone that is not ours any more: that must not keep a certificate from being renewed.
        warn!(%error, "a record that an earlier attempt set stays in the DNS: remove it by hand if it is there");
    }
    let account = account(plan, keep).await?;
    let identifiers = [Identifier::Dns(name.to_string())];
    let mut order = match account.new_order(&NewOrder::new(&identifiers)).await {
        Err(Error::Api(problem)) if is(problem.r#type.as_deref(), NO_ACCOUNT) => {
            warn!(
                "the certificate authority does not know the account any more; the next attempt makes another"
            );
            keep.forget_account()?;
            return Err(Error::Api(problem).into());
        }
        other => other?,
    };
    let proved = prove(plan, keep, &resolver, name, &mut order).await;
    // Whatever came of it.
    let tidied = tidy(plan, keep, &resolver).await;
    proved?;
    if let Err(error) = tidied {
        warn!(%error, "the record in the DNS stays until the next attempt");
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLL).await?;
    keep.replace(name, &plan.directory, &chain, &key)?;
    Ok(())
}

/// Removes the record that is still set, if there is one.
async fn tidy(plan: &AcmePlan, keep: &Keep, resolver: &Resolver) -> Result<(), OrderError> {
    let Some(record) = keep.record()? else {
        return Ok(());
    };
    let place = resolver.place(&absolute(&record.name)?).await?;
    change(&plan.dns, Change::Remove, &place, &record.value).await?;
    keep.forget_record()?;
    Ok(())
}

async fn account(plan: &AcmePlan, keep: &Keep) -> Result<Account, OrderError> {
    let builder =
        Account::builder_with_http(Box::new(Https::new(&plan.carriers, plan.ca.as_deref(), ANSWER)?));
    if let Some(credentials) = keep.account(&plan.directory)? {
        return Ok(builder.from_credentials(credentials).await?);
    }
    let external = match &plan.external_account {
        Some(external) => {
            let text = read_private(&external.key_file, "the external account's key in base64url")?;
            let text = text.trim_ascii();
            let key = BASE64_URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| OrderError::ExternalKey)?;
            Some(ExternalAccountKey::new(external.id.clone(), &key))
        }
        None => None,
    };
    let contact: Vec<_> = plan.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        // The configuration was refused otherwise.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) = builder
        .create(&new, plan.directory.clone(), external.as_ref())
        .await?;
    keep.set_account(&plan.directory, account.id(), credentials)?;
    info!(
        account = account.id(),
        "made an account at the certificate authority"
    );
    Ok(account)
}

/// Shows the authority that the name's DNS is in our hands.
async fn prove(
    plan: &AcmePlan,
    keep: &Keep,
    resolver: &Resolver,
    name: &HostName,
    order: &mut Order,
) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization
            .challenge(ChallengeType::Dns01)
            .ok_or_else(|| OrderError::NoChallenge(name.clone()))?;
        let value = challenge.key_authorization().dns_value();
        let place = set(plan, keep, resolver, name, &value).await?;
        wait_for(&place, &value, plan.propagation).await?;
        challenge.set_ready().await?;
    }
    match order.poll_ready(&POLL).await? {
        OrderStatus::Ready | OrderStatus::Valid => Ok(()),
        status => Err(OrderError::Refused {
            name: name.clone(),
            why: why(order)
                .await
                .unwrap_or_else(|| format!("the order is {status:?}")),
        }),
    }
}

async fn set(
    plan: &AcmePlan,
    keep: &Keep,
    resolver: &Resolver,
    name: &HostName,
    value: &str,
) -> Result<Place, OrderError> {
    let record = Record {
        name: format!("_acme-challenge.{name}."),
        value: value.into(),
    };
    let place = resolver.place(&absolute(&record.name)?).await?;
    debug!(%name, record = %place.record, zone = %place.zone, "setting the record");
    // Before the change, so that it is known after a sudden end.
    keep.set_record(&record)?;
    change(&plan.dns, Change::Add, &place, value).await?;
    Ok(place)
}

/// What the authority says of a failed order.
async fn why(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        if let Some(problem) = state.challenges.iter().find_map(|c| c.error.as_ref()) {
            return Some(problem.to_string());
        }
    }
    None
}

fn is(found: Option<&str>, wanted: &str) -> bool {
    found.and_then(|t| t.strip_prefix("urn:ietf:params:acme:error:")) == Some(wanted)
}
