//! What a hub or gateway must still know after a restart: buckets of keys, each value with a revision.
//!
//! The shape is that of NATS JetStream's key-value buckets (get, put, create, compare-and-swap update, delete), so that a
//! cluster can stand behind the same calls; embedded, it is SQLite ([`Store::open`]). A write that has returned is on disk.
//! Imports nothing of Hawser's.

mod backend;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod error;
mod group;
pub mod mailbox;
mod owner;
pub mod spool;
mod sqlite;

use std::{marker::PhantomData, path::Path, sync::Arc};

use minicbor::{Decode, Encode};
use tokio::sync::watch;

pub use backend::{Backend, BoxFuture, Entry, Expect, MAX_KEY, MAX_VALUE, Revision};
pub use error::StoreError;

/// A set of buckets. Clones share one connection.
#[derive(Clone)]
pub struct Store {
    backend: Arc<dyn Backend>,
}

impl Store {
    /// Opens the database `hawser.db` in `dir`, which is made (mode 0700) if it is missing. Blocks; several processes may have
    /// the same directory open.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self::with_backend(sqlite::Sqlite::open(dir)?))
    }

    /// A store on another engine.
    pub fn with_backend(backend: impl Backend) -> Self {
        Self {
            backend: Arc::new(backend),
        }
    }

    /// The bucket of this name. All values in a bucket are of one type.
    pub fn bucket<T: Value>(&self, name: &'static str) -> Bucket<T> {
        Bucket {
            backend: self.backend.clone(),
            name,
            values: PhantomData,
        }
    }

    /// Changes after every commit, by this process at once and by others within 250 ms. Several commits may show as one
    /// change; the number means nothing else.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.backend.watch()
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// An answer that comes when what was done is on disk. The call is in line from the moment it was made, whether or not the
/// answer is awaited.
pub type Reply<T> = BoxFuture<'static, Result<T, StoreError>>;

/// What can be kept in a bucket: anything that is CBOR without a context.
pub trait Value: Encode<()> + for<'b> Decode<'b, ()> {}

impl<T: Encode<()> + for<'b> Decode<'b, ()>> Value for T {}

/// Keys with values of one type. Cheap to clone.
///
/// No call here is cancel safe in the sense of "did not happen": a write whose future is dropped may still be done.
pub struct Bucket<T> {
    backend: Arc<dyn Backend>,
    name: &'static str,
    values: PhantomData<fn() -> T>,
}

impl<T: Value> Bucket<T> {
    /// The value and its revision.
    pub async fn get(&self, key: &str) -> Result<Option<(T, Revision)>, StoreError> {
        let Some(entry) = self.backend.get(self.name, key).await? else {
            return Ok(None);
        };
        let (_, value, revision) = self.decode(entry)?;
        Ok(Some((value, revision)))
    }

    /// Sets the value, whatever was there.
    pub async fn put(&self, key: &str, value: &T) -> Result<Revision, StoreError> {
        self.write(key, value, Expect::Anything).await
    }

    /// Sets the value of a key that has none; [`StoreError::Exists`] otherwise.
    pub async fn create(&self, key: &str, value: &T) -> Result<Revision, StoreError> {
        self.write(key, value, Expect::Nothing).await
    }

    /// Sets the value if it is still the one that had this revision; [`StoreError::Conflict`] otherwise.
    pub async fn update(&self, key: &str, value: &T, revision: Revision) -> Result<Revision, StoreError> {
        self.write(key, value, Expect::Revision(revision)).await
    }

    /// Removes the key; false if it was not there. The value is wiped from the files, at once or, while another process
    /// reads, soon after; so is one that was replaced.
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.backend.delete(self.name, key).await
    }

    /// All keys with their values and revisions, in the order of the keys' bytes.
    pub async fn entries(&self) -> Result<Vec<(String, T, Revision)>, StoreError> {
        let entries = self.backend.entries(self.name).await?;
        entries.into_iter().map(|e| self.decode(e)).collect()
    }

    async fn write(&self, key: &str, value: &T, expect: Expect) -> Result<Revision, StoreError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(StoreError::Key {
                bucket: self.name,
                length: key.len(),
            });
        }
        let value = minicbor::to_vec(value).map_err(|e| StoreError::Malformed {
            bucket: self.name,
            key: key.into(),
            detail: e.to_string(),
        })?;
        if value.len() > MAX_VALUE {
            return Err(StoreError::TooLong {
                bucket: self.name,
                key: key.into(),
                length: value.len(),
            });
        }
        self.backend.write(self.name, key, value, expect).await
    }

    fn decode(&self, entry: Entry) -> Result<(String, T, Revision), StoreError> {
        let value = minicbor::decode(&entry.value).map_err(|e| StoreError::Malformed {
            bucket: self.name,
            key: entry.key.clone(),
            detail: e.to_string(),
        })?;
        Ok((entry.key, value, entry.revision))
    }
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            name: self.name,
            values: PhantomData,
        }
    }
}

impl<T> std::fmt::Debug for Bucket<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bucket({})", self.name)
    }
}
