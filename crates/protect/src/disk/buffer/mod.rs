//! The standby's disk buffer: a replica's writes wait here, behind barriers, until their epoch is committed.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Bounds of a [`Buffer`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of data kept in memory. Beyond it, writes wait for the flusher while it has committed ones to do, and else spill.
    pub memory: usize,
    /// Bytes of data kept in the spill file. Beyond it, the session ends.
    pub spill: u64,
    /// Directory for the spill file, which has no name and vanishes with the process.
    pub spill_dir: PathBuf,
    /// Bytes in the file but not yet on the medium, at which flushing waits for it.
    pub unsynced: u64,
    /// Longest time between a write into the file and the `fdatasync` that covers it begins.
    pub sync_every: Duration,
}

impl Options {
    /// 256 MiB in memory, 16 GiB spilled to that directory, 256 MiB or a second behind the medium.
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            memory: 256 << 20,
            spill: 16 << 30,
            spill_dir: spill_dir.into(),
            unsynced: 256 << 20,
            sync_every: Duration::from_secs(1),
        }
    }
}

/// What a [`Buffer`] holds and has done. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Bytes of data waiting in memory.
    pub buffered: u64,
    /// Bytes of data waiting in the spill file.
    pub spilled: u64,
    /// Bytes waiting that are committed, or of the synchronisation: the flusher's work. Included in the two above.
    pub backlog: u64,
    /// Bytes in the file but not yet known to be on the medium.
    pub unsynced: u64,
    /// Bytes ever put into the file.
    pub flushed: u64,
    /// Bytes that were ever spilled.
    pub spilled_total: u64,
    /// How often a write had to wait for the flusher.
    pub waits: u64,
    /// Last epoch committed.
    pub committed: Option<u64>,
    /// Last epoch whose writes are all in the file.
    pub in_file: Option<u64>,
    /// Last epoch whose writes are all on the medium.
    pub durable: Option<u64>,
}

/// What a take-over left the replica's file with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenOver {
    /// The epoch whose barrier the file now stands at.
    pub epoch: u64,
    /// Writes behind that barrier, which are gone.
    pub discarded: u64,
}

/// Why a [`Buffer`] could not do something.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The replica's file, or the spill file, could not be opened, read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as in `write to`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Arc<io::Error>,
    },
}

/// One disk of the standby: the replica's file and the writes that wait to enter it. All methods may be called from any thread.
pub struct Buffer {}

impl Buffer {
    /// Opens the replica's raw image, making it if there is none, with exactly `size` bytes. Until the first barrier, writes enter
    /// the file as soon as they can: this is the synchronisation, in which the file is of no use yet anyway.
    pub fn open(target: &Path, size: u64, options: Options) -> Result<Self, DiskError> {
        let _ = (size, options);
        Err(DiskError::Io {
            what: "open",
            path: target.into(),
            source: Arc::new(io::ErrorKind::Unsupported.into()),
        })
    }

    /// Takes data for `offset` bytes of the disk.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let _ = (offset, data);
        Ok(())
    }

    /// Takes zeroes for `len` bytes from `offset`.
    pub fn zeroes(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let _ = (offset, len);
        Ok(())
    }

    /// Takes a discard of `len` bytes from `offset`, which read as zeroes from then on.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let _ = (offset, len);
        Ok(())
    }

    /// Sets `epoch`'s barrier at the last write taken. Epochs only grow.
    pub fn barrier(&self, epoch: u64) -> Result<(), DiskError> {
        let _ = epoch;
        Ok(())
    }

    /// Lets the writes up to `epoch`'s barrier into the file, in order, by a thread of the buffer. Does not wait for it.
    pub fn commit(&self, epoch: u64) -> Result<(), DiskError> {
        let _ = epoch;
        Ok(())
    }

    /// Forgets the writes behind the last committed barrier and waits until all others are in the file (in the page cache at
    /// least; the medium follows). Takes no more writes from here on.
    pub fn take_over(&self) -> Result<TakenOver, DiskError> {
        Ok(TakenOver {
            epoch: 0,
            discarded: 0,
        })
    }

    /// Waits until everything that may enter the file is in it and on the medium, as after the synchronisation.
    pub fn settle(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Reads the disk as the last write taken left it, committed or not. Looks at every waiting write: for checks, not for load.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let _ = (offset, into);
        Ok(())
    }

    /// Why the session must end, once flushing or synchronising has failed.
    pub fn failure(&self) -> Option<DiskError> {
        None
    }

    /// What it holds now.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
