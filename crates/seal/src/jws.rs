//! JSON web signatures (RFC 7515), compact, ES256 only.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::broker::envelope::SIGNATURE;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Jwk, PublicKey, SealError, SigningKey};

/// Longest JWS that is read, in bytes.
pub(crate) const MAX_JWS: usize = 16 * 1024;

/// The protected header of all of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) alg: String,
    pub(crate) typ: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jwk: Option<Jwk>,
    /// Extensions that a reader must understand (RFC 7515, section 4.1.11): we understand none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) crit: Option<serde_json::Value>,
}

impl Head {
    pub(crate) fn new(typ: &str) -> Self {
        Self {
            alg: "ES256".into(),
            typ: typ.into(),
            kid: None,
            jwk: None,
            crit: None,
        }
    }
}

/// A JWS taken apart, its signature not looked at.
pub(crate) struct Parts<'a> {
    what: &'static str,
    pub(crate) head: Head,
    signed: &'a str,
    payload: &'a str,
    signature: [u8; SIGNATURE],
}

impl<'a> Parts<'a> {
    /// Takes one of this `typ` apart. `what` is for the error.
    pub(crate) fn new(text: &'a str, typ: &str, what: &'static str) -> Result<Self, SealError> {
        let refused = |detail| SealError::Token { what, detail };
        if text.len() > MAX_JWS {
            return Err(refused("it is too long"));
        }
        let form = || refused("expected three parts of base64url, separated by dots");
        let (signed, signature) = text.rsplit_once('.').ok_or_else(form)?;
        let (head, payload) = signed.split_once('.').ok_or_else(form)?;
        let head = URL_SAFE_NO_PAD.decode(head).map_err(|_| form())?;
        let head: Head =
            serde_json::from_slice(&head).map_err(|_| refused("its header has not the members expected"))?;
        if head.alg != "ES256" {
            return Err(refused("its alg is not ES256"));
        }
        if !head.typ.eq_ignore_ascii_case(typ) {
            return Err(refused("its typ is another"));
        }
        if head.crit.is_some() {
            return Err(refused("it names critical extensions"));
        }
        let mut bytes = [0; SIGNATURE];
        match URL_SAFE_NO_PAD.decode_slice(signature, &mut bytes) {
            Ok(SIGNATURE) => {}
            _ => return Err(form()),
        }
        Ok(Self {
            what,
            head,
            signed,
            payload,
            signature: bytes,
        })
    }

    /// What it says, if this key signed it.
    pub(crate) fn claims<T: DeserializeOwned>(&self, by: &PublicKey) -> Result<T, SealError> {
        if !by.signed(self.signed.as_bytes(), &self.signature) {
            return Err(SealError::Signature(self.what));
        }
        let refused = || SealError::Token {
            what: self.what,
            detail: "its payload has not the members expected",
        };
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| refused())?;
        serde_json::from_slice(&payload).map_err(|_| refused())
    }
}

/// Signs claims.
pub(crate) fn sign(key: &SigningKey, head: &Head, claims: &impl Serialize) -> Result<String, SealError> {
    let failed = |_| SealError::Library("write JSON");
    let part = |json: Vec<u8>| URL_SAFE_NO_PAD.encode(json);
    let signed = format!(
        "{}.{}",
        part(serde_json::to_vec(head).map_err(failed)?),
        part(serde_json::to_vec(claims).map_err(failed)?)
    );
    let signature = key.sign_bytes(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
