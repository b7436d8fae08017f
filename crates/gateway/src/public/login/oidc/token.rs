//! ID tokens and the keys that sign them (OpenID Connect Core 1.0, 3.1.3.7). Without I/O.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::UnixTime;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use super::{attempt::Attempt, rules::Claims};

/// How far the provider's clock may be from this one.
pub const SKEW: Duration = Duration::from_secs(60);
/// Longest token in bytes.
const MAX_TOKEN: usize = 64 * 1024;
/// Keys of a provider that are looked at.
const MAX_KEYS: usize = 64;

/// Why a token is refused. The message holds nothing of it but names.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("it is no signed token (JWS): {0}")]
    Form(&'static str),
    #[error("it is signed by {0:?}; expected RS256, PS256, ES256 or EdDSA")]
    Algorithm(String),
    /// The provider may have got a new one.
    #[error("it is signed by a key that the provider does not list")]
    Key,
    #[error("{0}")]
    Library(#[from] jsonwebtoken::errors::Error),
    #[error("{0}")]
    Claim(&'static str),
}

/// The keys that a provider signs by.
pub(super) struct KeySet(Vec<Jwk>);

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood: there are none.
    #[serde(default)]
    crit: Option<Value>,
}

/// What a token must be for.
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client: &'a str,
    pub(super) attempt: &'a Attempt,
}

impl KeySet {
    /// Reads a JWK Set (RFC 7517). Keys of kinds that are not known are passed over.
    pub(super) fn read(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(document).map_err(|e| format!("it is no JWK Set: {e}"))?;
        let keys = set.keys.into_iter().take(MAX_KEYS);
        Ok(Self(
            keys.filter_map(|k| serde_json::from_value(k).ok()).collect(),
        ))
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The claims of a token that is signed by one of the keys, and is what is expected.
    pub(super) fn verify(
        &self,
        token: &str,
        expected: &Expected<'_>,
        now: UnixTime,
    ) -> Result<Claims, TokenError> {
        let header = header(token)?;
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "PS256" => Algorithm::PS256,
            "ES256" => Algorithm::ES256,
            "EdDSA" => Algorithm::EdDSA,
            other => return Err(TokenError::Algorithm(other.chars().take(20).collect())),
        };
        let fits = |key: &&Jwk| {
            let id = header.kid.is_none() || header.kid == key.common.key_id;
            id && signs(key, algorithm)
        };
        let mut last = TokenError::Key;
        for key in self.0.iter().filter(fits) {
            match claims(token, key, algorithm, expected) {
                Ok(claims) => return judge(claims, expected, now),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Whether a key is for signatures of this kind.
fn signs(key: &Jwk, algorithm: Algorithm) -> bool {
    let kind = match (&key.algorithm, algorithm) {
        (AlgorithmParameters::RSA(_), Algorithm::RS256 | Algorithm::PS256) => true,
        (AlgorithmParameters::EllipticCurve(c), Algorithm::ES256) => c.curve == EllipticCurve::P256,
        (AlgorithmParameters::OctetKeyPair(c), Algorithm::EdDSA) => c.curve == EllipticCurve::Ed25519,
        _ => false,
    };
    let usage = key.common.public_key_use.as_ref();
    let said = key.common.key_algorithm.map(|a| a.to_string());
    kind && usage.is_none_or(|u| *u == PublicKeyUse::Signature)
        && said.is_none_or(|a| a == format!("{algorithm:?}"))
}

fn header(token: &str) -> Result<Header, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Form("it is too long"));
    }
    if token.split('.').count() != 3 {
        return Err(TokenError::Form("expected three parts"));
    }
    let first = token.split('.').next().unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD
        .decode(first)
        .map_err(|_| TokenError::Form("its header is no base64url"))?;
    let header: Header =
        serde_json::from_slice(&bytes).map_err(|_| TokenError::Form("its header is no JSON with `alg`"))?;
    match header.crit {
        Some(_) => Err(TokenError::Form("it asks for extensions (`crit`)")),
        None => Ok(header),
    }
}

/// Signature, issuer, audience and life, as the library sees them.
fn claims(
    token: &str,
    key: &Jwk,
    algorithm: Algorithm,
    expected: &Expected<'_>,
) -> Result<Claims, TokenError> {
    let mut validation = Validation::new(algorithm);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[expected.issuer]);
    validation.set_audience(&[expected.client]);
    validation.leeway = SKEW.as_secs();
    validation.validate_nbf = true;
    Ok(jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
}

/// The rest.
fn judge(claims: Claims, expected: &Expected<'_>, now: UnixTime) -> Result<Claims, TokenError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if text("iss") != Some(expected.issuer) {
        return Err(TokenError::Claim("`iss` is not one text"));
    }
    let others = match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(|a| a.as_str() != Some(expected.client)),
        Some(Value::String(_)) => false,
        _ => true,
    };
    match claims.get("azp") {
        Some(azp) if azp.as_str() != Some(expected.client) => {
            return Err(TokenError::Claim("`azp` names another client"));
        }
        None if others => {
            return Err(TokenError::Claim(
                "`aud` names other clients, too, and there is no `azp`",
            ));
        }
        _ => {}
    }
    if text("nonce") != Some(&expected.attempt.nonce) {
        return Err(TokenError::Claim("`nonce` is not that of this login"));
    }
    // Numbers may have fractions (RFC 7519, 2).
    let seconds = |name: &str| claims.get(name).and_then(Value::as_f64).filter(|s| s.is_finite());
    let Some(issued) = seconds("iat") else {
        return Err(TokenError::Claim("there is no `iat`"));
    };
    let skew = SKEW.as_secs_f64();
    if issued > now.0 as f64 + skew {
        return Err(TokenError::Claim(
            "`iat` is in the future: does one of the clocks go wrong?",
        ));
    }
    if issued < expected.attempt.began.0 as f64 - skew {
        return Err(TokenError::Claim(
            "`iat` is before this login began: does one of the clocks go wrong?",
        ));
    }
    if text("sub").is_none_or(|s| s.is_empty() || s.len() > 255) {
        return Err(TokenError::Claim("`sub` is no name of a user"));
    }
    Ok(claims)
}

#[cfg(test)]
mod tests;
