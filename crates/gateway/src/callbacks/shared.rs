//! What the gateways of the domain know together ([`replica`](super::replica)), kept on disk and told to the others as it changes.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use data_encoding::HEXLOWER;
use hawser_proto::{UnixTime, session::SharedSecret};
use hawser_store::{Bucket, Store, StoreError};
use minicbor::{Decode, Encode};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, error, warn};

use super::{
    keys::Keys,
    replica::{Record, RecordId, Replica, Subscription, Untaken},
};

/// The bucket, by a record's id in hex.
const BUCKET: &str = "callback-records";
/// Where this bucket is, below the state directory: apart from what administration changes, and is told of.
const DIRECTORY: &str = "callbacks";
/// How often records are forgotten, and those saved that nobody waited for.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// About how many bytes of records one message to another gateway holds.
const MESSAGE: usize = 512 * 1024;
/// Longest message that is taken, in bytes.
pub(crate) const MAX_MESSAGE: usize = 2 << 20;

/// What one gateway tells another of its domain.
#[derive(Encode, Decode)]
struct Told {
    #[n(0)]
    records: Vec<Record>,
    #[n(1)]
    secrets: Vec<SharedSecret>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Inner>);

struct Inner {
    replica: Mutex<Replica>,
    /// Records that are not on disk yet, as they are now.
    unsaved: Mutex<Vec<RecordId>>,
    bucket: Bucket<Record>,
    /// One saves at a time, so that an older state never comes to stand over a newer one.
    saving: tokio::sync::Mutex<()>,
    keys: Keys,
    /// Number of the newest record, or of another reason to tell the others.
    changed: watch::Sender<u64>,
}

impl Shared {
    /// With what is kept below the state directory `dir`, and the keys in `store`. Must be called within a Tokio runtime.
    pub(super) async fn open(dir: &Path, store: &Store) -> Result<Self, StoreError> {
        let bucket = records(dir)?;
        let mut replica = Replica::default();
        let now = UnixTime::now();
        for (_, record, _) in bucket.entries().await? {
            if let Err(error) = replica.take(record, now) {
                debug!(%error, "a record of an address for calls back is left out");
            }
        }
        let shared = Self(Arc::new(Inner {
            replica: Mutex::new(replica),
            unsaved: Mutex::default(),
            bucket,
            saving: tokio::sync::Mutex::default(),
            keys: Keys::new(store),
            changed: watch::Sender::new(0),
        }));
        let weak = Arc::downgrade(&shared.0);
        tokio::spawn(async move {
            let mut tick = interval(SWEEP_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                Self(inner).sweep().await;
            }
        });
        Ok(shared)
    }

