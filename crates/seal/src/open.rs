//! Opening: what a device checks before it believes an envelope.

use std::sync::Arc;

use hawser_proto::{
    DomainName, UnixTime,
    broker::{
        DeviceHandle, Envelope, Header, Kind, UserName,
        envelope::{Content, MAX_ANSWER, MAX_ENVELOPE, Wrapped, whole},
        statement::DeviceCertificate,
    },
};
use zeroize::{Zeroize, Zeroizing};

use crate::{
    DeviceKeys, OpenError, PublicKey, aead,
    envelope::{CONTENT, CONTENT_NONCE, signed_bytes, wrap_nonce},
    hpke, sha256,
};

/// Who a device is, by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Its domain.
    pub domain: DomainName,
    /// Its user.
    pub user: UserName,
    /// Its handle.
    pub device: DeviceHandle,
    /// Its epoch.
    pub epoch: u32,
}

impl From<&DeviceCertificate> for Recipient {
    fn from(certificate: &DeviceCertificate) -> Self {
        Self {
            domain: certificate.domain.clone(),
            user: certificate.user.clone(),
            device: certificate.device,
            epoch: certificate.epoch,
        }
    }
}

/// What came out of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What the mailbox saw.
    pub header: Header,
    /// What the user sees.
    pub content: Content,
    /// SHA-256 of the envelope's bytes, for the acknowledgement.
    pub digest: [u8; 32],
}

/// Opens envelopes for one device.
pub struct Opener {
    sender: PublicKey,
    keys: Arc<DeviceKeys>,
    me: Recipient,
    /// The last epoch key and what it wraps: many envelopes come under one.
    known: Option<(Vec<u8>, Zeroizing<[u8; 32]>)>,
}

impl Opener {
    /// For a device that pins its domain's sender key.
    pub fn new(sender: PublicKey, keys: Arc<DeviceKeys>, me: Recipient) -> Self {
        Self {
            sender,
            keys,
            me,
            known: None,
        }
    }

    /// Whether the domain's sender made this envelope for this device; nothing is opened. Its number can be believed then, and
    /// should be shown to [`crate::Arrivals::check`] before [`Opener::open`].
    pub fn header(&self, bytes: &[u8]) -> Result<Header, OpenError> {
        self.genuine(bytes, MAX_ENVELOPE).map(|(_, header, _)| header)
    }

    /// Opens an event. Whether its number is new is for [`crate::Arrivals`] to say.
    pub fn open(&mut self, bytes: &[u8], now: UnixTime) -> Result<Opened, OpenError> {
        self.unseal(bytes, MAX_ENVELOPE, None, now)
    }

    /// Opens the answer to the fetch request with this nonce.
    pub fn open_answer(
        &mut self,
        bytes: &[u8],
        nonce: &[u8; 16],
        now: UnixTime,
    ) -> Result<Opened, OpenError> {
        self.unseal(bytes, MAX_ANSWER, Some(nonce), now)
    }

    fn genuine(&self, bytes: &[u8], limit: usize) -> Result<(Envelope, Header, [u8; 32]), OpenError> {
        let (envelope, header) = Envelope::parse(bytes, limit)?;
        let ciphertext = sha256(&envelope.ciphertext);
        let message = signed_bytes(
            &envelope.header,
            &envelope.epoch_key,
            &envelope.wrapped,
            &ciphertext,
        );
        if header.sender != self.sender.key_id() || !self.sender.signed(&message, &envelope.signature) {
            return Err(OpenError::Signature);
        }
        if header.device != self.me.device {
            return Err(OpenError::Device);
        }
        Ok((envelope, header, ciphertext))
    }

    fn unseal(
        &mut self,
        bytes: &[u8],
        limit: usize,
        nonce: Option<&[u8; 16]>,
        now: UnixTime,
    ) -> Result<Opened, OpenError> {
        let (envelope, header, ciphertext) = self.genuine(bytes, limit)?;
        match (header.kind, nonce) {
            (Kind::Event, None) if header.sequence > 0 => {}
            (Kind::Answer, Some(_)) if header.sequence == 0 => {}
            (_, None) => return Err(OpenError::Kind("it is no event")),
            (_, Some(_)) => return Err(OpenError::Kind("it is no answer")),
        }
        if header.epoch != self.me.epoch {
            return Err(OpenError::Epoch {
                expected: self.me.epoch,
                found: header.epoch,
            });
        }
        if now > header.expires {
            return Err(OpenError::Expired {
                expires: header.expires,
                now,
            });
        }
        let wrapping = self.wrapping(&envelope, &header)?;
        let plain = aead::open(
            &wrapping,
            wrap_nonce(header.sequence),
            &envelope.header,
            &envelope.wrapped,
        )
        .ok_or(OpenError::Sealed("wrapped key"))?;
        let mut wrapped: Wrapped = whole(&plain)?;
        let key = Zeroizing::new(wrapped.content_key);
        wrapped.content_key.zeroize();
        self.check(&wrapped, &ciphertext, nonce)?;
        let plain = aead::open(&key, CONTENT_NONCE, CONTENT, &envelope.ciphertext)
            .ok_or(OpenError::Sealed("content"))?;
        Ok(Opened {
            header,
            content: whole(&plain)?,
            digest: sha256(bytes),
        })
    }

    fn wrapping(&mut self, envelope: &Envelope, header: &Header) -> Result<Zeroizing<[u8; 32]>, OpenError> {
        if let Some((sealed, wrapping)) = &self.known
            && *sealed == envelope.epoch_key
        {
            return Ok(wrapping.clone());
        }
        let wrapping = hpke::open(
            &envelope.epoch_key,
            self.keys.sealing(),
            header.device,
            header.epoch,
            header.sender,
        )
        .ok_or(OpenError::Sealed("epoch key"))?;
        if header.kind == Kind::Event {
            self.known = Some((envelope.epoch_key.clone(), wrapping.clone()));
        }
        Ok(wrapping)
    }

    fn check(
        &self,
        wrapped: &Wrapped,
        ciphertext: &[u8; 32],
        nonce: Option<&[u8; 16]>,
    ) -> Result<(), OpenError> {
        let same = [
            (wrapped.domain == self.me.domain, "domain"),
            (wrapped.user == self.me.user, "user"),
            (wrapped.device == self.me.device, "device"),
            (wrapped.epoch == self.me.epoch, "epoch"),
        ];
        if let Some((_, what)) = same.iter().find(|(same, _)| !same) {
            return Err(OpenError::Recipient(what));
        }
        if wrapped.ciphertext != *ciphertext {
            return Err(OpenError::Ciphertext);
        }
        match wrapped.answers.as_ref() == nonce {
            true => Ok(()),
            false => Err(OpenError::Kind("it answers another question")),
        }
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({})", self.me.device)
    }
}

#[cfg(test)]
mod tests;
