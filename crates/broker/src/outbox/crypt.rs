//! What lies in the outbox lies there under a key of this machine's: AES-256-GCM with a key for each event, derived from the
//! local one by HKDF-SHA-256, so that no key meets too many nonces. The row that a ciphertext stands in is authenticated, too.

use std::path::Path;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    hmac, rand,
};
use hawser_identity::{IdentityError, read_private, write_new_private};
use hawser_proto::broker::{DeliveryId, DeviceHandle, UserName};
use zeroize::Zeroizing;

use super::OutboxError;

/// File in the state directory (mode 0600).
const FILE: &str = "outbox.key";
const EXPECTED: &str = "the key of the outbox (32 random bytes)";
const KEY: usize = 32;

/// The local key.
pub struct LocalKey {
    records: Prk,
    dedupe: hmac::Key,
    collapse: hmac::Key,
}

impl std::fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalKey")
    }
}

struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        KEY
    }
}

impl LocalKey {
    /// Reads the key of a state directory, or makes it. Without it, what is in the outbox is lost.
    pub fn load_or_create(dir: &Path) -> Result<Self, OutboxError> {
        let path = dir.join(FILE);
        let bytes = match read_private(&path, EXPECTED) {
            Err(IdentityError::Missing { .. }) => {
                let mut new = Zeroizing::new(vec![0; KEY]);
                rand::fill(&mut new).map_err(|_| OutboxError::Library("give random bytes"))?;
                write_new_private(&path, &new)?;
                read_private(&path, EXPECTED)?
            }
            read => read?,
        };
        match bytes.len() {
            KEY => Self::new(&bytes),
            length => Err(OutboxError::Key { path, length }),
        }
    }

    fn new(bytes: &[u8]) -> Result<Self, OutboxError> {
        let prk = Salt::new(HKDF_SHA256, b"hawser-outbox/1").extract(bytes);
        let hmac_key = |info: &'static [u8]| -> Result<_, OutboxError> {
            let key = expand(&prk, &[info])?;
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &*key))
        };
        Ok(Self {
            dedupe: hmac_key(b"dedupe")?,
            collapse: hmac_key(b"collapse")?,
            records: prk,
        })
    }

    /// By which two events are the same, without telling which.
    pub fn dedupe(&self, application: &UserName, source: &str, id: &str) -> [u8; 32] {
        tag(
            &self.dedupe,
            &[application.as_str().as_bytes(), source.as_bytes(), id.as_bytes()],
        )
    }

    /// What a mailbox sees of a collapse key: another value for each device.
    pub fn collapse(&self, device: &DeviceHandle, application: &UserName, key: &str) -> [u8; 32] {
        tag(
            &self.collapse,
            &[&device.0, application.as_str().as_bytes(), key.as_bytes()],
        )
    }

    /// The key of one event's records.
    pub fn of(&self, event: &DeliveryId) -> Result<EventKey, OutboxError> {
        let key = expand(&self.records, &[b"event", &event.0])?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| OutboxError::Library("make a key"))?;
        Ok(EventKey {
            event: *event,
            key: LessSafeKey::new(key),
        })
    }
}

/// Opens and closes what is kept of one event.
pub struct EventKey {
    event: DeliveryId,
    key: LessSafeKey,
}

impl EventKey {
    /// Nonce and ciphertext. `place` says where it stands, within its event.
    pub fn close(&self, place: &[u8], mut plain: Zeroizing<Vec<u8>>) -> Result<Vec<u8>, OutboxError> {
        let failed = |_| OutboxError::Library("encrypt");
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(failed)?;
        let aad = Aad::from([&self.event.0[..], place].concat());
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(unique, aad, &mut plain)
            .map_err(failed)?;
        Ok([&nonce[..], &plain[..], tag.as_ref()].concat())
    }

    /// What [`EventKey::close`] closed.
    pub fn open(&self, place: &[u8], closed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OutboxError> {
        let damaged = || OutboxError::Damaged(self.event);
        let (nonce, rest) = closed.split_at_checked(NONCE_LEN).ok_or_else(damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| damaged())?;
        let aad = Aad::from([&self.event.0[..], place].concat());
        let mut plain = Zeroizing::new(rest.to_vec());
        let length = self
            .key
            .open_in_place(nonce, aad, &mut plain)
            .map_err(|_| damaged())?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

fn expand(prk: &Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; KEY]>, OutboxError> {
    let mut out = Zeroizing::new([0; KEY]);
    prk.expand(info, Bytes32)
        .and_then(|okm| okm.fill(&mut *out))
        .map_err(|_| OutboxError::Library("derive a key"))?;
    Ok(out)
}

/// HMAC of parts, each with its length before it so that no two lists are the same bytes.
fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LocalKey {
        LocalKey::new(&[7; KEY]).unwrap()
    }

    #[test]
    fn the_key_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let app: UserName = "mail".parse().unwrap();
        let a = LocalKey::load_or_create(dir.path())
            .unwrap()
            .dedupe(&app, "s", "i");
        let b = LocalKey::load_or_create(dir.path())
            .unwrap()
            .dedupe(&app, "s", "i");
        assert_eq!(a, b);
    }

    #[test]
    fn a_record_opens_in_its_own_place_only() {
        let (one, other) = (
            key().of(&DeliveryId([1; 16])).unwrap(),
            key().of(&DeliveryId([2; 16])).unwrap(),
        );
        let closed = one.close(b"row0", Zeroizing::new(b"secret".to_vec())).unwrap();
        assert!(!closed.windows(6).any(|w| w == b"secret"));
        assert_eq!(**one.open(b"row0", &closed).unwrap(), *b"secret");
        assert!(one.open(b"row1", &closed).is_err());
        assert!(other.open(b"row0", &closed).is_err());
        assert!(one.open(b"row0", &closed[..closed.len() - 1]).is_err());
        assert!(one.open(b"row0", &[]).is_err());
    }

    #[test]
    fn names_do_not_run_together() {
        let app: UserName = "mail".parse().unwrap();
        assert_ne!(key().dedupe(&app, "ab", "c"), key().dedupe(&app, "a", "bc"));
        let device = |n| DeviceHandle([n; 16]);
        assert_ne!(
            key().collapse(&device(1), &app, "k"),
            key().collapse(&device(2), &app, "k")
        );
    }
}
