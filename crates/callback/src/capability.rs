//! Capabilities: an original address, sealed so that the gateways of one domain, and nobody else, can tell what it is.
//!
//! `<key id>.<sealed>`: eight hexadecimal digits, and base64url (RFC 4648 section 5, without padding) of a random nonce of 12 bytes and
//! AES-256-GCM-SIV (RFC 8452) over the CBOR of a [`Grant`]. The text is safe as a path segment. It is a bearer address within the
//! domain that it was given to: [`Secrets::open`] takes it from no other. Nothing has to be remembered for it to be good after a restart
//! and at every gateway that shares the secret.

use std::sync::Arc;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_proto::name::{DomainName, ServiceId};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::address::{Address, MAX_ADDRESS};

/// Longest capability in bytes: an address of [`MAX_ADDRESS`] and everything around it, in base64url.
pub const MAX_CAPABILITY: usize = 9 + (MAX_ADDRESS + 320) * 4 / 3;
/// What the ciphertext is bound to, besides the key.
const CONTEXT: &[u8] = b"hawser callback 1";
const NONCE: usize = 12;

/// A secret that the gateways of one domain share.
#[derive(Clone)]
pub struct Secret {
    /// Names the secret in each capability, as eight hexadecimal digits.
    pub id: u32,
    /// The AES key.
    pub key: Zeroizing<[u8; 32]>,
}

impl Secret {
    /// A new random secret.
    ///
    /// # Errors
    /// [`CapabilityError::Library`] if there is no randomness.
    pub fn random() -> Result<Self, CapabilityError> {
        let mut key = Zeroizing::new([0; 32]);
        let mut id = [0; 4];
        fill(&mut *key)?;
        fill(&mut id)?;
        Ok(Self {
            id: u32::from_be_bytes(id),
            key,
        })
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({:08x})", self.id)
    }
}

/// What a capability entitles its bearer to: to call `original`, until `expires`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// The address that the client gave.
    #[n(0)]
    pub original: Address,
    /// On whose behalf the client called.
    #[n(1)]
    pub caller: Option<ServiceId>,
    /// The domain that may use it.
    #[n(2)]
    pub peer: DomainName,
    /// End of its life in seconds since 1970.
    #[n(3)]
    pub expires: u64,
    /// Random, so that one capability can be denied.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// Where the address's host is, whatever its name may mean later; a name is resolved when it is called otherwise.
    #[n(5)]
    pub pin: Option<std::net::IpAddr>,
}

impl Grant {
    /// A grant with a random identity.
    ///
    /// # Errors
    /// [`CapabilityError::Library`] if there is no randomness.
    pub fn new(
        original: Address,
        caller: Option<ServiceId>,
        peer: DomainName,
        expires: u64,
    ) -> Result<Self, CapabilityError> {
        let mut id = [0; 16];
        fill(&mut id)?;
        Ok(Self {
            original,
            caller,
            peer,
            expires,
            id,
            pin: None,
        })
    }

    /// Whether services of `peer` may use it.
    ///
    /// # Errors
    /// [`CapabilityError::Foreign`].
    pub fn for_peer(&self, peer: &DomainName) -> Result<(), CapabilityError> {
        (self.peer == *peer).then_some(()).ok_or(CapabilityError::Foreign)
    }

    /// Whether it is good at `now` (seconds since 1970).
    ///
    /// # Errors
    /// [`CapabilityError::Expired`].
    pub fn at(&self, now: u64) -> Result<(), CapabilityError> {
        let at = self.expires;
        (now < at).then_some(()).ok_or(CapabilityError::Expired { at })
    }
}

