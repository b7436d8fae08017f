//! The standby's end of the channel. What it reads is in the hands of a peer: every frame is checked before it costs memory.

use std::{
    collections::VecDeque,
    io::{self, BufReader, Read},
    path::PathBuf,
    sync::Arc,
};

use hawser_proto::replication::{Extent, FrameError, HEADER, Head, MAX_BODY, Mode, PAGE, Run, preamble};
use xxhash_rust::xxh3::Xxh3Default;

use super::{
    Fault, MAX_STATE,
    staged::{Pool, StageError, Staged},
};
use crate::memory::{Layout, PageRun};

/// Bytes read ahead.
const READ_AHEAD: usize = 128 << 10;
/// Most barriers whose epochs have not ended.
const MAX_OPEN: usize = 64;
/// An epoch names the guest's pages at most this many times over.
const MAX_REPEATS: u64 = 2;

/// Bounds of an [`Inbound`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of memory for staged pages of all epochs that are not applied yet.
    pub staged: usize,
    /// Directory of a nameless file for staged pages beyond that. None: an epoch that is larger ends the session.
    pub spill_dir: Option<PathBuf>,
    /// Bytes in that file.
    pub spill: u64,
}

impl Default for Limits {
    /// 256 MiB in memory, no spill file.
    fn default() -> Self {
        Self {
            staged: 256 << 20,
            spill_dir: None,
            spill: 16 << 30,
        }
    }
}

