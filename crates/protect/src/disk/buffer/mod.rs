//! The standby's disk buffer: a replica's writes wait here, behind barriers, until their epoch is committed.
//!
//! `queue` decides what may enter the file, without I/O; `spill` keeps what memory has no room for; `flusher` has the two threads,
//! one that writes to the file in order, one that brings the file to the medium behind it.

mod error;
mod flusher;
mod queue;
mod spill;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

pub use error::DiskError;
use flusher::{Shared, State};
use queue::{Body, Room};
use spill::Spill;

use super::{Backend, Image};

/// Bounds of a [`Buffer`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of data kept in memory; what is noted about writes takes at most as much again. Beyond it, writes wait for the
    /// flusher while it has committed ones to do, and else spill.
    pub memory: usize,
    /// Bytes of data kept in spill files. Beyond it, the session ends.
    pub spill: u64,
    /// Directory for spill files, which have no names and vanish with the process.
    pub spill_dir: PathBuf,
    /// Bytes in the file but not yet on the medium, at which flushing waits for it.
    pub unsynced: u64,
    /// Longest time between a write into the file and the beginning of the `fdatasync` that covers it.
    pub sync_every: Duration,
    /// Longest that a write waits for the flusher to make room.
    pub patience: Duration,
}

impl Options {
    /// 256 MiB in memory, 16 GiB spilled to that directory, 256 MiB or a second behind the medium, 30 seconds of patience.
    pub fn new(spill_dir: impl Into<PathBuf>) -> Self {
        Self {
            memory: 256 << 20,
            spill: 16 << 30,
            spill_dir: spill_dir.into(),
            unsynced: 256 << 20,
            sync_every: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

/// What a [`Buffer`] holds and has done. Those that are not of the moment only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Bytes of data waiting in memory.
    pub buffered: u64,
    /// Bytes of data waiting in spill files.
    pub spilled: u64,
    /// Bytes waiting that are committed, or of the synchronisation: the flusher's work. Part of the two above.
    pub backlog: u64,
    /// Bytes in the file but not yet known to be on the medium.
    pub unsynced: u64,
    /// Bytes ever put into the file, a hole counted as one page.
    pub flushed: u64,
    /// Bytes ever spilled.
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
    /// The epoch at whose barrier the file now stands.
    pub epoch: u64,
    /// How many writes were behind that barrier and are gone.
    pub discarded: u64,
}

/// One disk of the standby: the replica's file and the writes that wait to enter it. All methods may be called from any thread.
///
/// Flushing again what was flushed before gives the same file: an entry is an absolute write, and entries enter in order.
/// Dropping it ends its threads after what they are just doing; nothing more enters the file.
pub struct Buffer {
    shared: Arc<Shared>,
    /// Held by one writer at a time, so that writes keep their order while one of them waits or spills.
    intake: Mutex<Spill>,
    patience: Duration,
    threads: Vec<JoinHandle<()>>,
}

impl Buffer {
    /// Opens the replica's raw image, making it if there is none, with exactly `size` bytes. Until the first barrier, writes enter
    /// the file as soon as they can: this is the synchronisation, in which the file is of no use yet anyway.
    pub fn open(target: &Path, size: u64, options: Options) -> Result<Self, DiskError> {
        let image = Image::open(target, size).map_err(|e| DiskError::io("replicate into", target, e))?;
        Self::over(Arc::new(image), target, size, options)
    }

    /// The same over any backend. `target` is what errors call it.
    pub fn over(
        image: Arc<dyn Backend>,
        target: &Path,
        size: u64,
        options: Options,
    ) -> Result<Self, DiskError> {
        let shared = Arc::new(Shared::new(image, target, size, &options));
        let mut buffer = Self {
            shared,
            intake: Mutex::new(Spill::new(options.spill_dir)),
            patience: options.patience,
            threads: Vec::new(),
        };
        buffer.threads =
            flusher::start(&buffer.shared).map_err(|e| DiskError::io("start threads for", target, e))?;
        Ok(buffer)
    }

    /// Takes data for `offset` bytes of the disk.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.accept(offset, data.len() as u64, Some(data))
    }

    /// Takes zeroes for `len` bytes from `offset`.
    pub fn zeroes(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.accept(offset, len, None)
    }

    /// Takes a discard of `len` bytes from `offset`, which read as zeroes from then on.
    pub fn discard(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.accept(offset, len, None)
    }

    /// Sets `epoch`'s barrier at the last write taken. Epochs only grow.
    pub fn barrier(&self, epoch: u64) -> Result<(), DiskError> {
        let _order = self.intake();
        let mut state = self.shared.state();
        state.accepting()?;
        state.queue.barrier(epoch)
    }

    /// Lets the writes up to `epoch`'s barrier into the file, in order, by the buffer's thread, for which this does not wait. An
    /// error means that the epoch is not committed and must not be acknowledged.
    pub fn commit(&self, epoch: u64) -> Result<(), DiskError> {
        let mut state = self.shared.state();
        if state.taken.is_some() {
            return Err(DiskError::TakenOver);
        }
        state.flushing()?;
        state.queue.commit(epoch)?;
        self.shared.work.notify_all();
        Ok(())
    }

    /// Forgets the writes behind the last committed barrier and waits until all others are in the file: in the page cache, where
    /// a QEMU on this host finds them, while the medium follows. Takes no more writes from here on. After an error that can be
    /// mended (a full disk) or a time-out it can be called again; until it has succeeded the file is at an earlier state.
    pub fn take_over(&self, within: Duration) -> Result<TakenOver, DiskError> {
        let mut state = self.shared.state();
        let epoch = state.queue.committed().ok_or(DiskError::NothingCommitted)?;
        if let Some(e) = &state.unsafe_medium {
            return Err(e.clone());
        }
        let cut = state.queue.cut();
        let discarded = cut.len() as u64 + state.taken.map_or(0, |t| t.discarded);
        let taken = TakenOver { epoch, discarded };
        state.taken = Some(taken);
        state.stuck = None;
        drop(state);
        // Spill files are closed without the lock.
        drop(cut);
        self.shared.work.notify_all();
        self.shared.done.notify_all();
        self.shared.wait(within, |s| s.queue.allowed() == 0)?;
        Ok(taken)
    }

    /// Waits until everything that may enter the file is in it and on the medium, as after the synchronisation or a take-over.
    pub fn settle(&self, within: Duration) -> Result<(), DiskError> {
        self.shared.state().settling += 1;
        self.shared.dirty.notify_all();
        let outcome = self
            .shared
            .wait(within, |s| s.queue.allowed() == 0 && s.stats.unsynced == 0);
        self.shared.state().settling -= 1;
        outcome
    }

    /// Reads the disk as the last write taken left it, committed or not. Looks at every waiting write: for checks, not for load.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.shared.in_range(offset, into.len() as u64)?;
        // First what waits, then the file: a write that moves from one to the other in between is seen in one of them at least.
        let over = self.shared.state().queue.overlapping(offset, into.len() as u64);
        self.shared
            .image
            .read(offset, into)
            .map_err(|e| DiskError::io("read", &self.shared.path, e))?;
        over.iter().try_for_each(|entry| entry.overlay(offset, into))
    }