/// Why a capability is not honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Not the form of one.
    #[error(
        "this is no callback address: expected eight hexadecimal digits, a dot and base64url; use the address whole, as it was received"
    )]
    Malformed,
    /// Sealed under a secret that is not here.
    #[error(
        "the callback address is sealed under secret {id:08x}, which this gateway does not have (any more): the client must send its request again"
    )]
    UnknownKey {
        /// Which one.
        id: u32,
    },
    /// Changed, or made by somebody without the secret.
    #[error("the callback address is forged or damaged: use it as it was received, every character")]
    Forged,
    /// Too late.
    #[error(
        "the callback address expired at {at} (seconds since 1970): the client must send its request, or subscribe, again"
    )]
    Expired {
        /// Seconds since 1970.
        at: u64,
    },
    /// Given to another domain.
    #[error("the callback address was given to another domain: only services there may use it")]
    Foreign,
    /// No secret to seal under.
    #[error(
        "there is no secret for callback addresses: a gateway makes one at its start, look for why it could not"
    )]
    NoSecret,
    /// The cryptography library failed.
    #[error("the cryptography library could not {0}")]
    Library(&'static str),
}

/// The secrets of a domain, the first of which seals, while all open: that is how they are rotated.
pub struct Secrets(Arc<[(u32, LessSafeKey)]>);

impl Secrets {
    /// The secrets' names, that of the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(|(id, _)| *id)
    }

    /// Takes the secrets, the one that seals first.
    pub fn new(secrets: Vec<Secret>) -> Self {
        let key = |s: &Secret| UnboundKey::new(&AES_256_GCM_SIV, &s.key[..]).ok();
        Self(
            secrets
                .iter()
                .filter_map(|s| Some((s.id, LessSafeKey::new(key(s)?))))
                .collect(),
        )
    }

    /// A capability for `grant`: at most [`MAX_CAPABILITY`] bytes, all of them letters, digits, `-`, `_` and one dot.
    ///
    /// # Errors
    /// [`CapabilityError::NoSecret`], or [`CapabilityError::Library`].
    pub fn seal(&self, grant: &Grant) -> Result<String, CapabilityError> {
        let failed = |_| CapabilityError::Library("encrypt");
        let (id, key) = self.0.first().ok_or(CapabilityError::NoSecret)?;
        let mut nonce = [0; NONCE];
        fill(&mut nonce)?;
        let mut plain =
            Zeroizing::new(minicbor::to_vec(grant).map_err(|_| CapabilityError::Library("encode"))?);
        let tag = key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context(*id)),
                &mut plain,
            )
            .map_err(failed)?;
        let sealed = [&nonce[..], &plain, tag.as_ref()].concat();
        Ok(format!("{id:08x}.{}", URL_SAFE_NO_PAD.encode(sealed)))
    }

    /// What `text` entitles to, used by `peer` at `now` (seconds since 1970). `peer` is the domain that TLS proved.
    ///
    /// # Errors
    /// See [`CapabilityError`]. Only a capability that is not forged is said to be expired or foreign.
    pub fn open(&self, text: &str, peer: &DomainName, now: u64) -> Result<Grant, CapabilityError> {
        let grant = self.read(text)?;
        grant.for_peer(peer)?;
        grant.at(now)?;
        Ok(grant)
    }

    /// What was sealed in `text`, whoever uses it and whenever.
    ///
    /// # Errors
    /// See [`CapabilityError`]; it is neither [`CapabilityError::Foreign`] nor [`CapabilityError::Expired`].
    pub fn read(&self, text: &str) -> Result<Grant, CapabilityError> {
        let (id, sealed) = split(text).ok_or(CapabilityError::Malformed)?;
        let mut keys = self.0.iter().filter(|(known, _)| *known == id).peekable();
        if keys.peek().is_none() {
            return Err(CapabilityError::UnknownKey { id });
        }
        keys.find_map(|(_, key)| unseal(key, id, &sealed))
            .ok_or(CapabilityError::Forged)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(id, _)| format!("{id:08x}")))
            .finish()
    }
}

/// Key id, and nonce with ciphertext. One text for one capability: capitals in the key id and stray bits are refused.
fn split(text: &str) -> Option<(u32, Vec<u8>)> {
    let (id, sealed) = text.split_once('.')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() > MAX_CAPABILITY || id.len() != 8 || !id.bytes().all(hex) {
        return None;
    }
    let id = u32::from_str_radix(id, 16).ok()?;
    let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    (sealed.len() > NONCE + 16).then_some((id, sealed))
}

