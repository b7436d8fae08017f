//! The active host's end of the channel.

use std::{
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender as Jobs},
    },
    thread,
    time::{Duration, Instant},
};

use hawser_proto::replication::Mode;

use super::{
    ChannelBroken, Fault, MAX_CONTROL, MAX_STATE, Source,
    copy::{self, CopyStats, Job},
    queue::Queue,
    send::{Mark, Sender, THREADS},
};
use crate::{
    disk,
    memory::PageRun,
    ring::{self, Bell, Monitor, RingStats, Threshold, lock},
};

/// Bounds of an [`Outbound`].
#[derive(Default)]
pub struct Options {
    /// Bytes of the ring between copying and sending; made at the start. None: [`Options::RING`].
    pub ring: Option<usize>,
    /// When the sender begins.
    pub threshold: Threshold,
    /// Bytes of disk writes that may wait to be sent; the guest's writes wait beyond it. None: [`Options::DISK_QUEUE`].
    pub disk_queue: Option<usize>,
    /// Called once when the channel breaks, to end a write that hangs in it. Must not block.
    pub abort: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Options {
    /// Default size of the ring.
    pub const RING: usize = 32 << 20;
    /// Default size of the queue of disk writes.
    pub const DISK_QUEUE: usize = 32 << 20;
}

/// Why something could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The channel is gone; a new session needs a new one.
    #[error(transparent)]
    Broken(#[from] ChannelBroken),
    /// The guest's memory could not be read. The channel is broken with it, since pages are missing.
    #[error("cannot read {} pages from page {} of block {} of the guest's memory", run.count, run.first, run.block)]
    Memory {
        /// The first pages of those that were to be read.
        run: PageRun,
        /// Why not.
        source: Fault,
    },
    /// A call that the order of an epoch does not allow. A fault of ours.
    #[error("{0}: epochs go begin, copy, end, each with the number that it began with")]
    Order(&'static str),
    /// Something over its limit.
    #[error("{what} of {bytes} bytes, where at most {limit} can be sent")]
    TooLarge {
        /// What was to be sent.
        what: &'static str,
        /// How large it is.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// Numbers of an [`Outbound`]. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Bytes handed to the channel.
    pub sent: u64,
    /// The ring: fill, waits, rates.
    pub ring: RingStats,
    /// Bytes of disk writes that wait.
    pub disk_queue: u64,
    /// How often a disk write waited for room.
    pub disk_waits: u64,
    /// How long disk writes waited for room, in all.
    pub disk_waited: Duration,
}

/// What all threads share.
pub(super) struct Shared {
    pub(super) queue: Arc<Queue>,
    ring: Monitor<Mark>,
    epoch: Mutex<Epoch>,
    broken: Mutex<Option<ChannelBroken>>,
    broke: Condvar,
    abort: Option<Box<dyn Fn() + Send + Sync>>,
    sent: AtomicU64,
}

#[derive(Default)]
struct Epoch {
    /// The epoch that has begun and not ended.
    open: Option<u64>,
    /// The last one that began.
    last: Option<u64>,
    copying: bool,
    /// The message that copies so far come after.
    after: u64,
    pages: u64,
    zero_pages: u64,
}

/// The active host's end of the channel; handles are cheap. When the last is dropped, the channel is broken and its threads end.
#[derive(Clone)]
pub struct Outbound {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    jobs: Mutex<Jobs<Job>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.break_now("it was closed");
    }
}

/// Without one of the threads the other must not wait for ever, however it ended.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.break_now("one of its threads has ended");
    }
}

/// A copy that goes on. Dropping it does not end it.
#[must_use = "the machine may run again only when its pages are copied"]
pub struct Copying {
    done: Receiver<Result<CopyStats, OutboundError>>,
    shared: Arc<Shared>,
}

impl Copying {
    /// Waits until every page is in the ring. From then on the machine may run.
    pub fn wait(self) -> Result<CopyStats, OutboundError> {
        match self.done.recv() {
            Ok(outcome) => outcome,
            Err(_) => Err(self.shared.why().into()),
        }
    }
}

