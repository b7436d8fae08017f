//! What the DNS and the certificate authority say of published names, for those who look before there is trouble.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use bytes::Bytes;
use hawser_identity::IdentityError;
use http::{HeaderMap, Method};
use serde::Deserialize;

use super::{
    caa::{Caa, Issuer},
    dns::{DnsError, Resolver, absolute},
    keep::Keep,
};
use crate::{
    config::AcmePlan,
    https::{FetchError, Https, HttpsError, PATIENCE},
};

/// Asks the DNS as certificates are ordered.
pub struct Survey(Resolver);

/// Why the authority that is configured does not say who it is.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// It cannot be asked at all.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// It gives no answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It is none.
    #[error("expected the directory of an ACME server (RFC 8555), and got {0}")]
    NoDirectory(String),
    /// What is kept of the account.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    #[serde(rename = "newOrder")]
    _new_order: String,
    #[serde(default)]
    meta: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    caa_identities: Vec<String>,
}

impl Survey {
    /// By the servers of `[gateway.acme]`, or those of the system.
    pub fn new(plan: Option<&AcmePlan>) -> Result<Self, DnsError> {
        Resolver::new(plan.map_or(&[], |p| &p.resolvers)).map(Self)
    }

    /// The addresses that a name leads to. Cancel safe.
    pub async fn addresses(&self, name: &str) -> Result<BTreeSet<IpAddr>, DnsError> {
        self.0.addresses(&absolute(name)?).await
    }

    /// The CAA records that apply to a name. Cancel safe.
    pub async fn caa(&self, name: &str) -> Result<Vec<Caa>, DnsError> {
        self.0.caa(&absolute(name)?).await
    }
}

/// Asks the authority who it is, and looks up the account of the gateway with this state directory. Cancel safe.
pub async fn issuer(plan: &AcmePlan, state: &Path) -> Result<Issuer, SurveyError> {
    let account = Keep::new(state).account_uri(&plan.directory)?;
    let https = Https::new(&plan.carriers, plan.ca.as_deref(), PATIENCE)?;
    let reply = https.send(Method::GET, &plan.directory, HeaderMap::new(), Bytes::new());
    let reply = reply.await?;
    if !reply.head.status.is_success() {
        return Err(SurveyError::NoDirectory(reply.head.status.to_string()));
    }
    let directory: Directory =
        serde_json::from_slice(&reply.body).map_err(|e| SurveyError::NoDirectory(e.to_string()))?;
    Ok(Issuer {
        identities: directory.meta.caa_identities,
        account,
    })
}