/// What takes effect as it comes: pages of the initial synchronisation, and disk writes.
pub trait Target {
    /// Pages of the synchronisation. `data` has exactly the run's bytes.
    fn pages(&mut self, run: PageRun, data: &[u8]) -> Result<(), Fault>;
    /// Zero pages of the synchronisation.
    fn zero_pages(&mut self, run: PageRun) -> Result<(), Fault>;
    /// Data for a disk, at most `disk::PIECE` bytes.
    fn disk_write(&mut self, disk: u16, offset: u64, data: &[u8]) -> Result<(), Fault>;
    /// Zeros for a disk.
    fn disk_zeroes(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault>;
    /// A part of a disk that the guest needs no more; it reads as zeros from then on.
    fn disk_discard(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault>;
    /// All disk writes so far belong to the epoch or to those before it.
    fn barrier(&mut self, epoch: u64) -> Result<(), Fault>;
}

/// What the agent has to act on.
pub enum Incoming {
    /// An epoch is here as a whole, its disk writes up to its barrier included: it can be acknowledged, then applied.
    Complete {
        /// Which epoch.
        epoch: u64,
        /// The device state, as QEMU wrote it.
        state: Vec<u8>,
        /// The epoch's pages.
        staged: Staged,
    },
    /// A message of the other agent.
    Control(Vec<u8>),
}

/// Why the channel ended. None of these can be mended on the same channel.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The peer closed it between two frames.
    #[error("the other host closed the replication channel")]
    Closed,
    /// It cannot be read, or ended within a frame.
    #[error("the replication channel cannot be read: {0}")]
    Read(#[source] io::Error),
    /// A frame that the protocol does not allow.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame at a place where the protocol does not allow it.
    #[error(
        "the other host sent a {frame} frame of epoch {epoch} where {expected}; it is faulty, or of another version"
    )]
    Order {
        /// The frame.
        frame: &'static str,
        /// Its epoch.
        epoch: u64,
        /// What was expected instead.
        expected: &'static str,
    },
    /// Pages or a part of a disk that this guest does not have.
    #[error("the other host sent {0}, which this guest does not have: the two machines differ")]
    Outside(String),
    /// More than a limit of this host allows.
    #[error(
        "an epoch has more {what} than the limit of {limit} allows: raise the limit, or let epochs be shorter"
    )]
    TooMuch {
        /// What is too much.
        what: &'static str,
        /// What is allowed.
        limit: u64,
    },
    /// The epoch is not what was sent.
    #[error(
        "epoch {epoch} arrived altered: {what} differ from what the other host sent; protection must start anew"
    )]
    Altered {
        /// Which epoch.
        epoch: u64,
        /// What differs.
        what: &'static str,
    },
    /// The replica could not take what came.
    #[error("the replica cannot take a {frame} frame: {source}")]
    Target {
        /// The frame.
        frame: &'static str,
        /// Why not.
        source: Fault,
    },
    /// The spill file of staged pages cannot be made or written.
    #[error("cannot spill pages to a file in {}: {source}", dir.display())]
    Spill {
        /// Its directory.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The standby's end of the channel: read by one thread.
pub struct Inbound {
    from: BufReader<Box<dyn Read + Send>>,
    begun: bool,
    failed: bool,
    limits: Limits,
    pool: Arc<Pool>,
    layout: Layout,
    disks: Vec<u64>,
    /// Barriers whose epochs have not ended, oldest first.
    open: VecDeque<u64>,
    last_barrier: Option<u64>,
    last_end: Option<u64>,
    gathered: Option<Gathered>,
    digest: Box<Xxh3Default>,
    /// For bodies that are passed on.
    body: Vec<u8>,
}

/// An epoch that is not whole yet.
struct Gathered {
    epoch: u64,
    staged: Staged,
    state: Vec<u8>,
}

impl Inbound {
    /// Reads from a channel. Until [`Inbound::expect`], only messages are accepted.
    pub fn new(from: Box<dyn Read + Send>, limits: Limits) -> Self {
        let pool = Arc::new(Pool::new(limits.staged, limits.spill, limits.spill_dir.clone()));
        Self {
            from: BufReader::with_capacity(READ_AHEAD, from),
            begun: false,
            failed: false,
            limits,
            pool,
            layout: Layout::default(),
            disks: Vec::new(),
            open: VecDeque::new(),
            last_barrier: None,
            last_end: None,
            gathered: None,
            digest: Box::default(),
            body: Vec::new(),
        }
    }

    /// From now on, pages of these blocks and writes to disks of these sizes in bytes are accepted, by their numbers.
    pub fn expect(&mut self, layout: Layout, disks: Vec<u64>) {
        self.layout = layout;
        self.disks = disks;
    }

    /// Reads on until an epoch is whole or a message came; what takes effect at once goes to `target` meanwhile.
    /// Blocks as long as the channel does. After an error there is nothing more to read.
    pub fn next(&mut self, target: &mut dyn Target) -> Result<Incoming, PipeError> {
        if self.failed {
            return Err(PipeError::Closed);
        }
        let outcome = self.read_on(target);
        self.failed = outcome.is_err();
        outcome
    }

    fn read_on(&mut self, target: &mut dyn Target) -> Result<Incoming, PipeError> {
        if !self.begun {
            let mut bytes = [0; 8];
            self.from.read_exact(&mut bytes).map_err(PipeError::Read)?;
            preamble(bytes)?;
            self.begun = true;
        }
        loop {
            let header = self.header()?;
            let head = Head::decode(&header)?;
            let told = |source| PipeError::Target {
                frame: head.name(),
                source,
            };
            match head {
                Head::Pages { mode, epoch, run } => {
                    let run = self.run(&head, mode, epoch, run)?;
                    self.digest.update(&header);
                    match mode {
                        Mode::Sync => {
                            self.body(run.bytes())?;
                            self.digest.update(&self.body);
                            target.pages(run, &self.body).map_err(told)?;
                        }
                        Mode::Checkpoint => self.stage(epoch, run)?,
                    }
                }
                Head::Zero { mode, epoch, run } => {
                    let run = self.run(&head, mode, epoch, run)?;
                    self.digest.update(&header);
                    match mode {
                        Mode::Sync => target.zero_pages(run).map_err(told)?,
                        Mode::Checkpoint => self.gather(epoch).staged.zero(run),
                    }
                }
                Head::State { epoch, length } => {
                    self.in_turn(&head, epoch)?;
                    self.digest.update(&header);
                    self.state(epoch, length as usize)?;
                }
                Head::Write(extent) => {
                    self.disk(extent)?;
                    self.body(extent.length as usize)?;
                    target
                        .disk_write(extent.disk, extent.offset, &self.body)
                        .map_err(told)?;
                }
                Head::Zeroes(extent) => {
                    self.disk(extent)?;
                    target
                        .disk_zeroes(extent.disk, extent.offset, extent.length)
                        .map_err(told)?;
                }
                Head::Discard(extent) => {
                    self.disk(extent)?;
                    target
                        .disk_discard(extent.disk, extent.offset, extent.length)
                        .map_err(told)?;
                }
                Head::Barrier { epoch } => {
                    self.barrier(&head, epoch)?;
                    target.barrier(epoch).map_err(told)?;
                }
                Head::End {
                    epoch,
                    pages,
                    zero_pages,
                    state,
                    digest,
                } => {
                    return self.end(&head, epoch, [pages, zero_pages, state], digest);
                }
                Head::Control { length } => {
                    self.body(length as usize)?;
                    return Ok(Incoming::Control(std::mem::take(&mut self.body)));
                }
            }
        }
    }

    /// The next header; the end of the channel is no error of reading when it comes before one.
    fn header(&mut self) -> Result<[u8; HEADER], PipeError> {
        let mut header = [0; HEADER];
        let mut filled = 0;
        while filled < HEADER {
            match self.from.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Err(PipeError::Closed),
                Ok(0) => return Err(PipeError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(PipeError::Read(e)),
            }
        }
        Ok(header)
    }

    /// Reads a body, at most [`MAX_BODY`] bytes.
    fn body(&mut self, length: usize) -> Result<(), PipeError> {
        debug_assert!(length <= MAX_BODY as usize);
        self.body.resize(length, 0);
        self.from.read_exact(&mut self.body).map_err(PipeError::Read)
    }

    /// Checks a frame of pages: that it is its turn, and that the guest has them.
    fn run(&mut self, head: &Head, mode: Mode, epoch: u64, run: Run) -> Result<PageRun, PipeError> {
        let order = |expected| PipeError::Order {
            frame: head.name(),
            epoch,
            expected,
        };
        match mode {
            // The first barrier may be ahead of the last of these, but not the first staged page.
            Mode::Sync if self.last_end.is_some() || self.gathered.is_some() => {
                return Err(order("only staged pages can follow the first epoch's"));
            }
            Mode::Sync => {}
            Mode::Checkpoint => self.in_turn(head, epoch)?,
        }
        let run = PageRun {
            block: run.block,
            first: run.first,
            count: run.count,
        };
        if !self.layout.holds(run) {
            return Err(PipeError::Outside(format!(
                "{} pages from page {} of memory block {}",
                run.count, run.first, run.block
            )));
        }
        if mode == Mode::Checkpoint {
            let limit = self.layout.bytes() / PAGE as u64 * MAX_REPEATS;
            let staged = &self.gather(epoch).staged;
            if staged.pages() + staged.zero_pages() + u64::from(run.count) > limit {
                return Err(PipeError::TooMuch { what: "pages", limit });
            }
        }
        Ok(run)
    }

    /// Checks that the epoch is the one that is gathered, or a new one.
    fn in_turn(&self, head: &Head, epoch: u64) -> Result<(), PipeError> {
        let expected = match &self.gathered {
            Some(gathered) if gathered.epoch != epoch => "the epoch before it has not ended",
            None if self.last_end >= Some(epoch) => "that epoch has ended",
            _ => return Ok(()),
        };
        Err(PipeError::Order {
            frame: head.name(),
            epoch,
            expected,
        })
    }

    fn gather(&mut self, epoch: u64) -> &mut Gathered {
        let pool = &self.pool;
        self.gathered.get_or_insert_with(|| Gathered {
            epoch,
            staged: Staged::new(pool.clone()),
            state: Vec::new(),
        })
    }

    fn stage(&mut self, epoch: u64, run: PageRun) -> Result<(), PipeError> {
        self.gather(epoch);
        let Some(gathered) = &mut self.gathered else {
            return Ok(());
        };
        let digest = &mut self.digest;
        let staged = gathered
            .staged
            .read(run, &mut self.from, &mut |data| digest.update(data));
        staged.map_err(|e| match e {
            StageError::Read(e) => PipeError::Read(e),
            StageError::Spill(source) => PipeError::Spill {
                dir: self.limits.spill_dir.clone().unwrap_or_default(),
                source,
            },
            StageError::Full => PipeError::TooMuch {
                what: "bytes of pages",
                limit: self.limits.staged as u64
                    + self.limits.spill_dir.as_ref().map_or(0, |_| self.limits.spill),
            },
        })
    }

    fn state(&mut self, epoch: u64, length: usize) -> Result<(), PipeError> {
        if self.gather(epoch).state.len() + length > MAX_STATE {
            return Err(PipeError::TooMuch {
                what: "bytes of device state",
                limit: MAX_STATE as u64,
            });
        }
        self.body(length)?;
        self.digest.update(&self.body);
        if let Some(gathered) = &mut self.gathered {
            gathered.state.extend_from_slice(&self.body);
        }
        Ok(())
    }

    fn disk(&self, extent: Extent) -> Result<(), PipeError> {
        let size = self.disks.get(usize::from(extent.disk)).copied().unwrap_or(0);
        // The sum does not run over: decoding has made sure.
        if extent.offset + extent.length <= size {
            return Ok(());
        }
        Err(PipeError::Outside(format!(
            "{} bytes from byte {} of disk {}",
            extent.length, extent.offset, extent.disk
        )))
    }

    fn barrier(&mut self, head: &Head, epoch: u64) -> Result<(), PipeError> {
        let expected = if self.last_barrier >= Some(epoch) {
            "barriers only go up"
        } else if self.open.len() >= MAX_OPEN {
            "the epochs of 64 barriers have not ended"
        } else {
            self.open.push_back(epoch);
            self.last_barrier = Some(epoch);
            return Ok(());
        };
        Err(PipeError::Order {
            frame: head.name(),
            epoch,
            expected,
        })
    }

    fn end(&mut self, head: &Head, epoch: u64, counts: [u32; 3], digest: u64) -> Result<Incoming, PipeError> {
        self.in_turn(head, epoch)?;
        if self.open.front() != Some(&epoch) {
            let expected = "the end of the oldest epoch with a barrier was due";
            return Err(PipeError::Order {
                frame: head.name(),
                epoch,
                expected,
            });
        }
        self.gather(epoch);
        let Some(Gathered { staged, state, .. }) = self.gathered.take() else {
            return Err(PipeError::Closed);
        };
        let came = [staged.pages(), staged.zero_pages(), state.len() as u64];
        let altered = |what| Err(PipeError::Altered { epoch, what });
        if came != counts.map(u64::from) {
            return altered("the counts of its pages or the size of its state");
        }
        if self.digest.digest() != digest {
            return altered("its contents");
        }
        self.digest.reset();
        self.open.pop_front();
        self.last_end = Some(epoch);
        Ok(Incoming::Complete { epoch, state, staged })
    }
}
