//! The secrets under which a domain's gateways seal capabilities. An issuer makes them, and hands them to gateways of its domain
//! with their certificates, so that any of them opens what another has sealed; and gateways of one domain tell each other of those
//! that they have ([`shared`](super::shared)), so that several issuers come to the same. A fresh one seals only after a while: by
//! then every gateway has it.

use std::{path::Path, time::Duration};

use hawser_callback::{Secret as SealingKey, Secrets};
use hawser_identity::{Credentials, Secret, file};
use hawser_proto::{UnixTime, session::SharedSecret};
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode};
use zeroize::Zeroizing;

use crate::admin::AdminError;

/// The bucket, by a key's id in eight hex digits.
const BUCKET: &str = "callback-keys";
/// A fresh key seals after this: certificates are renewed at half of their life, which is a day unless an operator says otherwise.
const SETTLE: Duration = Duration::from_secs(24 * 3600);
/// What a key sealed may be good for this long after another one has taken its place.
const LINGER: Duration = Duration::from_secs(90 * 86_400);
/// Most keys that are kept.
const MAX_KEYS: usize = 16;

/// Of [`BUCKET`].
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct KeyRecord {
    #[n(0)]
    secret: Secret,
    #[n(1)]
    made: UnixTime,
}

/// The keys of this gateway's domain.
#[derive(Clone)]
pub(crate) struct Keys(Bucket<KeyRecord>);

impl Keys {
    pub(crate) fn new(store: &Store) -> Self {
        Self(store.bucket(BUCKET))
    }

    /// Makes a first key, if there is none.
    pub(crate) async fn ensure(&self) -> Result<(), AdminError> {
        if self.0.entries().await?.is_empty() {
            self.make().await?;
        }
        Ok(())
    }

    /// The key that seals now comes first.
    pub(crate) async fn load(&self) -> Result<Secrets, StoreError> {
        let all = self.all().await?;
        let now = UnixTime::now();
        let settled = |made: UnixTime| made.plus(SETTLE) <= now;
        let sealing = all.iter().rposition(|(_, r)| settled(r.made)).unwrap_or(0);
        let mut keys: Vec<_> = all
            .iter()
            .map(|(id, r)| SealingKey {
                id: *id,
                key: Zeroizing::new(*r.secret.expose()),
            })
            .collect();
        if !keys.is_empty() {
            keys[..=sealing].rotate_right(1);
        }
        Ok(Secrets::new(keys))
    }

    /// All, for another gateway of the domain.
    pub(crate) async fn share(&self) -> Result<Vec<SharedSecret>, StoreError> {
        let all = self.all().await?.into_iter();
        Ok(all
            .map(|(id, r)| SharedSecret {
                id,
                secret: *r.secret.expose(),
                made: r.made,
            })
            .collect())
    }

    /// Takes those of an issuer in.
    pub(crate) async fn merge(&self, shared: Vec<SharedSecret>) -> Result<(), StoreError> {
        let known = self.all().await?;
        let mut made: Vec<_> = known.iter().map(|(id, r)| (*id, r.made)).collect();
        for s in shared.into_iter().take(MAX_KEYS) {
            if made.iter().any(|(id, _)| *id == s.id) {
                continue;
            }
            made.push((s.id, s.made));
            made.sort_by_key(|(id, made)| (*made, *id));
            // Somebody forgot it already.
            if made.len() > MAX_KEYS || over(&made, UnixTime::now()).any(|id| id == s.id) {
                made.retain(|(id, _)| *id != s.id);
                continue;
            }
            let record = KeyRecord {
                secret: s.secret.into(),
                made: s.made,
            };
            self.0.put(&format!("{:08x}", s.id), &record).await?;
        }
        Ok(())
    }

    async fn make(&self) -> Result<u32, AdminError> {
        let secret = Secret::random()?;
        // Derived from the secret, so that two that were made at two places hardly share it.
        let id = u32::from_be_bytes(std::array::from_fn(|i| secret.hash()[i]));
        let made = UnixTime::now();
        self.0
            .put(&format!("{id:08x}"), &KeyRecord { secret, made })
            .await?;
        Ok(id)
    }

