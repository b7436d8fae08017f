//! Disks that are full, slow or broken: a clear error, nothing committed lost, and no commit that is not one.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use hawser_protect::disk::{Backend, Buffer, DiskError, Memory, Options, TakenOver};
use hawser_testkit::{
    Small, gate,
    wait::{self, SOON},
};

const SIZE: u64 = 8 << 20;
const PIECE: usize = 64 << 10;

#[test]
fn a_full_target_ends_the_session_and_loses_nothing() {
    if !gate::networks("a_full_target_ends_the_session_and_loses_nothing") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(&dir.path().join("small"), 1024).unwrap();
    let path = small.path().join("replica.raw");
    let buffer = Buffer::open(&path, SIZE, Options::new(dir.path())).unwrap();
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    for at in (0..SIZE).step_by(PIECE) {
        buffer.write(at, &[7; PIECE]).unwrap();
    }
    buffer.barrier(2).unwrap();
    buffer.commit(2).unwrap();
    wait::for_condition(SOON, "the failure to be seen", || buffer.failure().is_some()).unwrap();

    let message = buffer.failure().unwrap().to_string();
    assert!(
        message.contains("replica.raw") && message.contains("make room"),
        "{message}"
    );
    assert!(buffer.write(0, &[1]).is_err());
    assert!(buffer.barrier(3).is_err());
    assert!(buffer.commit(3).is_err());
    let refused = buffer.take_over(SOON).unwrap_err().to_string();
    assert!(refused.contains("make room"), "{refused}");
    assert!(buffer.settle(SOON).is_err());

    small.resize(16 << 10).unwrap();
    assert_eq!(
        buffer.take_over(SOON).unwrap(),
        TakenOver {
            epoch: 2,
            discarded: 0
        }
    );
    assert!(fs::read(&path).unwrap().iter().all(|b| *b == 7));
}

#[test]
fn a_full_spill_disk_ends_the_session_at_the_last_commit() {
    if !gate::networks("a_full_spill_disk_ends_the_session_at_the_last_commit") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount(&dir.path().join("small"), 256).unwrap();
    let path = dir.path().join("replica.raw");
    let options = Options {
        memory: 2 * PIECE,
        ..Options::new(small.path())
    };
    let buffer = Buffer::open(&path, SIZE, options).unwrap();
    buffer.write(0, &[1; PIECE]).unwrap();
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    let mut outcomes = (0..SIZE).step_by(PIECE).map(|at| buffer.write(at, &[9; PIECE]));
    let message = outcomes.find_map(Result::err).unwrap().to_string();
    assert!(
        message.contains("spill") && message.contains("make room"),
        "{message}"
    );
    assert!(buffer.stats().spilled > 0);
    assert!(buffer.failure().is_some());
    assert!(buffer.barrier(2).is_err(), "writes of this epoch are missing");
    assert!(buffer.commit(2).is_err());

    assert_eq!(buffer.take_over(SOON).unwrap().epoch, 1);
    let file = fs::read(&path).unwrap();
    assert!(file[..PIECE].iter().all(|b| *b == 1) && file[PIECE..].iter().all(|b| *b == 0));
}

/// A disk whose flushing fails, or whose writes wait, when told to.
struct Faulty {
    disk: Memory,
    flush_fails: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

impl Faulty {
    fn new() -> Arc<Self> {
        let disk = Memory::new(SIZE as usize);
        Arc::new(Self {
            disk,
            flush_fails: false.into(),
            held: false.into(),
            released: Condvar::new(),
        })
    }

    fn hold(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.released.notify_all();
    }

    fn buffer(self: &Arc<Self>, dir: &Path, options: Options) -> Buffer {
        Buffer::over(self.clone(), &dir.join("replica.raw"), SIZE, options).unwrap()
    }
}

impl Backend for Faulty {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, into)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        drop(
            self.released
                .wait_while(self.held.lock().unwrap(), |held| *held)
                .unwrap(),
        );
        self.disk.write(offset, data)
    }
    fn zeroes(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.zeroes(offset, len)
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }
    fn flush(&self) -> io::Result<()> {
        if self.flush_fails.load(Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }
}

#[test]
fn a_medium_that_fails_voids_the_replica() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new();
    let buffer = disk.buffer(dir.path(), Options::new(dir.path()));
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    buffer.write(0, &[1; PIECE]).unwrap();
    buffer.barrier(2).unwrap();
    disk.flush_fails.store(true, Ordering::SeqCst);
    buffer.commit(2).unwrap();
    assert!(matches!(buffer.settle(SOON), Err(DiskError::Medium { .. })));
    // Asked again, the kernel would say that all is well.
    disk.flush_fails.store(false, Ordering::SeqCst);
    assert!(matches!(buffer.take_over(SOON), Err(DiskError::Medium { .. })));
    assert!(matches!(buffer.commit(2), Err(DiskError::Medium { .. })));
    assert!(
        buffer
            .failure()
            .unwrap()
            .to_string()
            .contains("cannot be trusted")
    );
}

#[test]
fn a_slow_disk_slows_the_writer_down_and_bounds_its_patience() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new();
    let options = Options {
        memory: 2 * PIECE,
        spill: 0,
        ..Options::new(dir.path())
    };
    let buffer = disk.buffer(dir.path(), options);
    disk.hold(true);
    thread::scope(|scope| {
        let writer = scope.spawn(|| (0..8).try_for_each(|i| buffer.write(i * PIECE as u64, &[3; PIECE])));
        wait::for_condition(SOON, "the writer to wait", || buffer.stats().waits > 0).unwrap();
        assert_eq!(buffer.stats().buffered, 2 * PIECE as u64);
        disk.hold(false);
        writer.join().unwrap().unwrap();
    });
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    buffer.settle(SOON).unwrap();
    assert!(disk.disk.contents()[..8 * PIECE].iter().all(|b| *b == 3));

    let buffer = {
        drop(buffer);
        let patience = Duration::from_millis(20);
        disk.buffer(
            dir.path(),
            Options {
                memory: PIECE,
                patience,
                ..Options::new(dir.path())
            },
        )
    };
    disk.hold(true);
    buffer.write(0, &[4; PIECE]).unwrap();
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    assert!(matches!(
        buffer.write(0, &[5; PIECE]),
        Err(DiskError::Slow { .. })
    ));
    assert!(matches!(
        buffer.take_over(Duration::from_millis(20)),
        Err(DiskError::Slow { left: 1, .. })
    ));
    disk.hold(false);
    assert_eq!(buffer.take_over(SOON).unwrap().epoch, 1);
    assert_eq!(disk.disk.contents()[0], 4);
}

#[test]
fn a_take_over_ends_a_writers_wait() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new();
    let buffer = disk.buffer(
        dir.path(),
        Options {
            memory: PIECE,
            ..Options::new(dir.path())
        },
    );
    disk.hold(true);
    buffer.write(0, &[4; PIECE]).unwrap();
    buffer.barrier(1).unwrap();
    buffer.commit(1).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| buffer.write(0, &[5; PIECE]));
        wait::for_condition(SOON, "the writer to wait", || buffer.stats().waits > 0).unwrap();
        assert!(matches!(
            buffer.take_over(Duration::from_millis(1)),
            Err(DiskError::Slow { .. })
        ));
        assert!(matches!(writer.join().unwrap(), Err(DiskError::TakenOver)));
    });
    disk.hold(false);
    buffer.take_over(SOON).unwrap();
    assert_eq!(disk.disk.contents()[0], 4);
}
