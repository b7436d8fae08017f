//! Access tokens of control: JWTs (RFC 9068's shape) by the domain's sender key, each bound to a device's key (RFC 9449).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{DomainName, UnixTime, broker::DeviceHandle};
use serde::{Deserialize, Serialize};

use crate::{PublicKey, SealError, SenderKey, jws, thumbprint_text};

/// How long a token is good for.
pub const LIFE: Duration = Duration::from_secs(600);
const TYPE: &str = "at+jwt";
const WHAT: &str = "an access token";

/// Whom a token lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bearer {
    /// Which device.
    pub device: DeviceHandle,
    /// Thumbprint of the key that must prove itself with it.
    pub thumbprint: [u8; 32],
    /// Until when.
    pub expires: UnixTime,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: DomainName,
    aud: String,
    sub: DeviceHandle,
    iat: UnixTime,
    exp: UnixTime,
    cnf: Confirmation,
}

#[derive(Serialize, Deserialize)]
struct Confirmation {
    jkt: String,
}

/// Issues a token for a device. `control` is the address that it is for: `https://NAME[:PORT]`.
pub fn issue(
    sender: &SenderKey,
    domain: &DomainName,
    control: &str,
    device: DeviceHandle,
    thumbprint: &[u8; 32],
    now: UnixTime,
) -> Result<String, SealError> {
    let mut head = jws::Head::new(TYPE);
    head.kid = Some(sender.key_id().to_string());
    let claims = Claims {
        iss: domain.clone(),
        aud: control.into(),
        sub: device,
        iat: now,
        exp: now.plus(LIFE),
        cnf: Confirmation {
            jkt: thumbprint_text(thumbprint),
        },
    };
    jws::sign(sender.key(), &head, &claims)
}

/// Whom a token lets in at `control`, if the domain's sender key signed it and its time is not over. The request's proof must be
/// by the key with [`Bearer::thumbprint`], and name the token.
pub fn verify(
    token: &str,
    by: &PublicKey,
    domain: &DomainName,
    control: &str,
    now: UnixTime,
) -> Result<Bearer, SealError> {
    let refused = |detail| SealError::Token { what: WHAT, detail };
    let claims: Claims = jws::Parts::new(token, TYPE, WHAT)?.claims(by)?;
    if claims.iss != *domain || claims.aud != control {
        return Err(refused("it is for another place"));
    }
    if now >= claims.exp || claims.exp > now.plus(LIFE) {
        return Err(SealError::Time {
            what: WHAT,
            from: claims.iat,
            until: claims.exp,
            now,
        });
    }
    let mut thumbprint = [0; 32];
    match URL_SAFE_NO_PAD.decode_slice(&claims.cnf.jkt, &mut thumbprint) {
        Ok(32) => {}
        _ => return Err(refused("its jkt is not a thumbprint")),
    }
    Ok(Bearer {
        device: claims.sub,
        thumbprint,
        expires: claims.exp,
    })
}
