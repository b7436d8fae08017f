//! The buffer against a model: a disk in memory, and what it was like at each barrier.

use std::{fs, path::Path, time::Duration};

use hawser_protect::disk::{Buffer, DiskError, Options, TakenOver};
use hawser_testkit::wait::{self, SOON};
use proptest::prelude::*;

const SIZE: usize = 32 << 10;

#[derive(Debug, Clone)]
enum Op {
    Write(usize, usize, u8),
    Zeroes(usize, usize),
    Discard(usize, usize),
    Read(usize, usize),
    Barrier,
    /// Commits the barrier of that place among those waiting, modulo their number.
    Commit(usize),
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    (0..SIZE, prop_oneof![3 => 0..600usize, 1 => 0..12_000usize])
        .prop_map(|(at, len)| (at, len.min(SIZE - at)))
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        10 => (range(), 1u8..).prop_map(|((at, len), fill)| Op::Write(at, len, fill)),
        2 => range().prop_map(|(at, len)| Op::Zeroes(at, len)),
        2 => range().prop_map(|(at, len)| Op::Discard(at, len)),
        2 => range().prop_map(|(at, len)| Op::Read(at, len)),
        3 => Just(Op::Barrier),
        3 => any::<usize>().prop_map(Op::Commit),
    ];
    proptest::collection::vec(op, 0..80)
}

#[derive(Default)]
struct Model {
    now: Vec<u8>,
    epoch: u64,
    waiting: Vec<(u64, Vec<u8>)>,
    committed: Option<(u64, Vec<u8>)>,
}

impl Model {
    fn fill(&mut self, at: usize, len: usize, with: u8) {
        self.now[at..at + len].fill(with);
    }
}

/// Does one thing to both. An error of the buffer means that it has refused, and changed nothing.
fn step(buffer: &Buffer, model: &mut Model, op: &Op) -> Result<(), DiskError> {
    match *op {
        Op::Write(at, len, fill) => {
            buffer.write(at as u64, &vec![fill; len])?;
            model.fill(at, len, fill);
        }
        Op::Zeroes(at, len) => {
            buffer.zeroes(at as u64, len as u64)?;
            model.fill(at, len, 0);
        }
        Op::Discard(at, len) => {
            buffer.discard(at as u64, len as u64)?;
            model.fill(at, len, 0);
        }
        Op::Read(at, len) => {
            let mut read = vec![0xee; len];
            buffer.read(at as u64, &mut read)?;
            assert!(
                read == model.now[at..at + len],
                "a read saw something else than what was written"
            );
        }
        Op::Barrier => {
            buffer.barrier(model.epoch + 1)?;
            model.epoch += 1;
            model.waiting.push((model.epoch, model.now.clone()));
        }
        Op::Commit(_) if model.waiting.is_empty() => {
            let refused = buffer.commit(model.epoch + 1);
            assert!(matches!(refused, Err(DiskError::NoBarrier { .. })));
        }
        Op::Commit(which) => {
            let which = which % model.waiting.len();
            buffer.commit(model.waiting[which].0)?;
            model.committed = model.waiting.drain(..=which).next_back();
        }
    }
    Ok(())
}