    /// Why the session must end, once anything has failed: taking a write, flushing, or synchronising with the medium.
    pub fn failure(&self) -> Option<DiskError> {
        let state = self.shared.state();
        state
            .unsafe_medium
            .clone()
            .or(state.stuck.clone())
            .or(state.refused.clone())
    }

    /// What it holds now.
    pub fn stats(&self) -> Stats {
        let state = self.shared.state();
        state.queue.add_to(state.stats)
    }

    fn accept(&self, offset: u64, len: u64, data: Option<&[u8]>) -> Result<(), DiskError> {
        self.shared.in_range(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut spill = self.intake();
        let body = match (data, self.room(data.map_or(0, <[u8]>::len))?) {
            (None, _) => Body::Zeroes(len),
            (Some(data), Room::Memory) => Body::Memory(data.into()),
            (Some(data), Room::Spill { none_waits }) => {
                let spilled = spill.keep(data, none_waits).map(Body::Spilled);
                spilled.inspect_err(|e| self.shared.state().refused = Some(e.clone()))?
            }
        };
        let mut state = self.shared.state();
        // Whoever took over meanwhile has cut the queue already.
        state.accepting()?;
        state.queue.push(offset, body);
        if state.queue.synchronising() {
            self.shared.work.notify_all();
        }
        Ok(())
    }

    /// Where the next write's data go. Waits for the flusher while it has work, and no longer than the patience lasts: if it has
    /// none, room can only come by a commit, which comes behind this write.
    fn room(&self, len: usize) -> Result<Room, DiskError> {
        let mut state = self.shared.state();
        let mut since = None;
        loop {
            state.accepting()?;
            match state.queue.room(len) {
                Ok(room) => return Ok(room),
                Err(full) if state.queue.allowed() == 0 => {
                    state.refused = Some(full.clone());
                    return Err(full);
                }
                Err(_) => {}
            }
            let since = *since.get_or_insert_with(|| {
                state.stats.waits += 1;
                Instant::now()
            });
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                let slow = DiskError::Slow {
                    waited: self.patience,
                    left: state.queue.allowed(),
                };
                state.refused = Some(slow.clone());
                return Err(slow);
            }
            state = self
                .shared
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn intake(&self) -> MutexGuard<'_, Spill> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.shared.state().stopping = true;
        self.shared.work.notify_all();
        self.shared.dirty.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Whether another write or barrier may come.
    fn accepting(&self) -> Result<(), DiskError> {
        if self.taken.is_some() {
            return Err(DiskError::TakenOver);
        }
        self.refused.clone().map_or(Ok(()), Err)?;
        self.flushing()
    }

    /// Whether what is allowed into the file gets there.
    fn flushing(&self) -> Result<(), DiskError> {
        self.unsafe_medium
            .clone()
            .or(self.stuck.clone())
            .map_or(Ok(()), Err)
    }
}
