//! Sealing: a content once for each variant, then for each device.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use hawser_proto::{
    UnixTime,
    broker::{
        Envelope, Header, Kind, Urgency,
        envelope::{CONTEXT, Content, EPOCH_KEY, MAX_ANSWER, MAX_ENVELOPE, SUITE, VERSION, Wrapped, encoded},
        statement::{DeviceCertificate, Signed},
    },
};
use zeroize::{Zeroize, Zeroizing};

use crate::{SealError, SenderKey, aead, check_certificate, hpke, pad, random, sha256};

/// Additional data of the content's encryption.
pub(crate) const CONTENT: &[u8] = b"hawser-content/1\0";
/// Nonce of the content's encryption: each content key encrypts once.
pub(crate) const CONTENT_NONCE: [u8; 12] = [0; 12];

/// A content, padded and encrypted under a key of its own: sealed once, then enclosed for each device that gets this variant.
pub struct SealedContent {
    key: Zeroizing<[u8; 32]>,
    ciphertext: Vec<u8>,
    digest: [u8; 32],
}

impl SealedContent {
    /// Pads and encrypts. [`Content::padding`] is replaced. For one event in one variant only: devices that get the same may
    /// know it of each other.
    pub fn new(content: &Content) -> Result<Self, SealError> {
        Self::with_key(content, Zeroizing::new(random()?))
    }

    pub(crate) fn with_key(content: &Content, key: Zeroizing<[u8; 32]>) -> Result<Self, SealError> {
        if content.body.len() > MAX_ANSWER {
            return Err(SealError::TooLarge {
                bytes: content.body.len(),
                limit: MAX_ANSWER,
            });
        }
        let mut plain = match content.padding.is_empty() {
            true => encoded(content),
            false => encoded(&Content {
                padding: Vec::new(),
                ..content.clone()
            }),
        };
        pad::fill(&mut plain);
        let ciphertext = aead::seal(&key, CONTENT_NONCE, CONTENT, plain)?;
        let digest = sha256(&ciphertext);
        Ok(Self {
            key,
            ciphertext,
            digest,
        })
    }

    /// Bytes of ciphertext: an envelope adds less than 1 KiB.
    pub fn size(&self) -> usize {
        self.ciphertext.len()
    }
}

impl fmt::Debug for SealedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedContent({} bytes)", self.ciphertext.len())
    }
}

/// A wrapping key for many envelopes to one device: one key exchange, then symmetric encryption. Lives in memory only: what
/// comes after a restart is sealed under a new one, so that no number is ever used twice under a key.
pub struct EpochKey {
    certificate: DeviceCertificate,
    wrapping: Zeroizing<[u8; 32]>,
    sealed: [u8; EPOCH_KEY],
    /// Lowest number not used yet.
    next: AtomicU64,
}

impl EpochKey {
    /// For a device whose certificate this sender signed and that is in force.
    pub fn new(
        sender: &SenderKey,
        certificate: &Signed<DeviceCertificate>,
        now: UnixTime,
    ) -> Result<Self, SealError> {
        let certificate = check_certificate(certificate, sender.public(), now)?;
        let wrapping = Zeroizing::new(random()?);
        let sealed = hpke::seal(
            &wrapping,
            &certificate.sealing_key,
            certificate.device,
            certificate.epoch,
            certificate.sender,
        )?;
        Ok(Self {
            certificate,
            wrapping,
            sealed,
            next: AtomicU64::new(0),
        })
    }

    /// Whom it is for.
    pub fn certificate(&self) -> &DeviceCertificate {
        &self.certificate
    }

    /// Numbers are used in ascending order, each once.
    fn take(&self, sequence: u64) -> Result<(), SealError> {
        let after = sequence.saturating_add(1);
        let free = |next: u64| (next <= sequence && after > sequence).then_some(after);
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free) {
            Ok(_) => Ok(()),
            Err(next) => Err(SealError::Reused { sequence, next }),
        }
    }
}

