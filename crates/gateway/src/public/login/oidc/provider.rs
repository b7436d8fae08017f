//! An OpenID Connect provider: where its endpoints are (Discovery 1.0), by which keys it signs, what it gives for a code. What it
//! has said is kept for a while; how often it is asked is bounded, whatever visitors do.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hawser_proto::UnixTime;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::sync::{Mutex, Semaphore};
use zeroize::Zeroizing;

use super::{attempt::Attempt, rules::Claims, token::KeySet};
use crate::{
    config::OidcPlan,
    https::{FetchError, Https, HttpsError, PATIENCE, Reply},
};

/// How long what the provider said of itself is believed.
const BELIEVE: Duration = Duration::from_secs(3600);
/// After a failure it is not asked for the same for this long.
const REST: Duration = Duration::from_secs(2);
/// For a key that is not known it is asked for its keys this often at most.
const KEYS_EVERY: Duration = Duration::from_secs(30);
/// Codes that are redeemed at one time; further logins are told to come later.
const REDEEMING: usize = 32;
/// Longest error of a provider that is shown, in characters.
const MAX_ERROR: usize = 80;

/// Why a provider gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It answered something else.
    #[error("{what}: expected {expected}, and got {got}")]
    Answer {
        /// Of what.
        what: &'static str,
        /// What was expected.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// It said no to a code.
    #[error("the provider does not take the code: {0}")]
    Code(String),
    /// It did not answer a moment ago.
    #[error("{0} (a moment ago)")]
    Resting(String),
    /// Too many at once.
    #[error("{REDEEMING} logins are under way")]
    Busy,
    /// The file with the client's secret.
    #[error("the client's secret {} cannot be read: {source}", path.display())]
    Secret {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What a provider says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    pub(super) authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    #[serde(default)]
    userinfo_endpoint: Option<String>,
    #[serde(default)]
    pub(super) end_session_endpoint: Option<String>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    /// Whether its answers always say whose they are (RFC 9207).
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
}

/// What it gives for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    #[serde(default)]
    access_token: Option<String>,
}

/// One provider, as one client.
pub(super) struct Provider {
    plan: OidcPlan,
    https: Https,
    metadata: Mutex<Kept<Metadata>>,
    keys: Mutex<Kept<KeySet>>,
    redeeming: Semaphore,
}

/// What was said, when, and when it was last asked in vain.
struct Kept<T> {
    said: Option<(Instant, Arc<T>)>,
    failed: Option<(Instant, String)>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            said: None,
            failed: None,
        }
    }
}

impl<T> Kept<T> {
    /// What is kept, if it is younger than that; or an error, if it is no time yet to ask again.
    fn young(&self, than: Duration) -> Result<Option<Arc<T>>, ProviderError> {
        match (&self.said, &self.failed) {
            (Some((when, said)), _) if when.elapsed() < than => Ok(Some(said.clone())),
            (said, Some((when, why))) if when.elapsed() < REST => match said {
                Some((_, old)) => Ok(Some(old.clone())),
                None => Err(ProviderError::Resting(why.clone())),
            },
            _ => Ok(None),
        }
    }

    /// Takes what came. A failure leaves what is known: endpoints and keys change seldom, and what they say is signed.
    fn take(&mut self, came: Result<T, ProviderError>) -> Result<Arc<T>, ProviderError> {
        let now = Instant::now();
        match came {
            Ok(said) => {
                let said = Arc::new(said);
                *self = Self {
                    said: Some((now, said.clone())),
                    failed: None,
                };
                Ok(said)
            }
            Err(error) => {
                self.failed = Some((now, error.to_string()));
                match &self.said {
                    Some((_, old)) => {
                        tracing::warn!(%error, "the login's provider does not say anew what it said before");
                        Ok(old.clone())
                    }
                    None => Err(error),
                }
            }
        }
    }
}

impl Provider {
    pub(super) fn new(plan: &OidcPlan) -> Result<Self, HttpsError> {
        Ok(Self {
            https: Https::new(&plan.carriers, plan.ca.as_deref(), PATIENCE)?,
            plan: plan.clone(),
            metadata: Mutex::default(),
            keys: Mutex::default(),
            redeeming: Semaphore::new(REDEEMING),
        })
    }

