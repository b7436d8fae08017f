//! Receipts for publishers: what a device has signed, and the domain's word for whose device it is (JWS, RFC 7515).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::{
    DomainName, UnixTime,
    broker::{
        DeliveryId, DeviceHandle, UserName,
        statement::{AckCode, Acknowledgement, Signed},
    },
};
use serde::{Deserialize, Serialize};

use crate::{Jwk, PublicKey, SealError, SenderKey, jws, verify as verify_statement};

const TYPE: &str = "hawser-receipt+jwt";
const WHAT: &str = "a receipt";

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The domain that gives it.
    pub iss: DomainName,
    /// When it was given.
    pub iat: UnixTime,
    /// Of which delivery.
    pub delivery: DeliveryId,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
    /// Whose device.
    pub user: UserName,
    /// Which device.
    pub device: DeviceHandle,
    /// What it says became of it.
    pub code: AckCode,
    /// When, by the device's clock.
    pub at: UnixTime,
    /// base64url of the [`Signed`] [`Acknowledgement`] by the device.
    pub ack: String,
    /// The device's signing key.
    pub jwk: Jwk,
}

/// What a receipt is about.
#[derive(Debug, Clone)]
pub struct About {
    /// The domain.
    pub domain: DomainName,
    /// Which delivery.
    pub delivery: DeliveryId,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
    /// Whose device.
    pub user: UserName,
}

/// Gives a receipt for an acknowledgement, if `device` signed it.
pub fn issue(
    sender: &SenderKey,
    about: About,
    ack: &Signed<Acknowledgement>,
    device: &PublicKey,
    now: UnixTime,
) -> Result<String, SealError> {
    let said = verify_statement(ack, device)?;
    let receipt = Receipt {
        iss: about.domain,
        iat: now,
        delivery: about.delivery,
        source: about.source,
        id: about.id,
        user: about.user,
        device: said.device,
        code: said.code,
        at: said.at,
        ack: URL_SAFE_NO_PAD.encode(ack.to_bytes()),
        jwk: device.jwk(),
    };
    let mut head = jws::Head::new(TYPE);
    head.kid = Some(sender.key_id().to_string());
    jws::sign(sender.key(), &head, &receipt)
}

/// What a receipt says, if the domain's sender key signed it, and the device's key what it rests on.
pub fn verify(text: &str, by: &PublicKey) -> Result<Receipt, SealError> {
    let refused = |detail| SealError::Token { what: WHAT, detail };
    let receipt: Receipt = jws::Parts::new(text, TYPE, WHAT)?.claims(by)?;
    let ack = URL_SAFE_NO_PAD
        .decode(&receipt.ack)
        .map_err(|_| refused("its ack is not base64url"))?;
    let ack = Signed::<Acknowledgement>::parse(&ack).map_err(|source| SealError::Malformed {
        what: "the acknowledgement in a receipt is",
        source,
    })?;
    let said = verify_statement(&ack, &PublicKey::from_jwk(&receipt.jwk)?)?;
    if (said.device, said.code, said.at) != (receipt.device, receipt.code, receipt.at) {
        return Err(refused(
            "it says something else than the device's acknowledgement",
        ));
    }
    Ok(receipt)
}