impl Outbound {
    /// Starts the two threads on a channel that only they write to. The ring's memory is made here.
    pub fn start(out: Box<dyn Write + Send>, options: Options) -> io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let capacity = options.ring.unwrap_or(Options::RING);
        let (writer, reader, ring) = ring::channel(capacity, options.threshold, bell.clone());
        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(
                options.disk_queue.unwrap_or(Options::DISK_QUEUE),
                bell.clone(),
            )),
            ring,
            epoch: Mutex::default(),
            broken: Mutex::default(),
            broke: Condvar::new(),
            abort: options.abort,
            sent: AtomicU64::new(0),
        });
        let (jobs, work) = mpsc::channel();
        let inner = Inner {
            shared: shared.clone(),
            jobs: Mutex::new(jobs),
        };
        let [copy_name, send_name] = THREADS;
        let copier = shared.clone();
        thread::Builder::new().name(copy_name.into()).spawn(move || {
            let ends = Ends(copier);
            copy::run(writer, work, &ends.0);
        })?;
        let ends = Ends(shared.clone());
        let sender = Sender::new(out, reader, shared);
        thread::Builder::new().name(send_name.into()).spawn(move || {
            let _ends = ends;
            sender.run(&bell);
        })?;
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Where the guest's disk writes go. Each call waits while the queue is full, and ends when the channel breaks.
    pub fn disks(&self) -> Arc<dyn disk::Sink> {
        self.inner.shared.queue.clone()
    }

    /// An epoch begins; the machine is stopped. Sets the barrier behind every disk write so far. Never waits.
    pub fn begin(&self, epoch: u64) -> Result<(), OutboundError> {
        let mut now = lock(&self.inner.shared.epoch);
        if now.open.is_some() {
            return Err(OutboundError::Order(
                "an epoch began before the one before it ended",
            ));
        }
        if now.last >= Some(epoch) {
            return Err(OutboundError::Order(
                "an epoch began whose number is not above the last",
            ));
        }
        if now.copying {
            return Err(OutboundError::Order("an epoch began during a copy"));
        }
        self.inner.shared.queue.barrier(epoch)?;
        *now = Epoch {
            open: Some(epoch),
            last: Some(epoch),
            after: now.after,
            ..Epoch::default()
        };
        Ok(())
    }

    /// Copies pages into the ring and waits for the end of it. See [`Outbound::start_copy`].
    pub fn copy(
        &self,
        epoch: u64,
        runs: &[PageRun],
        memory: Arc<dyn Source>,
        mode: Mode,
    ) -> Result<CopyStats, OutboundError> {
        self.start_copy(epoch, runs, memory, mode)?.wait()
    }

    /// Begins to copy pages into the ring, so that something else can be done meanwhile. [`Mode::Sync`] is for before the
    /// first epoch, [`Mode::Checkpoint`] for the epoch that has begun. Neighbouring runs are merged, pages of zeros become
    /// marks. When memory cannot be read, the channel breaks.
    pub fn start_copy(
        &self,
        epoch: u64,
        runs: &[PageRun],
        memory: Arc<dyn Source>,
        mode: Mode,
    ) -> Result<Copying, OutboundError> {
        let shared = &self.inner.shared;
        let mut now = lock(&shared.epoch);
        match mode {
            Mode::Sync if now.last.is_some() => {
                return Err(OutboundError::Order(
                    "memory was synchronised after the first epoch",
                ));
            }
            Mode::Checkpoint if now.open != Some(epoch) => {
                return Err(OutboundError::Order(
                    "pages were copied for an epoch that is not open",
                ));
            }
            _ if now.copying => return Err(OutboundError::Order("a copy began during another")),
            _ => now.copying = true,
        }
        let message = shared.queue.last_message();
        if std::mem::replace(&mut now.after, message) != message {
            shared.ring.mark(Mark::After(message)).map_err(|_| shared.why())?;
        }
        drop(now);
        let (done, outcome) = mpsc::sync_channel(1);
        let job = Job {
            epoch,
            mode,
            runs: runs.to_vec(),
            source: memory,
            done,
        };
        lock(&self.inner.jobs).send(job).map_err(|_| shared.why())?;
        Ok(Copying {
            done: outcome,
            shared: shared.clone(),
        })
    }

    /// Ends the epoch: the device state and the end go behind its pages. Never waits.
    pub fn end(&self, epoch: u64, state: Vec<u8>) -> Result<(), OutboundError> {
        let mut now = lock(&self.inner.shared.epoch);
        if now.open != Some(epoch) || now.copying {
            return Err(OutboundError::Order(
                "an epoch ended that is not open, or is still copied",
            ));
        }
        limited("device state", state.len(), MAX_STATE)?;
        let (pages, zero_pages) = (now.pages as u32, now.zero_pages as u32);
        let mark = Mark::End {
            epoch,
            pages,
            zero_pages,
            state,
        };
        self.inner
            .shared
            .ring
            .mark(mark)
            .map_err(|_| self.inner.shared.why())?;
        now.open = None;
        Ok(())
    }

    /// Sends a message of the agents, behind the disk writes and barriers so far, and before what is queued or copied later.
    /// It may overtake pages and ends that are in the ring: [`Outbound::flush`] first where that matters. Never waits.
    pub fn control(&self, message: &[u8]) -> Result<(), OutboundError> {
        limited("a message", message.len(), MAX_CONTROL)?;
        if self.inner.shared.queue.control(message)? {
            Ok(())
        } else {
            Err(OutboundError::Order("too many messages wait to be sent"))
        }
    }

    /// Waits until everything before it is in the channel and flushed. False: not within that time, or the channel broke.
    pub fn flush(&self, within: Duration) -> bool {
        let (done, out) = mpsc::sync_channel(1);
        let last = self.inner.shared.queue.last();
        self.inner.shared.ring.mark(Mark::Flush(last, done)).is_ok()
            && out.recv_timeout(within.min(super::send::LONGEST_FLUSH)).is_ok()
    }

    /// Why the channel is broken, if it is.
    pub fn broken(&self) -> Option<ChannelBroken> {
        self.inner.shared.broken()
    }

    /// Waits for the channel to break.
    pub fn wait_broken(&self, within: Duration) -> Option<ChannelBroken> {
        let shared = &self.inner.shared;
        let began = Instant::now();
        let mut broken = lock(&shared.broken);
        while broken.is_none() {
            let rest = within.checked_sub(began.elapsed())?;
            broken = shared
                .broke
                .wait_timeout(broken, rest)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        broken.clone()
    }

    /// Gives the channel up: every wait on it ends at once, for disk writes, the copier and the sender. The first reason stays.
    pub fn break_now(&self, why: &str) {
        self.inner.shared.break_now(why);
    }

    /// Numbers as they are now.
    pub fn stats(&self) -> Stats {
        let shared = &self.inner.shared;
        let queue = shared.queue.stats();
        Stats {
            sent: shared.sent.load(Ordering::Relaxed),
            ring: shared.ring.stats(),
            disk_queue: queue.bytes,
            disk_waits: queue.waits,
            disk_waited: queue.waited,
        }
    }
}

