//! The byte ring between the copy thread and the send thread (US 8,413,145).
//!
//! The ring is made of slots that go round in one order: the copier fills one, the sender transmits another at the same time and
//! gives it back. A slot is owned by one of them at a time, so guest memory is read straight into it and written to the channel
//! straight from it, without unsafe code; the lock is taken once for each slot of tens of KiB, not for each page.
//!
//! The sender may take what is in the ring once the fill has reached the threshold, and always from the end of the copy on.
//! When no slot is free the copier waits, and the wait is counted. [`Bell`] wakes either; a broken ring ends every wait.

mod threshold;

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hawser_proto::replication::{HEADER, PAGE};
use threshold::Meters;
pub use threshold::{Rates, Threshold};

/// Slots that a ring is cut into, unless they would leave the bounds below. More slots: finer overlap; fewer: larger writes.
const SLOTS: usize = 32;
/// Bounds of a slot, in pages.
const SLOT_PAGES: std::ops::RangeInclusive<usize> = 4..=64;

/// The ring was broken: the channel behind it is gone, or somebody gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is broken: nothing takes from it any more")]
pub struct RingBroken;

/// Wakes one thread that looks at several places for work. To look, then to wait, misses nothing: see [`Bell::seen`].
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    times: u64,
    /// Somebody waits; else no system call is needed.
    awaited: bool,
}

impl Bell {
    /// How often the bell was rung. Take it before looking for work.
    pub fn seen(&self) -> u64 {
        lock(&self.rung).times
    }

    /// Wakes the waiting thread, or keeps the next one from waiting.
    pub fn ring(&self) {
        let mut rung = lock(&self.rung);
        rung.times += 1;
        if rung.awaited {
            self.wake.notify_one();
        }
    }

    /// Waits until the bell was rung more often than `seen`. For one thread at a time.
    pub fn wait(&self, seen: u64) {
        let mut rung = lock(&self.rung);
        rung.awaited = true;
        while rung.times == seen {
            rung = self.wake.wait(rung).unwrap_or_else(PoisonError::into_inner);
        }
        rung.awaited = false;
    }
}

/// Locks, also after another thread panicked: what these locks guard is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part of the ring. Filled by the copier with whole frames, transmitted as it is.
#[derive(Debug)]
pub struct Slot {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Slot {
    /// The frames in it.
    pub fn frames(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// All of its memory, and how much of it is filled.
    pub fn parts(&mut self) -> (&mut [u8], &mut usize) {
        (&mut self.bytes, &mut self.filled)
    }

    /// Bytes that are filled.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that are free.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.filled
    }
}

/// What comes out of the ring, in the order in which it was put in.
#[derive(Debug)]
pub enum Item<M> {
    /// Frames of pages. Give the slot back when they are sent.
    Frames(Slot),
    /// Something that stands between them and takes no room in the ring.
    Mark(M),
}

/// What one copy into the ring was like: the evidence that it overlapped with the sending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// From the start to the end of the copy, waits included.
    pub took: Duration,
    /// Bytes put into the ring, headers included.
    pub bytes: u64,
    /// How often the copier waited for room.
    pub waits: u64,
    /// How long it waited for room, in all.
    pub waited: Duration,
    /// Fill in bytes at which the sender was to begin.
    pub threshold: u64,
    /// Highest fill, in bytes.
    pub peak: u64,
    /// From the start of the copy until the sender took the first slot; none: not before the end of the copy.
    pub first_taken: Option<Duration>,
    /// Bytes of this copy that were sent, and their slots given back, before the copy ended.
    pub sent_meanwhile: u64,
}

/// Numbers of a ring, for people and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct RingStats {
    /// Size in bytes.
    pub capacity: u64,
    /// Bytes in it that are not sent yet.
    pub used: u64,
    /// How often the copier waited for room, since the start.
    pub waits: u64,
    /// How long it waited for room, since the start.
    pub waited: Duration,
    /// Measured rates, as the adaptive threshold uses them.
    pub rates: Rates,
}

