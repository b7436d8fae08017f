//! What can go wrong with a disk on the standby.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Why a [`Buffer`](super::Buffer) could not do something. All but those about order end the session: the active host must be told, and
/// nothing that was not committed before may be acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The replica's file, or a spill file, could not be opened, read or written. What was committed before is still held.
    #[error("cannot {what} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file, or the directory of one that has no name.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// The medium did not take what was in the page cache. Which of it is lost cannot be known: the replica is void.
    #[error(
        "cannot bring {} to its medium: {source}; the replica cannot be trusted any more: look at the disk, then synchronise anew",
        path.display()
    )]
    Medium {
        /// The replica.
        path: PathBuf,
        /// What the kernel said.
        source: Arc<io::Error>,
    },
    /// One epoch's writes are more than memory and spill files may hold.
    #[error(
        "a single epoch wrote more to the disk than may wait here: {waiting} bytes in memory and {spilled} spilled of at most {spill}; \
         raise the limits of the disk buffer, or the guest must write less between two checkpoints"
    )]
    Full {
        /// Bytes waiting in memory.
        waiting: u64,
        /// Bytes waiting in spill files.
        spilled: u64,
        /// Most bytes of these.
        spill: u64,
    },
    /// The replica's file takes writes too slowly, or not at all.
    #[error("the replica's disk is too slow: after {waited:?} {left} writes still wait for it")]
    Slow {
        /// How long this waited.
        waited: Duration,
        /// Writes that may enter the file and have not.
        left: usize,
    },
    /// A range that is not on the disk.
    #[error("a write of {len} bytes at {offset} does not lie on a disk of {size} bytes")]
    OutOfRange {
        /// Bytes from the start of the disk.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes on the disk.
        size: u64,
    },
    /// A barrier for an epoch that is not later than the last one's.
    #[error("barrier of epoch {epoch} after that of {last}: epochs must grow")]
    Order {
        /// The epoch of the refused barrier.
        epoch: u64,
        /// The epoch of the last one.
        last: u64,
    },
    /// A commit of an epoch whose barrier has not come, or is committed already.
    #[error("epoch {epoch} has no barrier that waits for its commit")]
    NoBarrier {
        /// The epoch.
        epoch: u64,
    },
    /// A take-over before the first commit: there is no state to take over at.
    #[error("no epoch of this session was ever committed: this replica cannot take over")]
    NothingCommitted,
    /// Something came after the take-over.
    #[error("this host has taken over: the old session's disk writes are refused")]
    TakenOver,
}

impl DiskError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what,
            path: path.into(),
            source: Arc::new(source),
        }
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, then start protection again"
        }
        _ => "",
    }
}
