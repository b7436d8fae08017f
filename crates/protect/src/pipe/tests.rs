//! Both ends of the channel, over a pipe of the system.

use std::{io, sync::Mutex, time::Duration};

use super::*;
use crate::memory::{Block, Layout, PAGE, PageRun};

mod hostile;
mod measure;
mod order;
mod overlap;

/// Memory of a guest: blocks of bytes.
pub(super) struct Ram(Mutex<Vec<Vec<u8>>>);

impl Ram {
    pub(super) fn new(pages: &[usize]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(
            pages.iter().map(|pages| vec![0; pages * PAGE]).collect(),
        )))
    }

    /// Fills a run's pages with bytes that depend on page and seed, none of them zero.
    pub(super) fn dirty(&self, run: PageRun, seed: u64) {
        let mut blocks = self.0.lock().unwrap();
        for page in run.first..run.first + run.count {
            let at = page as usize * PAGE;
            let byte = (seed.wrapping_mul(31).wrapping_add(u64::from(page)) % 255) as u8 + 1;
            blocks[usize::from(run.block)][at..at + PAGE].fill(byte);
        }
    }

    pub(super) fn clear(&self, run: PageRun) {
        self.0.lock().unwrap()[usize::from(run.block)][range(run)].fill(0);
    }

    pub(super) fn bytes(&self) -> Vec<Vec<u8>> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn layout(&self) -> Layout {
        let blocks = self.0.lock().unwrap();
        let block = |(i, bytes): (usize, &Vec<u8>)| Block {
            name: format!("{i:02}"),
            size: bytes.len() as u64,
            address: 0,
        };
        Layout::new(blocks.iter().enumerate().map(block).collect())
    }
}

fn range(run: PageRun) -> std::ops::Range<usize> {
    run.offset() as usize..run.offset() as usize + run.bytes()
}

impl Source for Ram {
    fn read(&self, run: PageRun, into: &mut [u8]) -> Result<(), Fault> {
        into.copy_from_slice(&self.0.lock().unwrap()[usize::from(run.block)][range(run)]);
        Ok(())
    }
}

impl Store for Ram {
    fn write(&self, run: PageRun, from: &[u8]) -> Result<(), Fault> {
        self.0.lock().unwrap()[usize::from(run.block)][range(run)].copy_from_slice(from);
        Ok(())
    }

    fn zero(&self, run: PageRun) -> Result<(), Fault> {
        self.clear(run);
        Ok(())
    }
}

/// What a target was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Write(u16, u64, Vec<u8>),
    Zeroes(u16, u64, u64),
    Discard(u16, u64, u64),
    Barrier(u64),
}

/// A standby: its memory, and what its disks were told.
pub(super) struct Standby {
    pub(super) ram: Arc<Ram>,
    pub(super) told: Vec<Told>,
}

impl Standby {
    pub(super) fn new(pages: &[usize]) -> Self {
        Self {
            ram: Ram::new(pages),
            told: Vec::new(),
        }
    }
}

impl Target for Standby {
    fn pages(&mut self, run: PageRun, data: &[u8]) -> Result<(), Fault> {
        self.ram.write(run, data)
    }

    fn zero_pages(&mut self, run: PageRun) -> Result<(), Fault> {
        self.ram.zero(run)
    }

    fn disk_write(&mut self, disk: u16, offset: u64, data: &[u8]) -> Result<(), Fault> {
        self.told.push(Told::Write(disk, offset, data.to_vec()));
        Ok(())
    }