    /// Looks into what is known.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Replica) -> T) -> T {
        look(&self.replica())
    }

    /// The subscription that a message means, with when it may be forgotten.
    pub(super) fn meant(&self, about: &Subscription) -> Option<Record> {
        let replica = self.replica();
        let found = replica.meant(&about.manager, &about.references);
        found.map(|(record, _)| record.clone())
    }

    /// Takes a record in at once; it is on disk when [`Self::save`] returns, or soon.
    pub(super) fn note(&self, record: Record) -> Result<(), Untaken> {
        let taken = self.replica().take(record, UnixTime::now())?;
        if let Some(record) = taken {
            self.unsaved().push(record.id);
            self.tell();
        }
        Ok(())
    }

    /// Returns when all that was noted is on disk.
    pub(super) async fn save(&self) -> Result<(), StoreError> {
        let _one = self.0.saving.lock().await;
        loop {
            let Some(id) = self.unsaved().pop() else {
                return Ok(());
            };
            let Some(record) = self.look(|r| r.get(&id).cloned()) else {
                continue;
            };
            if let Err(error) = self.0.bucket.put(&key(&id), &record).await {
                self.unsaved().push(id);
                return Err(error);
            }
        }
    }

    /// Lets the others be told once more: there is something besides records.
    pub(super) fn tell(&self) {
        let last = self.replica().last();
        self.0.changed.send_replace(last);
    }

    /// Told of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Number of the newest record.
    pub(crate) fn last(&self) -> u64 {
        self.replica().last()
    }

    /// For another gateway of the domain, what it has not heard after number `after`, and the number up to which that is.
    pub(crate) async fn message(&self, after: u64) -> Option<(Vec<u8>, u64)> {
        let (records, last) = self.replica().since(after, MESSAGE);
        let secrets = self.0.keys.share().await;
        let secrets = secrets
            .inspect_err(|error| warn!(%error, "cannot read the keys for calls back"))
            .ok()?;
        let message = minicbor::to_vec(Told { records, secrets }).ok()?;
        Some((message, last))
    }

    /// Takes in what a gateway of the own domain tells. Returns when it is on disk; false if it is no such message, or cannot be kept.
    pub(crate) async fn heard(&self, message: &[u8]) -> bool {
        let Ok(Told { records, secrets }) = minicbor::decode(message) else {
            return false;
        };
        for record in records {
            match self.note(record) {
                Ok(()) | Err(Untaken::Useless) => {}
                Err(error @ Untaken::Full) => debug!(%error, "a record of another gateway is left out"),
            }
        }
        let kept = match self.0.keys.merge(secrets).await {
            Ok(()) => self.save().await,
            Err(error) => Err(error),
        };
        kept.inspect_err(|error| warn!(%error, "cannot keep what another gateway of the domain tells"))
            .is_ok()
    }

    async fn sweep(&self) {
        if let Err(error) = self.save().await {
            error!(%error, "records of addresses for calls back cannot be saved; will try again");
        }
        let over = self.replica().sweep(UnixTime::now());
        for id in over {
            if let Err(error) = self.0.bucket.delete(&key(&id)).await {
                warn!(%error, "a record of an address for calls back cannot be forgotten");
            }
        }
    }

    fn replica(&self) -> MutexGuard<'_, Replica> {
        self.0.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsaved(&self) -> MutexGuard<'_, Vec<RecordId>> {
        self.0.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records that a gateway keeps below its state directory.
pub(super) fn records(dir: &Path) -> Result<Bucket<Record>, StoreError> {
    Ok(Store::open(&dir.join(DIRECTORY))?.bucket(BUCKET))
}

pub(super) fn key(id: &RecordId) -> String {
    HEXLOWER.encode(id)
}

#[cfg(test)]
mod tests {
    use super::{super::replica::Fact, *};

    fn ended(id: u8) -> Record {
        Record {
            id: [id; 16],
            fact: Fact::Good { until: None },
            forget: UnixTime::now().plus(Duration::from_secs(60)),
        }
    }

    #[tokio::test]
    async fn two_gateways_learn_from_each_other_and_remember() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let stores = [0, 1].map(|n: usize| Store::open(dirs[n].path()).unwrap());
        let a = Shared::open(dirs[0].path(), &stores[0]).await.unwrap();
        let b = Shared::open(dirs[1].path(), &stores[1]).await.unwrap();
        Keys::new(&stores[0]).ensure().await.unwrap();
        a.note(ended(1)).unwrap();
        a.note(ended(2)).unwrap();
        let (message, last) = a.message(0).await.unwrap();
        assert_eq!(last, a.last());
        assert!(b.heard(&message).await);
        assert!(b.look(|r| r.get(&[1; 16]).is_some() && r.get(&[2; 16]).is_some()));
        assert!(Keys::new(&stores[0]).share().await.unwrap() == Keys::new(&stores[1]).share().await.unwrap());
        assert!(!b.heard(b"nonsense").await);
        drop(b);
        let again = Shared::open(dirs[1].path(), &stores[1]).await.unwrap();
        assert!(again.look(|r| r.get(&[1; 16]).is_some()));
    }
}
