//! Proofs of possession for HTTP requests (DPoP, RFC 9449): a JWT with the device's public key, signed by its private one, for
//! one method and address.
//!
//! [`check`] looks at a proof alone; that each counts once is [`crate::Replays`]' to say.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::UnixTime;
use serde::{Deserialize, Serialize};

use crate::{PublicKey, SealError, SigningKey, jws, random, sha256};

/// How far a proof's time may be from the checker's clock, either way.
pub const WINDOW: Duration = Duration::from_secs(300);
/// Longest proof in bytes.
pub const MAX_PROOF: usize = 2048;
/// Longest `jti` in bytes.
const MAX_JTI: usize = 128;
/// RFC 9449's type of token.
const TYPE: &str = "dpop+jwt";
const WHAT: &str = "a DPoP proof";

/// A proof that holds, but for whether it was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Who proved.
    pub key: PublicKey,
    /// RFC 7638 thumbprint of the key.
    pub thumbprint: [u8; 32],
    /// By the prover's clock.
    pub at: UnixTime,
    /// SHA-256 of the proof's `jti`, shortened.
    pub id: [u8; 16],
}

/// Why a proof does not do. The texts are for the answer's `WWW-Authenticate: DPoP error="..."` or problem document.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DpopError {
    /// Not a proof, or not signed by the key in it.
    #[error(transparent)]
    Proof(#[from] SealError),
    /// For another request.
    #[error("the proof is for another {0} than this request's")]
    Request(&'static str),
    /// For another token, or none.
    #[error("the proof does not name this access token (ath)")]
    Token,
    /// By another key.
    #[error("the proof is by another key than the one registered")]
    Key,
    /// Too far from this clock.
    #[error("the proof is of {}, and it is {}: set the clock right by the Date of this answer", .at.0, .now.0)]
    Time {
        /// The proof's time.
        at: UnixTime,
        /// This clock.
        now: UnixTime,
    },
    /// Seen before, or older than what is remembered.
    #[error("the proof was used before, or is older than this server remembers: make a new one")]
    Replayed,
    /// More devices at once than are remembered.
    #[error("too many devices at this moment: try again later")]
    Busy,
}

impl DpopError {
    /// RFC 9449's code for `WWW-Authenticate`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token | Self::Key => "invalid_token",
            _ => "invalid_dpop_proof",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ath: Option<String>,
}

/// Makes a proof for one request; `token` is the access token that goes with it.
pub fn prove(
    key: &SigningKey,
    method: &str,
    url: &str,
    token: Option<&str>,
    now: UnixTime,
) -> Result<String, SealError> {
    let mut head = jws::Head::new(TYPE);
    head.jwk = Some(key.public().jwk());
    let claims = Claims {
        jti: URL_SAFE_NO_PAD.encode(random::<16>()?),
        htm: method.into(),
        htu: address(url).ok_or(SealError::Token {
            what: WHAT,
            detail: "its address is not https://HOST[:PORT]/PATH",
        })?,
        iat: now.0,
        ath: token.map(hash),
    };
    jws::sign(key, &head, &claims)
}

/// Checks a proof for a request with this method and address (`https://HOST[:PORT]/PATH`), and this access token, if it came
/// with one. Whose key it is, and whether it was seen before, is not decided here.
pub fn check(
    proof: &str,
    method: &str,
    url: &str,
    token: Option<&str>,
    now: UnixTime,
) -> Result<Proof, DpopError> {
    let refused = |detail| SealError::Token { what: WHAT, detail };
    if proof.len() > MAX_PROOF {
        return Err(refused("it is too long").into());
    }
    let parts = jws::Parts::new(proof, TYPE, WHAT)?;
    let jwk = parts.head.jwk.as_ref().ok_or(refused("it has no jwk"))?;
    let key = PublicKey::from_jwk(jwk)?;
    let claims: Claims = parts.claims(&key)?;
    if claims.jti.is_empty() || claims.jti.len() > MAX_JTI {
        return Err(refused("its jti is empty or too long").into());
    }
    if claims.htm != method {
        return Err(DpopError::Request("method"));
    }
    if address(&claims.htu).is_none_or(|found| Some(found) != address(url)) {
        return Err(DpopError::Request("address"));
    }
    if claims.ath != token.map(hash) {
        return Err(DpopError::Token);
    }
    let at = UnixTime(claims.iat);
    if at.until(now).max(now.until(at)) > WINDOW {
        return Err(DpopError::Time { at, now });
    }
    let mut id = [0; 16];
    id.copy_from_slice(&sha256(claims.jti.as_bytes())[..16]);
    Ok(Proof {
        thumbprint: key.thumbprint(),
        key,
        at,
        id,
    })
}

fn hash(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(sha256(token.as_bytes()))
}

/// An https address as proofs compare it: scheme and host in lower case, no port 443, no query, no fragment.
fn address(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let rest = rest.split(['?', '#']).next()?;
    let (authority, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(":443").unwrap_or(&authority);
    Some(format!("https://{authority}{path}"))
}

#[cfg(test)]
mod tests;
