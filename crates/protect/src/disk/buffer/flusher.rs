//! The two threads of a buffer. One puts what is allowed into the file, in order; the other brings the file to its medium behind it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    DiskError, Options, Stats, TakenOver,
    queue::{Body, Entry, Queue},
};
use crate::disk::Backend;

/// What callers and threads share. No I/O is done with `state` locked.
pub(super) struct Shared {
    pub(super) image: Arc<dyn Backend>,
    pub(super) path: PathBuf,
    size: u64,
    unsynced_limit: u64,
    sync_every: Duration,
    state: Mutex<State>,
    /// The flusher has something to do.
    pub(super) work: Condvar,
    /// Something has left the queue, reached the medium or failed.
    pub(super) done: Condvar,
    /// The synchroniser has something to do.
    pub(super) dirty: Condvar,
}

pub(super) struct State {
    pub(super) queue: Queue,
    /// `flushed`, `unsynced`, `waits` and `durable` are kept here; the others are the queue's.
    pub(super) stats: Stats,
    /// When the first of the unsynced bytes was written.
    since: Option<Instant>,
    /// Why no more writes are taken.
    pub(super) refused: Option<DiskError>,
    /// Why the flusher stands still. A take-over has it try again.
    pub(super) stuck: Option<DiskError>,
    /// The medium failed: for good.
    pub(super) unsafe_medium: Option<DiskError>,
    pub(super) taken: Option<TakenOver>,
    /// How many wait for the medium.
    pub(super) settling: usize,
    pub(super) stopping: bool,
}

/// About how many bytes the flusher takes on at a time. They stay in memory until all of them are written.
const BATCH: u64 = 4 << 20;

impl Shared {
    pub(super) fn new(image: Arc<dyn Backend>, path: &Path, size: u64, options: &Options) -> Self {
        let state = State {
            queue: Queue::new(options),
            stats: Stats::default(),
            since: None,
            refused: None,
            stuck: None,
            unsafe_medium: None,
            taken: None,
            settling: 0,
            stopping: false,
        };
        Self {
            image,
            path: path.into(),
            size,
            unsynced_limit: options.unsynced.max(1),
            sync_every: options.sync_every,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            dirty: Condvar::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn in_range(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.size);
        if inside {
            Ok(())
        } else {
            Err(DiskError::OutOfRange {
                offset,
                len,
                size: self.size,
            })
        }
    }

    /// Waits until something holds, a thread has failed, or the time is over.
    pub(super) fn wait(&self, within: Duration, holds: impl Fn(&State) -> bool) -> Result<(), DiskError> {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(e) = state.unsafe_medium.as_ref().or(state.stuck.as_ref()) {
                return Err(e.clone());
            }
            if holds(&state) {
                return Ok(());
            }
            let left = within.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(DiskError::Slow {
                    waited: within,
                    left: state.queue.allowed(),
                });
            }
            state = self
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// Starts both threads. They end when `stopping` is set.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let (flusher, synchroniser) = (shared.clone(), shared.clone());
    let first = thread::Builder::new()
        .name("disk flush".into())
        .spawn(move || flush(&flusher))?;
    let second = thread::Builder::new()
        .name("disk sync".into())
        .spawn(move || synchronise(&synchroniser));
    if second.is_err() {
        shared.state().stopping = true;
        shared.work.notify_all();
    }
    Ok(vec![first, second?])
}

fn flush(shared: &Shared) {
    while let Some(batch) = next(shared) {
        let mut cost = 0;
        let (mut written, mut error) = (0, None);
        for entry in &batch {
            if let Err(e) = put(shared, entry) {
                error = Some(e);
                break;
            }
            written += 1;
            cost += entry.cost();
        }
        let mut state = shared.state();
        let left = state.queue.done(written);
        state.stats.flushed += cost;
        state.stats.unsynced += cost;
        if state.since.is_none() && cost > 0 {
            state.since = Some(Instant::now());
        }
        if let Some(e) = error {
            tracing::error!(error = %e, "disk writes cannot enter the replica");
            state.stuck = Some(e);
        }
        drop(state);
        drop((left, batch));
        shared.done.notify_all();
        shared.dirty.notify_all();
    }
}

/// Waits for the flusher's next work. `None`: the end.
fn next(shared: &Shared) -> Option<Vec<Entry>> {
    let mut state = shared.state();
    loop {
        if state.stopping {
            return None;
        }
        let able = state.stuck.is_none()
            && state.unsafe_medium.is_none()
            && state.stats.unsynced < shared.unsynced_limit;
        if able && state.queue.allowed() > 0 {
            return Some(state.queue.batch(BATCH));
        }
        state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

fn put(shared: &Shared, entry: &Entry) -> Result<(), DiskError> {
    let (image, at) = (&shared.image, entry.offset);
    let written = match &entry.body {
        Body::Memory(data) => image.write(at, data),
        Body::Zeroes(len) => image.zeroes(at, *len),
        Body::Spilled(spilled) => {
            let mut data = vec![0; spilled.len()];
            spilled.read(0, &mut data)?;
            image.write(at, &data)
        }
    };
    written.map_err(|e| DiskError::io("write to", &shared.path, e))
}

fn synchronise(shared: &Shared) {
    while let Some((covered, epoch)) = due(shared) {
        let outcome = shared.image.flush();
        let mut state = shared.state();
        match outcome {
            Ok(()) => {
                state.stats.unsynced = state.stats.flushed - covered;
                state.since = (state.stats.unsynced > 0).then(Instant::now);
                state.stats.durable = epoch;
            }
            // The kernel says so once, and forgets which pages it was about: asking again would be answered with yes.
            Err(e) => {
                let failed = DiskError::Medium {
                    path: shared.path.clone(),
                    source: Arc::new(e),
                };
                tracing::error!(error = %failed, "a replica is lost");
                state.unsafe_medium = Some(failed);
            }
        }
        drop(state);
        shared.work.notify_all();
        shared.done.notify_all();
    }
}

/// Waits until the file should go to its medium: what `flushed` and `in_file` are at that moment. `None`: the end.
fn due(shared: &Shared) -> Option<(u64, Option<u64>)> {
    let mut state = shared.state();
    loop {
        if state.stopping {
            return None;
        }
        let waited = state
            .since
            .filter(|_| state.unsafe_medium.is_none())
            .map(|s| s.elapsed());
        let hurry = state.settling > 0 || state.stats.unsynced >= shared.unsynced_limit / 2;
        state = match waited {
            Some(waited) if hurry || waited >= shared.sync_every => {
                return Some((state.stats.flushed, state.queue.in_file()));
            }
            Some(waited) => {
                let left = shared.sync_every - waited;
                shared
                    .dirty
                    .wait_timeout(state, left)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => shared.dirty.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}