impl fmt::Debug for EpochKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeviceCertificate { device, epoch, .. } = &self.certificate;
        write!(f, "EpochKey({device}, {epoch})")
    }
}

/// What the mailbox sees of an event's envelope besides the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// From 1, ascending without gaps for each device.
    pub sequence: u64,
    /// Nobody delivers or opens it after that.
    pub expires: UnixTime,
    /// How urgent.
    pub urgency: Urgency,
    /// HMAC of the collapse key, see [`Header::collapse`].
    pub collapse: Option<[u8; 32]>,
}

/// Seals a content to a device: the bytes of an [`Envelope`], at most [`MAX_ENVELOPE`].
pub fn seal(
    sender: &SenderKey,
    epoch: &EpochKey,
    content: &SealedContent,
    post: &Post,
) -> Result<Vec<u8>, SealError> {
    // The answer's number would do for an event in no device's eyes.
    if post.sequence == 0 {
        return Err(SealError::Reused { sequence: 0, next: 1 });
    }
    enclose(sender, epoch, content, post, None, MAX_ENVELOPE)
}

/// Seals the answer to a fetch request: the bytes of an [`Envelope`], at most [`MAX_ANSWER`]. Its epoch key is made here and
/// used once. `nonce` is the request's.
pub fn answer(
    sender: &SenderKey,
    certificate: &Signed<DeviceCertificate>,
    content: &SealedContent,
    nonce: [u8; 16],
    expires: UnixTime,
    now: UnixTime,
) -> Result<Vec<u8>, SealError> {
    let post = Post {
        sequence: 0,
        expires,
        urgency: Urgency::Normal,
        collapse: None,
    };
    let epoch = EpochKey::new(sender, certificate, now)?;
    enclose(sender, &epoch, content, &post, Some(nonce), MAX_ANSWER)
}

fn enclose(
    sender: &SenderKey,
    epoch: &EpochKey,
    content: &SealedContent,
    post: &Post,
    answers: Option<[u8; 16]>,
    limit: usize,
) -> Result<Vec<u8>, SealError> {
    let certificate = &epoch.certificate;
    epoch.take(post.sequence)?;
    let header = encoded(&Header {
        version: VERSION,
        suite: SUITE,
        kind: answers.map_or(Kind::Event, |_| Kind::Answer),
        device: certificate.device,
        sequence: post.sequence,
        epoch: certificate.epoch,
        sender: sender.key_id(),
        expires: post.expires,
        urgency: post.urgency,
        collapse: post.collapse,
    });
    let mut inner = Wrapped {
        content_key: *content.key,
        ciphertext: content.digest,
        domain: certificate.domain.clone(),
        user: certificate.user.clone(),
        device: certificate.device,
        epoch: certificate.epoch,
        answers,
    };
    // Encrypted in place: no copy of the key is left in the buffer.
    let plain = encoded(&inner);
    inner.content_key.zeroize();
    let wrapped = aead::seal(&epoch.wrapping, wrap_nonce(post.sequence), &header, plain)?;
    let message = signed_bytes(&header, &epoch.sealed, &wrapped, &content.digest);
    let envelope = Envelope {
        signature: sender.key().sign_bytes(&message)?,
        header,
        epoch_key: epoch.sealed.to_vec(),
        wrapped,
        ciphertext: content.ciphertext.clone(),
    };
    let bytes = envelope.to_bytes();
    match bytes.len() <= limit {
        true => Ok(bytes),
        false => Err(SealError::TooLarge {
            bytes: bytes.len(),
            limit,
        }),
    }
}

/// Nonce under the wrapping key.
pub(crate) fn wrap_nonce(sequence: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    nonce
}

/// What an envelope's signature covers.
pub(crate) fn signed_bytes(
    header: &[u8],
    epoch_key: &[u8],
    wrapped: &[u8],
    ciphertext: &[u8; 32],
) -> Vec<u8> {
    [
        CONTEXT,
        &sha256(header),
        &sha256(epoch_key),
        &sha256(wrapped),
        ciphertext,
    ]
    .concat()
}
