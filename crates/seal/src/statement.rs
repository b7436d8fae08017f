//! Believing what others signed.

use std::time::Duration;

use hawser_proto::{
    UnixTime,
    broker::statement::{DeviceCertificate, Signed, Statement},
};

use crate::{PublicKey, SealError};

/// How far a certificate's beginning may lie in the future, for clocks that are slow.
const SKEW: Duration = Duration::from_secs(300);

/// What a statement says, if this key signed it.
pub fn verify<T: Statement>(signed: &Signed<T>, by: &PublicKey) -> Result<T, SealError> {
    if !by.signed(&[T::CONTEXT, &signed.payload].concat(), &signed.signature) {
        return Err(SealError::Signature("the signature of a statement"));
    }
    signed.unverified().map_err(|source| SealError::Malformed {
        what: "a signed statement is",
        source,
    })
}

/// As [`verify`] for a device's certificate, which must be in force and name the key that signed it.
pub fn check_certificate(
    signed: &Signed<DeviceCertificate>,
    by: &PublicKey,
    now: UnixTime,
) -> Result<DeviceCertificate, SealError> {
    let certificate = verify(signed, by)?;
    if certificate.sender != by.key_id() {
        return Err(SealError::Signature("the key id in a device's certificate"));
    }
    if now.plus(SKEW) < certificate.issued || now > certificate.expires {
        return Err(SealError::Time {
            what: "the device's certificate",
            from: certificate.issued,
            until: certificate.expires,
            now,
        });
    }
    Ok(certificate)
}