    /// What it says of itself.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, ProviderError> {
        let mut kept = self.metadata.lock().await;
        match kept.young(BELIEVE)? {
            Some(known) => Ok(known),
            None => kept.take(self.discover().await.map(|(metadata, _)| metadata)),
        }
    }

    /// Its keys. `unknown`: those that are kept have not the one that is needed.
    pub(super) async fn keys(&self, unknown: bool) -> Result<Arc<KeySet>, ProviderError> {
        let metadata = self.metadata().await?;
        let mut kept = self.keys.lock().await;
        match kept.young(if unknown { KEYS_EVERY } else { BELIEVE })? {
            Some(known) => Ok(known),
            None => kept.take(self.key_set(&metadata).await),
        }
    }

    async fn discover(&self) -> Result<(Metadata, Option<UnixTime>), ProviderError> {
        let issuer = &self.plan.issuer;
        let url = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let reply = self.get(&url, HeaderMap::new()).await?;
        let date = reply.date();
        let metadata: Metadata = json("its configuration", &reply)?;
        if metadata.issuer != *issuer {
            return Err(ProviderError::Answer {
                what: "its configuration",
                expected: "the issuer that is configured here, letter for letter",
                got: shown(&metadata.issuer),
            });
        }
        let endpoints = [
            Some(&metadata.authorization_endpoint),
            Some(&metadata.token_endpoint),
            Some(&metadata.jwks_uri),
            metadata.userinfo_endpoint.as_ref(),
            metadata.end_session_endpoint.as_ref(),
        ];
        if let Some(odd) = endpoints.into_iter().flatten().find(|url| !secure(url)) {
            return Err(ProviderError::Answer {
                what: "its configuration",
                expected: "endpoints at https://, without a fragment",
                got: shown(odd),
            });
        }
        Ok((metadata, date))
    }

    async fn key_set(&self, metadata: &Metadata) -> Result<KeySet, ProviderError> {
        let reply = self.get(&metadata.jwks_uri, HeaderMap::new()).await?;
        status("its keys", &reply)?;
        KeySet::read(&reply.body).map_err(|got| ProviderError::Answer {
            what: "its keys",
            expected: "a JWK Set (RFC 7517)",
            got,
        })
    }

    /// Redeems a code.
    pub(super) async fn redeem(
        &self,
        code: &str,
        attempt: &Attempt,
        redirect: &str,
    ) -> Result<Tokens, ProviderError> {
        let _place = self.redeeming.try_acquire().map_err(|_| ProviderError::Busy)?;
        let metadata = self.metadata().await?;
        let secret = self.secret().await?;
        let (headers, body) = self.redemption(code, attempt, redirect, &metadata, secret);
        let reply = self
            .https
            .send(Method::POST, &metadata.token_endpoint, headers, body)
            .await?;
        if reply.head.status.as_u16() == 400 {
            #[derive(Deserialize)]
            struct Error {
                error: String,
            }
            if let Ok(e) = serde_json::from_slice::<Error>(&reply.body)
                && e.error == "invalid_grant"
            {
                return Err(ProviderError::Code(shown(&e.error)));
            }
        }
        json("its token endpoint", &reply)
    }

    /// RFC 6749, 4.1.3, and RFC 7636, 4.5.
    fn redemption(
        &self,
        code: &str,
        attempt: &Attempt,
        redirect: &str,
        metadata: &Metadata,
        secret: Option<Zeroizing<String>>,
    ) -> (HeaderMap, Bytes) {
        let client = &self.plan.client_id;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", redirect)
            .append_pair("code_verifier", &attempt.verifier);
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        match secret {
            None => {
                form.append_pair("client_id", client);
            }
            Some(secret) if by_form(metadata) => {
                form.append_pair("client_id", client)
                    .append_pair("client_secret", &secret);
            }
            Some(secret) => drop(headers.insert(AUTHORIZATION, basic(client, &secret))),
        }
        (headers, Bytes::from(form.finish()))
    }

    /// What the ID token leaves out, of the same user (OpenID Connect Core 1.0, 5.3).
    pub(super) async fn complete(&self, claims: &mut Claims, tokens: &Tokens) -> Result<(), ProviderError> {
        let metadata = self.metadata().await?;
        let (Some(url), Some(token)) = (&metadata.userinfo_endpoint, &tokens.access_token) else {
            return Ok(());
        };
        let Ok(mut bearer) = HeaderValue::try_from(format!("Bearer {token}")) else {
            return Ok(());
        };
        bearer.set_sensitive(true);
        let reply = self
            .get(url, HeaderMap::from_iter([(AUTHORIZATION, bearer)]))
            .await?;
        let more: Claims = json("its userinfo endpoint", &reply)?;
        if more.get("sub") != claims.get("sub") {
            return Err(ProviderError::Answer {
                what: "its userinfo endpoint",
                expected: "the user of the ID token",
                got: "another".into(),
            });
        }
        for (name, value) in more {
            claims.entry(name).or_insert(value);
        }
        Ok(())
    }

    async fn get(&self, url: &str, headers: HeaderMap) -> Result<Reply, FetchError> {
        self.https.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// Read each time: it may have changed.
    async fn secret(&self) -> Result<Option<Zeroizing<String>>, ProviderError> {
        let Some(path) = &self.plan.secret else {
            return Ok(None);
        };
        let text = tokio::fs::read_to_string(path)
            .await
            .map_err(|source| ProviderError::Secret {
                path: path.clone(),
                source,
            })?;
        let text = Zeroizing::new(text);
        Ok(Some(Zeroizing::new(
            text.trim_end_matches(['\r', '\n']).to_owned(),
        )))
    }
}

