//! Why a store refused or failed.

use std::path::PathBuf;

use crate::{MAX_KEY, MAX_VALUE, Revision};

/// A failed call to a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// [`crate::Bucket::create`] of a key that has a value. Read it, or use put.
    #[error("{bucket}/{key} exists already")]
    Exists {
        /// Of the key.
        bucket: &'static str,
        /// Which one.
        key: String,
    },
    /// [`crate::Bucket::update`] of a value that somebody else changed or deleted. Read it again and decide anew.
    #[error("{bucket}/{key} was changed meanwhile: expected revision {expected}, found {}", or_none(*.found))]
    Conflict {
        /// Of the key.
        bucket: &'static str,
        /// Which one.
        key: String,
        /// What the caller had read.
        expected: Revision,
        /// What is there; none when it is gone.
        found: Option<Revision>,
    },
    /// A key is empty or too long.
    #[error("a key of {length} bytes in {bucket}: expected 1 to {MAX_KEY}")]
    Key {
        /// Of the key.
        bucket: &'static str,
        /// Its length in bytes.
        length: usize,
    },
    /// A value is too long.
    #[error("the value of {bucket}/{key} has {length} bytes: at most {MAX_VALUE} can be kept")]
    TooLong {
        /// Of the key.
        bucket: &'static str,
        /// Which one.
        key: String,
        /// Length of the value in bytes.
        length: usize,
    },
    /// A stored value is not of the expected type.
    #[error(
        "{bucket}/{key} holds something else than expected ({detail}): was it written by another version of Hawser?"
    )]
    Malformed {
        /// Of the key.
        bucket: &'static str,
        /// Which one.
        key: String,
        /// What was found wrong.
        detail: String,
    },
    /// The directory or database file cannot be used.
    #[error("cannot use {} for the database: {source}; it must be a directory that this user may write to", path.display())]
    Path {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others could replace the files in the state directory.
    #[error("the state directory {} can be written to by others (mode {mode:o}); run: chmod 700 {}", path.display(), path.display())]
    OpenToOthers {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The database was written by a newer Hawser, or is none of Hawser's.
    #[error("{} has the format {found}, this Hawser knows {known}: run the newer Hawser, or use another state directory", path.display())]
    Format {
        /// The database.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What this version writes.
        known: i64,
    },
    /// Another process held the database for too long; trying again helps.
    #[error("the database is busy: another process has been writing to it for {0:?}; try again")]
    Busy(std::time::Duration),
    /// The engine failed: disk full, file damaged and the like.
    #[error("the database failed: {0}; check the disk under the state directory")]
    Engine(String),
    /// The store's thread has ended.
    #[error("the store is closed")]
    Closed,
}

fn or_none(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "none".into(), |r| r.to_string())
}