    /// In the order of their making.
    async fn all(&self) -> Result<Vec<(u32, KeyRecord)>, StoreError> {
        let entries = self.0.entries().await?.into_iter();
        let mut all: Vec<_> = entries
            .filter_map(|(id, record, _)| Some((u32::from_str_radix(&id, 16).ok()?, record)))
            .collect();
        all.sort_by_key(|(id, r)| (r.made, *id));
        Ok(all)
    }
}

/// Those of these keys, in the order of their making, that nothing can need any more.
fn over(made: &[(u32, UnixTime)], now: UnixTime) -> impl Iterator<Item = u32> {
    let pairs = made.windows(2);
    pairs.filter_map(move |pair| (pair[1].1.plus(SETTLE + LINGER) <= now).then_some(pair[0].0))
}

/// Makes a fresh key for the domain of the issuer whose state is in `dir`, and forgets those that nothing can need any more.
/// Returns its id and when it begins to seal.
pub async fn rotate(dir: &Path) -> Result<(u32, UnixTime), AdminError> {
    let own = Credentials::load(dir)?;
    if !dir.join(file::ISSUER_KEY).exists() {
        return Err(AdminError::NoIssuer(own.id().domain.clone()));
    }
    let keys = Keys::new(&Store::open(dir)?);
    let all = keys.all().await?.into_iter();
    let made: Vec<_> = all.map(|(id, r)| (id, r.made)).collect();
    let now = UnixTime::now();
    for id in over(&made, now) {
        keys.0.delete(&format!("{id:08x}")).await?;
    }
    let id = keys.make().await?;
    Ok((id, now.plus(SETTLE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(byte: u8, made: UnixTime) -> KeyRecord {
        KeyRecord {
            secret: [byte; 32].into(),
            made,
        }
    }

    #[tokio::test]
    async fn a_fresh_key_opens_at_once_and_seals_when_all_have_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(&Store::open(dir.path()).unwrap());
        keys.ensure().await.unwrap();
        let first = keys.all().await.unwrap()[0].0;
        keys.ensure().await.unwrap();
        assert_eq!(keys.all().await.unwrap().len(), 1);

        let now = UnixTime::now();
        let day = Duration::from_secs(86_400);
        keys.0.delete(&format!("{first:08x}")).await.unwrap();
        keys.0
            .put("00000001", &record(1, UnixTime(now.0 - 10 * day.as_secs())))
            .await
            .unwrap();
        keys.0
            .put("00000002", &record(2, UnixTime(now.0 - 2 * day.as_secs())))
            .await
            .unwrap();
        keys.0.put("00000003", &record(3, now)).await.unwrap();
        let ids: Vec<_> = keys.load().await.unwrap().ids().collect();
        assert_eq!(ids, [2, 1, 3]);
    }

    #[tokio::test]
    async fn gateways_get_what_the_issuer_has() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (issuer, other) = (
            Keys::new(&Store::open(a.path()).unwrap()),
            Keys::new(&Store::open(b.path()).unwrap()),
        );
        issuer.ensure().await.unwrap();
        other.merge(issuer.share().await.unwrap()).await.unwrap();
        other.merge(issuer.share().await.unwrap()).await.unwrap();
        assert!(issuer.all().await.unwrap() == other.all().await.unwrap());
    }

    #[tokio::test]
    async fn what_one_gateway_forgot_does_not_come_back_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::new(&Store::open(dir.path()).unwrap());
        let ago = |days: u64| UnixTime(UnixTime::now().0 - days * 86_400);
        let shared = |id: u32, made| SharedSecret {
            id,
            secret: [id as u8; 32],
            made,
        };
        keys.merge(vec![shared(2, ago(100)), shared(3, ago(2))])
            .await
            .unwrap();
        keys.merge(vec![shared(1, ago(200)), shared(4, ago(1))])
            .await
            .unwrap();
        let ids: Vec<_> = keys.all().await.unwrap().iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [2, 3, 4]);
    }
}
