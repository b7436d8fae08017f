//! The tracker that needs nothing of the kernel: it reads all memory and compares the pages' hashes. For kernels before 6.7, for
//! small guests, and as the judge over the other tracker in tests.

use xxhash_rust::xxh3::xxh3_128;

use super::{Tracker, TrackerError};
use crate::{
    memory::{Layout, PAGE, PageRun},
    sys::{Memory, append},
};

/// Tracks by a 128-bit hash of each page (XXH3, 4 MiB of hashes per GiB). A change that leaves a page's hash as it was is not seen:
/// two given pages collide with a chance of 2^-128, but a guest that wants to lose its own pages can.
#[derive(Debug)]
pub struct Hashed {
    memory: Memory,
    /// Of each block's pages; empty until something was taken.
    known: Vec<Vec<u128>>,
    buffer: Vec<u8>,
}

impl Hashed {
    /// Tracks all blocks of a memory. Nothing is read yet.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            known: Vec::new(),
            buffer: vec![0; BATCH as usize * PAGE],
        }
    }

    /// The hashes of all pages as they are.
    fn read(&mut self) -> Result<Vec<Vec<u128>>, TrackerError> {
        let zero = xxh3_128(&[0; PAGE]);
        let blocks = self.layout().blocks().iter();
        let mut hashes: Vec<_> = blocks
            .map(|b| vec![zero; (b.size / PAGE as u64) as usize])
            .collect();
        for whole in self.memory.populated()? {
            for at in (0..whole.count).step_by(BATCH as usize) {
                let run = PageRun {
                    first: whole.first + at,
                    count: BATCH.min(whole.count - at),
                    ..whole
                };
                let buffer = &mut self.buffer[..run.bytes()];
                self.memory.read(run, buffer)?;
                let places = &mut hashes[usize::from(run.block)][run.first as usize..];
                for (place, page) in places.iter_mut().zip(buffer.chunks_exact(PAGE)) {
                    *place = xxh3_128(page);
                }
            }
        }
        Ok(hashes)
    }

    fn layout(&self) -> &Layout {
        self.memory.layout()
    }
}

impl Tracker for Hashed {
    fn take(&mut self, into: &mut Vec<PageRun>) -> Result<(), TrackerError> {
        let now = self.read()?;
        if self.known.is_empty() {
            into.extend(self.layout().everything());
        } else {
            changes(&self.known, &now, |run| append(into, run));
        }
        self.known = now;
        Ok(())
    }

    fn peek(&mut self) -> Result<u64, TrackerError> {
        if self.known.is_empty() {
            return Ok(self.layout().bytes() / PAGE as u64);
        }
        let now = self.read()?;
        let mut pages = 0;
        changes(&self.known, &now, |_| pages += 1);
        Ok(pages)
    }
}

/// Names each page whose hash differs, in order.
fn changes(before: &[Vec<u128>], now: &[Vec<u128>], mut each: impl FnMut(PageRun)) {
    for (block, (before, now)) in before.iter().zip(now).enumerate() {
        for (first, (a, b)) in before.iter().zip(now).enumerate() {
            if a != b {
                each(PageRun {
                    block: block as u16,
                    first: first as u32,
                    count: 1,
                });
            }
        }
    }
}

/// Pages read at a time.
const BATCH: u32 = 64;
