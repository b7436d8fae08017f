//! The copy thread: guest memory straight into the ring's slots, as frames, with zero pages as marks.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender},
    },
    time::Duration,
};

use hawser_proto::replication::{HEADER, Head, MAX_RUN, Mode, PAGE, Run};

use super::{ChannelBroken, Fault, OutboundError, Source, outbound::Shared, send::Mark};
use crate::{
    memory::PageRun,
    ring::{Copied, RingBroken, Slot, Writer},
    sys::is_zero,
};

/// What a copy was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct CopyStats {
    /// Pages copied with their contents.
    pub pages: u64,
    /// Pages found to be zeros and sent as marks.
    pub zero_pages: u64,
    /// Time, bytes, waits and overlap with the sending.
    pub ring: Copied,
}

impl CopyStats {
    /// How long the copy took, waits included.
    pub fn took(&self) -> Duration {
        self.ring.took
    }
}

/// Work for the copy thread.
pub(super) struct Job {
    pub(super) epoch: u64,
    pub(super) mode: Mode,
    pub(super) runs: Vec<PageRun>,
    pub(super) source: Arc<dyn Source>,
    pub(super) done: SyncSender<Result<CopyStats, OutboundError>>,
}

/// The copy thread: one job after the other, until nobody can send any more.
pub(super) fn run(mut writer: Writer<Mark>, jobs: Receiver<Job>, shared: &Shared) {
    while let Ok(job) = jobs.recv() {
        let mut copy = Copy {
            epoch: job.epoch,
            mode: job.mode,
            stats: CopyStats::default(),
            planned: Vec::new(),
        };
        let expected = job.runs.iter().map(|run| run.bytes() + HEADER).sum();
        writer.begin(expected);
        let outcome = copy.all(&mut writer, &job.runs, job.source.as_ref());
        copy.stats.ring = writer.finish();
        let outcome = match outcome {
            Ok(()) => Ok(copy.stats),
            Err(e) => Err(e.told(shared)),
        };
        shared.copied(job.mode, outcome.as_ref().ok());
        // Nobody may be waiting for it any more.
        let _ = job.done.send(outcome);
    }
}

enum CopyError {
    Ring,
    Memory(PageRun, Fault),
}

impl From<RingBroken> for CopyError {
    fn from(_: RingBroken) -> Self {
        CopyError::Ring
    }
}

impl CopyError {
    /// The error for the caller. Pages that were re-armed but never read are lost to the standby: the channel ends here.
    fn told(self, shared: &Shared) -> OutboundError {
        match self {
            CopyError::Ring => OutboundError::Broken(
                shared
                    .broken()
                    .unwrap_or_else(|| ChannelBroken("it was closed".into())),
            ),
            CopyError::Memory(run, source) => {
                shared.break_now(&format!("the guest's memory cannot be read: {source}"));
                OutboundError::Memory { run, source }
            }
        }
    }
}

struct Copy {
    epoch: u64,
    mode: Mode,
    stats: CopyStats,
    /// Runs read into the slot at hand, in their order.
    planned: Vec<PageRun>,
}

/// A mark that was the last frame written into a slot, and may grow.
type LastZero = Option<(usize, PageRun)>;

impl Copy {
    fn all(
        &mut self,
        writer: &mut Writer<Mark>,
        runs: &[PageRun],
        source: &dyn Source,
    ) -> Result<(), CopyError> {
        let mut cursor = Cursor {
            runs,
            at: 0,
            rest: None,
        };
        while cursor.peek().is_some() {
            let mut slot = writer.slot()?;
            let mut last_zero = None;
            loop {
                let from = slot.filled();
                let read = self.read(&mut slot, &mut cursor, source);
                if let Err(e) = read {
                    // An empty slot goes back; the ring is about to be broken.
                    *slot.parts().1 = 0;
                    writer.push(slot);
                    return Err(e);
                }
                if self.planned.is_empty() {
                    break;
                }
                self.squeeze(&mut slot, from, &mut last_zero);
            }
            writer.push(slot);
        }
        Ok(())
    }