struct State<M> {
    free: VecDeque<Slot>,
    items: VecDeque<Item<M>>,
    /// Bytes in filled slots, those in the sender's hands included.
    used: usize,
    /// Items at the front that are older than the running copy, and need no threshold.
    older: usize,
    /// A copy is running.
    copying: bool,
    /// In the running copy, the threshold was reached.
    sending: bool,
    threshold: usize,
    started: Instant,
    copy: Copied,
    /// Bytes given back since the copy began that belong to what was there before.
    older_bytes: usize,
    stats: RingStats,
    meters: Meters,
    broken: bool,
}

struct Shared<M> {
    state: Mutex<State<M>>,
    /// The copier waits here for a free slot.
    room: Condvar,
    /// The sender waits here, for this and for other work.
    bell: Arc<Bell>,
}

/// The copier's end.
pub struct Writer<M> {
    shared: Arc<Shared<M>>,
    threshold: Threshold,
    capacity: usize,
    slot_bytes: usize,
}

/// The sender's end.
pub struct Reader<M> {
    shared: Arc<Shared<M>>,
}

/// Ends the ring and reads its numbers, from any thread.
pub struct Monitor<M> {
    shared: Arc<Shared<M>>,
}

/// A ring of about `capacity` bytes (at least two slots of four pages). Its memory is made and touched here, so that no page
/// fault falls into a pause.
/// `bell` is rung whenever there is something to take.
pub fn channel<M>(
    capacity: usize,
    threshold: Threshold,
    bell: Arc<Bell>,
) -> (Writer<M>, Reader<M>, Monitor<M>) {
    let pages = (capacity / PAGE / SLOTS).clamp(*SLOT_PAGES.start(), *SLOT_PAGES.end());
    // Room for as many headers as pages: a slot takes its pages however scattered they are.
    let slot_bytes = pages * (PAGE + HEADER);
    let slots = (capacity / slot_bytes).max(2);
    let free = (0..slots).map(|_| Slot::new(slot_bytes)).collect();
    let capacity = slots * slot_bytes;
    let stats = RingStats {
        capacity: capacity as u64,
        ..RingStats::default()
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            free,
            items: VecDeque::with_capacity(slots + 2),
            used: 0,
            older: 0,
            copying: false,
            sending: false,
            threshold: 0,
            started: Instant::now(),
            copy: Copied::default(),
            older_bytes: 0,
            stats,
            meters: Meters::default(),
            broken: false,
        }),
        room: Condvar::new(),
        bell,
    });
    let writer = Writer {
        shared: shared.clone(),
        threshold,
        capacity,
        slot_bytes,
    };
    (
        writer,
        Reader {
            shared: shared.clone(),
        },
        Monitor { shared },
    )
}

impl Slot {
    fn new(bytes: usize) -> Self {
        let mut bytes = vec![0; bytes].into_boxed_slice();
        // Zeroed memory comes from the kernel page by page when it is first written.
        for page in bytes.chunks_mut(PAGE) {
            page[0] = 1;
        }
        Self { bytes, filled: 0 }
    }
}

impl<M> Writer<M> {
    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// A copy of about `expected` bytes begins. The sender waits for the threshold.
    pub fn begin(&mut self, expected: usize) {
        let mut state = lock(&self.shared.state);
        state.threshold =
            self.threshold
                .bytes(self.capacity, self.slot_bytes, expected, state.meters.rates());
        state.older = state.items.len();
        state.older_bytes = state.used;
        state.copying = true;
        state.sending = false;
        state.started = Instant::now();
        state.copy = Copied {
            threshold: state.threshold as u64,
            ..Copied::default()
        };
    }

