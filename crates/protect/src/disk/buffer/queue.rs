//! The order of a replica's writes, without I/O: which wait, which may enter the file, and how much room there is.

use std::{collections::VecDeque, sync::Arc};

use super::{DiskError, Options, Stats, spill::Spilled};

/// One write that waits.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) body: Body,
}

/// What it writes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Memory(Arc<[u8]>),
    Spilled(Spilled),
    Zeroes(u64),
}

/// Where a write's data may go. `none_waits`: nothing spilled is waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Memory,
    Spill { none_waits: bool },
}

/// Writes in their order, numbered from the session's first, and barriers between them.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Entry>,
    /// Number of the first waiting entry.
    first: u64,
    /// Entries before this number may enter the file.
    limit: u64,
    /// Barriers not yet committed: epoch, and number of the first entry behind it.
    barriers: VecDeque<(u64, u64)>,
    /// Barriers committed whose writes are not all in the file.
    entering: VecDeque<(u64, u64)>,
    last_barrier: Option<u64>,
    committed: Option<u64>,
    in_file: Option<u64>,
    in_memory: Bytes,
    spilled: Bytes,
    memory_limit: u64,
    spill_limit: u64,
    spilled_total: u64,
}

/// Bytes of data waiting in one place, and how many of them may enter the file.
#[derive(Debug, Default, Clone, Copy)]
struct Bytes {
    all: u64,
    allowed: u64,
}

/// What noting one write costs, rounded up. Bounds their number.
const NOTE: u64 = 64;

