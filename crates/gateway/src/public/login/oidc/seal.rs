//! What browsers keep for the gateway: sealed (AES-256-GCM-SIV) under keys of this gateway's state directory, so that it needs no
//! table of sessions. A key seals for a week, and opens for as long as anything that it sealed may last.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hawser_identity::Secret;
use hawser_proto::UnixTime;
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode};
use tokio::sync::Mutex;

/// The bucket, by a key's id in eight hex digits.
const BUCKET: &str = "login-keys";
/// How long a key seals.
const SEALS: Duration = Duration::from_secs(7 * 86_400);
/// How long it opens: what it sealed last lasts no longer than the longest session.
const OPENS: Duration = Duration::from_secs(2 * 7 * 86_400);
/// How often it is looked whether another key is due.
const LOOK: Duration = Duration::from_secs(3600);
/// Bytes before what is sealed: the key's id and the nonce.
const ID: usize = 4;
const NONCE: usize = 12;
/// Longest sealed text that is looked at, in bytes.
const MAX_SEALED: usize = 4096;

/// Of [`BUCKET`].
#[derive(Clone, Encode, Decode)]
struct KeyRecord {
    #[n(0)]
    secret: Secret,
    #[n(1)]
    made: UnixTime,
}

/// The keys. Cheap to clone.
#[derive(Clone)]
pub(in crate::public) struct Keys(Arc<Inner>);

struct Inner {
    bucket: Bucket<KeyRecord>,
    ring: Mutex<Option<(Instant, Arc<Ring>)>>,
}

/// The keys that open; the first one seals.
pub(super) struct Ring(Vec<(u32, LessSafeKey)>);

/// Why nothing can be sealed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a key cannot be made: {0}")]
    Make(#[from] hawser_identity::IdentityError),
    #[error("the library cannot seal")]
    Library,
}

impl Keys {
    /// Those in a gateway's store. None is made before it is needed.
    pub(in crate::public) fn new(store: &Store) -> Self {
        Self(Arc::new(Inner {
            bucket: store.bucket(BUCKET),
            ring: Mutex::default(),
        }))
    }

    /// The keys of now.
    pub(super) async fn ring(&self) -> Result<Arc<Ring>, SealError> {
        let mut known = self.0.ring.lock().await;
        if let Some((looked, ring)) = &*known
            && looked.elapsed() < LOOK
        {
            return Ok(ring.clone());
        }
        let ring = Arc::new(self.load(UnixTime::now()).await?);
        *known = Some((Instant::now(), ring.clone()));
        Ok(ring)
    }

    async fn load(&self, now: UnixTime) -> Result<Ring, SealError> {
        let bucket = &self.0.bucket;
        let mut all = Vec::new();
        for (name, record, _) in bucket.entries().await? {
            match u32::from_str_radix(&name, 16) {
                Ok(id) if record.made.plus(OPENS) > now => all.push((id, record)),
                _ => drop(bucket.delete(&name).await?),
            }
        }
        all.sort_by_key(|(id, r)| (std::cmp::Reverse(r.made), *id));
        if all
            .first()
            .is_none_or(|(_, newest)| newest.made.plus(SEALS) <= now)
        {
            let secret = Secret::random()?;
            let id = u32::from_be_bytes(std::array::from_fn(|i| secret.hash()[i]));
            let record = KeyRecord { secret, made: now };
            bucket.put(&format!("{id:08x}"), &record).await?;
            all.insert(0, (id, record));
        }
        let keys = all.into_iter().map(|(id, record)| {
            let key = UnboundKey::new(&AES_256_GCM_SIV, record.secret.expose());
            key.map(|key| (id, LessSafeKey::new(key)))
                .map_err(|_| SealError::Library)
        });
        keys.collect::<Result<_, _>>().map(Ring)
    }
}

impl Ring {
    /// `plain`, sealed for `context` alone, as text for a cookie or a query.
    pub(super) fn seal<T: Encode<()>>(&self, context: &[u8], plain: &T) -> Result<String, SealError> {
        let (id, key) = self.0.first().ok_or(SealError::Library)?;
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).map_err(|_| SealError::Library)?;
        let mut sealed = minicbor::to_vec(plain).map_err(|_| SealError::Library)?;
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context),
            &mut sealed,
        )
        .map_err(|_| SealError::Library)?;
        let whole = [&id.to_be_bytes()[..], &nonce, &sealed].concat();
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// What was sealed here for `context`; none if this was not.
    pub(super) fn open<T: for<'b> Decode<'b, ()>>(&self, context: &[u8], sealed: &str) -> Option<T> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let whole = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (id, rest) = whole.split_first_chunk::<ID>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let id = u32::from_be_bytes(*id);
        let (_, key) = self.0.iter().find(|(known, _)| *known == id)?;
        let mut bytes = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.open_in_place(nonce, Aad::from(context), &mut bytes).ok()?;
        minicbor::decode(plain).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_sealed_opens_unchanged_here_and_for_its_purpose_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(&Store::open(dir.path()).unwrap());
        let ring = keys.ring().await.unwrap();
        let sealed = ring.seal(b"a", &"plain".to_owned()).unwrap();
        assert_eq!(ring.open::<String>(b"a", &sealed).as_deref(), Some("plain"));
        assert_eq!(ring.open::<String>(b"b", &sealed), None);
        for place in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(ring.open::<String>(b"a", &changed), None, "{place}");
            assert_eq!(ring.open::<String>(b"a", &sealed[..place]), None, "{place}");
        }
        let again = Keys::new(&Store::open(dir.path()).unwrap());
        assert!(
            again
                .ring()
                .await
                .unwrap()
                .open::<String>(b"a", &sealed)
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_key_seals_for_a_week_and_opens_for_another() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(&Store::open(dir.path()).unwrap());
        let now = UnixTime::now();
        let first = keys.load(now).await.unwrap();
        let sealed = first.seal(b"a", &1_u8).unwrap();
        let same = keys.load(now.plus(SEALS - LOOK)).await.unwrap();
        assert_eq!((same.0.len(), same.0[0].0), (1, first.0[0].0));
        let next = keys.load(now.plus(SEALS)).await.unwrap();
        assert_eq!(next.0.len(), 2);
        assert_ne!(next.0[0].0, first.0[0].0);
        assert_eq!(next.open::<u8>(b"a", &sealed), Some(1));
        let late = keys.load(now.plus(OPENS)).await.unwrap();
        assert_eq!(late.open::<u8>(b"a", &sealed), None);
    }
}