impl Shared {
    pub(super) fn broken(&self) -> Option<ChannelBroken> {
        lock(&self.broken).clone()
    }

    /// The reason, for somebody who has just found the channel broken.
    fn why(&self) -> ChannelBroken {
        self.broken()
            .unwrap_or_else(|| ChannelBroken("its threads have ended".into()))
    }

    pub(super) fn break_now(&self, why: &str) {
        let why: Arc<str> = why.into();
        let mut broken = lock(&self.broken);
        if broken.is_some() {
            return;
        }
        *broken = Some(ChannelBroken(why.clone()));
        drop(broken);
        self.queue.break_now(&why);
        self.ring.break_now();
        self.broke.notify_all();
        if let Some(abort) = &self.abort {
            abort();
        }
    }

    /// The running copy is at its end; `None`: it failed.
    pub(super) fn copied(&self, mode: Mode, copy: Option<&CopyStats>) {
        let mut now = lock(&self.epoch);
        now.copying = false;
        if let (Mode::Checkpoint, Some(copy)) = (mode, copy) {
            now.pages += copy.pages;
            now.zero_pages += copy.zero_pages;
        }
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn limited(what: &'static str, bytes: usize, limit: usize) -> Result<(), OutboundError> {
    if bytes <= limit {
        Ok(())
    } else {
        Err(OutboundError::TooLarge { what, bytes, limit })
    }
}