fn options(dir: &Path, memory: usize, spill: u64) -> Options {
    let sync_every = Duration::from_millis(1);
    Options {
        memory,
        spill,
        unsynced: 20_000,
        sync_every,
        ..Options::new(dir)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_take_over_leaves_the_last_committed_barrier(
        ops in ops(),
        memory in prop_oneof![Just(1000usize), Just(20_000), Just(1 << 20)],
        spill in prop_oneof![Just(0u64), Just(30_000), Just(1 << 20)],
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.raw");
        let buffer = Buffer::open(&path, SIZE as u64, options(dir.path(), memory, spill)).unwrap();
        let mut model = Model { now: vec![0; SIZE], ..Model::default() };
        for op in &ops {
            match step(&buffer, &mut model, op) {
                Ok(()) => {}
                Err(DiskError::Full { .. }) => {
                    prop_assert!(model.epoch > 0, "the synchronisation waits for room");
                    let failure = buffer.failure();
                    prop_assert!(matches!(failure, Some(DiskError::Full { .. })), "{failure:?}");
                    prop_assert!(matches!(buffer.barrier(model.epoch + 1), Err(DiskError::Full { .. })), "a barrier without its writes");
                    break;
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
        match (buffer.take_over(SOON), model.committed) {
            (Ok(TakenOver { epoch, .. }), Some((committed, disk))) => {
                prop_assert_eq!(epoch, committed);
                prop_assert!(fs::read(&path).unwrap() == disk, "the file is not at its barrier");
                let refused = buffer.write(0, &[1]);
                prop_assert!(matches!(refused, Err(DiskError::TakenOver)), "{refused:?}");
                buffer.settle(SOON).unwrap();
                let stats = buffer.stats();
                prop_assert_eq!((stats.buffered, stats.spilled, stats.unsynced), (0, 0, 0));
                prop_assert_eq!((stats.in_file, stats.durable), (Some(epoch), Some(epoch)));
            }
            (Err(DiskError::NothingCommitted), None) => {}
            (took, committed) => prop_assert!(false, "{took:?} with {:?} committed", committed.map(|c| c.0)),
        }
    }
}

#[test]
fn what_is_behind_the_barrier_stays_out_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.raw");
    let buffer = Buffer::open(&path, SIZE as u64, options(dir.path(), 1 << 20, 0)).unwrap();
    buffer.write(0, b"synchronised").unwrap();
    buffer.settle(SOON).unwrap();
    assert_eq!(&fs::read(&path).unwrap()[..12], b"synchronised");

    buffer.barrier(1).unwrap();
    buffer.write(0, b"of epoch two").unwrap();
    buffer.barrier(2).unwrap();
    buffer.write(0, b"of the third").unwrap();
    buffer.commit(1).unwrap();
    buffer.settle(SOON).unwrap();
    assert_eq!(&fs::read(&path).unwrap()[..12], b"synchronised");
    assert_eq!(buffer.stats().backlog, 0);
    assert_eq!(buffer.stats().buffered, 24);

    buffer.commit(2).unwrap();
    wait::for_condition(SOON, "the flush of epoch 2", || buffer.stats().in_file == Some(2)).unwrap();
    assert_eq!(&fs::read(&path).unwrap()[..12], b"of epoch two");
    let mut read = [0; 12];
    buffer.read(0, &mut read).unwrap();
    assert_eq!(&read, b"of the third");

    assert!(matches!(buffer.commit(2), Err(DiskError::NoBarrier { epoch: 2 })));
    assert!(matches!(
        buffer.barrier(2),
        Err(DiskError::Order { epoch: 2, last: 2 })
    ));
    assert!(matches!(
        buffer.write(SIZE as u64, &[1]),
        Err(DiskError::OutOfRange { .. })
    ));
    assert!(matches!(
        buffer.zeroes(1, u64::MAX),
        Err(DiskError::OutOfRange { .. })
    ));
    assert_eq!(
        buffer.take_over(SOON).unwrap(),
        TakenOver {
            epoch: 2,
            discarded: 1
        }
    );
    assert_eq!(&fs::read(&path).unwrap()[..12], b"of epoch two");
}

#[test]
fn one_epoch_larger_than_memory_spills_and_its_files_go_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("replica.raw");
    let (size, piece) = (160 << 20, 1 << 20);
    let options = Options {
        memory: 4 << 20,
        unsynced: 1 << 30,
        ..Options::new(dir.path())
    };
    let buffer = Buffer::open(&path, size, options).unwrap();
    buffer.barrier(1).unwrap();
    for i in 0..size / piece {
        buffer
            .write(i * piece, &vec![i as u8 + 1; piece as usize])
            .unwrap();
    }
    let stats = buffer.stats();
    assert_eq!((stats.buffered, stats.spilled), (4 << 20, 156 << 20));
    let mut across = [0; 2];
    buffer.read(100 * piece - 1, &mut across).unwrap();
    assert_eq!(across, [100, 101]);
    buffer.barrier(2).unwrap();
    buffer.commit(2).unwrap();
    // A disk that others keep busy takes its time.
    buffer.take_over(SOON * 6).unwrap();
    let file = fs::read(&path).unwrap();
    assert!(
        file.iter()
            .enumerate()
            .all(|(i, b)| *b == (i as u64 / piece) as u8 + 1)
    );
    // No more than the one that a next write would go to.
    wait::for_condition(SOON, "the spill files' end", || spill_files(dir.path()) <= 1).unwrap();
}

/// Open files of this process in a directory that have no name there.
fn spill_files(dir: &Path) -> usize {
    let open = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|e| fs::read_link(e.ok()?.path()).ok());
    open.filter(|p| p.starts_with(dir) && p.to_string_lossy().ends_with(" (deleted)"))
        .count()
}