/// Whether the secret goes into the form: where the provider does not take it in a header, which all others do.
fn by_form(metadata: &Metadata) -> bool {
    let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
    methods.is_some_and(|all| {
        let takes = |method: &str| all.iter().any(|m| m == method);
        takes("client_secret_post") && !takes("client_secret_basic")
    })
}

/// RFC 6749, 2.3.1: both are form-encoded first.
fn basic(client: &str, secret: &str) -> HeaderValue {
    let encoded = |s: &str| form_urlencoded::byte_serialize(s.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(client), encoded(secret)));
    let mut value = crate::headers::value(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    value.set_sensitive(true);
    value
}

fn secure(url: &str) -> bool {
    let parsed = url.parse::<http::Uri>().ok();
    parsed.is_some_and(|u| u.scheme_str() == Some("https") && u.authority().is_some()) && !url.contains('#')
}

fn status(what: &'static str, reply: &Reply) -> Result<(), ProviderError> {
    match reply.head.status.as_u16() {
        200 => Ok(()),
        other => Err(ProviderError::Answer {
            what,
            expected: "status 200",
            got: format!("{other} {}", error_code(&reply.body)),
        }),
    }
}

fn json<T: DeserializeOwned>(what: &'static str, reply: &Reply) -> Result<T, ProviderError> {
    status(what, reply)?;
    // Of tokens no message may tell more than where they break.
    serde_json::from_slice(&reply.body).map_err(|e| ProviderError::Answer {
        what,
        expected: "JSON with all that is needed",
        got: format!("{:?} in line {}", e.classify(), e.line()),
    })
}

/// The `error` of an OAuth answer, if it is one.
fn error_code(body: &[u8]) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    shown(
        parsed
            .as_ref()
            .and_then(|v| v["error"].as_str())
            .unwrap_or_default(),
    )
}

/// What somebody else wrote, fit for a log and a page.
pub(super) fn shown(text: &str) -> String {
    text.chars()
        .filter(|c| matches!(c, ' '..='~'))
        .take(MAX_ERROR)
        .collect()
}

/// What a look at a provider found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Keys that it lists.
    pub keys: usize,
    /// Seconds by which its clock is ahead of this one, if it tells.
    pub ahead: Option<i64>,
}

/// Why a look found nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It cannot be asked.
    #[error(transparent)]
    Https(#[from] HttpsError),
    /// It gave nothing.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// Looks whether a provider can be asked and is the one that is configured, as a login would.
pub async fn probe(plan: &OidcPlan) -> Result<Probe, ProbeError> {
    let provider = Provider::new(plan)?;
    provider.secret().await?;
    let (metadata, date) = provider.discover().await?;
    let now = UnixTime::now();
    let keys = provider.key_set(&metadata).await?;
    Ok(Probe {
        keys: keys.len(),
        ahead: date.map(|d| d.0 as i64 - now.0 as i64),
    })
}