    /// Lays out as many runs as the slot takes, and reads them at once, each behind room for its header.
    fn read(
        &mut self,
        slot: &mut Slot,
        cursor: &mut Cursor<'_>,
        source: &dyn Source,
    ) -> Result<(), CopyError> {
        self.planned.clear();
        let (bytes, filled) = slot.parts();
        let mut rest = &mut bytes[*filled..];
        let mut pieces = Vec::with_capacity(rest.len() / (PAGE + HEADER) + 1);
        while rest.len() >= HEADER + PAGE {
            let most = ((rest.len() - HEADER) / PAGE) as u32;
            let Some(run) = cursor.take(most.min(MAX_RUN)) else {
                break;
            };
            let (header, tail) = rest.split_at_mut(HEADER);
            let (data, tail) = tail.split_at_mut(run.bytes());
            header.copy_from_slice(&self.pages(run).encode());
            pieces.push((run, data));
            self.planned.push(run);
            rest = tail;
        }
        if let Err(e) = source.read_all(&mut pieces) {
            let run = self.planned.first().copied().unwrap_or(PageRun {
                block: 0,
                first: 0,
                count: 0,
            });
            return Err(CopyError::Memory(run, e));
        }
        Ok(())
    }

    /// Turns pages of zeros into marks. What was just read is still in the cache, and most pages differ in their first bytes.
    /// Frames only ever move towards the front: a mark is smaller than the page that it stands for.
    fn squeeze(&mut self, slot: &mut Slot, from: usize, last_zero: &mut LastZero) {
        let (bytes, filled) = slot.parts();
        let mut from = from;
        let mut to = *filled;
        for i in 0..self.planned.len() {
            let run = self.planned[i];
            let data = from + HEADER;
            let zero = |bytes: &[u8], page: u32| {
                let at = data + page as usize * PAGE;
                is_zero(&bytes[at..at + PAGE])
            };
            let mut page = 0;
            while page < run.count {
                let zeros = zero(bytes, page);
                let mut end = page + 1;
                while end < run.count && zero(bytes, end) == zeros {
                    end += 1;
                }
                let part = PageRun {
                    block: run.block,
                    first: run.first + page,
                    count: end - page,
                };
                if zeros {
                    to = self.mark(bytes, to, part, last_zero);
                } else {
                    let at = data + page as usize * PAGE;
                    if at != to + HEADER || part.count != run.count {
                        bytes.copy_within(at..at + part.bytes(), to + HEADER);
                        bytes[to..to + HEADER].copy_from_slice(&self.pages(part).encode());
                    }
                    to += HEADER + part.bytes();
                    *last_zero = None;
                    self.stats.pages += u64::from(part.count);
                }
                page = end;
            }
            from = data + run.bytes();
        }
        *filled = to;
    }

    /// Writes a mark at `to`, or lets the one before it grow. Returns where the next frame goes.
    fn mark(&mut self, bytes: &mut [u8], to: usize, part: PageRun, last: &mut LastZero) -> usize {
        self.stats.zero_pages += u64::from(part.count);
        let (at, run) = match *last {
            Some((at, before)) if follows(before, part) => (
                at,
                PageRun {
                    count: before.count + part.count,
                    ..before
                },
            ),
            _ => (to, part),
        };
        let head = Head::Zero {
            mode: self.mode,
            epoch: self.epoch,
            run: wire(run),
        };
        bytes[at..at + HEADER].copy_from_slice(&head.encode());
        *last = Some((at, run));
        to.max(at + HEADER)
    }

    fn pages(&self, run: PageRun) -> Head {
        Head::Pages {
            mode: self.mode,
            epoch: self.epoch,
            run: wire(run),
        }
    }
}

fn wire(run: PageRun) -> Run {
    Run {
        block: run.block,
        first: run.first,
        count: run.count,
    }
}

fn follows(before: PageRun, next: PageRun) -> bool {
    before.block == next.block
        && before.first.checked_add(before.count) == Some(next.first)
        && before.count.checked_add(next.count).is_some()
}

/// Goes through runs in pieces of bounded length, neighbours merged.
struct Cursor<'a> {
    runs: &'a [PageRun],
    at: usize,
    rest: Option<PageRun>,
}

impl Cursor<'_> {
    fn peek(&mut self) -> Option<PageRun> {
        while self.rest.is_none() {
            let next = *self.runs.get(self.at)?;
            self.at += 1;
            self.rest = (next.count > 0).then_some(next);
        }
        let mut rest = self.rest?;
        while let Some(&next) = self.runs.get(self.at) {
            if !follows(rest, next) {
                break;
            }
            rest.count += next.count;
            self.at += 1;
        }
        self.rest = Some(rest);
        Some(rest)
    }

    fn take(&mut self, most: u32) -> Option<PageRun> {
        let run = self.peek()?;
        let taken = PageRun {
            count: run.count.min(most),
            ..run
        };
        self.rest = (run.count > taken.count).then(|| PageRun {
            first: run.first + taken.count,
            count: run.count - taken.count,
            ..run
        });
        Some(taken)
    }
}