impl Queue {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            waiting: VecDeque::new(),
            first: 0,
            limit: 0,
            barriers: VecDeque::new(),
            entering: VecDeque::new(),
            last_barrier: None,
            committed: None,
            in_file: None,
            in_memory: Bytes::default(),
            spilled: Bytes::default(),
            memory_limit: options.memory as u64,
            spill_limit: options.spill,
            spilled_total: 0,
        }
    }

    /// Whether writes still enter the file without a commit.
    pub(super) fn synchronising(&self) -> bool {
        self.last_barrier.is_none()
    }

    /// How many entries may enter the file and have not.
    pub(super) fn allowed(&self) -> usize {
        (self.limit - self.first) as usize
    }

    pub(super) fn committed(&self) -> Option<u64> {
        self.committed
    }

    pub(super) fn in_file(&self) -> Option<u64> {
        self.in_file
    }

    /// Where data of that length may go. An error if there is no room, or none but in spill files while the flusher has work: a
    /// standby whose disk is slow is to slow the guest down, not to pile up what a take-over would have to wait for.
    pub(super) fn room(&self, len: usize) -> Result<Room, DiskError> {
        let len = len as u64;
        let noted = self.waiting.len() as u64 * NOTE < self.memory_limit.max(NOTE);
        // A write larger than all memory may still have it to itself.
        let fits = self.in_memory.all + len <= self.memory_limit || self.in_memory.all == 0;
        let spills = self.allowed() == 0 && self.spilled.all + len <= self.spill_limit;
        match (noted, fits, spills) {
            (true, true, _) => Ok(Room::Memory),
            (true, false, true) => Ok(Room::Spill {
                none_waits: self.spilled.all == 0,
            }),
            _ => {
                let (waiting, spilled) = (self.in_memory.all, self.spilled.all);
                Err(DiskError::Full {
                    waiting,
                    spilled,
                    spill: self.spill_limit,
                })
            }
        }
    }

    pub(super) fn push(&mut self, offset: u64, body: Body) {
        let entry = Entry { offset, body };
        if let Body::Spilled(s) = &entry.body {
            self.spilled_total += s.len() as u64;
        }
        let allowed = self.synchronising();
        self.count(&entry, |b, n| {
            b.all += n;
            b.allowed += if allowed { n } else { 0 };
        });
        self.waiting.push_back(entry);
        if allowed {
            self.limit = self.end();
        }
    }

    pub(super) fn barrier(&mut self, epoch: u64) -> Result<(), DiskError> {
        if let Some(last) = self.last_barrier.filter(|last| epoch <= *last) {
            return Err(DiskError::Order { epoch, last });
        }
        self.last_barrier = Some(epoch);
        self.barriers.push_back((epoch, self.end()));
        Ok(())
    }

    /// Commits this epoch and any before it.
    pub(super) fn commit(&mut self, epoch: u64) -> Result<(), DiskError> {
        let at = self
            .barriers
            .iter()
            .position(|b| b.0 == epoch)
            .ok_or(DiskError::NoBarrier { epoch })?;
        self.entering.extend(self.barriers.drain(..=at));
        self.committed = Some(epoch);
        let limit = self.entering.back().map_or(self.limit, |b| b.1);
        for i in self.limit - self.first..limit - self.first {
            let entry = self.waiting[i as usize].clone();
            self.count(&entry, |b, n| b.allowed += n);
        }
        self.limit = limit;
        self.entered();
        Ok(())
    }

    /// The first entries that may enter the file, at least one if there is any, about `bytes` of them. They stay in the queue.
    pub(super) fn batch(&self, bytes: u64) -> Vec<Entry> {
        let mut sum = 0;
        let small = |e: &&Entry| {
            let before = sum;
            sum += e.cost();
            before < bytes
        };
        self.waiting
            .iter()
            .take(self.allowed())
            .take_while(small)
            .cloned()
            .collect()
    }

    /// Notes that the first `n` entries are in the file, and gives them back to be dropped.
    pub(super) fn done(&mut self, n: usize) -> Vec<Entry> {
        let done: Vec<_> = self.waiting.drain(..n).collect();
        self.first += n as u64;
        for entry in &done {
            self.count(entry, |b, n| {
                b.all -= n;
                b.allowed -= n;
            });
        }
        self.entered();
        done
    }

    /// Takes out every entry that may not enter the file, and their barriers.
    pub(super) fn cut(&mut self) -> Vec<Entry> {
        let cut: Vec<_> = self.waiting.drain(self.allowed()..).collect();
        for entry in &cut {
            self.count(entry, |b, n| b.all -= n);
        }
        self.barriers.clear();
        cut
    }

    /// The entries that touch a range, oldest first.
    pub(super) fn overlapping(&self, offset: u64, len: u64) -> Vec<Entry> {
        let touches = |e: &&Entry| e.offset < offset + len && offset < e.offset + e.len();
        self.waiting.iter().filter(touches).cloned().collect()
    }

    pub(super) fn add_to(&self, stats: Stats) -> Stats {
        Stats {
            buffered: self.in_memory.all,
            spilled: self.spilled.all,
            backlog: self.in_memory.allowed + self.spilled.allowed,
            spilled_total: self.spilled_total,
            committed: self.committed,
            in_file: self.in_file,
            durable: if stats.unsynced == 0 {
                self.in_file
            } else {
                stats.durable
            },
            ..stats
        }
    }

    fn end(&self) -> u64 {
        self.first + self.waiting.len() as u64
    }

    fn entered(&mut self) {
        while let Some((epoch, _)) = self.entering.front().copied().filter(|b| b.1 <= self.first) {
            self.in_file = Some(epoch);
            self.entering.pop_front();
        }
    }

    fn count(&mut self, entry: &Entry, change: impl FnOnce(&mut Bytes, u64)) {
        match &entry.body {
            Body::Memory(data) => change(&mut self.in_memory, data.len() as u64),
            Body::Spilled(s) => change(&mut self.spilled, s.len() as u64),
            Body::Zeroes(_) => {}
        }
    }
}

impl Entry {
    /// Bytes of the disk that it covers.
    pub(super) fn len(&self) -> u64 {
        match &self.body {
            Body::Memory(data) => data.len() as u64,
            Body::Spilled(s) => s.len() as u64,
            Body::Zeroes(len) => *len,
        }
    }

    /// Bytes of work that it is: a hole costs about as much as a page.
    pub(super) fn cost(&self) -> u64 {
        match &self.body {
            Body::Zeroes(_) => 4096,
            _ => self.len(),
        }
    }

    /// Puts the part that falls into `into`, which begins at `offset` of the disk, there.
    pub(super) fn overlay(&self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let from = self.offset.max(offset);
        let to = (self.offset + self.len()).min(offset + into.len() as u64);
        if from >= to {
            return Ok(());
        }
        let into = &mut into[(from - offset) as usize..(to - offset) as usize];
        let skip = (from - self.offset) as usize;
        match &self.body {
            Body::Memory(data) => into.copy_from_slice(&data[skip..skip + into.len()]),
            Body::Spilled(s) => s.read(skip, into)?,
            Body::Zeroes(_) => into.fill(0),
        }
        Ok(())
    }
}