    fn disk_zeroes(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault> {
        self.told.push(Told::Zeroes(disk, offset, len));
        Ok(())
    }

    fn disk_discard(&mut self, disk: u16, offset: u64, len: u64) -> Result<(), Fault> {
        self.told.push(Told::Discard(disk, offset, len));
        Ok(())
    }

    fn barrier(&mut self, epoch: u64) -> Result<(), Fault> {
        self.told.push(Told::Barrier(epoch));
        Ok(())
    }
}

impl Inbound {
    /// The next epoch, which must be the next thing to come.
    fn epoch(&mut self, standby: &mut Standby) -> (u64, Vec<u8>, Staged) {
        match self.next(standby).map_err(|e| e.to_string()).unwrap() {
            Incoming::Complete { epoch, state, staged } => (epoch, state, staged),
            Incoming::Control(message) => panic!("an epoch was expected, not the message {message:?}"),
        }
    }
}

pub(super) fn run(block: u16, first: u32, count: u32) -> PageRun {
    PageRun { block, first, count }
}

/// Both ends, over a pipe.
pub(super) fn ends(options: Options, limits: Limits) -> (Outbound, Inbound) {
    let (from, to) = io::pipe().unwrap();
    (
        Outbound::start(Box::new(to), options).unwrap(),
        Inbound::new(Box::new(from), limits),
    )
}

/// Breaks the channel when the test fails, so that its other thread ends.
struct Guard<'a>(&'a Outbound);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_now("the test failed");
        }
    }
}

/// Receives on a thread of its own: a pipe holds 64 KiB only.
fn receiving<T: Send>(out: &Outbound, work: impl FnOnce() -> T + Send, receive: impl FnOnce()) -> T {
    std::thread::scope(|scope| {
        let _guard = Guard(out);
        let work = scope.spawn(work);
        receive();
        work.join().unwrap()
    })
}

#[test]
fn a_guest_is_synchronised_and_then_follows_epoch_by_epoch() {
    let pages = [300, 40];
    let active = Ram::new(&pages);
    active.dirty(run(0, 3, 200), 1);
    active.dirty(run(1, 39, 1), 1);
    let mut standby = Standby::new(&pages);
    standby.ram.dirty(run(0, 0, 300), 9);
    let (out, mut inbound) = ends(
        Options {
            ring: Some(1 << 20),
            ..Options::default()
        },
        Limits::default(),
    );
    inbound.expect(active.layout(), vec![1 << 20]);

    let replica = standby.ram.clone();
    receiving(
        &out,
        || {
            let everything = active.layout().everything();
            let stats = out.copy(0, &everything, active.clone(), Mode::Sync).unwrap();
            assert_eq!((stats.pages, stats.zero_pages), (201, 139));
            for epoch in 1..=20u64 {
                out.disks().write(0, epoch * 4096, &[epoch as u8; 512]).unwrap();
                active.dirty(run(0, epoch as u32 * 7, 9), epoch);
                active.clear(run(0, epoch as u32 * 7 + 4, 2));
                active.dirty(run(1, epoch as u32, 1), epoch);
                out.begin(epoch).unwrap();
                let runs = [
                    run(0, epoch as u32 * 7, 4),
                    run(0, epoch as u32 * 7 + 4, 5),
                    run(1, epoch as u32, 1),
                ];
                let stats = out.copy(epoch, &runs, active.clone(), Mode::Checkpoint).unwrap();
                assert_eq!((stats.pages, stats.zero_pages), (8, 2));
                out.end(epoch, vec![epoch as u8; 3_000_000]).unwrap();
            }
            assert!(out.flush(Duration::from_secs(60)));
            out.control(b"that is all").unwrap();
            assert!(out.flush(Duration::from_secs(60)));
        },
        || {
            for expected in 1..=20 {
                let before = replica.bytes();
                let (epoch, state, staged) = inbound.epoch(&mut standby);
                assert_eq!(
                    (epoch, state.len(), state[0]),
                    (expected, 3_000_000, expected as u8)
                );
                // Staged, not applied.
                assert!(expected == 1 || before == replica.bytes());
                let applied = staged.apply(replica.as_ref()).unwrap();
                assert_eq!((applied.pages, applied.zero_pages), (8, 2));
            }
            match inbound.next(&mut standby) {
                Ok(Incoming::Control(message)) => assert_eq!(message, b"that is all"),
                _ => panic!("the message was expected"),
            }
        },
    );
    assert!(active.bytes() == replica.bytes());
    let expected = (1..=20u64).flat_map(|epoch| {
        [
            Told::Write(0, epoch * 4096, vec![epoch as u8; 512]),
            Told::Barrier(epoch),
        ]
    });
    // Writes of the next epoch may come before the end of the last, but never out of their order.
    assert_eq!(standby.told, expected.collect::<Vec<_>>());
    drop(out);
    assert!(matches!(inbound.next(&mut standby), Err(PipeError::Closed)));
}
