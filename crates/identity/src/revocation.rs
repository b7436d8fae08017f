//! Signed lists of revoked names, one series per signer: numbered, dated, and passed on by hubs and gateways that cannot change them.

use std::fmt;

use hawser_proto::{DomainName, NodeId, NodeName, Role, UnixTime};
use minicbor::{Decode, Encode};
use rustls::pki_types::CertificateDer;

use crate::{
    IdentityError,
    certificate::{Certificate, check_signature},
    trust::Root,
};

/// Most names in a list.
pub const MAX_REVOKED: usize = 2048;
/// Longest signed list in bytes, such that it fits into a message ([`hawser_proto::frame::MAX_FRAME`]).
pub const MAX_LIST: usize = 240 * 1024;

/// Goes before the list in what is signed, so that the signature is good for nothing else.
const CONTEXT: &[u8] = b"hawser-revocations/1\0";

/// Names of one domain that are revoked for good. A list holds all that its signer has ever revoked; a revoked gateway comes
/// back under a new name only.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RevocationList {
    /// Whose names.
    #[n(0)]
    pub domain: DomainName,
    /// Rises with each list of the same signer.
    #[n(1)]
    pub number: u64,
    /// When it was made.
    #[n(2)]
    pub this_update: UnixTime,
    /// When the next one comes at the latest.
    #[n(3)]
    pub next_update: UnixTime,
    /// At most [`MAX_REVOKED`]; issuers only if the root signs.
    #[n(4)]
    pub revoked: Vec<NodeId>,
}

impl RevocationList {
    /// Whether this list is one that the root (or an issuer) of `domain` may sign.
    pub(crate) fn check(&self, domain: &DomainName, by_root: bool) -> Result<(), IdentityError> {
        let refuse = |text: String| Err(IdentityError::Revocations(text));
        if self.domain != *domain {
            return refuse(format!(
                "it is for domain {}, its signer is of {domain}",
                self.domain
            ));
        }
        if self.next_update <= self.this_update {
            return refuse("its next update is not after this one".into());
        }
        if self.revoked.len() > MAX_REVOKED {
            return refuse(format!(
                "{} names, at most {MAX_REVOKED} are allowed",
                self.revoked.len()
            ));
        }
        for id in &self.revoked {
            if id.domain != self.domain {
                return refuse(format!("it names {id}, which is of another domain"));
            }
            if id.role == Role::Issuer && !by_root {
                return refuse(format!("it revokes the issuer {id}, which only the root may do"));
            }
        }
        Ok(())
    }
}

/// Who signed a list, within its domain. Prints as `root` or `issuer/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signer {
    /// The domain's root.
    Root,
    /// An issuer of this name.
    Issuer(NodeName),
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signer::Root => f.write_str("root"),
            Signer::Issuer(name) => write!(f, "issuer/{name}"),
        }
    }
}

/// A list that was verified and taken in ([`crate::Trust::accept_revocations`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whose names.
    pub domain: DomainName,
    /// Who signed it.
    pub signer: Signer,
    /// Its number in the signer's series.
    pub number: u64,
    /// The list.
    pub list: RevocationList,
}

impl Accepted {
    /// Where to keep the list: `acme/root` or `acme/issuer/gw1`. A newer list of the same signer takes its place.
    pub fn key(&self) -> String {
        format!("{}/{}", self.domain, self.signer)
    }
}

/// A list with its signature, as it is kept and passed on.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SignedRevocations {
    /// A [`RevocationList`], as it was signed.
    #[cbor(n(0), with = "minicbor::bytes")]
    list: Vec<u8>,
    /// The signing issuer's certificate; none when the root signed.
    #[cbor(n(1), with = "minicbor::bytes")]
    signer: Option<Vec<u8>>,
    #[cbor(n(2), with = "minicbor::bytes")]
    signature: Vec<u8>,
}

impl SignedRevocations {
    /// Reads the form in which lists are kept and passed on. Nothing is verified yet.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        if bytes.len() > MAX_LIST {
            return Err(IdentityError::Revocations(format!(
                "{} bytes, at most {MAX_LIST} are allowed",
                bytes.len()
            )));
        }
        decode(bytes)
    }

    /// The form in which lists are kept and passed on.
    pub fn to_bytes(&self) -> Result<Vec<u8>, IdentityError> {
        let bytes = encode(self)?;
        if bytes.len() > MAX_LIST {
            return Err(IdentityError::Revocations(format!(
                "{} bytes, at most {MAX_LIST} are allowed",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    /// What the list says, unverified.
    pub(crate) fn list(&self) -> Result<RevocationList, IdentityError> {
        decode(&self.list)
    }

    pub(crate) fn make(
        list: &RevocationList,
        signer: Option<&CertificateDer<'_>>,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, IdentityError>,
    ) -> Result<Self, IdentityError> {
        let list = encode(list)?;
        let signed = Self {
            signature: sign(&message(&list))?,
            signer: signer.map(|der| der.to_vec()),
            list,
        };
        signed.to_bytes()?;
        Ok(signed)
    }

    /// Verifies signature and rules under the root of the list's domain. Without `now` no certificate's time is looked at.
    pub(crate) fn check(
        &self,
        list: &RevocationList,
        root: &Root,
        now: Option<UnixTime>,
    ) -> Result<Signer, IdentityError> {
        if let Some(now) = now {
            root.certificate.check_time(now)?;
        }
        let (signer, der) = match &self.signer {
            None => (Signer::Root, root.der.clone()),
            Some(der) => {
                let der = CertificateDer::from(der.clone());
                let certificate = Certificate::parse("issuer", &der)?;
                let id = root.check_issuer(&certificate)?;
                if let Some(now) = now {
                    certificate.check_time(now)?;
                }
                (Signer::Issuer(id.name), der)
            }
        };
        check_signature(&der, &message(&self.list), &self.signature)
            .map_err(|_| IdentityError::Signature(format!("the revocation list of {}", list.domain)))?;
        list.check(&root.domain, signer == Signer::Root)?;
        Ok(signer)
    }
}

fn message(list: &[u8]) -> Vec<u8> {
    [CONTEXT, list].concat()
}

fn encode<T: Encode<()>>(value: &T) -> Result<Vec<u8>, IdentityError> {
    minicbor::to_vec(value).map_err(|e| IdentityError::Revocations(e.to_string()))
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, IdentityError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder
        .decode()
        .map_err(|_| IdentityError::Revocations("it is malformed".into()))?;
    if decoder.position() != bytes.len() {
        return Err(IdentityError::Revocations("bytes after its end".into()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