    /// An empty slot. Waits while the sender has all of them.
    pub fn slot(&mut self) -> Result<Slot, RingBroken> {
        let mut state = lock(&self.shared.state);
        if state.free.is_empty() && !state.broken {
            // Whoever waits for room must let the sender make some.
            let woken = state.send_now();
            let began = Instant::now();
            if woken {
                self.shared.bell.ring();
            }
            while state.free.is_empty() && !state.broken {
                state = self
                    .shared
                    .room
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let waited = began.elapsed();
            state.copy.waits += 1;
            state.copy.waited += waited;
            state.stats.waits += 1;
            state.stats.waited += waited;
        }
        if state.broken {
            return Err(RingBroken);
        }
        state.free.pop_front().ok_or(RingBroken)
    }

    /// A filled slot goes to the sender; an empty one back into the ring.
    pub fn push(&mut self, slot: Slot) {
        let mut state = lock(&self.shared.state);
        if slot.filled == 0 {
            // Not behind the others: it is the next in turn.
            state.free.push_front(slot);
            return;
        }
        state.used += slot.filled;
        state.copy.bytes += slot.filled as u64;
        state.copy.peak = state.copy.peak.max(state.used as u64);
        state.items.push_back(Item::Frames(slot));
        let reached = state.used >= state.threshold;
        if (reached && state.send_now()) || state.sending || !state.copying {
            drop(state);
            self.shared.bell.ring();
        }
    }

    /// The copy is at its end: everything may be sent now. Says what it was like.
    pub fn finish(&mut self) -> Copied {
        let mut state = lock(&self.shared.state);
        let took = state.started.elapsed();
        state.copying = false;
        state.copy.took = took;
        let copy = state.copy;
        state.meters.copied(copy.bytes, took.saturating_sub(copy.waited));
        drop(state);
        self.shared.bell.ring();
        copy
    }
}

impl<M> State<M> {
    /// Lets the sender begin. True when that is news.
    fn send_now(&mut self) -> bool {
        let news = self.copying && !self.sending;
        self.sending |= self.copying;
        news
    }
}

impl<M> Reader<M> {
    /// The next item if one may be sent now.
    pub fn take(&mut self) -> Option<Item<M>> {
        let mut state = lock(&self.shared.state);
        if state.copying && !state.sending && state.older == 0 {
            return None;
        }
        let item = state.items.pop_front()?;
        if state.older > 0 {
            state.older -= 1;
        } else if state.copying && state.copy.first_taken.is_none() {
            state.copy.first_taken = Some(state.started.elapsed());
        }
        Some(item)
    }

    /// A slot whose frames were sent: room for the copier. `reading` and `sending` say how long each took, for the rates.
    pub fn give_back(&mut self, mut slot: Slot, reading: Duration, sending: Duration) {
        let bytes = std::mem::take(&mut slot.filled);
        let mut state = lock(&self.shared.state);
        state.used = state.used.saturating_sub(bytes);
        state.meters.sent(bytes as u64, reading, sending);
        if state.copying {
            let older = state.older_bytes.min(bytes);
            state.older_bytes -= older;
            state.copy.sent_meanwhile += (bytes - older) as u64;
        }
        state.free.push_back(slot);
        drop(state);
        self.shared.room.notify_one();
    }
}

impl<M> Monitor<M> {
    /// Puts a mark behind everything copied so far. It takes no room and never waits.
    pub fn mark(&self, mark: M) -> Result<(), RingBroken> {
        let mut state = lock(&self.shared.state);
        if state.broken {
            return Err(RingBroken);
        }
        state.items.push_back(Item::Mark(mark));
        drop(state);
        self.shared.bell.ring();
        Ok(())
    }

    /// Ends every wait, now and from now on.
    pub fn break_now(&self) {
        let mut state = lock(&self.shared.state);
        state.broken = true;
        state.items.clear();
        drop(state);
        self.shared.room.notify_all();
        self.shared.bell.ring();
    }

    /// Numbers as they are now.
    pub fn stats(&self) -> RingStats {
        let state = lock(&self.shared.state);
        RingStats {
            used: state.used as u64,
            rates: state.meters.rates(),
            ..state.stats
        }
    }
}

#[cfg(test)]
mod tests;