fn unseal(key: &LessSafeKey, id: u32, sealed: &[u8]) -> Option<Grant> {
    let (nonce, body) = sealed.split_first_chunk::<NONCE>()?;
    let mut body = Zeroizing::new(body.to_vec());
    let plain = key
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(context(id)),
            &mut body,
        )
        .ok()?;
    minicbor::decode(plain).ok()
}

fn context(id: u32) -> Vec<u8> {
    [CONTEXT, &id.to_be_bytes()].concat()
}

fn fill(bytes: &mut [u8]) -> Result<(), CapabilityError> {
    rand::fill(bytes).map_err(|_| CapabilityError::Library("give random bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(id: u32) -> Secrets {
        Secrets::new(vec![Secret {
            id,
            key: Zeroizing::new([7; 32]),
        }])
    }

    fn grant(address: &str) -> Grant {
        Grant::new(
            address.parse().unwrap(),
            Some("orders.acme".parse().unwrap()),
            "beta".parse().unwrap(),
            1000,
        )
        .unwrap()
    }

    #[test]
    fn opens_for_its_peer_until_it_expires() {
        let (secrets, beta) = (secrets(0xab), "beta".parse().unwrap());
        let grant = grant("http://client.acme:8080/cb?x=1");
        let text = secrets.seal(&grant).unwrap();
        assert!(text.starts_with("000000ab."));
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        );
        assert_ne!(text, secrets.seal(&grant).unwrap());
        assert_eq!(secrets.open(&text, &beta, 999), Ok(grant));
        assert_eq!(
            secrets.open(&text, &beta, 1000),
            Err(CapabilityError::Expired { at: 1000 })
        );
        let other = "gamma".parse().unwrap();
        assert_eq!(secrets.open(&text, &other, 1), Err(CapabilityError::Foreign));
    }

    #[test]
    fn secrets_rotate() {
        let (old, beta) = (Secret::random().unwrap(), "beta".parse().unwrap());
        let text = Secrets::new(vec![old.clone()])
            .seal(&grant("https://h/"))
            .unwrap();
        let both = Secrets::new(vec![Secret::random().unwrap(), old.clone()]);
        assert!(both.open(&text, &beta, 1).is_ok());
        let (id, new) = (old.id, Secrets::new(vec![Secret::random().unwrap()]));
        assert_eq!(new.open(&text, &beta, 1), Err(CapabilityError::UnknownKey { id }));
        let namesake = secrets(id);
        assert_eq!(namesake.open(&text, &beta, 1), Err(CapabilityError::Forged));
        assert_eq!(
            Secrets::new(Vec::new()).seal(&grant("http://h/")),
            Err(CapabilityError::NoSecret)
        );
    }

    #[test]
    fn the_longest_fits() {
        let address = format!("http://h/{}", "a".repeat(MAX_ADDRESS - 9));
        let label = "a".repeat(63);
        let mut grant = grant(&address);
        grant.peer = label.parse().unwrap();
        grant.caller = Some(format!("{label}.{label}").parse().unwrap());
        grant.expires = u64::MAX;
        let text = secrets(1).seal(&grant).unwrap();
        assert!(text.len() <= MAX_CAPABILITY, "{}", text.len());
        assert_eq!(secrets(1).open(&text, &grant.peer.clone(), 1), Ok(grant));
    }

    #[test]
    fn a_usual_one_is_short() {
        let text = secrets(1)
            .seal(&grant("http://client.acme:8080/callback"))
            .unwrap();
        assert!(text.len() < 180, "{}", text.len());
    }

    proptest! {
        #[test]
        fn one_changed_character_is_never_honoured(at in 0usize..150, with in "[A-Za-z0-9._-]") {
            let text = secrets(0xab).seal(&grant("http://client.acme:8080/cb")).unwrap();
            let at = at % text.len();
            let changed = format!("{}{with}{}", &text[..at], &text[at + 1..]);
            if changed != text {
                prop_assert!(secrets(0xab).open(&changed, &"beta".parse().unwrap(), 1).is_err());
            }
        }

        #[test]
        fn random_text_is_refused(text in "\\PC{0,200}") {
            prop_assert!(secrets(1).open(&text, &"beta".parse().unwrap(), 1).is_err());
        }
    }
}
