//! What an engine must be able to do to stand behind a [`crate::Store`].

use std::{future::Future, pin::Pin};

use tokio::sync::watch;

use crate::StoreError;

/// Longest key in bytes.
pub const MAX_KEY: usize = 512;
/// Longest encoded value in bytes.
pub const MAX_VALUE: usize = 1024 * 1024;

/// Number of a write, ascending over all buckets of a store and never used again, not even after a delete.
pub type Revision = u64;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key as the engine holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Within its bucket.
    pub key: String,
    /// CBOR.
    pub value: Vec<u8>,
    /// Of the write that set the value.
    pub revision: Revision,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Nothing in particular.
    Anything,
    /// The key has no value.
    Nothing,
    /// The key's value has this revision.
    Revision(Revision),
}

/// An engine. Each call is atomic, and durable once it has returned; the suite `conformance` (feature `testing`) says what else is expected.
pub trait Backend: Send + Sync + 'static {
    /// The value of a key.
    fn get<'a>(
        &'a self,
        bucket: &'static str,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Entry>, StoreError>>;

    /// Sets a value if what is expected holds, else [`StoreError::Exists`] or [`StoreError::Conflict`].
    fn write<'a>(
        &'a self,
        bucket: &'static str,
        key: &'a str,
        value: Vec<u8>,
        expect: Expect,
    ) -> BoxFuture<'a, Result<Revision, StoreError>>;

    /// Removes a key; false if it was not there.
    fn delete<'a>(&'a self, bucket: &'static str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// All entries of a bucket in the order of the keys' bytes.
    fn entries<'a>(&'a self, bucket: &'static str) -> BoxFuture<'a, Result<Vec<Entry>, StoreError>>;

    /// Changes after every commit, by whomever.
    fn watch(&self) -> watch::Receiver<u64>;
}
